"""The Trainer of SFT and DPO: its arguments, its progress lines, and the checkpoints that count."""

import math
import operator
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bezoar import precision, progress
from bezoar.errors import UserError, shortage
from bezoar.files import sha256_file, write_json
from bezoar.readers import read_json_object
from bezoar.training.sharing import first_process, processes, wait_for_everyone

COMPLETE = "complete"  # written last into a checkpoint: the sha256 of each of its files


def progress_callback() -> Any:
    """Return a Trainer callback that reports progress, stops on a zero gradient or a NaN, and marks
    each checkpoint once it is complete on disk; only then do older ones go, all but the best.
    """
    from transformers import TrainerCallback
    from transformers.trainer_utils import rotate_checkpoints

    class ProgressCallback(TrainerCallback):
        def __init__(self) -> None:
            self.shown = ExitStack()
            self.evaluating = ExitStack()
            self.evaluated = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            steps = progress.task("train", state.max_steps, "steps", first=state.global_step)
            print(f"{progress.MARK}{self.shown.enter_context(steps).line()}", flush=True)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.shown.close()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.reached(state.global_step)
            if (
                state.global_step == state.max_steps
            ):  # the last step competes for the best checkpoint too
                control.should_evaluate = control.should_save = True

        def on_prediction_step(
            self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any
        ) -> None:
            if not self.evaluated:
                batches = progress.task("evaluate", len(eval_dataloader), "batches")
                self.evaluating.enter_context(batches)
            self.evaluated += 1
            progress.reached(self.evaluated)

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.evaluating.close()
            self.evaluated = 0

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wait_for_everyone()  # each process writes the state of its own generators
            if state.is_world_process_zero:
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
                rotate_checkpoints(args.output_dir, 2, state.best_model_checkpoint)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
        ) -> None:
            skip = ("runtime", "per_second", "total_flos", "epoch", "num_tokens")
            row: dict[str, Any] = {}
            for key, value in (logs or {}).items():
                if isinstance(value, (int, float)) and not any(word in key for word in skip):
                    if not math.isfinite(value):
                        raise UserError(
                            f"step {state.global_step}: {key} is {value}; lower the learning rate"
                        )
                    row[key] = round(value, 6)
            if row.get("grad_norm") == 0:
                raise UserError(
                    f"step {state.global_step}: the gradient norm is zero; nothing is being trained"
                )
            if "eval_loss" in row:
                print(
                    f"step {state.global_step}/{state.max_steps}  validation loss"
                    f" {row['eval_loss']:.4f}",
                    flush=True,
                )
            if "loss" in row:
                progress.note(f"loss {row['loss']:.2f}")

    return ProgressCallback()


def trainer_arguments(recipe: Mapping[str, Any], checkpoints: Path) -> dict[str, Any]:
    """Return the arguments that TRL's SFTConfig and DPOConfig share, from one stage's recipe.

    The rows come in the order of `training_order`, all epochs as one. The global batch is
    `batch_size` whatever the number of processes.
    """
    import torch

    together = recipe["micro_batch_size"] * processes()
    if recipe["batch_size"] % together:
        raise UserError(
            f"batch_size {recipe['batch_size']}: expected a multiple of micro_batch_size x"
            f" processes, {together}"
        )
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": recipe["micro_batch_size"],
        "per_device_eval_batch_size": 4 * recipe["micro_batch_size"],  # no gradient to keep
        "gradient_accumulation_steps": recipe["batch_size"] // together,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": recipe["schedule"],
        "warmup_steps": recipe["warmup_steps"],
        "optim": (
            recipe["optimizer"]
            if cuda or not recipe["optimizer"].startswith("paged")
            else "adamw_torch"
        ),
        "weight_decay": recipe["weight_decay"],
        "max_grad_norm": recipe["max_grad_norm"],
        "eval_strategy": "steps",
        "eval_steps": recipe["eval_steps"],
        "save_strategy": "steps",
        "save_steps": recipe["eval_steps"],
        "load_best_model_at_end": recipe["load_best_model_at_end"],
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": 1,  # a mean over more steps would restart after a resume
        "bf16": precision.compute_dtype() == torch.bfloat16,
        "gradient_checkpointing": recipe["gradient_checkpointing"],
        "seed": recipe["seed"],
        "data_seed": recipe["seed"],
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "use_cpu": not cuda,
        "ddp_find_unused_parameters": False,
    }


