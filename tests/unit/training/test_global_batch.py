"""The global batch is a constant: micro-batches, accumulation and processes do not change what is
learnt.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trained import ROOT, dpo_command, sft_command

import train_dpo
import train_sft
from bezoar.errors import UserError
from bezoar.readers import read_json, read_jsonl
from bezoar.training.qlora import training_order
from bezoar.training.sharing import gather_of_any_length, keep_to_one_gpu, micro_batches

TOLERANCE = 0.02  # nats, of a loss that falls from 6: bfloat16 sums in another order


def losses(adapter: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(adapter / "metrics.jsonl") if "loss" in row]


def test_the_order_holds_every_row_once_an_epoch_and_the_longest_of_a_batch_first() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(10, 200) for _ in range(64)]
    order = training_order(lengths, 8, 2, seed=0)
    assert sorted(order[:64]) == sorted(order[64:]) == list(range(64))
    batches = [[lengths[index] for index in order[start : start + 8]] for start in range(0, 128, 8)]
    assert all(held == sorted(held, reverse=True) for held in batches)
    assert sum(max(held) - min(held) > 95 for held in batches) > 12, "batches are random"
    assert (
        order[:64] != order[64:]
        and order != training_order(lengths, 8, 2, seed=1)
        and order == training_order(lengths, 8, 2, seed=0)
    )


@pytest.mark.parametrize(
    ("processes", "visible", "left"),
    [("1", None, "0"), ("1", "3, 1", "3"), ("2", None, None), ("2", "3,1", "3,1")],
)
def test_one_process_keeps_to_the_first_of_the_visible_gpus(
    processes: str, visible: str | None, left: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    keep_to_one_gpu()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == left


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_gpus_are_hidden_before_anything_asks_for_one(
    stage: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question for a GPU's name or precision starts CUDA, and torch counts them for good."""
    program, command = {
        "sft": (train_sft, sft_command(place, "asked")),
        "dpo": (train_dpo, dpo_command(place, "pairs.jsonl", "asked")),
    }[stage]
    calls: list[str] = []

    def asks() -> str:
        calls.append("a GPU is asked for")
        raise KeyboardInterrupt

    for question in ("provenance.resumption.device", "precision.compute_dtype"):
        monkeypatch.setattr(f"bezoar.{question}", asks)
    monkeypatch.setattr(program, "keep_to_one_gpu", lambda: calls.append("all others are hidden"))
    with pytest.raises(KeyboardInterrupt):
        program.main(command)
    assert calls == ["all others are hidden", "a GPU is asked for"]


def test_so_little_of_an_epoch_that_no_row_is_left_is_refused() -> None:
    with pytest.raises(UserError, match=r"epochs 0\.01: no row of 40 would be trained on"):
        training_order([1] * 40, 4, 0.01, seed=0)


def test_half_an_epoch_is_half_the_rows() -> None:
    assert len(set(training_order([1] * 40, 4, 0.5, seed=0))) == 20


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_one_batch_of_eight_and_eight_of_one_give_the_same_curve(
    stage: str, place: Path, reference: Path
) -> None:
    """Dropout is off: its draws follow the shape of a batch."""
    changes = {
        "batch_size": 8,
        "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]},
    }
    for micro in (8, 2, 1):
        if stage == "sft":
            train_sft.main(sft_command(place, f"sft-{micro}", micro_batch_size=micro, **changes))
        else:
            train_dpo.main(
                dpo_command(
                    place, reference.name, f"dpo-{micro}", micro_batch_size=micro, **changes
                )
            )
    whole = losses(place / f"{stage}-8")
    assert len(whole) == 8
    for micro in (2, 1):
        assert losses(place / f"{stage}-{micro}") == pytest.approx(whole, abs=TOLERANCE)


