"""Measure what the package's promises are worth: attacks caught and missed, beside Snakemake's own
triggers, and what the checks cost in time.

Usage: measure_evidence.py [--finished DIR] [--only times own test_reruns …] [--output
docs/evidence.md]

DIR is a project in which the smallest rehearsal has been run; with --only, these parts are measured
again and the others stay.

Runs the tests of the promises (tests/workflow, with BEZOAR_EVIDENCE=1: all of them), asks Snakemake
without our planning about the same mutations, and times the commands. Raw results go to a .json
beside the page, which is written from them. About half an hour on two cores.
"""

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench_page import processor
from bezoar import program
from bezoar.errors import UserError
from bezoar.files import whole_file, write_json
from bezoar.readers import read_json

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests/workflow"
CONFIG = "config/rehearsal.yaml tests/workflow/smallest.yaml"
# Promise, file of tests, and the tests of it.
PROMISES = [
    (
        "A change with meaning makes exactly its stages stale",
        "test_stale",
        "test_an_attack_makes_exactly",
    ),
    (
        "A change without meaning makes none stale",
        "test_stale",
        "test_a_change_without_meaning|test_another_user|test_results_carried",
    ),
    (
        "Every value of the configuration is in the recipe of its stage",
        "test_stale",
        "test_every_leaf",
    ),
    ("A forged file is named", "test_audit", r"test_every_published_file.*\[file-"),
    (
        "A file forged with its own receipt is named",
        "test_audit",
        r"test_every_published_file.*\[file and",
    ),
    (
        "A forgery on which all receipts agree is named",
        "test_audit",
        "test_a_forgery_that_all|test_a_stored_answer",
    ),
    (
        (
            "Another place, zone, locale, umask, hash seed, number of cores, no network: the same"
            " bytes"
        ),
        "test_reruns",
        "test_another_directory",
    ),
    ("A program opens only declared files", "test_reruns", "test_every_program_opens"),
    (
        "After kill -9 in the middle of a rule: the same bytes, nothing half-written",
        "test_reruns",
        "test_after_a_kill|test_when_snakemake_alone",
    ),
    ("One run at a time in a directory", "test_reruns", "test_a_second_run"),
    (
        "The provenance is a valid Provenance Run Crate; a seeded fault is found",
        "test_crate",
        "test_a_planted|test_the_official",
    ),
]
PARTS = ["times", "own", *sorted({file for _, file, _ in PROMISES})]


def finish(folder: Path) -> None:
    """Run the smallest rehearsal in a copy of the project."""
    import smallest

    done = smallest.snakemake(smallest.fresh(folder))
    if done.returncode:
        raise UserError(
            f"{folder}: the smallest rehearsal failed: {done.stderr.strip().splitlines()[-1]}"
        )


def tested(finished: Path, scratch: Path, names: list[str]) -> list[dict[str, Any]]:
    """Run these files of tests; return {file, name, outcome, attacks, missed, seconds} of each."""
    report = scratch / "tests.xml"
    files = [f"tests/workflow/{name}.py" for name in names]
    environment = os.environ | {
        "BEZOAR_FINISHED": str(finished),
        "BEZOAR_EVIDENCE": "1",
        "PYTHONPATH": str(ROOT / "scripts"),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *files,
        f"--junitxml={report}",
        "-o",
        "junit_family=xunit1",
    ]
    subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=sys.stderr)
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next(
            (kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None),
            "passed",
        )
        properties = {
            found.get("name"): int(found.get("value", "0")) for found in case.iter("property")
        }
        attacks = properties.get("attacks", 1)
        missed = 0 if outcome == "passed" else properties.get("missed", attacks)
        rows.append(
            {
                "file": case.get("classname", "").rsplit(".", 1)[-1],
                "name": case.get("name"),
                "outcome": outcome,
                "attacks": attacks,
                "missed": missed,
                "seconds": round(float(case.get("time", "0")), 2),
            }
        )
    return rows


