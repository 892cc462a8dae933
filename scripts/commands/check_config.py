"""Check one configuration: the files, merged over config/paper.yaml in order, against
config/schema.yaml.

Usage: check_config.py [--results] config/rehearsal.yaml [config/more.yaml …]
"""

import argparse

from bezoar import program
from bezoar.workflow.configuration import checked, files_of


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="+", help="configuration files, the later over the earlier")
    parser.add_argument("--results", action="store_true", help="print where its results are")
    args = parser.parse_args(argv)
    config = checked(args.config)
    valid = f"{' + '.join(str(path) for path in files_of(args.config))}: valid"
    print(config["pathvars"]["results"] if args.results else valid)


if __name__ == "__main__":
    program.run(main)
