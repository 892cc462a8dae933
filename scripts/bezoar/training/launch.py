"""Run `accelerate launch` and end as the first process that failed did: with its message and exit
status, not with a traceback of the launcher.

Usage: python -m bezoar.training.launch --config_file profiles/accelerate/cpu.yaml \\
           --num_processes 2 scripts/train_sft.py …          (PYTHONPATH=scripts)
"""

import logging

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(argv: list[str] | None = None) -> None:
    """Start the processes and wait for them; exit as the first that failed did."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args(argv))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise SystemExit(failure.exitcode if failure.exitcode > 0 else 1) from None


if __name__ == "__main__":
    main()