def own_triggers(finished: Path, folder: Path) -> dict[str, Any]:
    """Ask Snakemake, with its own triggers and its metadata, about the mutations that our tests
    try; return what it would run for each.
    """
    import attacks
    import test_stale

    plain = folder / "plain"
    shutil.copytree(finished, plain)
    common = plain / "rules/common.smk"
    text = common.read_text(encoding="utf-8")
    patch = "    snakemake_patch.install()\n"
    if text.count(patch) != 1:
        raise UserError(f"{common}: no line `{patch.strip()}` to leave out")
    common.write_text(text.replace(patch, ""), encoding="utf-8")
    held = attacks.receipts(plain)
    rules = set(
        re.findall(
            r"^ *rule (\w+):",
            "".join(path.read_text() for path in (plain / "rules").glob("*.smk")),
            re.MULTILINE,
        )
    )
    rows = []
    for attack in [
        attacks.Attack("nothing", "", attacks.nothing),
        *attacks.ATTACKS,
        *test_stale.QUIET,
    ]:
        copy = (
            folder / "copy"
        )  # of its own for each, with all dates: some change what cannot be changed back
        shutil.copytree(plain, copy)
        with attack.on(copy):
            rows.append(
                {
                    "name": attack.name,
                    "stale": sorted(attacks.rules_of(attack.stale(held), rules)),
                    "planned": sorted(test_stale.ask(copy)[1]),
                }
            )
        shutil.rmtree(copy)
    return {"rows": rows}


def timed(command: list[str], folder: Path, repeats: int) -> dict[str, Any]:
    """Return wall-clock seconds of a command that must succeed."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds.append(round(time.perf_counter() - began, 3))
        if done.returncode:
            raise UserError(
                f"{' '.join(command)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}"
            )
    return {"command": " ".join(command).replace(sys.prefix, ".venv"), "seconds": seconds}


def times(finished: Path, empty: Path) -> dict[str, Any]:
    """Time the commands of a user on a finished run, and Snakemake on an empty workflow. The
    environment is the one that runs this.
    """
    make = [
        "make",
        "-o",
        "environment",
        f"ENV={sys.prefix}",
        f"CONFIG={CONFIG}",
        f"JOBS={os.cpu_count()}",
    ]
    empty.mkdir()
    (empty / "Snakefile").write_text("rule all:\n")
    return {
        "`make stale`, nothing stale": timed([*make, "stale"], finished, 7),
        "`make rehearsal`, nothing to do": timed([*make, "rehearsal"], finished, 7),
        "`make audit`": timed([*make, "audit"], finished, 3),
        "`snakemake -n` of an empty workflow": timed(
            [sys.executable, "-m", "snakemake", "-n"], empty, 7
        ),
    }


def machine() -> str:
    """Name processor, cores and Python."""
    return f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def page(raw: dict[str, Any]) -> str:
    """Return the page that the raw results make."""
    head = [
        "# What the promises are worth",
        "",
        "Written by `make evidence` (`scripts/dev/measure_evidence.py`) from"
        f" [evidence.json](evidence.json) on {raw['date']}: {raw['machine']}.",
        "All of it is measured on the smallest rehearsal (`tests/workflow/smallest.yaml`): the"
        " whole DAG, learning nothing.",
        "",
    ]
    parts = [
        *attack_lines(raw["tests"]),
        *trigger_lines(raw["own"]["rows"], raw["tests"]),
        *time_lines(raw),
    ]
    return "\n".join([*head, *parts]) + "\n"


def attack_lines(tests: list[dict[str, Any]]) -> list[str]:
    """Return the lines about the attacks: how many of each kind were caught and missed."""
    text = [
        "## Attacks",
        "",
        "| promise | tests | attacks | caught | missed |",
        "|---|---|---|---|---|",
    ]
    for promise, file, pattern in PROMISES:
        rows = [row for row in tests if row["file"] == file and re.match(pattern, row["name"])]
        tried = [row for row in rows if row["outcome"] != "skipped"]
        count, missed = sum(row["attacks"] for row in tried), sum(row["missed"] for row in tried)
        skipped = f" ({len(rows) - len(tried)} not tried here)" if len(rows) > len(tried) else ""
        text.append(
            f"| {promise} | `{file}.py`{skipped} | {count:,} | {count - missed:,} | {missed:,} |"
        )
    failed = [
        f"- {row['file']}: {row['name']}" for row in tests if row["outcome"] in ("failure", "error")
    ]
    return [
        *text,
        "",
        "What counts as an attack: a mutation; a value of the configuration; a forged file;",
        "a published file made in another place and compared; a file that a program opened"
        " under strace;",
        "a rule killed; a second run; a fault seeded in the crate.",
        "",
        *(["Tests that failed:", *failed] if failed else ["No test of these files failed."]),
        "",
    ]


def trigger_lines(own: list[dict[str, Any]], tests: list[dict[str, Any]]) -> list[str]:
    """Return the lines about Snakemake's own triggers, beside ours, on the same mutations."""
    before, *rows = own
    wrong, quiet = [row for row in rows if row["stale"]], [row for row in rows if not row["stale"]]
    missed = [row for row in wrong if set(row["stale"]) - set(row["planned"])]
    alarms = [row for row in quiet if row["planned"]]

    def ours(pattern: str) -> list[dict[str, Any]]:
        found = [row for row in tests if row["file"] == "test_stale"]
        return [row for row in found if re.match(pattern, row["name"])]

    names = {row["name"] for row in wrong}
    lost = sum(row["missed"] for row in ours("test_an_attack_makes_exactly") if named(row) in names)
    false = sum(row["missed"] for row in ours("test_a_change_without"))
    return [
        "## Snakemake's own triggers on the same mutations",
        "",
        "The same project without the line `snakemake_patch.install()`, with the metadata that"
        " Snakemake kept of the run, asked with `snakemake -n`.",
        "The rules help it already: settings and the digest of the code stand among the params"
        " of each.",
        "",
        "| | mutations with meaning | noticed | missed | without meaning | false alarms |",
        "|---|---|---|---|---|---|",
        f"| receipts | {len(wrong)} | {len(wrong) - lost} | {lost} | {len(quiet)} | {false} |",
        f"| Snakemake's | {len(wrong)} | {len(wrong) - len(missed)} | {len(missed)} |"
        f" {len(quiet)} | {len(alarms)} |",
        "",
        f"Before any mutation it would run: {', '.join(before['planned']) or 'nothing'}.",
        "",
        f"Missed: {'; '.join(row['name'] for row in missed) or 'none'}.",
        "",
        f"False alarms: {'; '.join(row['name'] for row in alarms) or 'none'}.",
        "",
    ]


