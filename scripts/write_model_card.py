"""Write the card of one model, in the form of the Hugging Face hub: YAML front matter and text, all
of it from receipts and curves.

Usage: write_model_card.py --model …/merge/openbezoar-sft \\
           --receipts …/receipts/sft_lamini.json … --merge-receipt …/receipts/merge_….json \\
           --adapters …/sft/lamini … --recipe '{"model": "openbezoar-sft", …}' --code … --card
             …/merge/openbezoar-sft/README.md --receipt …

A card says what the model descends from (each adapter's lineage is checked against the weights that
the merge read), on which rows it was trained and what became of the others, with which settings and
where each comes from, how the losses went and what the merge changed.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from typing_extensions import TypedDict

from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation.held_out import compared
from bezoar.files import canonical, whole_file
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import column, read_json, read_json_object, read_jsonl
from bezoar.report.markdown import table


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    model: str
    scale: str
    title: str
    licence: str  # id of the hub
    base_model: str  # name on the hub or path of what was trained
    datasets: list[str]
    tags: dict[str, dict[str, str]]  # section: setting: paper, code, inferred or ours
    seed: int


COUNTED = (
    "rows",
    "not_accepted",
    "no_supervised_token",
    "truncated",
    "prompt_too_long",
    "too_long",
    "training",
    "validation",
    "steps",
)


def front_matter(recipe: Recipe) -> str:
    """Return the YAML that the hub reads."""
    data = ModelCardData(
        license=recipe["licence"],
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=recipe["base_model"],
        datasets=recipe["datasets"],
        tags=["qlora", f"scale-{recipe['scale']}"],
        model_name=recipe["model"],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def digest(receipt: dict[str, Any], kind: str, name: str, ending: str) -> str:
    """Return the sha256 of the file of that ending among a receipt's inputs or outputs."""
    return next(value for path, value in receipt[kind][name].items() if path.endswith(ending))


def lineage(
    receipts: list[dict[str, Any]], merge: dict[str, Any], adapters: list[Path]
) -> list[tuple[str, str]]:
    """Return (what, sha256) from the base to the merged model; raise `UserError` where one was not
    made from the one before it.
    """
    base = digest(merge, "inputs", "base", "model.safetensors")
    rows: list[tuple[str, str]] = [("base", base)]
    parent = None
    for receipt, adapter in zip(receipts, adapters, strict=True):
        path = adapter / "lineage.json"
        recorded = read_json_object(path, "base", "parent_adapter")
        if (below := column(recorded, "base", str, str(path))) != base:
            raise UserError(
                f"{adapter}/lineage.json: trained over {below[:12]}…, but merged onto"
                f" {base[:12]}…; train it again"
            )
        if recorded["parent_adapter"] != parent:
            raise UserError(
                f"{adapter}/lineage.json: does not continue the adapter before it; train it again"
            )
        parent = digest(receipt, "outputs", "adapter", "adapter_model.safetensors")
        rows.append((f"adapter {adapter.name}", parent))
    return [*rows, ("merged", digest(merge, "outputs", "model", "model.safetensors"))]


def settings(
    receipts: list[dict[str, Any]], tags: dict[str, dict[str, str]]
) -> list[tuple[str, str, str, str]]:
    """Return (stage, setting, value, tag) of everything that decided the weights; where another
    optimiser trained than the recipe names, both.
    """
    rows = []
    for receipt in receipts:
        section = tags.get(receipt["stage"], {})
        values = {key: canonical(value) for key, value in receipt["recipe"].items()}
        trained = canonical(receipt["facts"]["optimizer"])
        if trained != values["optimizer"]:
            values["optimizer"] = f"{trained}, for {values['optimizer']}"
        rows += [
            (receipt["stage"], key, value, section.get(key, ""))
            for key, value in sorted(values.items())
        ]
    return list(dict.fromkeys(rows))  # three stages of one section share their settings


