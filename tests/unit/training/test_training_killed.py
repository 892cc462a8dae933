"""Killed is not lost: whatever moment a training is killed at, the next run ends in the bytes of an
undisturbed one.
"""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import limited
import pytest
from trained import ROOT, dpo_command, killed_before_the_receipt, reference_command, sft_command

import pretrain_base
import score_reference
import train_dpo
import train_sft
from bezoar import progress
from bezoar.errors import shortage
from bezoar.files import canonical, sha256_file, write_jsonl
from bezoar.readers import read_json, read_jsonl
from bezoar.training import preference_pairs, trainer_setup
from bezoar.training.sharing import balanced_passes

KILLS = int(os.environ.get("BEZOAR_KILLS", "2"))  # a stage; the more, the longer the test takes
SLOW = {"eval_steps": 1}  # a checkpoint at every step
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}


def killed_until_done(program: str, arguments: list[str], seconds: float, seed: int) -> str:
    """Run a program whose work takes some `seconds`, kill it `KILLS` times at random moments of its
    work, and let it end; return what all its runs printed. The clock starts when the unfinished
    work beside its outputs appears. Where it ends before it is killed, it has to do it all again,
    and is killed sooner.
    """
    command = [sys.executable, str(ROOT / "scripts" / program), *arguments]
    receipt = Path(arguments[arguments.index("--receipt") + 1])
    draw, hits, log = random.Random(seed), 0, receipt.with_suffix(".txt")

    def unfinished() -> list[Path]:
        return sorted(receipt.parent.glob(f".{receipt.stem}*"))

    with open(log, "w") as stream:
        while hits < KILLS:
            before = unfinished()
            child = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=stream, stderr=subprocess.DEVNULL
            )
            while unfinished() == before and child.poll() is None:
                time.sleep(0.01)
            began = time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                assert child.wait(draw.uniform(0, seconds)) == 0
            took = time.monotonic() - began
            child.kill()
            child.wait()
            if receipt.exists():
                receipt.unlink()
                seconds = took
            else:
                hits += 1
        subprocess.run(
            command, env=ENVIRONMENT, check=True, stdout=stream, stderr=subprocess.DEVNULL
        )
    return log.read_text()


@pytest.mark.parametrize("stage", ["sft", "dpo", "dpo_reference", "merge"])
def test_kills_at_random_moments_do_not_show_in_the_result(
    stage: str, place: Path, adapter: Path, reference: Path
) -> None:
    from test_training import merge_command

    def command(out: str) -> tuple[str, list[str]]:
        return {
            "sft": ("train_sft.py", sft_command(place, out, **SLOW)),
            "dpo": ("train_dpo.py", dpo_command(place, reference.name, out, **SLOW)),
            "dpo_reference": ("score_reference.py", reference_command(place, out)),
            "merge": ("merge_adapter.py", merge_command(place, "base", "sft", out)),
        }[stage]

    program, arguments = command(f"{stage}-quiet")
    whole = [sys.executable, str(ROOT / "scripts" / program), *arguments]
    subprocess.run(whole, env=ENVIRONMENT, check=True, capture_output=True)
    seconds = read_json(place / f"{stage}-quiet.json")["wall_s"]
    said = killed_until_done(*command(f"{stage}-killed"), seconds, seed=0)
    assert ("resuming: checkpoint-" in said) == (stage in ("sft", "dpo"))
    quiet, killed = (
        (
            {str(path.relative_to(root)): sha256_file(path) for path in sorted(root.rglob("*"))}
            if root.is_dir()
            else {"": sha256_file(root)}
        )
        for root in (place / f"{stage}-quiet", place / f"{stage}-killed")
    )
    assert killed == quiet and quiet
    assert not list(place.glob(f".{stage}-killed*")), "nothing is left beside it"


