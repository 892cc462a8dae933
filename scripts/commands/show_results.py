"""Print where the results of a configuration are.

Usage: show_results.py config/rehearsal.yaml [config/more.yaml …]
"""

import argparse

from bezoar import program
from bezoar.workflow.configuration import SCHEMA, check, files_of, resolved


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="+", help="configuration files, the later over the earlier")
    args = parser.parse_args(argv)
    config = resolved(args.config)
    check(config, SCHEMA, files_of(args.config))
    print(config["pathvars"]["results"])


if __name__ == "__main__":
    program.run(main)
