"""Measure evaluation: a run of the harness from start to end, imports included, against the plain
`lm_eval` command, and judgments per second against a bare client.

Usage: bench_evaluation.py --runs 3 [--output docs/benchmarks.md]

Makes the rehearsal's world and a model of its size (one training step: speed does not depend on
the weights) in a temporary directory. Ours and the peer run in turns, each a process of its own
from start to end, on the same model, tasks, batch size and threads; the accuracies must agree. The
bare client is the official SDK asking the same simulator the same questions, with no store, at the
same concurrency. Prints Markdown: median, range, and the ratio of the medians.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_page import SCRIPTS, make_base, replace_section, run
from bezoar import program
from bezoar.errors import UserError
from bezoar.evaluation.mtbench import (
    judge_messages,
    read_judge_prompts,
    read_questions,
    read_references,
)
from bezoar.files import canonical
from bezoar.llm.client import LLMClient
from bezoar.provenance.fingerprint import AGAIN
from bezoar.readers import read_json, read_jsonl
from bezoar.training.tokenizer import load_tokenizer
from bezoar.workflow.configuration import resolved

# of the items: an untrained model has near ties, which a batch of both tasks decides otherwise than
# one of each
TIES = 0.02


def with_fast_tokenizer(base: Path, copy: Path) -> None:
    """Copy a model with the fast tokenizer that transformers makes of its SentencePiece file: the
    plain command reads no other.
    """
    from transformers import LlamaTokenizer
    from transformers.convert_slow_tokenizer import generate_merges

    pieces = load_tokenizer(base).sp_model
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    merges = generate_merges(
        vocabulary, {piece: pieces.get_score(index) for piece, index in vocabulary.items()}
    )
    shutil.copytree(base, copy, ignore=shutil.ignore_patterns("tokenizer*"))
    LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True).save_pretrained(copy)


def in_turns(ways: dict[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    """Return name -> seconds of each run; the ways take turns, so that other load on the machine
    affects both.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(runs):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
            print(f"run {number + 1} {name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    return seconds


def harness(folder: Path, config: dict[str, Any], runs: int) -> tuple[dict[str, list[float]], int]:
    """Return the seconds of ours and of the plain command, and the number of items."""
    settings = config["lm_eval"] | {"seed": 0}
    files = [
        folder / "world" / "lm_eval" / f"{task}.{end}"
        for task in settings["tasks"]
        for end in ("yaml", "jsonl")
    ]
    os.environ["OMP_NUM_THREADS"] = str(
        settings["threads"]
    )  # the plain command has no argument for it
    os.environ[AGAIN] = "1"  # a second run of ours would find nothing to do

    def ours() -> None:
        out = (
            "--results",
            folder / "ours.json",
            "--samples",
            folder / "samples.jsonl",
            "--receipt",
            folder / "receipt.json",
        )
        run(
            SCRIPTS / "run_lm_eval.py",
            "--model",
            folder / "base",
            "--name",
            "base",
            "--task-files",
            *files,
            *out,
            "--recipe",
            canonical(settings),
            "--code",
            "bench",
        )

    with_fast_tokenizer(folder / "base", folder / "fast")

    def plain() -> None:
        model = (
            f"pretrained={folder / 'fast'},dtype={settings['dtype']},"
            f"max_length={settings['max_length']},add_bos_token=True"
        )
        run(
            "-m",
            "lm_eval",
            "run",
            "--model",
            "hf",
            "--model_args",
            model,
            "--tasks",
            ",".join(settings["tasks"]),
            "--num_fewshot",
            str(settings["num_fewshot"]),
            "--batch_size",
            str(settings["batch_size"]),
            "--device",
            "cpu",
            "--include_path",
            folder / "world" / "lm_eval",
            "--output_path",
            folder / "plain.json",
            "--seed",
            "0",
        )

    seconds = in_turns({"run_lm_eval.py": ours, "lm_eval": plain}, runs)
    mine, theirs = (
        read_json(folder / "ours.json")["results"],
        read_json(max(folder.glob("plain*.json")))["results"],
    )
    for task in settings["tasks"]:
        if abs(mine[task]["acc,none"] - theirs[task]["acc,none"]) > TIES:
            raise UserError(
                f"{task}: {mine[task]['acc,none']} here, {theirs[task]['acc,none']} by lm_eval; the"
                " two do not measure the same"
            )
    return seconds, len(read_jsonl(folder / "samples.jsonl"))


def judging(
    folder: Path, config: dict[str, Any], runs: int, concurrency: int = 16
) -> tuple[dict[str, list[float]], int]:
    """Return the seconds of ours, of ours from the store, and of a bare client, and the number of
    judgments.
    """
    import openai

    questions = read_questions(folder / "world/questions.jsonl")
    references, prompts = (
        read_references(folder / "world/references.jsonl"),
        read_judge_prompts(Path("prompts/judge_prompts.jsonl")),
    )
    answers = ["It is not known.", "It is not known either."]
    asked = [
        judge_messages(prompts, row, answers, references.get(row["question_id"]), turn)[1]
        for row in questions
        for turn in (1, 2)
    ]
    judge, names = config["mtbench"]["judgments"]["judge"], ["bench"] * len(asked)
    server = subprocess.Popen(
        [
            sys.executable,
            SCRIPTS / "serve_simulator.py",
            "--facts",
            folder / "world/facts.json",
            "--port",
            "0",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None and server.stdin is not None
    os.environ["BENCH_URL"], os.environ["BENCH_KEY"] = (
        f"http://127.0.0.1:{server.stdout.readline().split()[1]}/v1",
        "none",
    )
    settings = judge | {
        "provider": "openai",
        "base_url_env": "BENCH_URL",
        "api_key_env": "BENCH_KEY",
    }

    def ours() -> None:
        (folder / "store.sqlite").unlink(missing_ok=True)
        stored()

    def stored() -> None:
        with LLMClient.of(settings, folder / "store.sqlite", concurrency, None) as client:
            client.ask(asked, names)

    async def ask_all() -> None:
        gate = asyncio.Semaphore(concurrency)
        async with openai.AsyncOpenAI(api_key="none", base_url=os.environ["BENCH_URL"]) as client:

            async def one(messages: list[dict[str, str]]) -> None:
                async with gate:
                    await client.chat.completions.create(
                        model=judge["model"],
                        messages=messages,
                        temperature=0,
                        max_tokens=99,
                        seed=0,
                    )  # type: ignore[arg-type]

            await asyncio.gather(*map(one, asked))

    seconds = in_turns(
        {
            "through the client": ours,
            "from its store": stored,
            "bare client": lambda: asyncio.run(ask_all()),
        },
        runs,
    )
    server.stdin.close()
    server.wait()
    return seconds, len(asked)


def lines(
    title: str,
    unit: str,
    seconds: dict[str, list[float]],
    scale: Callable[[float], float],
    peer: str,
) -> list[str]:
    """Return a Markdown table: median and range in `unit`, and the ratio to the peer."""
    medians = {name: scale(statistics.median(values)) for name, values in seconds.items()}
    rows = [f"| {title} | {unit}, median | range | against {peer} |", "|---|---|---|---|"]
    for name, values in seconds.items():
        low, high = sorted((scale(min(values)), scale(max(values))))
        rows.append(
            f"| {name} | {medians[name]:.1f} | {low:.1f} – {high:.1f} |"
            f" {medians[name] / medians[peer]:.2f} |"
        )
    return [*rows, ""]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each way")
    parser.add_argument(
        "--output", type=Path, help="page whose section `## Evaluation` is replaced"
    )
    args = parser.parse_args(argv)
    config = resolved(["config/rehearsal.yaml"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder, config["pretrain"] | {"seed": 0, "steps": 1})
        seconds, items = harness(folder, config, args.runs)
        text = lines(
            f"LM Eval Harness, {items} items",
            "s from start to end",
            seconds,
            lambda s: s,
            "lm_eval",
        )
        seconds, judgments = judging(folder, config, args.runs)
        text += lines(
            f"Judging, {judgments} judgments",
            "judgments a second",
            seconds,
            lambda s: judgments / s,
            "bare client",
        )
    load = f"load average at the end {os.getloadavg()[0]:.1f}"
    head = (
        f"`bench_evaluation.py --runs {args.runs}`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC,"
        f" {os.cpu_count()} cores, {load}.\n"
    )
    print(page := "\n".join([head, *text]))
    if args.output:
        replace_section(args.output, "Evaluation", page)


if __name__ == "__main__":
    program.run(main)