def time_lines(raw: dict[str, Any]) -> list[str]:
    """Return the lines about what the checks cost in time."""
    text = [
        "## Time",
        "",
        f"Load average when this began: {raw['load']}.",
        "",
        "| | median s | from – to | runs |",
        "|---|---|---|---|",
    ]
    for what, found in raw["times"].items():
        spread = found["seconds"]
        text.append(
            f"| {what} | {statistics.median(spread):.2f} | {min(spread):.2f} – {max(spread):.2f} |"
            f" {len(spread)} |"
        )
    return text


def named(row: dict[str, Any]) -> str:
    """Return the attack in a parametrised test's name."""
    return str(row["name"]).partition("[")[2].removesuffix("]")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, write the raw results and the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--finished",
        type=Path,
        help="a copy of the project in which the smallest rehearsal has been run",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/evidence.md"),
        help="page to write; raw results go beside it",
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="measure only these parts again"
    )
    parser.add_argument(
        "--page-only", action="store_true", help="write the page again from the raw results"
    )
    args = parser.parse_args(argv)
    sys.path.insert(0, str(TESTS))
    if not args.page_only:
        with tempfile.TemporaryDirectory(prefix="evidence-") as scratch:
            place = Path(scratch)
            finished = args.finished or place / "project"
            if not args.finished:
                finish(finished)
            raw = (
                {"tests": []} if args.only == PARTS else read_json(args.output.with_suffix(".json"))
            )
            if "times" in args.only:
                raw |= {
                    "load": round(os.getloadavg()[0], 1),
                    "times": times(finished, place / "empty"),
                }
            if "own" in args.only:
                raw["own"] = own_triggers(finished, place / "own")
            if names := [part for part in args.only if part.startswith("test_")]:
                raw["tests"] = [
                    *(row for row in raw["tests"] if row["file"] not in names),
                    *tested(finished, place, names),
                ]
            raw |= {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine()}
        write_json(args.output.with_suffix(".json"), raw)
    with whole_file(args.output) as stream:
        stream.write(page(read_json(args.output.with_suffix(".json"))))


if __name__ == "__main__":
    program.run(main)
