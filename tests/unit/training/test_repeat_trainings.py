"""A finished run's trainings are repeated with another seed, in their order and beside the run."""

import json
from pathlib import Path
from typing import Any

import pytest

import repeat_trainings
from bezoar.errors import UserError
from bezoar.files import canonical
from bezoar.provenance.code_digest import digest

STAGE = """\
import json, sys
from pathlib import Path
line = sys.argv[1:]
given = dict(zip(line[::2], line[1::2]))
seed = json.loads(given["--recipe"])["seed"]
for name in ("--data", "--base", "--adapter-of"):
    if name in given and not Path(given[name]).is_file():
        sys.exit(f"{given[name]}: not there")
out = Path(given["--adapter"])
out.write_text(str(seed))
held = json.loads(Path(given["--like"]).read_text())
held["recipe"] = {"seed": seed}
Path(given["--receipt"]).write_text(json.dumps(held))
"""
CHAIN = (  # in an order that is not theirs
    ("dpo", "train_dpo.py", "dpo/a", "--base", "merge/m"),
    ("merge_x", "merge_adapter.py", "merge/m", "--adapter-of", "sft/a"),
    ("sft_x", "train_sft.py", "sft/a", "--data", "filter/x"),
    ("merge_y", "merge_adapter.py", "merge/n", "--base", "dpo/a"),  # nothing is trained on it
)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    scripts, root = tmp_path / "scripts", tmp_path / "results/trial"
    for folder in ("receipts", "dpo", "merge", "sft", "filter"):
        (root / folder).mkdir(parents=True)
    scripts.mkdir()
    (root / "filter/x").touch()
    monkeypatch.setattr(repeat_trainings, "SCRIPTS", scripts)
    for stage, name, output, option, read in CHAIN:
        (scripts / name).write_text(STAGE)
        receipt = root / f"receipts/{stage}.json"
        held: dict[str, Any] = {
            "stage": stage,
            "recipe": {"seed": 0},
            "code": digest(scripts / name),
            "inputs": {"x": {str(root / read): "0"}},
            "outputs": {"x": {str(root / output): "0"}},
            "rows": {},
            "facts": {},
            "environment": {},
            "git_commit": "0" * 40,
            "git_dirty": False,
            "versions": {},
            "started_unix_s": 0.0,
            "wall_s": 1.0,
            "peak_memory_bytes": 1,
            "command": [
                *(name, option, str(root / read), "--adapter", str(root / output)),
                *("--like", str(tmp_path / f"{stage}.json"), "--receipt", str(receipt)),
                *("--recipe", canonical({"seed": 0}), "--code", "x"),
            ],
        }
        for path in (receipt, tmp_path / f"{stage}.json"):
            path.write_text(json.dumps(held))
    return root


def test_each_seed_has_its_own_models_on_the_runs_data(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    repeat_trainings.main(["--results", str(results), "--seeds", "1", "2"])
    out, err = capfd.readouterr()
    assert [line for line in err.splitlines() if line.startswith("seed 1")] == [
        "seed 1: sft_x",
        "seed 1: merge_x",
        "seed 1: dpo",
    ]
    seed = results.with_name("trial-seed-2")
    assert (seed / "sft/a").read_text() == "2" and not (seed / "filter").exists()
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert out.endswith(f"--results {results} {results}-seed-1 {results}-seed-2\n")


def test_one_stage_is_repeated_from_what_the_run_trained_before_it(results: Path) -> None:
    (results / "merge/m").write_text("of the run")
    repeat_trainings.main(["--results", str(results), "--seeds", "1", "--only", "dpo"])
    seed = results.with_name("trial-seed-1")
    assert sorted(path.name for path in seed.rglob("*") if path.is_file()) == ["a", "dpo.json"]
    with pytest.raises(UserError, match=r"^--only dop: expected one of sft_x, merge_x, dpo$"):
        repeat_trainings.main(["--results", str(results), "--seeds", "1", "--only", "dop"])


@pytest.mark.parametrize("recorded", ["relative", "absolute"])
def test_the_results_may_be_named_otherwise_than_in_their_receipts(
    recorded: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = Path("results/trial")
    if recorded == "relative":
        given = results
        for path in (*results.glob("receipts/*.json"), *tmp_path.glob("*.json")):
            path.write_text(path.read_text().replace(f"{results}/", "results/trial/"))
    repeat_trainings.main(["--results", str(given), "--seeds", "1"])
    assert (results.with_name("trial-seed-1") / "sft/a").read_text() == "1"


def test_results_that_lie_elsewhere_than_their_receipts_say_are_one_line(
    results: Path, tmp_path: Path
) -> None:
    moved = results.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"moved: its receipts name .*; start where the run was"):
        repeat_trainings.main(["--results", str(moved), "--seeds", "1"])


def test_code_that_has_changed_since_is_refused(results: Path) -> None:
    (repeat_trainings.SCRIPTS / "merge_adapter.py").write_text("print(1)\n")
    with pytest.raises(UserError, match=r"^merge_x: its code has changed since commit 0000000;"):
        repeat_trainings.main(["--results", str(results), "--seeds", "1"])


def test_a_stage_that_fails_ends_it(results: Path) -> None:
    (results / "filter/x").unlink()
    with pytest.raises(UserError, match=r"^seed 1: sft_x failed; its last lines above"):
        repeat_trainings.main(["--results", str(results), "--seeds", "1"])