def test_the_pairs_of_an_incomplete_last_batch_weigh_alike(place: Path, reference: Path) -> None:
    """Five pairs of unlike length are two micro-batches, of four and of one, or a single one."""
    changes = {
        "batch_size": 8,
        "epochs": 5 / 32,
        "warmup_steps": 0,
        "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]},
    }
    norms = []
    for micro in (4, 8):
        name = f"dpo-last-{micro}"
        train_dpo.main(dpo_command(place, reference.name, name, micro_batch_size=micro, **changes))
        rows = read_jsonl(place / name / "metrics.jsonl")
        norms += [row["grad_norm"] for row in rows if "grad_norm" in row]
    assert len(norms) == 2 and norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize(
    ("stage", "measures"),
    [
        ("sft", ("eval_loss", "eval_mean_token_accuracy")),
        ("dpo", ("eval_loss", "eval_logps/chosen", "eval_rewards/accuracies")),
    ],
)
def test_an_evaluation_does_not_depend_on_its_batches(
    stage: str, measures: tuple[str, ...], place: Path, reference: Path
) -> None:
    """Seven held-out rows of unlike length are two batches, the second with three, or one."""
    changes = {
        "batch_size": 4,
        "epochs": 0.13,  # one step
        "warmup_steps": 0,
        "validation_share": 0.18,
        "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]},
    }
    found = []
    for micro in (1, 4):
        name = f"{stage}-evaluated-{micro}"
        more = changes | {"micro_batch_size": micro}
        if stage == "sft":
            train_sft.main(sft_command(place, name, **more))
        else:
            train_dpo.main(dpo_command(place, reference.name, name, **more))
        assert read_json(place / f"{name}.json")["facts"]["validation"] == 7
        held = [row for row in read_jsonl(place / name / "metrics.jsonl") if "eval_loss" in row]
        found.append([held[0][measure] for measure in measures])
    assert found[0] == pytest.approx(found[1], abs=2e-5)


@pytest.mark.parametrize(
    ("rows", "batch", "micro", "processes"),
    [(32, 8, 2, 2), (35, 8, 2, 2), (34, 8, 4, 2), (33, 12, 2, 3), (7, 8, 2, 2), (64, 8, 1, 8)],
)
def test_processes_use_every_row_once_and_step_together(
    rows: int, batch: int, micro: int, processes: int
) -> None:
    shares = [micro_batches(rows, batch, micro, processes, rank) for rank in range(processes)]
    assert sorted(row for share in shares for part in share for row in part) == list(range(rows))
    assert len({len(share) for share in shares}) == 1, "as many micro-batches for each"
    assert all(1 <= len(part) <= micro for share in shares for part in share)
    steps = batch // (micro * processes)
    for start in range(0, rows // batch):
        together = [
            row for share in shares for part in share[start * steps :][:steps] for row in part
        ]
        assert sorted(together) == list(range(start * batch, (start + 1) * batch))


def test_a_last_batch_that_leaves_a_process_without_a_row_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"launch.processes 2: the last of 33 rows make a batch of 1"
    ):
        micro_batches(33, 8, 2, 2, 0)


ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(
        map(str, (ROOT / "scripts", ROOT / "tests/unit", Path(__file__).parent))
    ),
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
    "BEZOAR_PROCESSES": "2",
}
RECORD = """
import json, os, sys
from test_global_batch import recorded
rank, processes = os.environ["RANK"], os.environ["WORLD_SIZE"]
for stage, arguments in json.loads(sys.argv[1]).items():
    state = {"rank": rank, "processes": processes, "rows": recorded(f"train_{stage}", arguments)}
    json.dump(state, open(f"{stage}.saw.{rank}", "w"))
"""
# Thirty-two rows, a little more than one epoch: the last batch holds three rows, so that filling it
# up would show.
SHARED = {
    "batch_size": 8,
    "micro_batch_size": 2,
    "epochs": 35 / 32,
    "lora": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj"]},
}


def recorded(program: str, arguments: list[str]) -> list[list[int]]:
    """Run a training in this process; return the tokens of every row that it trains on."""
    import trl

    seen: list[list[int]] = []
    with pytest.MonkeyPatch.context() as patch:
        for trainer in (trl.SFTTrainer, trl.DPOTrainer):

            def step(
                self: Any, model: Any, inputs: dict, *more: Any, whole: Any = trainer.training_step
            ) -> Any:
                if lengths := inputs.get("row_lengths"):
                    sizes = [size for (size,) in lengths]
                    seen.extend(part.tolist() for part in inputs["input_ids"][0].split(sizes))
                else:
                    rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
                    seen.extend(ids[mask == 1].tolist() for ids, mask in rows)
                return whole(self, model, inputs, *more)

            patch.setattr(trainer, "training_step", step)
        __import__(program).main(arguments)
    return seen


