"""Ask the providers to cancel every open batch of a results folder. What was answered before is
charged, and the next run collects it; with `--give-up` the next run asks for it anew.

Usage: cancel_batches.py [--give-up] --config config/paper.yaml

Exit status 1: a batch may be running whose id a killed run had not yet written down, or that was
given up although it could not be cancelled.
"""

import argparse

from bezoar import program
from bezoar.errors import UserError
from bezoar.llm.answer_store import Store, stores_of
from bezoar.llm.settings import ModelSpec, model_of
from bezoar.llm.stored_model import StoredModel
from bezoar.workflow.configuration import checked
from bezoar.workflow.layout import models_asked


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and cancel."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        nargs="+",
        required=True,
        help="configuration files; they say where the results and the models are",
    )
    parser.add_argument(
        "--give-up", action="store_true", help="forget the batches, whatever the provider says"
    )
    args = parser.parse_args(argv)
    config = checked(args.config)
    known = {model_of(asked): asked for _, asked in models_asked(config)}
    ended: list[str] = []
    unsure: list[str] = []
    for path in stores_of(config["pathvars"]["results"]):
        store = Store(path)
        requests = [next(iter(rows.values())) for _, _, _, rows in store.open_batches() if rows]
        store.close()
        for name in dict.fromkeys(map(model_of, requests)):
            settings = known.get(name)
            if settings is None:
                raise UserError(
                    f"{path}: has a batch of {' '.join(name)}, which the configuration does not"
                    " name; use the one it was run with"
                )
            model = StoredModel(ModelSpec.of(settings), path, 1, None)
            model.open()
            try:
                of_store = model.cancel(args.give_up)
            finally:
                model.close()
            ended += of_store[0]
            unsure += of_store[1]
    if unsure:
        raise SystemExit(1)
    if not ended:
        print("no batch is open")


if __name__ == "__main__":
    program.run(main)
