"""Record the seconds of this directory's last whole run at a scale as the reference that is scaled
for other machines.

Usage: record_reference_seconds.py [--scale rehearsal]

Run it after `make rehearsal` or `make trial` on a machine that did nothing else, with two cores;
commit scripts/bezoar/workflow/reference_seconds.json. `chain` (the longest chain of steps) and
`threads` (of steps that take more than one) in it are kept.
"""

import argparse

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import write_json
from bezoar.readers import read_json
from bezoar.workflow import duration


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", default="rehearsal", help="its results lie in results/<scale>")
    args = parser.parse_args(argv)
    every = read_json(duration.REFERENCE)
    kept = every.get(args.scale)
    if not kept:
        raise UserError(
            f"{duration.REFERENCE}: nothing for {args.scale}; write its `chain`, `threads` and"
            " `seconds` with the names of its steps first"
        )
    seconds = duration.read(duration.RECORD).get(f"results/{args.scale}", {})
    if lost := sorted(kept["seconds"].keys() - seconds.keys()):
        raise UserError(
            f"{duration.RECORD}: no seconds of {', '.join(lost)}; make the whole run first"
        )
    every[args.scale] = {**kept, "probe_s": round(duration.probe(), 4), "seconds": seconds}
    write_json(duration.REFERENCE, every)


if __name__ == "__main__":
    program.run(main)
