"""Decide each claim of the paper by a rule: reproduced, not reproduced, undecided, not run, or
cannot be reproduced.

Usage: check_claims.py --claims config/claims.yaml --paper-values config/paper_values.csv \\
           --results results --artifacts results/mtbench.json … \\
           --recipe '{"scale": "paper", …}' --code … --output results/claims.json --receipt …

A claim names an artifact and what in it decides: the paired difference of two models with its
interval, or a value. At another scale than the paper's differences are tested on the miniature, and
every verdict says so, as it does where base, teacher, data or questions are not the paper's. Values
of the paper that a user filled in are shown beside ours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation import paper_values
from bezoar.files import write_json
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json, read_yaml, read_yaml_entries, shown
from bezoar.recipe import require


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    scale: str
    differs: list[str]  # what of base, data and questions is not the paper's, at its scale
    judge: str  # claims about chat are decided by this model alone
    paper_judge: str
    models: list[str]  # names in our tables
    seed: int


class Difference(TypedDict):
    """Which paired difference decides a claim."""

    candidate: str
    baseline: str
    measure: str  # one of `MEASURES`
    margin: float  # in the unit of the measure


class Value(TypedDict):
    """Which number or word decides a claim."""

    path: str  # keys with dots between them
    expected: float | str
    tolerance: NotRequired[float]


class NotTestable(TypedDict):
    """A claim that nothing here can decide."""

    id: str
    statement: str
    where: str
    reason: str


class Claim(NotTestable):
    """A claim and what decides it: `difference` or `value`."""

    artifact: str  # below the results
    difference: NotRequired[Difference]
    value: NotRequired[Value]


class Counts(TypedDict):
    """How many tables and figures the paper has."""

    tables: int
    figures: int


class Claims(TypedDict):
    """The file of claims."""

    claims: list[Any]  # each of the form of `Claim`
    not_testable: list[NotTestable]
    unknown: Counts


MEASURES = {"mtbench.json": ("overall",), "lm_eval.json": ("mean_of_tasks", "all_items")}


def difference_in(
    table: dict[str, Any], candidate: str, baseline: str, measure: str, judge: str
) -> dict[str, Any] | None:
    """Return {mean, low, high, n, …} of candidate - baseline from an lm_eval.json, or from the
    table of `judge` in an mtbench.json; None if not there.
    """
    rows = (
        table["differences"]
        if "differences" in table
        else table["judges"].get(judge, {}).get("differences", [])
    )
    row = next(
        (row for row in rows if row["candidate"] == candidate and row["baseline"] == baseline), None
    )
    found = row if row is None or measure == "overall" else row[measure]
    return found and {
        key: found[key] for key in ("mean", "low", "high", "n", "detectable") if key in found
    }


def verdict(difference: dict[str, Any] | None, margin: float) -> tuple[str, str]:
    """Return (verdict, reason) of a difference from its interval; `margin` is how far below 0 a
    difference may be and still count.
    """
    if difference is None:
        return "not run", "the artifact has no such comparison"
    bound, low, high = -margin, difference["low"], difference["high"]
    text = f"{difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}], n = {difference['n']}"
    if low > bound:
        return "reproduced", f"{text}: the whole interval is above {bound:g}"
    if high <= bound:
        return "not reproduced", f"{text}: the whole interval is at or below {bound:g}"
    return (
        "undecided",
        f"{text}: the interval contains {bound:g}, so this design cannot distinguish them",
    )


def value_verdict(artifact: Any, claim: dict[str, Any], scale: str) -> tuple[str, str]:
    """Return (verdict, reason) of the number or word at the path that a claim names; `UserError`
    if it is of another type than the expected one.
    """
    value = claim["value"]
    if scale != "paper":
        return "not run", "a statement about the paper's scale"
    found = artifact
    for key in value["path"].split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        return "not run", f"the artifact has no {value['path']}"
    expected, tolerance = value["expected"], value.get("tolerance", 0)
    is_word = isinstance(expected, str)
    if isinstance(found, bool) or not isinstance(found, str if is_word else int | float):
        raise UserError(
            f"claim {claim['id']}: expected a {'word' if is_word else 'number'} at {value['path']}"
            f" of {claim['artifact']}, found {shown(found)}; correct the claim's path"
        )
    if is_word:
        return (
            "reproduced"
            if found == expected
            else "not run"
            if found in ("not run", "not applicable")
            else "not reproduced"
        ), f"{value['path']} is {found}"
    return (
        "reproduced" if abs(found - expected) <= tolerance else "not reproduced"
    ), f"{found:,} here, {expected:,} ± {tolerance:,} expected"


def check(
    claims: dict[str, Any],
    tables: dict[str, Any],
    scale: str,
    judge: str,
    differs: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return one row per claim; `tables` are the artifacts by their path below the results, and
    `differs` is what of base and data is not the paper's.
    """
    rows = []
    for claim in claims["claims"]:
        table, found = tables.get(claim["artifact"]), None
        if "difference" in claim:
            wanted = claim["difference"]
            found = (
                difference_in(
                    table, wanted["candidate"], wanted["baseline"], wanted["measure"], judge
                )
                if table
                else None
            )
            test = (
                f"{wanted['measure']}: {wanted['candidate']} − {wanted['baseline']} >"
                f" {-wanted['margin']:g}"
            )
            decided, reason = verdict(found, wanted["margin"])
        else:
            wanted = claim["value"]
            test = f"{wanted['path']} = {wanted['expected']}" + (
                f" ± {wanted['tolerance']}" if "tolerance" in wanted else ""
            )
            decided, reason = value_verdict(table, claim, scale)
        if table is None:
            decided, reason = "not run", f"{claim['artifact']} is not there"
        rows.append(
            {
                "id": claim["id"],
                "statement": claim["statement"],
                "where": claim["where"],
                "scale": scale,
                "differs": list(differs),
                "about_the_paper": scale == "paper" and not differs,
                "verdict": decided,
                "reason": reason,
                "tolerance_reason": claim["reason"],
                "artifact": claim["artifact"],
                "test": test,
                "difference": found,
            }
        )
    for claim in claims["not_testable"]:
        rows.append(
            {
                "id": claim["id"],
                "statement": claim["statement"],
                "where": claim["where"],
                "scale": scale,
                "differs": [],
                "about_the_paper": True,
                "verdict": "cannot be reproduced",
                "reason": f"because {claim['reason']}",
            }
        )
    return rows


