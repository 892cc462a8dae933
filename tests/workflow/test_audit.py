"""No number can be forged unseen: every published file is attacked in turn, and receipts are edited
to match.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attacks import flip, paths, receipts
from smallest import RESULTS, messages, other_user

from bezoar.files import sha256_file
from bezoar.provenance import audit
from bezoar.provenance.fingerprint import row_digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "unpacked elsewhere"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(".snakemake"))
    return folder


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def run(project: Path, *only: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "scripts/commands/audit_results.py",
        "--results",
        RESULTS,
        *(["--only", *only] if only else []),
    ]
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith("_KEY")
    } | {"PYTHONPATH": str(project / "scripts")}
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )


@contextmanager
def restored(*files: Path) -> Iterator[None]:
    kept = {path: path.read_bytes() for path in files}
    try:
        yield
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def findings() -> list[str]:
    held, wrong = audit.read_receipts(Path(RESULTS))
    return [*wrong, *audit.hashes(held), *audit.chain(held, Path(RESULTS))]


def match_receipts(path: str, stages: list[Path]) -> None:
    """Write the forged file's hash and row digests into these receipts."""
    for receipt in stages:
        held = json.loads(receipt.read_text())
        for kind in ("inputs", "outputs"):
            for files in held[kind].values():
                if path in files:
                    files[path] = sha256_file(Path(path))
        if path in held["rows"]:
            held["rows"][path] = row_digests(path)
        receipt.write_text(json.dumps(held, indent=2) + "\n")


def drop(path: Path) -> None:
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[: len(rows) // 2] + rows[len(rows) // 2 + 1 :]))


def duplicate(path: Path) -> None:
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*rows[: len(rows) // 2 + 1], *rows[len(rows) // 2 :]]))


def reorder(path: Path) -> None:
    rows = path.read_bytes().splitlines(keepends=True)
    middle = next(k for k in range(len(rows) // 2, len(rows) - 1) if rows[k] != rows[k + 1])
    path.write_bytes(
        b"".join([*rows[:middle], rows[middle + 1], rows[middle], *rows[middle + 2 :]])
    )


FORGERIES: dict[str, Callable[[Path], None]] = {
    "flip": lambda path: flip(str(path), keep_mtime=False)(Path()),
    "flip, date kept": lambda path: flip(str(path))(Path()),
    "drop": drop,
    "duplicate": duplicate,
    "reorder": reorder,
}


def test_an_untouched_run_is_sound_and_every_stage_is_in_the_verdict(project: Path) -> None:
    done = run(project)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.startswith(f"# Audit of {RESULTS}: SOUND")
    assert all(stage in done.stdout for stage in receipts(project))
    assert len(re.findall(r"^## ", done.stdout, re.MULTILINE)) == 1


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("receipt_too", [False, True], ids=["file", "file and its receipt"])
def test_every_published_file_is_attacked_and_none_passes(
    project: Path, forgery: str, receipt_too: bool, record_property: Callable[[str, object], None]
) -> None:
    attacked, passed = 0, []
    for stage, held in receipts(project).items():
        for path in sorted(paths(held["outputs"])):
            if forgery not in ("flip", "flip, date kept") and not (
                path.endswith(".jsonl") and len(Path(path).read_bytes().splitlines()) > 3
            ):
                continue
            if receipt_too and stage == "report":
                continue  # nothing reads the page: `test_a_forged_page…`
            receipt = Path(RESULTS) / "receipts" / f"{stage}.json"
            with restored(Path(path), receipt):
                FORGERIES[forgery](Path(path))
                if receipt_too:
                    match_receipts(path, [receipt])
                found = findings()
            attacked += 1
            named = [line for line in found if path in line or f"receipts/{stage}.json" in line]
            if not named or not any(
                line.startswith(f"{stage}: ")
                or f" {stage} says" in line
                or f"receipts/{stage}.json" in line
                for line in named
            ):
                passed.append(path)
            elif (
                path.endswith(".jsonl")
                and not receipt_too
                and not any(re.search(r": rows? \d+", line) for line in named)
            ):
                passed.append(f"{path}: no row named")
    record_property("attacks", attacked)
    record_property("missed", len(passed))
    assert attacked >= (10 if forgery in ("drop", "duplicate", "reorder") else 60)
    assert passed == []
    assert findings() == []


def test_the_row_is_named(project: Path) -> None:
    path = Path(RESULTS, "mtbench/base/judgments.jsonl")
    with restored(path):
        rows = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*rows[:6], *rows[7:]]))
        assert any("judgments.jsonl: row 7:" in line for line in findings())


def everyone(name: str) -> list[Path]:
    return [path for path in Path(RESULTS, "receipts").glob("*.json") if name in path.read_text()]


def reseal() -> None:
    """Let the report's receipt hold the hashes of all edited receipts, as a thorough forger
    would.
    """
    for path in sorted(Path(RESULTS, "receipts").glob("*.json")):
        match_receipts(str(path), everyone(str(path)))


@pytest.mark.parametrize(
    ("path", "stage", "old", "new"),
    [
        (
            "mtbench/base/judgments.jsonl",
            "mtbench_judgments_base",
            '"tstamp": 0.0',
            '"tstamp": 1.0',
        ),
        ("filter/orca.jsonl", "filter_orca", '"gpt4_status": "Accept"', '"gpt4_status": "Reject"'),
        ("generate/lamini.jsonl", "generate_lamini", '"response": "', '"response": "Well, '),
        ("mtbench.json", "mtbench", '"ratings": ', '"ratings": 1'),
        ("lm_eval.json", "lm_eval_table", '"mean": 0', '"mean": 1'),
        ("claims.json", "claims", '"verdict": "', '"verdict": "not '),
        ("report/index.html", "report", "<h1>", "<h1>Really "),
    ],
)
def test_a_forgery_that_all_receipts_agree_on_is_found_by_making_it_again(
    project: Path, path: str, stage: str, old: str, new: str
) -> None:
    name = f"{RESULTS}/{path}"
    with restored(Path(name), *Path(RESULTS, "receipts").glob("*.json")):
        text = Path(name).read_text(encoding="utf-8")
        assert old in text
        row = text[: text.index(old)].count("\n") + 1
        Path(name).write_text(text.replace(old, new, 1), encoding="utf-8")
        match_receipts(name, everyone(name))
        reseal()
        done = run(project, stage)
    assert done.returncode == 1
    assert (
        f"- {stage}: {name}: row {row}: not what comes out when the stage is run again"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b'"text":"{\\"status\\": \\"Accept', "answer [0-9a-f]+… does not match its hash"),
        (b"meets all four", "request [0-9a-f]+… does not match its key"),
    ],
    ids=["answer", "request"],
)
def test_a_store_cannot_be_edited_unseen(project: Path, text: bytes, what: str) -> None:
    path = Path(RESULTS, "store/filter-orca.sqlite")
    with restored(path, *Path(RESULTS, "receipts").glob("*.json")):
        content = path.read_bytes()
        place = content.rindex(text) + len(text) - 6
        path.write_bytes(content[:place] + b"Reject" + content[place + 6 :])
        match_receipts(str(path), everyone(str(path)))
        reseal()
        done = run(project, "filter_orca")
    assert done.returncode == 1
    assert re.search(f"^- filter_orca: {path}: {what}$", done.stdout, re.MULTILINE)


