"""The command-line arguments of every stage that asks a language model."""

import argparse
from pathlib import Path

from bezoar.llm.stored_model import MODES


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--store`, `--facts`, `--mode` and `--concurrency`."""
    parser.add_argument(
        "--store", type=Path, required=True, help="this job's store of answers, SQLite"
    )
    parser.add_argument(
        "--facts", type=Path, nargs="?", help="facts of the rehearsal's world, for the simulator"
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="replay sends nothing; without it, the environment's BEZOAR_MODE, else online",
    )
    parser.add_argument("--concurrency", type=int, required=True, help="requests under way at once")
