"""Measure what the trainings of finished runs did on rows that none of them used, and print one
column a run: the run itself, and those that repeat_trainings.py made of it with other seeds.

Usage: measure_held_out.py --results results/trial results/trial-seed-1 … [--rows 200]

A run that repeats some of the first one's trainings has a dash for the others.

- For each stage of SFT: the loss of the response alone (nats per token, EOS included, mean over
  rows) by the model that the stage began from and by its own. The losses that a training logs count
  the prompt and the template, too, and end at `max_length`; this one takes whole responses. The
  rows are `--rows` of the stage's validation rows, drawn from those that no evaluation while
  training used; where all were used, they are those by which the checkpoint was chosen, and the
  table says so.
- On DPO's validation pairs: how often the chosen answer is likelier than the rejected one, by each
  model that a training began from and by DPO's.

Differences are paired by row. The last column is of each row's mean over the runs, with the 95 %
interval over rows: what other rows would give with these seeds. All models are in 4 bits, as
trainings see them. Prints Markdown; a killed run continues.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from bench_page import SCRIPTS, run
from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation.parts import Parts
from bezoar.evaluation.statistics import paired_difference
from bezoar.files import canonical, sha256_file, write_jsonl
from bezoar.provenance.audit import Receipts
from bezoar.readers import read_json, read_jsonl
from bezoar.training import preference_pairs
from bezoar.training.split import evaluated, split
from bezoar.training.supervised_rows import tokenize
from bezoar.training.template import Template, training_text
from repeat_trainings import trainings


class Comparison(NamedTuple):
    """A measure of the same rows by two models, a value a row."""

    before: list[float]
    after: list[float]
    most: float | None  # the largest difference that a row can have, None if there is none


def given(receipt: dict[str, Any], name: str) -> Path:
    """Return the first file of an input of a stage."""
    return Path(next(iter(receipt["inputs"][name])))


def of_responses(receipt: dict[str, Any], most: int) -> tuple[Comparison, bool]:
    """Return the loss of responses before and after a stage of SFT, and whether they chose its
    checkpoint.
    """
    from bezoar.evaluation.generation import log_probabilities
    from bezoar.training.qlora import deterministic, load_4bit
    from bezoar.training.tokenizer import load_tokenizer
    from bezoar.training.weights import load_adapter

    recipe, base = receipt["recipe"], given(receipt, "base").parent
    template, tokenizer = Template(given(receipt, "template")), load_tokenizer(base)
    rows = read_jsonl(given(receipt, "data"))
    usable, counts = tokenize(rows, template, tokenizer, recipe["max_length"])
    share, seed = recipe["validation_share"], recipe["validation_seed"]
    _, validation = split(usable, counts["rows"], share, seed)
    used = {row["row"] for row in evaluated(validation, recipe)}
    unused = [row for row in validation if row["row"] not in used]
    held = unused or validation
    pairs = []
    for row in random.Random(0).sample(held, min(most, len(held))):
        instruction, system, response = training_text(rows[row["row"] - 1])
        pairs.append((template.pieces(instruction, system), response))

    def losses(adapter: Path | None) -> list[float]:
        deterministic(recipe["seed"], recipe["threads"])
        model = load_4bit(base, cache_dequantized=True)
        if adapter:
            model = load_adapter(model, adapter)
        scored = log_probabilities(model.eval(), tokenizer, pairs, recipe["micro_batch_size"])
        return [-total / tokens for total, tokens in scored]

    parent = given(receipt, "parent").parent if "parent" in receipt["inputs"] else None
    adapter = Path(next(iter(receipt["outputs"]["adapter"]))).parent
    return Comparison(losses(parent), losses(adapter), None), not unused


def right(base: Path, dpo: dict[str, Any], scoring: dict[str, Any], rows: list[int]) -> list[float]:
    """Return of each pair of these rows whether a model finds the chosen answer likelier."""
    from bezoar.training.tokenizer import load_tokenizer

    pairs = read_jsonl(given(dpo, "pairs"))
    held = [pairs[row - 1] for row in rows]
    template = given(dpo, "template")
    tokens, _ = preference_pairs.tokenize(
        held, Template(template), load_tokenizer(base), dpo["recipe"]
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_jsonl(folder / "pairs.jsonl", held)
        run(
            *(SCRIPTS / "score_reference.py", "--pairs", folder / "pairs.jsonl", "--base", base),
            *("--template", template, "--recipe", canonical(scoring["recipe"]), "--code", "held"),
            *("--reference", folder / "logps.jsonl", "--receipt", folder / "receipt.json"),
        )
        scores = preference_pairs.read_reference(
            folder / "logps.jsonl", tokens, sha256_file(base / "model.safetensors")
        )
    return [float(chosen > rejected) for chosen, rejected in scores]


def trained_on(held: Receipts) -> dict[str, str]:
    """Return training -> digest of its rows or pairs."""
    return {
        stage: next(
            iter(receipt["inputs"]["data" if "data" in receipt["inputs"] else "pairs"].values())
        )
        for stage, receipt in held.items()
        if receipt["command"][0].startswith("train_")
    }


def measured(
    results: Path, held: Receipts, most: int, parts: Parts, known: dict[Path, list[float]]
) -> dict[str, Comparison]:
    """Return every measure of a run, in the order of its trainings. `known` holds the accuracy of
    models that another run measured, and gets this one's.
    """
    found: dict[str, Comparison] = {}
    bases: dict[str, Path] = {}
    for stage, receipt in held.items():
        if receipt["command"][0].startswith("train_"):
            base = given(receipt, "base").parent
            bases[base.name] = base
        if receipt["command"][0] == "train_sft.py":
            values, chose = parts.get(stage, partial(of_responses, receipt, most))
            name = f"{stage}: loss of a response{', rows that chose the checkpoint' * chose}"
            found[name] = Comparison(*values)
    if "dpo" in held:
        dpo, compared = held["dpo"], read_json(results / "dpo/held_out.json")
        *earlier, reference = bases
        score = partial(right, dpo=dpo, scoring=held.get("dpo_reference"), rows=compared["rows"])
        for name in earlier:
            if bases[name] not in known:
                known[bases[name]] = parts.get(name, partial(score, bases[name]))
        accuracy = {name: known[bases[name]] for name in earlier}
        for place, name in enumerate((reference, "DPO")):
            accuracy[name] = [float(margins[place] > 0) for margins in compared["margins"]]
        for before, after in zip(accuracy, list(accuracy)[1:], strict=False):
            name = f"preference accuracy, {before} → {after}"
            found[name] = Comparison(accuracy[before], accuracy[after], 1.0)
    return found


def over_runs(runs: Sequence[Comparison]) -> Comparison:
    """Return each row's mean over runs on the same rows."""
    befores, afters = ([*zip(*(one[side] for one in runs), strict=True)] for side in (0, 1))
    return Comparison(list(map(fmean, befores)), list(map(fmean, afters)), runs[0].most)


