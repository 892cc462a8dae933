"""`make evaluate` leaves nothing behind on a cluster when it is told to end, and takes nothing from
another one beside it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import doctor
import evaluate_model
from bezoar.errors import UserError
from bezoar.workflow import machine, machine_checks

ROOT = Path(__file__).parents[3]
# Snakemake, which takes a while to cancel its jobs.
CHILD = """
import os, signal, time
def end(number, frame):
    time.sleep(1)
    os.write(1, b"cancelled\\n")  # the signal may come while `print` is at work
    os._exit(1)
signal.signal(signal.{name}, end)
print("started", flush=True)
time.sleep(60)
"""
PARENT = """
import os, sys
import evaluate_model
print("status", evaluate_model.status_of([sys.executable, "-c", sys.argv[1]], dict(os.environ)))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_that_is_told_to_end_has_time_to_cancel_its_jobs(name: str) -> None:
    path = os.pathsep.join(str(ROOT / place) for place in ("scripts", "scripts/commands"))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.format(name=name)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        if name == "SIGINT":
            os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
        else:
            parent.terminate()
        assert parent.stdout.read() == "cancelled\nstatus 1\n"


class Evaluations:
    """Evaluations of models in directories below a place, without Snakemake."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place / "results/evaluate"
        (place / "mine.yaml").write_text(
            yaml.safe_dump({"pathvars": {"results": str(place / "results")}})
        )

    def run(self, model: str, meanwhile: Callable[[], int], *more: str) -> None:
        """Evaluate a model; `meanwhile` happens while Snakemake is at work and returns its
        status. What evaluates reads the models last, as jobs on a cluster do.
        """
        (self.place / model).mkdir(exist_ok=True)
        (self.place / model / "config.json").write_text("{}")

        def status_of(command: list[str], environment: dict[str, str]) -> int:
            pending, table = map(Path, command)
            status = meanwhile()
            if not status:
                table.write_text(" ".join(self.models(pending)))
            return status

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate_model, "status_of", status_of)
            patch.setattr(
                evaluate_model.start,
                "command",
                lambda config, files, targets, *rest: ([files[-1], targets[0]], {}),
            )
            config = ["config/rehearsal.yaml", str(self.place / "mine.yaml")]
            evaluate_model.main(["--model", str(self.place / model), *more, "--config", *config])

    def models(self, path: Path) -> list[str]:
        return list(yaml.safe_load(path.read_text(encoding="utf-8"))["extra_models"])

    def found(self) -> tuple[list[str], list[str], list[str]]:
        """The models that were evaluated, the rows of the table, all files."""
        table = (self.folder / "table.csv").read_text(encoding="utf-8").split()
        files = sorted(path.name for path in self.folder.iterdir())
        return self.models(self.folder / "models.yaml"), table, files


@pytest.fixture
def evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluations:
    monkeypatch.chdir(ROOT)
    return Evaluations(tmp_path)


FILES = ["models.yaml", "table.csv"]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_run_that_is_refused_or_dry_takes_nothing_from_the_one_at_work(
    evaluations: Evaluations, more: list[str]
) -> None:
    def at_work() -> int:
        if more:
            evaluations.run("b", lambda: 0, *more)
        else:
            with pytest.raises(UserError, match="the evaluation failed"):
                evaluations.run("b", lambda: 2)
        return 0

    evaluations.run("a", at_work)
    assert evaluations.found() == (["a"], ["a"], FILES)
    evaluations.run("c", lambda: 0)
    assert evaluations.found() == (["a", "c"], ["a", "c"], FILES)


def test_a_run_that_ended_after_this_one_read_its_models_is_in_the_table(
    evaluations: Evaluations,
) -> None:
    others = iter(["b"])

    def waiting() -> int:
        for other in others:
            evaluations.run(other, lambda: 0)
        return 0

    evaluations.run("a", waiting)
    assert evaluations.found() == (["b", "a"], ["b", "a"], FILES)


def test_a_model_that_has_gone_since_it_was_evaluated_is_one_line(evaluations: Evaluations) -> None:
    evaluations.run("a", lambda: 0)
    (evaluations.place / "a/config.json").unlink()
    (evaluations.place / "a").rmdir()
    with pytest.raises(UserError, match=r"models\.yaml: a was evaluated from .*/a, which is not"):
        evaluations.run("b", lambda: 0)
    evaluations.run("a", lambda: 0)
    assert evaluations.found() == (["a"], ["a"], FILES)


def test_a_mistake_in_the_configuration_of_the_first_evaluation_is_named(
    evaluations: Evaluations,
) -> None:
    with (evaluations.place / "mine.yaml").open("a") as stream:
        stream.write("sft: {epoch: 2}\n")
    with pytest.raises(UserError, match=r"/mine\.yaml: `sft\.epoch`: unknown key"):
        evaluations.run("a", lambda: 0)


def test_an_evaluation_takes_the_place_of_no_run_of_another_scale(evaluations: Evaluations) -> None:
    receipts = evaluations.place / "results/receipts"
    receipts.mkdir(parents=True)
    (receipts / "claims.json").write_text('{"recipe": {"scale": "paper"}}')
    with pytest.raises(UserError, match="holds a run of the paper scale, and this one is of the"):
        evaluations.run("a", lambda: 0)


@pytest.mark.parametrize("name", ["table", "sft-evol", "openbezoar-sft", "-a", "a b"])
def test_a_name_that_the_table_cannot_have_is_one_line(evaluations: Evaluations, name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}': cannot be a model's name here .* a NAME"):
        evaluations.run("a", lambda: 0, f"--name={name}")


def test_an_evaluation_without_a_gpu_or_the_judges_key_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the paper's scale they would be missed after hours of answers."""
    for name in ("ANTHROPIC_API_KEY", "BEZOAR_CPU", "BEZOAR_MODE"):
        monkeypatch.delenv(name, raising=False)
    seen = {"version": "2.13.0+cpu", "cuda": None, "devices": [], "error": ""}
    monkeypatch.setattr(machine_checks, "cards", lambda: ([], "no nvidia-smi"))
    monkeypatch.setattr(machine_checks, "torch_view", lambda: seen)
    monkeypatch.setattr(machine, "memory_gib", lambda: 64.0)
    monkeypatch.setattr(doctor, "model_ends", lambda *_: [])
    monkeypatch.setattr(evaluate_model, "status_of", lambda *_: 3)
    (tmp_path / "config.json").write_text("{}")
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"pathvars": {"results": str(tmp_path / "results")}}))
    monkeypatch.chdir(ROOT)
    command = ["--model", str(tmp_path), "--config", str(mine)]
    with pytest.raises(UserError, match=r"^judge: ANTHROPIC_API_KEY is not set; put the key"):
        evaluate_model.main(command)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: GPU: none found (no nvidia-smi)"), "and asks for no teacher"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    monkeypatch.setenv("BEZOAR_CPU", "1")
    with pytest.raises(UserError, match="the evaluation failed"):
        evaluate_model.main(command)
    assert "note: CPU=1: computing without a GPU takes about" in capsys.readouterr().out