def curve(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return (step, training loss, validation loss) at the evaluations, at most eight, evenly
    taken; the training loss is that of the step, and there is none before the first.
    """
    training = {row["step"]: row["loss"] for row in rows if "loss" in row}
    held = [
        (row["step"], f"{loss:.4f}" if loss is not None else "–", f"{row['eval_loss']:.4f}")
        for row in rows
        if "eval_loss" in row
        and ((loss := training.get(row["step"])) is not None or not row["step"])
    ]
    chosen = sorted({round(place * (len(held) - 1) / 7) for place in range(8)}) if held else []
    return [held[place] for place in chosen]


def card(
    recipe: Recipe,
    receipts: list[dict[str, Any]],
    merge: dict[str, Any],
    report: dict[str, Any],
    adapters: list[Path],
) -> str:
    """Return the whole card."""
    facts = [
        (adapter.name, name, receipt["facts"][name])
        for receipt, adapter in zip(receipts, adapters, strict=True)
        for name in COUNTED
        if name in receipt["facts"]
    ]
    difference = report["difference"]
    parts = [
        f"# {recipe['model']}",
        recipe["title"],
        f"Scale: **{recipe['scale']}**.",
        "## Where it comes from",
        table(("what", "sha256"), lineage(receipts, merge, adapters)),
        "## Rows",
        table(("training", "what", "number"), facts),
        "## Settings",
        (
            "Where each value comes from: the paper's publications, the authors' code, inferred"
            " from those, or ours."
        ),
        table(("stage", "setting", "value", "from"), settings(receipts, recipe["tags"])),
        "## Losses",
        *(
            part
            for adapter in adapters
            for part in (
                f"### {adapter.name}",
                table(
                    ("step", "training", "validation"), curve(read_jsonl(adapter / "metrics.jsonl"))
                ),
            )
        ),
        *held_out(adapters[-1], recipe["seed"]),
        "## Merge",
        (
            f"Onto the {'16-bit' if report['merge_onto'] == 'base' else 'dequantised'} base, beside"
            f" the 4-bit base with its adapter, on {report['probe_rows']} rows"
            f" ({difference['tokens']:,} tokens):"
        ),
        table(
            ("measure", "value"),
            [
                (key.replace("_", " "), value)
                for key, value in difference.items()
                if key != "tokens"
            ],
        ),
    ]
    return front_matter(recipe) + "\n" + "\n\n".join(parts) + "\n"


def held_out(adapter: Path, seed: int) -> list[str]:
    """Return what DPO changed on held-out pairs, or nothing for another stage."""
    if not (adapter / "held_out.json").is_file():
        return []
    found = compared(read_json(adapter / "held_out.json"), seed)
    rows = [
        (name, *(f"{found[name][key]:.3f}" for key in ("mean", "low", "high")))
        for name in ("reference", "policy", "difference")
    ]
    return [
        "## Held-out preference accuracy",
        table((f"of {found['pairs']:,} pairs", "mean", "low", "high"), rows),
        f"KL(policy || reference): {found['kl_nats_per_token']} nats per token.",
    ]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--model", type=Path, required=True, help="merged model directory")
    parser.add_argument(
        "--receipts",
        type=Path,
        nargs="+",
        required=True,
        help="receipts of the trainings since the model before it, in order",
    )
    parser.add_argument("--merge-receipt", type=Path, required=True, help="receipt of its merge")
    parser.add_argument(
        "--adapters",
        type=Path,
        nargs="+",
        required=True,
        help="adapter directories of those trainings, in order",
    )
    parser.add_argument("--card", type=Path, required=True, help="card to write, Markdown")
    args = parser.parse_args(argv)
    curves = [
        path
        for adapter in args.adapters
        for path in (adapter / "lineage.json", adapter / "metrics.jsonl", adapter / "held_out.json")
    ]
    with Receipt(
        args.receipt,
        stage="model_card",
        recipe=args.recipe,
        code=args.code,
        inputs={
            "receipts": [*args.receipts, args.merge_receipt],
            "merge": args.model / "merge.json",
            "curves": [path for path in curves if path.is_file()],
        },
        outputs={"card": args.card},
    ):
        text = card(
            args.recipe,
            [read_json(path) for path in args.receipts],
            read_json(args.merge_receipt),
            read_json(args.model / "merge.json"),
            args.adapters,
        )
        with whole_file(args.card) as stream:
            stream.write(text)
        print(f"{args.card}: {len(text):,} characters")


if __name__ == "__main__":
    program.run(main)