def commands(place: Path, reference: Path, end: str) -> dict[str, list[str]]:
    """Stage -> the arguments of its training, for an adapter whose name ends as said."""
    return {
        "sft": sft_command(place, f"sft-{end}", **SHARED),
        "dpo": dpo_command(place, reference.name, f"dpo-{end}", **SHARED),
    }


@pytest.fixture(scope="module")
def seen(place: Path, reference: Path) -> dict[str, list[dict]]:
    """Stage -> what each of two processes saw of its training. Both trainings run in one launch,
    like the workflow's.
    """
    (place / "record.py").write_text(RECORD)
    command = [
        *(sys.executable, "-m", "bezoar.training.launch", "--num_processes", "2", "--config_file"),
        *(str(ROOT / "profiles" / "accelerate" / "cpu.yaml"), str(place / "record.py")),
        json.dumps(commands(place, reference, "two")),
    ]
    done = subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    stages = ("sft", "dpo")
    return {stage: [read_json(place / f"{stage}.saw.{rank}") for rank in "01"] for stage in stages}


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_two_processes_use_each_row_once_and_give_the_curve_of_one(
    stage: str, place: Path, reference: Path, seen: dict[str, list[dict]]
) -> None:
    both = seen[stage]
    alone = recorded(f"train_{stage}", commands(place, reference, "alone")[stage])
    assert [(state["rank"], state["processes"]) for state in both] == [("0", "2"), ("1", "2")]
    rows = [row for state in both for row in state["rows"]]
    assert sorted(rows) == sorted(alone), "no row twice, none left out"
    assert all(len(state["rows"]) >= len(rows) // 2 - 1 for state in both)
    assert len(rows) == 35 * (1 if stage == "sft" else 2)
    assert losses(place / f"{stage}-two") == pytest.approx(
        losses(place / f"{stage}-alone"), abs=TOLERANCE
    )
    held = [
        [
            row["eval_loss"]
            for row in read_jsonl(place / name / "metrics.jsonl")
            if "eval_loss" in row
        ]
        for name in (f"{stage}-two", f"{stage}-alone")
    ]
    assert held[0] == pytest.approx(held[1], abs=TOLERANCE)
    assert (place / f"{stage}-two.json").is_file(), "the first process writes the receipt"


def test_a_batch_that_the_processes_cannot_share_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        UserError, match="batch_size 8: expected a multiple of micro_batch_size x processes, 6"
    ):
        train_sft.main(sft_command(place, "uneven", batch_size=8, micro_batch_size=2))


def test_another_number_of_processes_than_was_asked_for_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_PROCESSES", "2")
    with pytest.raises(UserError, match="2 processes were asked for and 1 started"):
        train_sft.main(sft_command(place, "lonely"))


FAILING = """
from bezoar import program
from bezoar.errors import UserError
def main():
    raise UserError("rows.jsonl:3: no text")
program.run(main)
"""


def test_an_error_in_several_processes_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    launched = [sys.executable, "-m", "bezoar.training.launch", "--config_file"]
    launched += [str(ROOT / "profiles" / "accelerate" / "cpu.yaml"), "--num_processes", "2"]
    command = [*launched, str(tmp_path / "failing.py")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert {line for line in done.stderr.splitlines() if line.startswith("error:")} == {
        "error: rows.jsonl:3: no text"
    }


def test_what_processes_hold_of_different_lengths_is_joined_in_order() -> None:
    """Two processes, of which the other one holds a row less."""
    import torch

    mine, other = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[4.0], [5.0]])

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.int64:
            return torch.tensor([len(mine), len(other)])
        if tensor.dim() == 0:
            return torch.stack([tensor, tensor])
        return torch.cat([tensor, torch.cat([other, torch.zeros(1, 1)])])

    joined = gather_of_any_length(gather)
    assert joined(mine).tolist() == [[1], [2], [3], [4], [5]]
    assert joined(torch.tensor(7.0)).tolist() == [7, 7]


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (-9, 1)])
def test_the_launcher_exits_as_the_process_that_failed_first(
    code: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    from bezoar.training import launch

    def fails(_: object) -> None:
        raise ChildFailedError("x", {0: ProcessFailure(0, 1, code, "none")})

    monkeypatch.setattr(launch, "launch_command", fails)
    with pytest.raises(SystemExit) as error:
        launch.main(["x.py"])
    assert error.value.code == expected
