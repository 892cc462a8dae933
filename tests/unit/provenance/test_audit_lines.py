"""Promises of `make audit` that need no finished workflow: what is made again, and what leads
nowhere.
"""

import json
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

import archive_results
import audit_results
from bezoar.errors import UserError
from bezoar.files import sha256_file, sha256_text, write_json
from bezoar.provenance import audit
from bezoar.provenance.archive import PROJECT
from bezoar.provenance.receipt import Receipt
from bezoar.workflow.configuration import resolved

ROOT = Path(__file__).parents[3]
RESULTS = "results/tiny"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project without results is the current directory."""
    for name in PROJECT:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)


def stage(
    name: str, command: list[str], outputs: dict[str, str], inputs: tuple[str, ...] = ()
) -> None:
    """Write the outputs of a stage (path: text) and its receipt."""
    for path, text in outputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        with Receipt(
            Path(f"{RESULTS}/receipts/{name}.json"),
            stage=name,
            recipe={},
            code="0" * 64,
            inputs={"inputs": [Path(path) for path in inputs]},
            outputs={"outputs": [Path(path) for path in outputs]},
        ):
            pass


def audited(capsys: pytest.CaptureFixture[str]) -> str:
    """Audit the run; return the page."""
    with suppress(SystemExit):
        audit_results.main(["--results", RESULTS])
    return capsys.readouterr().out


def test_rows_streamed_from_the_hub_are_held_by_hashes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An audit needs no network, and writes no lock."""
    rows = f"{RESULTS}/flan/niv2.jsonl"
    stage("flan_niv2", ["stream_flan.py", "--rows", rows], {rows: "{}\n"})
    monkeypatch.setattr(audit_results, "make_again", lambda stage, *_: [f"{stage}: made again"])
    page = audited(capsys)
    assert page.startswith(f"# Audit of {RESULTS}: SOUND")
    assert "read from the hub, or were not asked for): 1 stage (flan_niv2)" in page
    assert audit_results.is_light("generate_orca.py")


def snapshot(identifier: str, revision: str, files: object = None) -> str:
    """Write a hub snapshot of one file; return the file's path."""
    folder = Path(f"data/hub/{identifier}")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    listed = {"config.json": sha256_file(folder / "config.json")} if files is None else files
    write_json(folder / "manifest.json", {"revision": revision, "files": listed})
    return f"{folder}/config.json"


@pytest.fixture
def pins() -> None:
    """A registry of one repository and one file."""
    Path("config").unlink()
    Path("config").mkdir()
    entries = [
        {"id": "base", "hub": "some/base", "type": "model", "revision": "a" * 40},
        {"id": "seeds", "url": "https://x/s", "path": "s.json", "sha256": sha256_text("[]")},
    ]
    entries = [{**entry, "what": "x", "licence": None} for entry in entries]
    Path("config/sources.yaml").write_text(yaml.safe_dump({"sources": entries}))


def findings() -> list[str]:
    held, _ = audit.read_receipts(Path(RESULTS))
    return audit.chain(held, Path(RESULTS))


@pytest.mark.usefixtures("pins")
@pytest.mark.parametrize(
    ("identifier", "revision", "files", "fault"),
    [
        ("base", "a" * 40, None, None),
        ("base", "b" * 40, None, f"of revision {'b' * 40}, but {'a' * 40} is pinned"),
        ("base", "a" * 40, {}, "not as in the snapshot's manifest"),
        ("base", "a" * 40, ["config.json"], "the snapshot's manifest lists no files"),
        (f"me_mine_{'c' * 40}", "c" * 40, None, None),
        (f"me_mine_{'c' * 40}", "d" * 40, None, f"of revision {'d' * 40}, but"),
    ],
)
def test_a_snapshot_of_another_revision_is_a_finding(
    identifier: str, revision: str, files: object, fault: str | None
) -> None:
    path = snapshot(identifier, revision, files)
    stage("base", ["import_base.py"], {f"{RESULTS}/base.json": "{}"}, (path,))
    found = findings()
    assert [line.startswith(f"base: {path}: {fault}") for line in found] == [True] * bool(fault)


