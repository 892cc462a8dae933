"""Export every stored answer of a results folder as one compressed file, or import such a file, so
that a run can be replayed without keys.

Usage: exchange_answers.py export --config config/paper.yaml --file answers.jsonl.xz
       exchange_answers.py import --config config/paper.yaml --file answers.jsonl.xz      (then
         make reproduce MODE=replay)

One JSON object per line: store (the job's file name) and the columns of bezoar.llm.answer_store, in
the order of store and key, so that equal answers give equal files. An import checks every line
first (key against request, hash against answer) and changes nothing if one is wrong; an answer that
is already there stays, a different answer to the same request is an error, and a failure gives way
to an answer. In a finished run, a store that gets answers loses the receipts that hold its hash:
the next run makes those stages again. Imported answers are not counted as spent: somebody else paid
for them.
"""

import argparse
import json
import lzma
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import sha256_text, whole_file
from bezoar.llm.answer_store import COLUMNS, Store, digest, usable
from bezoar.llm.language_model import STATES, Answer
from bezoar.provenance.audit import receipts_of
from bezoar.provenance.snakemake_patch import one_run
from bezoar.readers import column, iter_jsonl, parse_json
from bezoar.workflow.configuration import checked


def export(folder: Path, file: Path) -> int:
    """Write all stores below `folder` to `file`; return the number of answers."""
    stores = sorted(folder.glob("*.sqlite"))
    if not stores:
        raise UserError(
            f"{folder}: no stores of answers; run a stage that asks a language model first"
        )
    count = 0
    with (
        whole_file(file, "wb") as raw,
        lzma.open(raw, "wt", encoding="utf-8", newline="\n") as stream,
    ):
        for path in stores:
            store = Store(path, to_read=True)
            for row in store.rows():
                stream.write(
                    json.dumps(
                        {"store": path.name, **dict(zip(COLUMNS, row, strict=True))},
                        sort_keys=True,
                        ensure_ascii=False,
                    )
                    + "\n"
                )
                count += 1
            store.close()
    return count


def lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of an export; raise `UserError` naming the first bad line."""
    for number, row in iter_jsonl(file):
        where = f"{file}:{number}"
        for name in ("store", *COLUMNS):
            if name not in row:
                raise UserError(f"{where}: no `{name}`; expected a line of an export of answers")
        for name in ("store", "request", "answer", "response"):
            column(row, name, str, where)
        if not re.fullmatch(r"[\w.-]+\.sqlite", row["store"]):
            raise UserError(
                f"{where}: {row['store']!r} is not the name of a store; export it again"
            )
        if (
            sha256_text(row["request"]) != row["key"]
            or digest(row["answer"], row["response"]) != row["sha256"]
        ):
            raise UserError(f"{where}: does not match its hash; fetch the export again")
        if not is_answer(parse_json(row["answer"], f"{where}: answer")):
            raise UserError(
                f"{where}: `answer`: expected an answer with state, text, usage and model; export"
                " it again"
            )
        numbers = (row["sent_unix_s"], row["seconds"], 0.0 if row["usd"] is None else row["usd"])
        if not all(type(value) in (int, float) for value in numbers) or type(row["via"]) is not str:
            raise UserError(
                f"{where}: expected numbers as sent_unix_s, seconds and usd, a text as via; export"
                " it again"
            )
        yield number, row


def is_answer(value: object) -> bool:
    """Whether a value is a stored answer that every stage can read."""
    try:
        answer = Answer(**value)  # type: ignore[arg-type]
    except TypeError:
        return False
    texts = (answer.text, answer.model, answer.error, answer.finish, answer.reasoning)
    return (
        answer.state in STATES
        and all(type(text) is str for text in texts)
        and isinstance(answer.usage, dict)
        and all(type(count) is int for count in answer.usage.values())
    )


def take_in(folder: Path, file: Path) -> tuple[int, int]:
    """Add an export's answers to the stores below `folder`; return how many it holds and how many
    were new.
    """
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for _, row in lines(file):
        rows[row["store"]].append(tuple(row[column] for column in COLUMNS))
    wanted = {name: [*news(folder / name, answers)] for name, answers in rows.items()}
    new = 0
    for name, answers in wanted.items():
        if not answers:
            continue
        for receipt in receipts_of(folder / name):  # first, as `forget_failures.py` does
            receipt.unlink()
        store = Store(folder / name)
        new += store.put_rows(answers)
        store.close()
    return sum(map(len, rows.values())), new


def news(path: Path, answers: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield the answers that a store lacks, or has a failure in place of; raise `UserError` if it
    has another answer to a request.
    """
    known: dict[str, tuple[str, bool]] = {}
    if path.is_file():
        store = Store(path)
        known = {row[0]: (row[4], usable(json.loads(row[2]))) for row in store.rows()}
        store.close()
    for row in answers:
        sha256, final = known.get(row[0], ("", False))
        good = usable(json.loads(row[2]))
        if good and final and sha256 != row[4]:
            raise UserError(
                f"{path}: already has another answer to {row[0][:12]}…; import into a fresh results"
                " folder"
            )
        if row[0] not in known or (good and not final):
            yield row


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and exchange."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("export", "import"), help="which way")
    parser.add_argument(
        "--config",
        nargs="+",
        required=True,
        help="configuration files; they say where the results are",
    )
    parser.add_argument("--file", type=Path, required=True, help="the compressed file")
    args = parser.parse_args(argv)
    folder = Path(checked(args.config)["pathvars"]["results"]) / "store"
    if args.what == "export":
        print(f"{args.file}: {export(folder, args.file):,} answers")
    else:
        with one_run():
            held, new = take_in(folder, args.file)
        print(f"{folder}: {held:,} answers, {new:,} of them new; MODE=replay sends nothing")


if __name__ == "__main__":
    program.run(main)