def read_claims(path: Path) -> dict[str, Any]:
    """Return the claims, in the form of `Claims`; raise `UserError` naming the first that lacks
    something, or what is of another form.
    """
    claims = read_yaml(path)
    for row in read_yaml_entries(path, "claims"):
        if missing := sorted(Claim.__required_keys__ - set(row)):
            raise UserError(f"{path}: claim {row.get('id', '?')}: no {', '.join(missing)}; add it")
        if len({"difference", "value"} & set(row)) != 1:
            raise UserError(
                f"{path}: claim {row['id']}: expected either a difference or a value that tests it"
            )
        require(row, Claim, f"{path}: claim {row['id']}", "correct it")
        known = MEASURES.get(row["artifact"], ())
        if "difference" in row and row["difference"]["measure"] not in known:
            raise UserError(
                f"{path}: claim {row['id']}: expected a measure of {row['artifact']}"
                f" ({', '.join(known) or 'it has no differences'}), found"
                f" {row['difference']['measure']}; correct it"
            )
    require(claims, Claims, str(path), "correct the file")
    return claims


def unknown(counts: dict[str, int], filled: list[dict[str, Any]]) -> list[str]:
    """Return the paper's tables and figures that nobody has filled in, by name."""
    known = {row["table"].lower() for row in filled}
    tables = [f"Table {number}" for number in range(1, counts["tables"] + 1)]
    return [
        *(name for name in tables if name.lower() not in known),
        f"Figures 1 to {counts['figures']}",
    ]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and check."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--claims", type=Path, required=True, help="the claims, YAML")
    parser.add_argument(
        "--paper-values",
        type=Path,
        required=True,
        help="values of the paper that a user filled in, CSV",
    )
    parser.add_argument("--results", type=Path, required=True, help="root of the results")
    parser.add_argument(
        "--artifacts",
        type=Path,
        nargs="+",
        required=True,
        help="what the claims name, below it, JSON",
    )
    parser.add_argument("--output", type=Path, required=True, help="verdicts to write, JSON")
    args = parser.parse_args(argv)
    recipe = args.recipe
    with Receipt(
        args.receipt,
        stage="claims",
        recipe=recipe,
        code=args.code,
        inputs={
            "claims": args.claims,
            "paper_values": args.paper_values,
            "artifacts": args.artifacts,
        },
        outputs={"output": args.output},
    ):
        claims, values = (
            read_claims(args.claims),
            paper_values.read(args.paper_values, recipe["models"]),
        )
        tables = {str(path.relative_to(args.results)): read_json(path) for path in args.artifacts}
        rows = check(claims, tables, recipe["scale"], recipe["judge"], recipe["differs"])
        write_json(
            args.output,
            {
                "scale": recipe["scale"],
                "judge": {"paper": recipe["paper_judge"], "used": recipe["judge"]},
                "claims": rows,
                "paper_values": paper_values.compare(
                    values, tables, recipe["judge"], recipe["scale"], recipe["differs"]
                ),
                "unknown": unknown(claims["unknown"], values),
            },
        )
        for row in rows:
            beside = f" ({', '.join(row['differs'])})" if row["differs"] else ""
            print(f"{row['verdict']:>20}{beside}  {row['id']}: {row['reason']}")


if __name__ == "__main__":
    program.run(main)
