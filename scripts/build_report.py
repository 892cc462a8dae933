"""Build the report: one self-contained page that says the scale first and links every number to its
artifact.

Usage: build_report.py --results results \\
           --artifacts results/claims.json results/lm_eval.json … \\
           --receipts results/receipts/*.json \\
           --template …/report.html.j2 --recipe '{"scale": "paper", …}' --code … --output
             results/report/index.html --receipt …

Only the files named in --artifacts, --receipts and --template are read. Times and memory of the
receipts are the only contents that vary from run to run.
"""

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation.held_out import compared
from bezoar.files import whole_file
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json, read_jsonl
from bezoar.report import (
    data_section,
    figures,
    overview_section,
    requests_section,
    templates,
    way_section,
)


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    scale: str
    config: list[str]  # configuration files of the run
    deviations: list[dict[str, Any]]  # file, key, value, reason, instead, count
    seed: int


SCALES = {
    "paper": ("The paper's scale", "Pinned inputs, the paper's models and data sizes."),
    "rehearsal": (
        "A rehearsal",
        (
            "A miniature of the whole recipe on an invented world, with a tiny model and a"
            " simulator in place of the teacher, the filter and the judge. No measured number on"
            " this page is one of the paper."
        ),
    ),
    "rehearsal-upstream": (
        "A rehearsal on real files",
        (
            "The tiny model of the rehearsal on real upstream data, with a simulator in place of"
            " teacher, filter and judge. It does badly, as expected. No measured number on this"
            " page is one of the paper."
        ),
    ),
    "dress-rehearsal": (
        "A dress rehearsal",
        (
            "Random weights in the shape of the paper's base, a handful of rows and steps, and a"
            " simulator in place of teacher, filter and judge: it shows what fits and how long it"
            " takes. No number on this page says anything about quality."
        ),
    ),
    "trial": (
        "A trial",
        (
            "The whole recipe on a small real language model and real data, hundreds of rows in"
            " place of thousands. No measured number on this page is one of the paper."
        ),
    ),
}
CURVES = {
    "base.metrics.jsonl": "base: pretraining",
    "sft/lamini/metrics.jsonl": "sft: lamini",
    "sft/orca/metrics.jsonl": "sft: orca",
    "sft/evol/metrics.jsonl": "sft: evol",
    "hh_sft/metrics.jsonl": "hh_sft",
    "dpo/metrics.jsonl": "dpo",
}