def table(runs: dict[str, dict[str, Comparison]]) -> str:
    """Return the Markdown table of run -> measure -> values; two lines a measure."""
    names = [*runs, "all"]
    lines = [f"| measure | rows | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for measure, first in next(iter(runs.values())).items():
        columns = [one.get(measure) for one in runs.values()]
        columns.append(over_runs([one for one in columns if one]))
        cells = list(zip(*map(of_table, columns), strict=True))
        lines.append(f"| {measure} | {len(first.before)} | {' | '.join(cells[0])} |")
        lines.append(f"| difference | | {' | '.join(cells[1])} |")
    return "\n".join(lines)


def of_table(one: Comparison | None) -> tuple[str, str]:
    """Return the two cells of a comparison: its means, and their difference with the interval."""
    if one is None:
        return "–", "–"
    gap = paired_difference(one.after, one.before, 0, one.most)
    return (
        f"{fmean(one.before):.3f} → {fmean(one.after):.3f}",
        f"{gap['mean']:+.3f} ({gap['low']:+.3f} – {gap['high']:+.3f})",
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, nargs="+", required=True, help="directories of finished runs"
    )
    parser.add_argument("--rows", type=int, default=200, help="at most, of a stage of SFT")
    args = parser.parse_args(argv)
    held = {results: trainings(results) for results in args.results}
    first = args.results[0]
    for results in args.results:
        if not trained_on(held[results]).items() <= trained_on(held[first]).items():
            raise UserError(f"{results}: trained on other rows than {first}; measure it alone")
    parts = {}
    for results in args.results:
        trained = {stage: receipt["outputs"] for stage, receipt in held[results].items()}
        parts[results] = Parts(results / "held_out", {"rows": args.rows, "trained": trained})
    known: dict[Path, list[float]] = {}
    runs = {
        results.name: measured(results, held[results], args.rows, parts[results], known)
        for results in args.results
    }
    print(table(runs))
    for kept in parts.values():
        kept.clear()


if __name__ == "__main__":
    program.run(main)