@pytest.mark.usefixtures("pins")
@pytest.mark.parametrize("name", ["config.json", "more/test-2.parquet"])
def test_what_a_stage_reads_beside_a_manifest_is_held_by_it(name: str) -> None:
    """The harness is given a data set's manifest, and reads the files beside it."""
    folder = Path(snapshot("base", "a" * 40)).parent
    manifest = f"{folder}/manifest.json"
    stage("lm_eval_x", ["run_lm_eval.py"], {f"{RESULTS}/x.json": "{}"}, (manifest,))
    (folder / ".cache").mkdir()
    (folder / ".cache/of-the-client").touch()
    assert findings() == []
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("edited")
    assert findings() == [f"lm_eval_x: {folder}/{name}: not as {manifest} lists it"]
    (folder / name).unlink()
    assert findings() == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("inputs", [], '"inputs": input should be a valid dictionary, found []'),
        ("outputs", {"x": "y"}, '"outputs.x": input should be a valid dictionary'),
        ("command", [], "no command"),
        ("rows", None, '"rows": input should be a valid dictionary'),
        ("started_unix_s", None, '"started_unix_s": '),
        ("git_commit", ..., 'lacks "git_commit"'),
        ("peak_memory_bytes", ..., 'lacks "peak_memory_bytes"'),
        ("wall_s", "1", '"wall_s": '),
        ("versions", ..., 'lacks "versions"'),
    ],
)
def test_a_damaged_receipt_is_a_finding(
    capsys: pytest.CaptureFixture[str], key: str, value: object, said: str
) -> None:
    stage("a", ["merge_adapter.py"], {f"{RESULTS}/a.json": "{}"})
    stage("b", ["merge_adapter.py"], {f"{RESULTS}/b.json": "{}"})
    path = Path(f"{RESULTS}/receipts/a.json")
    held = json.loads(path.read_text())
    del held[key]
    path.write_text(json.dumps(held if value is ... else {**held, key: value}))
    page = audited(capsys)
    assert page.startswith(f"# Audit of {RESULTS}: NOT SOUND, 1 finding\n")
    assert f"- a: {path}: {said}" in page and "; not a receipt\n" in page


def test_a_run_without_receipts_is_not_sound() -> None:
    Path(f"{RESULTS}/receipts").mkdir(parents=True)
    with pytest.raises(UserError, match="no receipts; finish a run first"):
        audit_results.main(["--results", RESULTS])


def test_the_configuration_of_another_run_is_answered_with_the_runs_that_are_here() -> None:
    stage("a", ["merge_adapter.py"], {f"{RESULTS}/a.json": "{}"})
    with pytest.raises(UserError, match=rf"the runs here are {RESULTS}$"):
        audit_results.main(["--results", "results"])


def test_what_another_configuration_left_is_to_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    stage("a", ["merge_adapter.py"], {f"{RESULTS}/a.json": "{}"})
    stage("rejudge_x", ["an_old_name.py"], {f"{RESULTS}/x.jsonl": "{}"})
    stage("bridge_x", ["an_old_name.py"], {f"{RESULTS}/x.json": "{}"}, (f"{RESULTS}/x.jsonl",))
    receipts = (f"{RESULTS}/receipts/a.json",)
    stage("report", ["merge_adapter.py"], {f"{RESULTS}/report.html": "<h1>"}, receipts)
    page = audited(capsys)
    assert page.startswith(f"# Audit of {RESULTS}: SOUND\n")
    assert "\n- left over: bridge_x, rejudge_x: the report does not hold" in page
    assert "\n- other code: an_old_name.py is not there any more: bridge_x, rejudge_x" in page