class Artifacts:
    """The files the page may read, by their path below the results."""

    def __init__(self, results: Path, paths: list[Path]) -> None:
        self.paths = {str(path.relative_to(results)): path for path in paths}

    def json(self, name: str) -> Any:
        """Return a JSON artifact, or None if it is not among the inputs."""
        return read_json(self.paths[name]) if name in self.paths else None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return a JSONL artifact, or no rows."""
        return read_jsonl(self.paths[name]) if name in self.paths else []


def stages(receipts: dict[str, dict[str, Any]], results: Path) -> list[dict[str, Any]]:
    """Return name, times, written and read files of each receipt, in the order the stages began."""
    rows = []

    def listed(kinds: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
        return [
            {
                "path": file,
                "link": str(Path(file).relative_to(results))
                if Path(file).is_relative_to(results)
                else None,
                "sha256": digest,
            }
            for files in kinds.values()
            for file, digest in files.items()
        ]

    for name, receipt in receipts.items():
        files = [
            {**file, "path": file["link"]} for file in listed(receipt["outputs"]) if file["link"]
        ]
        rows.append(
            {
                "name": name,
                **{key: receipt[key] for key in ("wall_s", "peak_memory_bytes", "started_unix_s")},
                "files": files,
                "read": listed(receipt["inputs"]),
            }
        )
    return sorted(rows, key=lambda row: row["started_unix_s"])


def page(
    artifacts: Artifacts,
    receipts: dict[str, dict[str, Any]],
    template: Path,
    results: Path,
    recipe: Recipe,
) -> str:
    """Return the page; `receipts` are those of all other stages by name."""
    claims, lm_eval, mtbench = (
        artifacts.json(name) for name in ("claims.json", "lm_eval.json", "mtbench.json")
    )
    if not (claims and lm_eval and mtbench):
        raise UserError(
            "report: claims.json, lm_eval.json and mtbench.json are needed; run the stages that"
            " write them"
        )
    judge_name = claims["judge"]["used"]
    chat = mtbench["judges"][judge_name]
    models = list(chat["models"])
    drawn = {
        label: (name, rows) for name, label in CURVES.items() if (rows := artifacts.rows(name))
    }
    bridges = {
        Path(name).stem: artifacts.json(name)
        for name in artifacts.paths
        if name.startswith("bridge/")
    }
    answered = {model: artifacts.json(f"mtbench/{model}/counts.json") or {} for model in models}
    learning = artifacts.json("learning.json")
    scale = recipe["scale"]
    title, text = SCALES[scale]
    environment = templates.environment(template.parent)
    return environment.get_template(template.name).render(
        scale=scale,
        title=title,
        scale_text=text,
        claims=claims,
        lm_eval=lm_eval,
        chat=chat,
        judge_name=judge_name,
        simulated=judge_name == "simulator",
        simulated_teacher=overview_section.cast(receipts, judge_name)["teacher"] == ["simulator"],
        models=models,
        tasks=list(lm_eval["models"]["base"]),
        chat_differences={(d["candidate"], d["baseline"]): d for d in chat["differences"]},
        other_judges={
            name: table for name, table in mtbench["judges"].items() if name != judge_name
        },
        bridges=bridges,
        learning=learning,
        preferences=artifacts.json("preferences/counts.json"),
        curves={label: figures.curve(rows) for label, (_, rows) in drawn.items()},
        curve_files={label: name for label, (name, _) in drawn.items()},
        figures={
            **figures.compared(lm_eval, chat),
            **figures.by_category(chat),
            **(figures.learned(learning) if learning else {}),
            **figures.validation({label: rows for label, (_, rows) in drawn.items()}),
            **figures.judged_again(bridges),
        },
        merges={
            model: report
            for model in models
            if (report := artifacts.json(f"merge/{model}/merge.json"))
        },
        held_out=(
            compared(held, recipe["seed"])
            if (held := artifacts.json("dpo/held_out.json"))
            else None
        ),
        overview_section=overview_section.section(
            environment,
            claims,
            lm_eval,
            chat,
            receipts,
            recipe["deviations"],
            overview_section.warnings(
                chat, answered, artifacts.json("data/description.json") or {"schemes": {}}
            ),
        ),
        answered=answered,
        pairs_used={
            stage: receipts[stage]["facts"] for stage in ("hh_sft", "dpo") if stage in receipts
        },
        held_out_losses={
            stage: receipt["facts"]
            for stage, receipt in sorted(
                receipts.items(), key=lambda item: item[1]["started_unix_s"]
            )
            if receipt["facts"].get("saved_eval_loss") is not None
            and "first_eval_loss" in receipt["facts"]
        },
        way_section=way_section.section(environment, artifacts, lm_eval, chat, receipts),
        data_section=data_section.section(environment, artifacts, receipts),
        requests_section=requests_section.section(environment, receipts),
        deviations=recipe["deviations"],
        deviating=sum(row["count"] for row in recipe["deviations"]),
        command=f"snakemake --cores all --configfile {' '.join(recipe['config'])} -- {results}/",
        receipts=stages(receipts, results),
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--results", type=Path, required=True, help="root of the results")
    parser.add_argument(
        "--artifacts",
        type=Path,
        nargs="+",
        required=True,
        help="tables, counts and curves below it",
    )
    parser.add_argument(
        "--receipts", type=Path, nargs="+", required=True, help="receipts of the stages"
    )
    parser.add_argument(
        "--template",
        type=Path,
        nargs="+",
        required=True,
        help="the page's template, then those of its parts, Jinja",
    )
    parser.add_argument("--output", type=Path, required=True, help="page to write")
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt,
        stage="report",
        recipe=args.recipe,
        code=args.code,
        inputs={"artifacts": args.artifacts, "receipts": args.receipts, "template": args.template},
        outputs={"page": args.output},
    ):
        html = page(
            Artifacts(args.results, args.artifacts),
            {path.stem: read_json(path) for path in sorted(args.receipts)},
            args.template[0],
            args.results,
            args.recipe,
        )
        with whole_file(args.output) as stream:
            stream.write(html)
        print(f"{args.output}: {len(html):,} characters")


if __name__ == "__main__":
    program.run(main)
