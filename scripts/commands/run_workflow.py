"""Start Snakemake for a configuration: on this machine, or on a cluster after finding out what it
has.

Usage: run_workflow.py --profile profiles/slurm --cores 2 --config config/rehearsal.yaml [more …] \\
           [--small] [--verbose] [--finished] [--target report]
"""

import argparse
import os
import sys
from pathlib import Path

from bezoar import program
from bezoar.arguments import cores
from bezoar.errors import UserError
from bezoar.workflow import machine, start
from bezoar.workflow.configuration import checked
from bezoar.workflow.pending import require_finished


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, find out, become Snakemake."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="profiles/default", help="Snakemake's profile")
    parser.add_argument("--cores", type=cores, default=machine.cores(), help="cores to use")
    parser.add_argument(
        "--config", nargs="+", required=True, help="configuration files, the later over the earlier"
    )
    parser.add_argument("--small", action="store_true", help="refuse to run at the paper's scale")
    parser.add_argument("--verbose", action="store_true", help="show Snakemake's own output")
    parser.add_argument(
        "--finished", action="store_true", help="refuse unless finished stages are all that is read"
    )
    parser.add_argument("--target", nargs="*", default=[], help="files or rules to make; else all")
    args = parser.parse_args(argv)
    config = checked(args.config)
    if args.small and config["scale"] == "paper":
        raise UserError(
            f"{' '.join(args.config)}: of the paper's scale, which `make reproduce` runs; leave"
            " CONFIG out, or unset BEZOAR_CONFIG"
        )
    start.refuse_other_run(Path(config["pathvars"]["results"]), config["scale"], config["entry"])
    if args.finished:
        require_finished(config["pathvars"]["results"], args.config, args.target)
    display = [] if args.verbose else ["--logger", "bezoar"]
    run = start.command(config, args.config, args.target, args.profile, args.cores, display)
    os.execve(sys.executable, *run)


if __name__ == "__main__":
    program.run(main)
