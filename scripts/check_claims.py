"""Decide each claim of the paper by a rule: reproduced, not reproduced, undecided, not run, or cannot be reproduced.

Usage: check_claims.py --claims config/claims.yaml --tables results/mtbench.json results/lm_eval.json \\
           --recipe '{"scale": "paper"}' --code … --output results/claims.json --receipt …

A claim names an artifact and two models; the paired difference of the two, with its interval, decides. At another scale than the paper's the
same rule is applied to the miniature, and every verdict says so.

Recipe: scale (name of the scale), judge and paper_judge (models, for the deviation), seed.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from bezoar.errors import UserError, cli
from bezoar.files import read_json, write_json
from bezoar.receipt import Receipt, add_stage_arguments


def difference_in(table: dict[str, Any], child: str, parent: str) -> dict[str, Any] | None:
    """Return {mean, low, high, n} of child - parent from an lm_eval.json or an mtbench.json (its only judge), or None."""
    rows = table["differences"] if "differences" in table else [row for judge in table["judges"].values() for row in judge["differences"]]
    found = [row for row in rows if row["child"] == child and row["parent"] == parent]
    if not found:
        return None
    row = found[0].get("all_items", found[0])
    return {key: row[key] for key in ("mean", "low", "high", "n")}


def verdict(difference: dict[str, Any] | None, strict: bool, margin: float) -> tuple[str, str]:
    """Return (verdict, reason) of one claim from its interval."""
    if difference is None:
        return "not run", "the artifact has no such comparison"
    bound = 0.0 if strict else -margin
    text = f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}], n = {difference['n']}"
    if difference["low"] > bound:
        return "reproduced", f"{text}: the whole interval lies above {bound:g}"
    if difference["high"] <= bound:
        return "not reproduced", f"{text}: the whole interval lies at or below {bound:g}"
    return "undecided", f"{text}: the interval holds {bound:g}; this design cannot tell"


def check(claims: dict[str, Any], tables: dict[str, Any], scale: str) -> list[dict[str, Any]]:
    """Return one row a claim."""
    rows = []
    for claim in claims["claims"]:
        table = tables.get(claim["artifact"])
        found = difference_in(table, claim["child"], claim["parent"]) if table else None
        decided, reason = verdict(found, claim["strict"], claim.get("margin", 0.0)) if table else ("not run", f"{claim['artifact']} is not there")
        rows.append({
            "id": claim["id"], "statement": claim["statement"], "where": claim["where"], "scale": scale, "about_the_paper": scale == "paper",
            "verdict": decided, "reason": reason, "tolerance_reason": claim["reason"], "artifact": claim["artifact"], "difference": found,
        })  # fmt: skip
    for claim in claims["cannot"]:
        rows.append({"id": claim["id"], "statement": claim["statement"], "where": claim["where"], "scale": scale, "about_the_paper": True,
                     "verdict": "cannot be reproduced", "reason": claim["reason"]})  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=Path, required=True, help="the claims, YAML")
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="lm_eval.json and mtbench.json")
    parser.add_argument("--output", type=Path, required=True, help="verdicts to write, JSON")
    add_stage_arguments(parser)
    args = parser.parse_args(argv)
    with Receipt(
        args.receipt, stage="claims", recipe=args.recipe, code=args.code,
        inputs={"claims": args.claims, "tables": args.tables}, outputs={"output": args.output},
    ):  # fmt: skip
        claims = yaml.safe_load(args.claims.read_text(encoding="utf-8"))
        for row in claims["claims"]:
            missing = {"id", "statement", "where", "artifact", "child", "parent", "strict", "reason"} - set(row)
            if missing:
                raise UserError(f"{args.claims}: claim {row.get('id', '?')}: no {', '.join(sorted(missing))}; add it")
        rows = check(claims, {path.name: read_json(path) for path in args.tables}, args.recipe["scale"])
        judge = {"paper": args.recipe["paper_judge"], "used": args.recipe["judge"]}
        write_json(args.output, {"scale": args.recipe["scale"], "judge": judge, "claims": rows, "unknown": claims["unknown"]})
        for row in rows:
            print(f"{row['verdict']:>20}  {row['id']}: {row['reason']}")


if __name__ == "__main__":
    cli(main)
