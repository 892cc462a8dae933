"""Run both benchmarks on any model and add a row to a table: what `make evaluate` calls.

Usage: evaluate_model.py \\
           --model DIRECTORY|owner/name [--revision 40-hex] [--template FILE|id|tokenizer] \\
           [--name NAME] \\
           --config config/paper.yaml … --cores 2

Snakemake is started with the model, and those evaluated before, laid over the configuration: it
imports the model, evaluates it and makes <results>/evaluate/table.csv anew, a row a model. Nothing
is trained. A model that was evaluated is written into models.yaml beside the table. The table's
first model is what the others are compared with in pairs. `models.yaml` is a configuration: laid
over in CONFIG it puts the same models into lm_eval.json and mtbench.json beside ours.
"""

import argparse
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from bezoar import program, surroundings
from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.surroundings import own
from bezoar.workflow.configuration import SCHEMA, check, files_of, load, merge, resolved


def entry(model: str, revision: str, template: str) -> dict[str, Any]:
    """Return the `extra_models:` entry of a local directory or a hub repository."""
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise UserError(f"{model}: no config.json; expected a Hugging Face model directory")
        if revision:
            raise UserError(f"{model}: a local directory has no revision; leave REVISION out")
        return {"path": model, "template": template}
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise UserError(f"MODEL={model}: neither a directory nor owner/name of a hub repository")
    return {"hub": model, "revision": revision or None, "template": template}


def name_of(model: str, revision: str) -> str:
    """Return a name for the tables from the last part of a path or hub id, with the revision's
    first digits.
    """
    base = re.sub(
        r"[^A-Za-z0-9._-]+",
        "-",
        Path(model).resolve().name if Path(model).is_dir() else model.split("/")[-1],
    )
    return f"{base}-{revision[:8]}" if revision else base


def add(models: dict[str, Any], name: str, new: dict[str, Any]) -> dict[str, Any]:
    """Return the models with a new one; raise `UserError` if the name is another model's."""
    if models.get(name, new) != new:
        raise UserError(
            f"{name}: the table has another model of this name ({models[name]}); give this one a"
            " NAME of its own"
        )
    return {**models, name: new}


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
    parser.add_argument("--cores", required=True, help="cores for Snakemake")
    parser.add_argument("--profile", default="profiles/default", help="Snakemake profile")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    args = parser.parse_args(argv)
    if not args.model:
        raise UserError(
            "MODEL is not set; name a model directory or owner/name on the hub: make evaluate"
            " MODEL=…"
        )
    config = resolved(args.config)
    folder = Path(config["pathvars"]["results"]) / "evaluate"
    models = folder / "models.yaml"
    template = args.template or config["sources"]["chat_template"]
    known = load(models)["extra_models"] if models.is_file() else {}
    extra = {
        "extra_models": add(
            known,
            args.name or name_of(args.model, args.revision),
            entry(args.model, args.revision, template),
        )
    }
    check(merge(config, extra), SCHEMA, [*files_of(args.config), models])
    pending, target = (
        folder / "models.pending.yaml",
        folder / "table.csv",
    )  # a model that cannot be evaluated must not block those after it
    with whole_file(pending) as stream:
        yaml.safe_dump(extra, stream, sort_keys=False)
    arguments = [
        *("--cores", args.cores),
        *(["-n"] if args.dry_run else [] if own("VERBOSE") else ["--logger", "bezoar"]),
        str(target),
        *("--configfile", *args.config, str(pending)),
    ]
    command = surroundings.snakemake(*arguments, profile=args.profile)
    failed = subprocess.run(command, check=False).returncode
    if failed or args.dry_run:
        pending.unlink()
    else:
        pending.replace(models)
        print(target.read_text(encoding="utf-8"))
    if failed:
        raise UserError(
            f"{args.model}: the evaluation failed, see above; the same command goes on where it"
            " stopped"
        )


if __name__ == "__main__":
    program.run(main)
