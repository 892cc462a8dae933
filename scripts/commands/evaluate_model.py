"""Run both benchmarks on any model and add a row to a table: what `make evaluate` calls.

Usage: evaluate_model.py \\
           --model DIRECTORY|owner/name [--revision 40-hex] [--template FILE|id|tokenizer] \\
           [--name NAME] \\
           --config config/paper.yaml … --cores 2

Snakemake is started with the model, and those evaluated before, added to the configuration: it
imports the model, evaluates it and writes <results>/evaluate/table.csv, one row per model. Nothing
is trained, and nothing starts where the machine or the judge is missing. A model that was evaluated
is written into models.yaml beside the table, whatever another run of this command does meanwhile.
The table's first model is what the others are compared with in pairs. `models.yaml` is a
configuration: added to CONFIG, it puts the same models into lm_eval.json and mtbench.json beside
ours.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import yaml

import doctor
from bezoar import program
from bezoar.arguments import cores
from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.surroundings import own
from bezoar.workflow import extra_models, machine, machine_checks, start
from bezoar.workflow.configuration import SCHEMA, check, checked, files_of, merge


def status_of(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end and return its status, however it is told to end: an interrupt from
    the terminal reaches it by itself, and SIGTERM is passed on.
    """
    child = subprocess.Popen(command, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while child.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):
            child.wait()
    return child.returncode


def look(config: dict[str, Any], profile: str) -> None:
    """Print what may be missing, and raise `UserError` if something is: it would show after hours
    of answers.
    """
    found = doctor.lacks_for_evaluation(config, profile)
    missing = [line for line in found if not line.startswith("note: ")]
    for line in found:
        if line not in missing:
            print(line, flush=True)
    for line in missing[:-1]:
        print(f"error: {line}", file=sys.stderr)
    if missing:
        raise UserError(missing[-1])


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, write the model down, start Snakemake."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model directory, or owner/name on the hub")
    parser.add_argument(
        "--revision",
        default="",
        help="commit of the hub repository; left out, the first fetch pins what it brings",
    )
    parser.add_argument(
        "--template",
        default="",
        help=(
            "chat template file or id, or `tokenizer` for the model's own; left out, the"
            " configuration's"
        ),
    )
    parser.add_argument(
        "--name", default="", help="name in the table; left out, the last part of the model's"
    )
    parser.add_argument(
        "--config", nargs="+", required=True, help="configuration files, the later over the earlier"
    )
    parser.add_argument("--cores", type=cores, default=machine.cores(), help="cores to use")
    parser.add_argument("--profile", default="profiles/default", help="Snakemake profile")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    args = parser.parse_args(argv)
    if not args.model:
        raise UserError(
            "MODEL is not set; name a model directory or owner/name on the hub: make evaluate"
            " MODEL=…"
        )
    config = checked(args.config)
    models = extra_models.evaluated(config)

    def with_model() -> dict[str, Any]:
        return extra_models.with_model(config, args.model, args.revision, args.template, args.name)

    extra = with_model()
    whole = merge(config, extra)
    check(whole, SCHEMA, [*files_of(args.config), models])
    start.refuse_other_run(Path(config["pathvars"]["results"]), config["scale"])
    if not args.dry_run:
        look(whole, args.profile)
    # A model that cannot be evaluated must not block those after it, nor a run those beside it.
    pending = models.with_name(f".models.{uuid.uuid4().hex}.yaml")
    target = models.with_name("table.csv")
    display = ["-n"] if args.dry_run else [] if own("VERBOSE") else ["--logger", "bezoar"]
    files = [*args.config, str(pending)]
    rules = machine_checks.EVALUATION
    run = start.command(whole, files, [str(target)], args.profile, args.cores, display, rules)
    tabled: dict[str, Any] | None = None
    failed = 0
    try:
        # Again, for the table alone, if another run ended after we read its models.
        while not failed and (extra := with_model()) != tabled:
            with whole_file(pending) as stream:
                yaml.safe_dump(extra, stream, sort_keys=False)
            failed, tabled = status_of(*run), extra
    finally:
        pending.unlink(missing_ok=True)
    if failed:
        raise UserError(
            f"{args.model}: the evaluation failed, see above; the same command continues where it"
            " stopped"
        )
    if not args.dry_run:
        with whole_file(models) as stream:
            yaml.safe_dump(extra, stream, sort_keys=False)
        print(target.read_text(encoding="utf-8"))


if __name__ == "__main__":
    program.run(main)