def test_no_stage_of_the_run_is_excused_as_left_over_or_by_a_program_that_is_gone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A forger may take a receipt out of the report's, or name another program in it."""
    stage("dpo", ["train_dpo.py"], {f"{RESULTS}/adapter.bin": "0"})
    stage("merge", ["merge_adapter.py"], {f"{RESULTS}/model.bin": "0"}, (f"{RESULTS}/adapter.bin",))
    stage("claims", ["renamed.py"], {f"{RESULTS}/claims.json": "{}"})
    held = tuple(f"{RESULTS}/receipts/{name}.json" for name in ("merge", "claims"))
    stage("report", ["merge_adapter.py"], {f"{RESULTS}/report.html": "<h1>"}, held)
    page = audited(capsys)
    assert page.startswith(f"# Audit of {RESULTS}: NOT SOUND, 2 findings\n")
    assert "\n- dpo: no later receipt holds the hash of this one; an edit of it could not" in page
    assert "\n- claims: renamed.py: no such program in scripts/; it cannot be made again\n" in page


def test_an_archive_says_what_it_leaves_out_and_its_audit_does_without(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, table = f"{RESULTS}/base/model.bin", f"{RESULTS}/table.csv"
    stage("base", ["merge_adapter.py"], {weights: "0" * 9_000_000})
    stage("lm_eval_table", ["collect_lm_eval.py"], {table: "x"}, (weights,))
    Path("mine.yaml").write_text(f"pathvars: {{results: {RESULTS}}}")
    packed = ["--results", RESULTS, "--output", "packed.tar", "--max-bytes", "8000000"]
    archive_results.main([*packed, "--config", "config/paper.yaml", "mine.yaml"])
    assert f"left out: {weights}\n" in capsys.readouterr().out
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with tarfile.open("packed.tar") as archive:
        archive.extractall(elsewhere, filter="data")
    monkeypatch.chdir(elsewhere)
    assert resolved(["config/paper.yaml", "mine.yaml"])["pathvars"]["results"] == RESULTS
    page = audited(capsys)
    less = "SOUND, but 1 stage that needs no model was not made again"
    assert page.startswith(f"# Audit of {RESULTS}: {less}\n")
    assert f"\n- left out of the archive: {weights}: larger than 8000000 bytes\n" in page
    why = f"it needs no model: {weights}: left out of the archive"
    assert f"\n- held by hashes alone: lm_eval_table, though {why}\n" in page
    Path(table).unlink()
    page = audited(capsys)
    assert f"\n- lm_eval_table: {table}: not there, though the receipt has it" in page


@pytest.mark.usefixtures("pins")
@pytest.mark.parametrize("text", ["[]", "{", '{"files": {}}'])
def test_a_snapshot_without_a_manifest_is_a_finding(text: str) -> None:
    path = snapshot("base", "a" * 40)
    Path("data/hub/base/manifest.json").write_text(text)
    stage("base", ["import_base.py"], {f"{RESULTS}/base.json": "{}"}, (path,))
    assert len(findings()) == 1 and "the snapshot has no manifest" in findings()[0]


@pytest.mark.usefixtures("pins")
def test_no_spelling_of_a_path_hides_where_it_leads() -> None:
    stage("a", ["merge_adapter.py"], {f"{RESULTS}/a.json": "{}"})
    Path("data").mkdir()
    Path("data/s.json").write_text("[1]")  # not the pinned bytes
    Path(f"{RESULTS}/b.json").write_text("{}")  # no stage wrote it
    stray = ("./data/s.json", f"./{RESULTS}/b.json", f"{Path.cwd()}/{RESULTS}/b.json")
    stage("b", ["merge_adapter.py"], {f"{RESULTS}/c.json": "{}"}, (f"./{RESULTS}/a.json", *stray))
    assert len(findings()) == len(stray) and all("a.json" not in line for line in findings())


@pytest.mark.usefixtures("pins")
def test_what_is_read_from_elsewhere_is_in_the_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A base of one's own is no finding, but nobody should have to guess that it was read."""
    outside = tmp_path_factory.mktemp("elsewhere") / "x.jsonl"
    paths = ("mine/edited.jsonl", "config/../mine/more.jsonl", str(outside))
    for path in ("mine/edited.jsonl", "mine/more.jsonl", str(outside)):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("{}\n")
    stage("sft", ["train_sft.py"], {f"{RESULTS}/adapter.json": "{}"}, paths)
    page = audited(capsys)
    assert page.startswith(f"# Audit of {RESULTS}: SOUND")
    assert "- from elsewhere: mine: edited.jsonl, more.jsonl: read by sft; no stage made it" in page
    assert f"- from elsewhere: {outside.parent}: x.jsonl: read by sft; no stage made it" in page


@pytest.mark.usefixtures("pins")
def test_a_repository_that_the_lock_alone_pins_is_to_be_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of those that a configuration names, only some with their commit."""
    write_json(Path("config/sources.lock"), {"me_mine": "c" * 40})
    named = f"me_other_{'d' * 40}"
    paths = [snapshot("base", "a" * 40), snapshot("me_mine", "c" * 40), snapshot(named, "d" * 40)]
    stage("base", ["import_base.py"], {f"{RESULTS}/base.json": "{}"}, tuple(paths))
    page = audited(capsys)
    assert page.startswith(f"# Audit of {RESULTS}: SOUND")
    assert page.count("\n- unpinned: ") == page.count("\n- unpinned: me_mine has no published") == 1


def test_what_other_runs_below_have_written_is_not_undeclared() -> None:
    """The paper's results are in results/, those of a rehearsal in results/rehearsal/."""
    stage("a", ["merge_adapter.py"], {f"{RESULTS}/a.json": "{}"})
    for path in ("results/receipts/x.json", "results/y.json", "results/README.md"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    held = {"x": audit.read_receipts(Path(RESULTS))[0]["a"]}
    lines = audit.reservations(held, Path("results"))
    assert f"another run: {RESULTS}: it has receipts of its own" in lines
    undeclared = [line for line in lines if line.startswith("undeclared: ")]
    assert undeclared == ["undeclared: results/y.json: no receipt wrote it"]


PROGRAM = """import sys
from pathlib import Path
Path(sys.argv[1]).write_text(sys.argv[2] + " beside " + sys.argv[1])
"""


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(("text", "found"), [("old", 0), ("new", 1)])
def test_what_is_audited_is_never_written_wherever_the_results_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool, text: str, found: int
) -> None:
    monkeypatch.setattr(audit_results, "SCRIPTS", tmp_path)
    (tmp_path / "p.py").write_text(PROGRAM)
    path = tmp_path / RESULTS / "x.txt" if absolute else Path(RESULTS, "x.txt")
    path.parent.mkdir(parents=True)
    path.write_text(f"old beside {path}")
    held = {"inputs": {}, "outputs": {"x": {str(path): ""}}, "command": ["p.py", str(path), text]}
    (tmp_path / "scratch").mkdir()
    assert len(audit_results.make_again("x", held, tmp_path / "scratch")) == found
    assert path.read_text() == f"old beside {path}"


def test_a_store_that_is_gone_is_left_to_the_stage_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_results, "SCRIPTS", tmp_path)
    (tmp_path / "p.py").write_text("raise SystemExit('s.sqlite: no stored answer for row 1')")
    held = {"inputs": {}, "outputs": {"x": {f"{RESULTS}/s.sqlite": ""}}, "command": ["p.py"]}
    assert audit_results.make_again("x", held, tmp_path / "scratch") == [
        "x: cannot be made again: s.sqlite: no stored answer for row 1"
    ]


def test_a_receipt_that_would_write_outside_the_scratch_folder_is_found() -> None:
    path = f"{RESULTS}/../../../out.txt"
    held = {"inputs": {}, "outputs": {"x": {path: ""}}, "command": ["p.py", path]}
    assert audit_results.outside(held) == [path]
    named = {"inputs": {}, "outputs": {}, "command": ["p.py", "--receipt", f"../{path}"]}
    assert audit_results.outside(named) == [f"../{path}"]
    inside = {"inputs": {}, "outputs": {"x": {f"{RESULTS}/x": ""}}, "command": ["p.py"]}
    assert not audit_results.outside(inside)
