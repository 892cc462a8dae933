"""Several training processes: how many there are, and how they share the rows, none twice and none
left out.
"""

import heapq
import os
from collections.abc import Callable, Sequence
from typing import Any

from bezoar.errors import UserError
from bezoar.training import padding_free


def processes() -> int:
    """Return how many processes train together, as `accelerate launch` says; raise `UserError` if
    the workflow asked for another number.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    asked = int(os.environ.get("BEZOAR_PROCESSES", started))
    if started != asked:
        raise UserError(
            f"launch.processes: {asked} processes were asked for and {started} started; name a file"
            " of profiles/accelerate/ under launch.accelerate"
        )
    return started


def keep_to_one_gpu() -> None:
    """Hide all visible GPUs but the first where one process trains: TRL refuses several. To be
    called first of all: torch counts the GPUs once, when CUDA starts, and asking for a GPU's name
    or precision starts it.
    """
    import torch

    if processes() == 1 and torch.cuda.device_count() > 1:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        os.environ["CUDA_VISIBLE_DEVICES"] = first.strip()
        print("training on the first of the GPUs; `launch:` uses several", flush=True)


def wait_for_everyone() -> None:
    """Return once every training process has reached this point."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def first_process() -> bool:
    """Return whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def micro_batches(rows: int, batch: int, micro: int, processes: int, rank: int) -> list[list[int]]:
    """Return one process's micro-batches: places among `rows` rows in the order of training.

    Each global batch of `batch` rows is cut into the same number of micro-batches for each process.
    Those of an incomplete last batch are smaller and differ by at most one row. Raise `UserError`
    if that would leave a process without a row.
    """
    found = []
    for start in range(0, rows, batch):
        held = min(batch, rows - start)
        cells = -(-held // (micro * processes)) * processes
        if held < cells:
            raise _cannot_share(rows, held, processes)
        cuts = [start + held * cell // cells for cell in range(cells + 1)]
        found += [list(range(cuts[cell], cuts[cell + 1])) for cell in range(rank, cells, processes)]
    return found


def balanced_passes(
    lengths: Sequence[int], batch: int, room: int, processes: int
) -> tuple[int, list[list[list[int]]]]:
    """Return how many forward passes each process makes of a global batch of `batch` rows, and the
    passes of each process: places among rows in the order of training, of `lengths` in tokens.

    There are as few as let each hold at most `room` tokens, which is at least the longest row's;
    those of a batch have about as many tokens each. An incomplete last batch may have fewer. Raise
    `UserError` if it cannot be shared.
    """
    rows = range(len(lengths))
    batches = [rows[start : start + batch] for start in rows[::batch]]

    def spread(held: Sequence[int], count: int) -> list[list[int]]:
        cells: list[list[int]] = [[] for _ in range(min(count, len(held) // processes * processes))]
        least = [(0, cell) for cell in range(len(cells))]
        for row in sorted(held, key=lambda row: -lengths[row]) if cells else ():
            tokens, cell = least[0]
            cells[cell].append(row)
            heapq.heapreplace(least, (tokens + lengths[row], cell))
        return cells

    most = max((sum(lengths[row] for row in held) for held in batches), default=0)
    fewest = max(-(-most // (room * processes)), 1) * processes  # fewer lack the room for the most
    for count in range(fewest, batch + 1, processes):
        cells = [spread(held, count) for held in batches]
        if all(cells) and all(
            sum(lengths[row] for row in c) <= room for held in cells for c in held
        ):
            shares = [
                [c for held in cells for c in held[rank::processes]] for rank in range(processes)
            ]
            return count // processes, shares
    raise _cannot_share(len(lengths), len(batches[-1]), processes)


def _cannot_share(rows: int, held: int, processes: int) -> UserError:
    return UserError(
        f"launch.processes {processes}: the last of {rows} rows make a batch of {held}, which"
        f" {processes} processes cannot share; take another number of processes, micro_batch_size"
        " or epochs"
    )


def share_rows(
    trainer: Any, processes: int, rank: int, passes: list[list[list[int]]] | None
) -> None:
    """Let each process of a Trainer train on its own rows, and evaluate as one process would;
    `passes` are those of `balanced_passes`, for rows without padding.

    accelerate fills a last batch with rows from the beginning, which are then used twice. Where the
    validation rows do not fill their batches, every process evaluates them all, so that their mean
    is that of one process.
    """
    if processes == 1 and not passes:
        return
    from torch.utils.data import DataLoader

    args, rows = trainer.args, trainer.train_dataset
    if passes:
        mine, collate = passes[rank], padding_free.collate
    else:
        micro = args.per_device_train_batch_size
        batch = micro * args.gradient_accumulation_steps * processes
        mine = micro_batches(len(rows), batch, micro, processes, rank)
        collate = trainer.data_collator
    trainer.get_train_dataloader = lambda: DataLoader(rows, batch_sampler=mine, collate_fn=collate)
    if processes == 1:
        return
    trainer.accelerator.gather = gather_of_any_length(trainer.accelerator.gather)
    if len(trainer.eval_dataset) % (args.per_device_eval_batch_size * processes):
        trainer.get_eval_dataloader = lambda _=None: DataLoader(
            trainer.eval_dataset,
            batch_size=args.per_device_eval_batch_size,
            collate_fn=trainer.data_collator,
        )


def gather_of_any_length(gather: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a `gather` for tensors whose length differs between processes: TRL gathers the rewards
    of a batch, and the processes' shares of a last batch differ by a row.
    """
    import torch

    def joined(tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor) or tensor.dim() == 0:
            return gather(tensor)
        lengths = gather(torch.tensor([len(tensor)], device=tensor.device)).tolist()
        longest = max(lengths)
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = gather(padded).split(longest)
        return torch.cat([part[:count] for part, count in zip(parts, lengths, strict=True)])

    return joined