@pytest.mark.parametrize("stage", ["sft", "dpo", "dpo_reference"])
def test_a_kill_before_the_receipt_repeats_no_work(
    stage: str,
    place: Path,
    adapter: Path,
    dpo: Path,
    reference: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, checkpoint = f"{stage}-unsaid", (trainer_setup, "mark_complete")
    main, command, quiet, working = {
        "sft": (train_sft.main, sft_command(place, name), adapter, checkpoint),
        "dpo": (train_dpo.main, dpo_command(place, reference.name, name), dpo, checkpoint),
        "dpo_reference": (
            score_reference.main,
            reference_command(place, name),
            reference,
            (preference_pairs, "score"),
        ),
    }[stage]
    with killed_before_the_receipt():
        main(command)
    assert (place / name).exists() and not (place / f"{name}.json").exists()

    def works(*_: object) -> None:
        raise AssertionError("this was done before")

    monkeypatch.setattr(*working, works)
    main(command)
    for file in quiet.iterdir() if quiet.is_dir() else [quiet]:
        again = place / name / file.name if quiet.is_dir() else place / name
        assert sha256_file(again) == sha256_file(file), file
    assert not list(place.glob(f".{name}*")), "nothing is left beside it"


def test_a_half_written_checkpoint_does_not_count_and_goes(tmp_path: Path) -> None:
    for step, whole in ((2, True), (4, True), (6, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        if whole:
            trainer_setup.mark_complete(folder)
    assert trainer_setup.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-6").exists()


def test_a_damaged_checkpoint_is_passed_over_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(bytes(100))
        (folder / "trainer_state.json").write_text("{}")
        trainer_setup.mark_complete(folder)
    shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "checkpoint-4.bak")
    (tmp_path / "checkpoint-4" / "optimizer.pt").write_bytes(bytes(50))
    assert trainer_setup.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert "checkpoint-4/optimizer.pt: damaged; going on without" in capsys.readouterr().out
    (tmp_path / "checkpoint-2" / "complete").write_text("")  # a mark of an earlier kind
    assert trainer_setup.last_checkpoint(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4.bak"]


def test_a_checkpoint_whose_best_one_is_damaged_is_passed_over_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Trainer would go on from it and, at its end, take the last weights for the best."""
    for step, best in ((2, 2), (4, 4), (6, 4)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        state = {"best_model_checkpoint": f"elsewhere/checkpoint-{best}"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        trainer_setup.mark_complete(folder)
    assert trainer_setup.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text("{")
    assert trainer_setup.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert "checkpoint-6: its best checkpoint is gone" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_no_checkpoint_goes_before_every_process_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step, best in ((2, 2), (4, 3), (6, 6)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        state = {"best_model_checkpoint": f"elsewhere/checkpoint-{best}"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        if step < 6:
            trainer_setup.mark_complete(folder)
    there: list[list[str]] = []

    def meet() -> None:
        there.append(sorted(path.name for path in tmp_path.iterdir()))

    monkeypatch.setattr(trainer_setup, "wait_for_everyone", meet)
    assert trainer_setup.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert there == [["checkpoint-2", "checkpoint-4", "checkpoint-6"]]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_kill_before_a_checkpoint_is_marked_costs_that_checkpoint_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best one so far, which the last whole one names, goes only once a better one is whole."""
    losses = iter([9.0, 2.0, 3.0, 4.0, 1.0])  # before the first step, and after each
    weigh, mark = trainer_setup.weigh_evaluations, trainer_setup.mark_complete
    work, there = place / ".unmarked.checkpoints", []

    def told(trainer: Any, *more: Any) -> None:
        weigh(trainer, *more)
        evaluate = trainer.evaluation_loop

        def loop(*given: Any, **named: Any) -> Any:
            found = evaluate(*given, **named)
            found.metrics["eval_loss"] = next(losses)
            return found

        trainer.evaluation_loop = loop

    def dies(checkpoint: Path) -> None:
        if checkpoint.name == "checkpoint-4":
            there.extend(sorted(path.name for path in work.glob("checkpoint-*")))
            raise KeyboardInterrupt
        mark(checkpoint)

    monkeypatch.setattr(trainer_setup, "weigh_evaluations", told)
    monkeypatch.setattr(trainer_setup, "mark_complete", dies)
    with pytest.raises(KeyboardInterrupt):
        train_sft.main(sft_command(place, "unmarked", **SLOW))
    assert there == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]
    assert trainer_setup.last_checkpoint(work) == str(work / "checkpoint-3")


def test_a_file_system_that_fails_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    trainer_setup.mark_complete(folder)

    def failing(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(trainer_setup, "sha256_file", failing)
    with pytest.raises(OSError, match="Input/output"):
        trainer_setup.last_checkpoint(tmp_path)
    assert folder.is_dir()


def test_a_full_disk_gives_one_line_and_leaves_the_last_checkpoint_usable(
    place: Path, adapter: Path
) -> None:
    """A limit on the size of a file stands for the disk, full from the first checkpoint on."""
    arguments = sft_command(place, "full")
    full = [sys.executable, limited.__file__, "4000", "checkpoint", "train_sft", *arguments]
    done = subprocess.run(full, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    assert (
        done.stderr.strip().splitlines()[-1].startswith("error: ")
        and "the disk is full; free some space and run again" in done.stderr
    )
    assert not (place / "full").exists()
    command = [sys.executable, str(ROOT / "scripts" / "train_sft.py"), *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    assert "resuming: checkpoint-" in done.stdout
    assert sha256_file(place / "full" / "adapter_model.safetensors") == sha256_file(
        adapter / "adapter_model.safetensors"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "disk"),
        (
            RuntimeError(
                "[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing"
                " file data/3"
            ),
            "disk",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate"
                " memory"
            ),
            "memory",
        ),
        (MemoryError("CUDA out of memory"), "memory"),
        (OSError(2, "No such file or directory"), ""),
        (RuntimeError("shape mismatch"), ""),
    ],
)
def test_what_an_error_lacked_is_told_from_its_kind(error: BaseException, message: str) -> None:
    assert shortage(error) == message


def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training end like a killed one, once the checkpoint of a step is whole."""
    mark = trainer_setup.mark_complete

    def dies(checkpoint: Path) -> None:
        mark(checkpoint)
        if checkpoint.name == f"checkpoint-{step}":
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer_setup, "mark_complete", dies)


def edited(path: Path, copy: Path) -> Path:
    """A copy of a file of rows with one row less."""
    write_jsonl(copy, read_jsonl(path)[:-1])
    return copy


ONE_EPOCH = {"epochs": 1, "eval_steps": 1}


def train_into(folder: Path, out: str, command: list[str]) -> None:
    """Run train_sft.py with its outputs in another directory."""
    command = list(command)
    command[command.index("--adapter") + 1] = str(folder / out)
    command[command.index("--receipt") + 1] = str(folder / f"{out}.json")
    train_sft.main(command)


@pytest.fixture(scope="module")
def interrupted(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the training of the adapter `killed` left at its fourth step."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            train_into(folder, "killed", sft_command(place, "x", **ONE_EPOCH))
    return folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("learning_rate", "recipe.learning_rate: 0.003 -> 0.0001"),
        ("batch_size", "recipe.batch_size: 4 -> 8"),
        ("code", "code: x -> y"),
        ("data", "inputs.data."),
        ("parent", "inputs.parent: null -> "),
        ("template", "inputs.template."),
    ],
)
def test_a_checkpoint_of_other_settings_code_or_inputs_is_not_gone_on_from(
    changed: str,
    message: str,
    place: Path,
    adapter: Path,
    interrupted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    second = sft_command(place, "x", **ONE_EPOCH)
    if changed in ("learning_rate", "batch_size"):
        value = {"learning_rate": 0.0001, "batch_size": 8}[changed]
        second = sft_command(place, "x", **ONE_EPOCH, **{changed: value})
    elif changed == "code":
        second[second.index("--code") + 1] = "y"
    elif changed == "parent":
        second += ["--parent", str(adapter)]
    else:
        name = f"--{changed}"
        source = Path(second[second.index(name) + 1])
        copy = tmp_path / source.name
        if changed == "data":
            edited(source, copy)
        else:
            copy.write_text(source.read_text().replace("Instruction", "Question"))
        second[second.index(name) + 1] = str(copy)
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    train_into(tmp_path, "undisturbed", second)
    capsys.readouterr()
    train_into(tmp_path, "killed", second)
    lines = [line for line in capsys.readouterr().out.splitlines() if "starting afresh" in line]
    assert len(lines) == 1 and message in lines[0]
    for name in ("adapter_model.safetensors", "metrics.jsonl"):
        assert sha256_file(tmp_path / "killed" / name) == sha256_file(
            tmp_path / "undisturbed" / name
        )


def test_a_killed_run_of_several_passes_a_step_goes_on_with_the_row_that_follows(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last batch holds three rows, and takes fewer passes than the others."""
    changes = {"batch_size": 8, "micro_batch_size": 1, "epochs": 35 / 32, "eval_steps": 1}
    steps: list[Any] = []

    def spread(*given: Any) -> Any:
        steps.append(balanced_passes(*given))
        return steps[-1]

    monkeypatch.setattr(train_sft, "balanced_passes", spread)
    train_sft.main(sft_command(place, "passes-quiet", **changes))
    with monkeypatch.context() as patch:
        stopped_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            train_sft.main(sft_command(place, "passes-killed", **changes))
    capsys.readouterr()
    monkeypatch.setattr(progress, "_resumed", False)  # it is said once a process
    train_sft.main(sft_command(place, "passes-killed", **changes))
    assert "resuming: checkpoint-2\n" in capsys.readouterr().out
    assert len(steps) == 3 and steps[0] == steps[1] == steps[2]
    count, (passes,) = steps[0]
    assert count > 1 and 4 * count < len(passes) < 5 * count
    for name in ("adapter_model.safetensors", "metrics.jsonl"):
        assert sha256_file(place / "passes-killed" / name) == sha256_file(
            place / "passes-quiet" / name
        )


def test_dpo_starts_afresh_with_another_beta(
    place: Path,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            train_dpo.main(dpo_command(place, reference.name, "beta-killed", eval_steps=1))
    for name in ("beta-killed", "beta-undisturbed"):
        train_dpo.main(dpo_command(place, reference.name, name, eval_steps=1, beta=0.5))
    assert "starting afresh, an interrupted run had other recipe.beta: 0.1 -> 0.5" in (
        capsys.readouterr().out
    )
    assert sha256_file(place / "beta-killed/adapter_model.safetensors") == sha256_file(
        place / "beta-undisturbed/adapter_model.safetensors"
    )


def test_a_pretraining_checkpoint_belongs_to_its_corpus_and_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    begun = {"recipe": {"steps": 5}, "inputs": {"corpus": {"a": "0" * 64}}}
    checkpoint = tmp_path / "checkpoint.pt"
    assert pretrain_base.usable(checkpoint, begun) is None
    torch.save({"step": 5, "begun_with": canonical(begun)}, checkpoint)
    assert pretrain_base.usable(checkpoint, begun) == {"step": 5, "begun_with": canonical(begun)}
    other = begun | {"inputs": {"corpus": {"a": "1" * 64}}}
    assert pretrain_base.usable(checkpoint, other) is None
    torch.save({"step": 5, "recipe": "of an earlier version"}, checkpoint)
    assert pretrain_base.usable(checkpoint, begun) is None
    checkpoint.write_bytes(b"not a checkpoint")
    assert pretrain_base.usable(checkpoint, begun) is None
    assert capsys.readouterr().out.count("starting afresh") == 3