def optimizer(trainer: Any) -> str:
    """Return transformers' name of the optimiser that trains: without a GPU, no paged one does."""
    from transformers.training_args import OptimizerNames

    return str(OptimizerNames(trainer.args.optim).value)


def weigh_evaluations(trainer: Any, size: Callable[[Mapping[str, Any]], Any]) -> None:
    """Have a Trainer's evaluations give means over whatever `size` counts in a batch, tokens or
    rows. Its own are means over batches, of which the last may be smaller. Of several processes,
    the rows that are repeated to give each a batch count as often.
    """
    import torch

    step, loop = trainer.prediction_step, trainer.evaluation_loop
    seen: list[tuple[float, float]] = []  # of each batch, over all processes: sum of losses, size

    def weighed_step(model: Any, inputs: Mapping[str, Any], *more: Any, **named: Any) -> Any:
        count = float(size(inputs))
        loss, *rest = step(model, inputs, *more, **named)
        both = torch.tensor([[float(loss) * count, count]], dtype=torch.float64, device=loss.device)
        total, counted = trainer.accelerator.gather(both).sum(dim=0).tolist()
        seen.append((total, counted))
        return loss, *rest

    def weighed_loop(*arguments: Any, **named: Any) -> Any:
        seen.clear()
        found = loop(*arguments, **named)
        sizes = [count for _, count in seen]
        found.metrics["eval_loss"] = math.fsum(total for total, _ in seen) / math.fsum(sizes)
        for values in trainer._metrics["eval"].values():
            if len(values) == len(sizes):
                values[:] = [math.fsum(map(operator.mul, values, sizes)) / math.fsum(sizes)]
        return found

    trainer.prediction_step, trainer.evaluation_loop = weighed_step, weighed_loop


def mark_complete(checkpoint: Path) -> None:
    """Flush a checkpoint to disk and mark it as complete; one without the mark is ignored."""
    for path in sorted(checkpoint.iterdir()):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    digests = {path.name: sha256_file(path) for path in sorted(checkpoint.iterdir())}
    write_json(checkpoint / COMPLETE, digests)


def is_whole(checkpoint: Path) -> bool:
    """Say whether a checkpoint is complete, and as it was written; a line names one that is not as
    it was.
    """
    mark = checkpoint / COMPLETE
    if not mark.is_file():
        return False
    try:
        digests = read_json_object(mark)
        changed = [name for name in digests if sha256_file(checkpoint / name) != digests[name]]
    except (UserError, OSError) as error:
        if shortage(error):
            raise
        changed = [COMPLETE]
    if changed:
        print(f"{checkpoint / changed[0]}: damaged; going on without this checkpoint", flush=True)
    return not changed


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the newest whole checkpoint of an interrupted run, or None; newer ones and those that
    are not whole are removed, once every process has chosen.
    """
    steps = {
        int(number): path
        for path in checkpoints.glob("checkpoint-*")
        if (number := path.name.removeprefix("checkpoint-")).isdecimal()  # no copy somebody made
    }
    whole = {step for step, path in steps.items() if is_whole(path)}
    there, newest = {steps[step].name for step in whole}, None
    for step in sorted(whole, reverse=True):
        if _has_best(steps[step], there):
            newest = str(steps[step])
            break
        print(f"{steps[step]}: its best checkpoint is gone; going on without", flush=True)
        whole.remove(step)
    wait_for_everyone()
    if first_process():
        for step in steps.keys() - whole:
            shutil.rmtree(steps[step], ignore_errors=True)
    return newest


def _has_best(checkpoint: Path, there: set[str]) -> bool:
    """Whether the best checkpoint so far is still there: the Trainer would end with the last one in
    its place.
    """
    best = read_json_object(checkpoint / "trainer_state.json").get("best_model_checkpoint")
    return best is None or Path(str(best)).name in there
