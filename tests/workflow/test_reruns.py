"""Somebody else can rerun it: elsewhere, with other settings, without a network, after a kill, and
beside another run. BEZOAR_EVIDENCE=1 tries all of it.

By default the second run is of the first stages and one training; with BEZOAR_EVIDENCE=1 it is the
whole smallest rehearsal, and every rule is killed.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import paths, receipts, rules_of
from reruns import (
    ALONE,
    PRICES,
    SIMULATOR,
    TRACE,
    UNCOMPARED,
    can,
    differences,
    names,
    opened,
    outside,
    run,
    undeclared,
)
from smallest import CONFIG, RESULTS, ROOT, SCHEMES, SNAKEMAKE, fresh, snakemake

from bezoar.files import sha256_file
from bezoar.model_files import COMPANIONS
from bezoar.provenance.code_digest import executed
from bezoar.provenance.fingerprint import files_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EVERYTHING = bool(os.environ.get("BEZOAR_EVIDENCE"))
FIRST = [
    *(f"{RESULTS}/filter/{scheme}.jsonl" for scheme in SCHEMES),
    f"{RESULTS}/preferences/pairs.jsonl",
    f"{RESULTS}/sft/{SCHEMES[0]}/adapter_model.safetensors",
]
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second run from nothing: another directory, time zone, locale, umask, hash seed, home and
    number of cores, no network, traced.
    """
    root = tmp_path_factory.mktemp("second run")
    folder = fresh(root / "another place")
    for name in ("home", "tmp"):
        (root / name).mkdir()
    before = [
        *(ALONE if can(ALONE) else []),
        *([*TRACE, "-o", str(root / "trace")] if can(TRACE) else []),
    ]
    done = run(
        folder,
        *([] if EVERYTHING else FIRST),
        before=before,
        cores=8 if EVERYTHING else 1,
        umask=0o077,
        TZ="Asia/Kathmandu",
        LC_ALL="C",
        PYTHONHASHSEED="7",
        HOME=str(root / "home"),
        TMPDIR=str(root / "tmp"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


def test_another_directory_time_zone_locale_umask_and_number_of_cores_give_the_same_bytes(
    finished: Path, elsewhere: Path, record_property: Record
) -> None:
    made = names(elsewhere / RESULTS)
    assert len(made) >= (190 if EVERYTHING else 50)
    found = list(differences(finished, elsewhere, None if EVERYTHING else made))
    record_property("attacks", len(made))
    record_property("missed", len(found))
    assert found == []


def test_a_difference_is_shown_with_its_file_and_line(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / RESULTS, tmp_path / RESULTS)
    path = tmp_path / RESULTS / "mtbench/base/judgments.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*rows[:3], rows[3].replace("simulator", "somebody"), *rows[4:]]))
    (tmp_path / RESULTS / "claims.json").unlink()
    found = list(differences(finished, tmp_path))
    assert [line.split(" ")[0] for line in found] == [
        "claims.json:",
        "mtbench/base/judgments.jsonl:4:",
    ]


def test_the_second_run_had_no_network() -> None:
    if not can(ALONE):
        pytest.skip("no network namespace can be made here (unshare -rn)")
    ask = (
        "import socket\nwith socket.create_server(('127.0.0.1', 0)) as s:"
        " socket.create_connection(s.getsockname()).close()\n"
    )
    ask += (
        "try: socket.create_connection(('192.0.2.1', 80), timeout=5)\nexcept OSError as error:"
        " print(error.errno)"
    )
    done = subprocess.run(
        [*ALONE, sys.executable, "-c", ask], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "101"), (
        done.stderr
    )  # the loopback interface answers, all else is unreachable


def trace_of(folder: Path) -> Path:
    trace = folder.parent / "trace"
    if not trace.is_file():
        pytest.skip("no process can be traced here (strace)")
    return trace


def test_every_program_opens_only_what_its_rule_declares(
    elsewhere: Path, record_property: Record
) -> None:
    found, held = opened(trace_of(elsewhere)), receipts(elsewhere)
    simulated = outside(elsewhere, found.pop(SIMULATOR), elsewhere.parent / "tmp")
    own = [
        *executed(elsewhere / "scripts/serve_simulator.py"),
        *elsewhere.glob("prompts/*"),
        elsewhere / PRICES,
        elsewhere / RESULTS / "world/facts.json",
    ]
    assert simulated <= set(map(str, own))
    assert set(found) == set(held), "every stage was traced"
    for stage, receipt in held.items():
        inputs = {str(elsewhere / path) for path in files_in(receipt["inputs"])}
        assert found[stage] & inputs or not inputs, f"{stage}: the trace has none of its inputs"
    left = {
        stage: undeclared(elsewhere, held[stage], files, elsewhere.parent / "tmp")
        for stage, files in found.items()
    }
    record_property("attacks", sum(map(len, found.values())))
    record_property("missed", sum(map(len, left.values())))
    assert {stage: files for stage, files in left.items() if files} == {}


def test_a_receipt_names_what_its_rule_declares(finished: Path) -> None:
    """What a stage read is an input of its rule, or written by the same job as one; what the rule
    declares, the stage read.
    """
    done = snakemake(finished, "--detailed-summary")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith(f"{RESULTS}/")]
    declared = {row[0]: set(row[4].split(",")) for row in rows}
    held = receipts(finished)
    made = [
        paths(receipt["outputs"]) | {f"{RESULTS}/receipts/{stage}.json"}
        for stage, receipt in held.items()
    ]
    for stage, receipt in held.items():
        inputs = declared[f"{RESULTS}/receipts/{stage}.json"]
        beside = set().union(*(files for files in made if files & inputs))
        assert paths(receipt["inputs"]) <= inputs | beside, stage
        assert {path for path in inputs if not path.startswith(("scripts/", "envs/"))} <= paths(
            receipt["inputs"]
        ), stage
        kept = {
            path
            for path in paths(receipt["outputs"])
            if path.endswith(".sqlite") or Path(path).name in COMPANIONS["model.safetensors"]
        }
        assert paths(receipt["outputs"]) - kept <= set(declared), stage


def test_an_undeclared_read_is_found(finished: Path, tmp_path: Path) -> None:
    if not can(TRACE):
        pytest.skip("no process can be traced here (strace)")
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    program = folder / "scripts/check_claims.py"
    program.write_text(
        program.read_text().replace("def main(", 'Path("README.md").read_text()\n\n\ndef main(', 1)
    )
    done = run(
        folder,
        f"{RESULTS}/claims.json",
        before=[*TRACE, "-o", str(tmp_path / "trace")],
        cores=1,
        HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert undeclared(
        folder, receipts(folder)["claims"], opened(tmp_path / "trace")["claims"], tmp_path / "tmp"
    ) == {str(folder / "README.md")}


def process_of(stage: str, folder: Path) -> int | None:
    """The process that runs a stage's program in a folder."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode().split("\0")
            if (
                words[0].endswith("python")
                and f"{RESULTS}/receipts/{stage}.json" == words[words.index("--receipt") + 1]
                and (place / "cwd").resolve() == folder
            ):
                return int(place.name)
        except (OSError, ValueError, IndexError):
            continue
    return None


def start(folder: Path, target: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PYTHONPATH": str(folder / "scripts"),
        "PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}",
    }
    command = [
        str(SNAKEMAKE),
        target,
        "--profile",
        "profiles/default",
        "--cores",
        "2",
        "--configfile",
        *CONFIG,
    ]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for(what: Callable[[], object], run: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert run.poll() is None and time.monotonic() < end, (
            run.stdout and run.stdout.read().decode()[-3000:]
        )
        time.sleep(0.02)


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "project"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(".snakemake"))
    return folder.resolve()


def stages(folder: Path) -> list[str]:
    """One stage of every rule."""
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    rules = set(re.findall(r"^ *rule (\w+):", text, re.MULTILINE))
    return list(
        {
            next(iter(rules_of({stage}, rules))): stage
            for stage in sorted(receipts(folder), reverse=True)
        }.values()
    )


def kill_in_the_middle(project: Path, stage: str, whole: bool = True) -> list[str]:
    """Run a stage, kill it in the middle, run it again; a line for whatever is then not as it
    was.
    """
    held = receipts(project)[stage]
    files = {
        path: digest
        for path, digest in files_in(held["outputs"]).items()
        if not path.endswith(".sqlite")
    }
    files = {
        path: "" if path.endswith(UNCOMPARED) else digest for path, digest in files.items()
    }  # "": only as its new receipt says
    receipt = project / RESULTS / "receipts" / f"{stage}.json"
    for share in (
        0.5,
        0.2,
        0.1,
        0.0,
    ):  # of its recorded time, from its start on; less if it had ended by then
        for path in [*paths(held["outputs"]), f"{RESULTS}/receipts/{stage}.json"]:
            (project / path).unlink()
        run = start(project, next(iter(files)))
        try:
            wait_for(lambda: process_of(stage, project), run)
            began = time.monotonic()
            while (
                time.monotonic() - began < share * (held["wall_s"] + 1.0) and not receipt.exists()
            ):
                time.sleep(0.005)
        finally:
            os.killpg(run.pid, signal.SIGKILL) if whole else run.kill()
            run.wait()
        killed = not receipt.exists()
        there = [path for path in files if (project / path).exists()]
        wrong = [
            f"{stage}: {path}: half-written"
            for path in there
            if files[path] and sha256_file(project / path) != files[path]
        ]
        again = snakemake(project, next(iter(files)))
        wrong += (
            [f"{stage}: cannot be run again: {again.stderr[-1500:]}"] if again.returncode else []
        )
        recorded = files_in(receipts(project)[stage]["outputs"])
        now = {path: sha256_file(project / path) for path in files}
        wrong += [
            f"{stage}: {path}: other bytes after the kill"
            for path in files
            if now[path] != recorded[path] or files[path] not in ("", now[path])
        ]
        if killed or wrong:
            return wrong
    return [f"{stage}: it ended before it could be killed"]


def test_after_a_kill_in_the_middle_a_rule_gives_the_same_bytes(
    project: Path, record_property: Record
) -> None:
    tried = stages(project) if EVERYTHING else ["filter_orca", "dpo"]
    assert len(tried) >= (20 if EVERYTHING else 2)
    wrong = [line for stage in tried for line in kill_in_the_middle(project, stage)]
    record_property("attacks", len(tried))
    record_property("missed", len({line.split(":")[0] for line in wrong}))
    assert wrong == []


def test_when_snakemake_alone_is_killed_its_orphan_spoils_nothing(project: Path) -> None:
    assert kill_in_the_middle(project, "filter_evol", whole=False) == []


def test_a_second_run_in_the_same_directory_is_refused_in_one_line_and_harms_nothing(
    project: Path,
) -> None:
    path = project / RESULTS / "claims.json"
    content = path.read_bytes()
    path.unlink()
    first = start(project, f"{RESULTS}/claims.json")
    wait_for(lambda: process_of("claims", project), first)
    program = process_of("claims", project)
    assert program
    os.kill(program, signal.SIGSTOP)  # so that it is still at work, however slow this machine is
    second = snakemake(project, f"{RESULTS}/claims.json")
    messages = [
        line
        for line in second.stderr.splitlines()
        if "another run is at work in this directory" in line
    ]
    assert (
        second.returncode == 2 and len(messages) == 1 and f"process {first.pid} on " in messages[0]
    ), second.stderr[-3000:]
    assert "File " not in second.stderr
    os.kill(program, signal.SIGCONT)
    output, _ = first.communicate()
    assert first.returncode == 0, output[-3000:]
    assert path.read_bytes() == content