def test_a_store_that_is_gone_is_a_finding(project: Path) -> None:
    path = Path(RESULTS, "store/filter-orca.sqlite")
    with restored(path):
        path.unlink()
        done = run(project, "filter_orca")
    assert done.returncode == 1 and ": NOT SOUND, 2 findings" in done.stdout.splitlines()[0]
    assert f"- filter_orca: {path}: not there, though the receipt has it" in done.stdout
    assert "- filter_orca: cannot be made again: " in done.stdout
    assert f"store/filter-orca.sqlite: no stored answer for {RESULTS}/generate/orca" in done.stdout


def test_a_file_that_no_receipt_wrote_is_listed(project: Path) -> None:
    extra = Path(RESULTS, "better.json")
    extra.write_text("{}")
    try:
        held, _ = audit.read_receipts(Path(RESULTS))
        assert f"undeclared: {extra}: no receipt wrote it" in audit.reservations(
            held, Path(RESULTS)
        )
    finally:
        extra.unlink()


def test_a_folder_without_results_is_one_line(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/commands/audit_results.py", "--results", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(project / "scripts")},
    )
    assert done.returncode == 2 and len(messages(done.stderr)) == 1


def audited_again(reviewer: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Audit an unpacked archive, with one stage made again."""
    return subprocess.run(
        [*command[: command.index("--only")], "--only", "claims"],
        cwd=reviewer,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": "scripts"},
    )


def pack(project: Path, output: Path, umask: int, **more: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "scripts/commands/archive_results.py",
            "--results",
            RESULTS,
            "--output",
            str(output),
        ],
        cwd=project,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(project / "scripts")} | more,
    )
    assert done.returncode == 0, done.stderr


def test_an_archive_is_the_same_wherever_it_is_packed_and_audits_elsewhere_as_another_user(
    project: Path, tmp_path: Path
) -> None:
    pack(project, tmp_path / "one.tar", 0o022)
    for path in (project / RESULTS).rglob("*.json"):
        path.touch()
    pack(project, tmp_path / "two.tar", 0o077, TZ="Asia/Tokyo", LC_ALL="C")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    reviewer = Path(tempfile.mkdtemp(prefix="reviewer-"))
    try:
        subprocess.run(["tar", "-xf", tmp_path / "one.tar", "-C", reviewer], check=True)
        other = other_user()
        if other:
            subprocess.run(["chown", "-R", "65534:65534", reviewer], check=True)
        command = [
            *other,
            sys.executable,
            "scripts/commands/audit_results.py",
            "--results",
            RESULTS,
            "--only",
            "claims",
            "mtbench",
            "filter_orca",
        ]
        done = subprocess.run(
            command,
            cwd=reviewer,
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(reviewer / "scripts"),
                "TZ": "America/Lima",
            },
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        weights = f"{RESULTS}/base/model.safetensors"
        (reviewer / weights).unlink()
        lost = audited_again(reviewer, command)
        assert lost.returncode == 1 and f"{weights}: not there, though" in lost.stdout
        (reviewer / "left_out.json").write_text(json.dumps({weights: "too large"}))
        left_out = audited_again(reviewer, command)
        assert left_out.returncode == 0, left_out.stdout[-3000:]
        assert f"\n- left out of the archive: {weights}: too large\n" in left_out.stdout
    finally:
        shutil.rmtree(reviewer)
    if not other:
        pytest.skip("audited as the same user: no other user can be had here (setpriv)")
