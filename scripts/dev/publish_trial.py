"""Put what a trial publishes into docs/trial/: the stored answers that its data are made of, the
rows of LaMini (model text alone) and the digests of its data and tables, as far as they are made.

Usage: publish_trial.py --config config/trial.yaml config/trial-without-dolly.yaml

The answers hold the requests too, and with them texts of the sources under their own licences;
docs/trial.md names them. What the judge was asked stays out: it holds MT-Bench's prompts, questions
and reference answers. tests/workflow/test_trial_replay.py makes data again from these files.
"""

import argparse
import json
import lzma
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import sha256_file, whole_file, write_json
from bezoar.workflow.configuration import resolved

PLACE = Path("docs/trial")
JUDGED = "Rating: [["  # in every request to MT-Bench's judge
DIGESTS = ("generate/*.jsonl", "filter/*.jsonl", "mtbench/*/judgments.jsonl", "*.json")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and copy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="+", required=True, help="the trial's configuration")
    args = parser.parse_args(argv)
    results = Path(resolved(args.config)["pathvars"]["results"])
    found = sorted({path for pattern in DIGESTS for path in results.glob(pattern)})
    for scheme in ("lamini", "evol", "orca"):
        if not (results / f"filter/{scheme}.jsonl").is_file():
            raise UserError(f"{results}: no rated rows of {scheme}; run `make trial`")
    exchange = [sys.executable, "scripts/commands/exchange_answers.py", "export"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answers.jsonl.xz"
        subprocess.run([*exchange, "--config", *args.config, "--file", str(file)], check=True)
        with lzma.open(file, "rt", encoding="utf-8") as stream:
            kept = [line for line in stream if JUDGED not in json.loads(line)["request"]]
    with (
        whole_file(PLACE / "answers.jsonl.xz", "wb") as raw,
        lzma.open(raw, "wt", encoding="utf-8", preset=9) as stream,
    ):
        stream.writelines(kept)
    write_json(PLACE / "digests.json", {str(p.relative_to(results)): sha256_file(p) for p in found})
    shutil.copyfile(results / "generate/lamini.jsonl", PLACE / "lamini.jsonl")
    size = sum(path.stat().st_size for path in PLACE.iterdir())
    print(f"{PLACE}: {len(kept)} answers, {len(found)} digests, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    program.run(main)
