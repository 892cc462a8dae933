"""Measure our client against a bare `AsyncOpenAI` loop and bespoke curator, and the replay of
stored answers; print a table for docs/benchmarks.md.

Usage: bench_client.py [--requests 5000] [--concurrency 64] [--repeats 3] [--answers 100000]
[--curator .venv-curator/bin/python]

Each run is a process of its own, so that start-up and peak memory are measured per run. A server in
a further process answers each request after 20 ms. The runs are interleaved: client, bare loop,
curator, then again. Curator (envs/curator.lock) is left out if its Python is missing.
Reported: requests per second over the whole process and over the sending alone, and per CPU second,
which other load affects less; the median and the range over the repeats; and peak memory.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_page import peak_mib, processor, replace_section

LATENCY_S = 0.02
SETTINGS: dict[str, Any] = {
    "provider": "openai",
    "api": "chat",
    "model": "gpt-4o-mini",
    "revision": None,
    "base_url_env": "OPENAI_BASE_URL",
    "api_key_env": "OPENAI_API_KEY",
    "prompt_form": None,
    "stop": [],
    "temperature": 0.0,
    "max_tokens": 64,
    "timeout_s": 60,
    "reported_as": None,
    "json_schema": False,
    "use_batch_api": False,
}
TEXT = "An answer of a dozen words, as a short one of a teacher."


async def _serve() -> None:
    """Answer every POST after `LATENCY_S`; print the port."""
    response = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 12, "total_tokens": 24},
    }
    body = json.dumps(response).encode()
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                await reader.readexactly(size)
                await asyncio.sleep(LATENCY_S)
                writer.write(whole)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def prompts(count: int) -> list[list[dict[str, str]]]:
    """Return distinct prompts of a few dozen tokens."""
    return [
        [{"role": "user", "content": f"Question {i}: {'what is there to say about this ' * 6}"}]
        for i in range(count)
    ]


def client(count: int, concurrency: int, folder: Path, mode: str = "online") -> float:
    """Ask through our client; return the seconds of asking."""
    from bezoar.llm.client import LLMClient

    with LLMClient.of(SETTINGS, folder / "store.sqlite", concurrency, None, mode) as opened:
        started = time.perf_counter()
        answers = opened.ask(prompts(count), [str(i) for i in range(count)])
        seconds = time.perf_counter() - started
    assert [answer.text for answer in answers] == [TEXT] * count
    return seconds


def bare(count: int, concurrency: int, folder: Path) -> float:
    """Ask in a loop around the official client, workers over one iterator; keep nothing. Return the
    seconds of asking.
    """
    import openai

    async def all_of_them() -> list[str | None]:
        texts: list[str | None] = [None] * count
        waiting = iter(enumerate(prompts(count)))
        async with openai.AsyncOpenAI(max_retries=0, timeout=60) as client:

            async def worker() -> None:
                for i, messages in waiting:
                    made = await client.chat.completions.create(
                        model="gpt-4o-mini",
                        messages=messages,
                        temperature=0.0,
                        max_tokens=64,
                        seed=0,
                    )  # type: ignore[arg-type]
                    texts[i] = made.choices[0].message.content

            await asyncio.gather(*(worker() for _ in range(concurrency)))
        return texts

    started = time.perf_counter()
    texts = asyncio.run(all_of_them())
    seconds = time.perf_counter() - started
    assert texts == [TEXT] * count
    return seconds


def curator(count: int, concurrency: int, folder: Path) -> float:
    """Ask through bespoke curator with a fresh cache and limits out of the way; return the seconds
    of asking.
    """
    litellm = Path(str(importlib.util.find_spec("litellm").origin)).parent  # type: ignore[union-attr]
    os.environ["TIKTOKEN_CACHE_DIR"] = str(
        litellm / "litellm_core_utils" / "tokenizers"
    )  # encodings it would else download
    from bespokelabs import curator as peer  # type: ignore[import-not-found]

    limits = {
        "base_url": os.environ["OPENAI_BASE_URL"],
        "max_requests_per_minute": 10_000_000,
        "max_tokens_per_minute": 10_000_000_000,
        "max_concurrent_requests": concurrency,
        "require_all_responses": True,
    }
    model = peer.LLM(
        model_name="gpt-4o-mini",
        backend="openai",
        backend_params=limits,
        generation_params={"temperature": 0.0, "max_tokens": 64},
    )
    started = time.perf_counter()
    answers = model(
        [messages[0]["content"] for messages in prompts(count)], working_dir=str(folder)
    )
    seconds = time.perf_counter() - started
    rows = getattr(answers, "dataset", answers)
    assert len(rows) == count and rows[0]["response"] == TEXT
    return seconds


def fill(count: int, folder: Path) -> None:
    """Store as many answers as a replay is to find."""
    from bezoar.llm.answer_store import Entry, Store, key_of
    from bezoar.llm.settings import ModelSpec, request_of

    settings = ModelSpec.of(SETTINGS)
    answer = {
        "state": "answered",
        "text": TEXT,
        "usage": {"input": 12, "output": 12},
        "model": "gpt-4o-mini",
        "finish": "stop",
    }
    store = Store(folder / "store.sqlite")
    requests = [request_of(settings, messages) for messages in prompts(count)]
    store.put(
        [
            Entry(
                key_of(request), request, answer, json.dumps({"answer": answer, "more": "x" * 300})
            )
            for request in requests
        ]
    )
    store.close()


def once(what: str, count: int, concurrency: int, folder: Path) -> None:
    """Run one thing in this process and print its seconds and its peak memory as JSON."""
    runs: dict[str, Callable[[], float]] = {
        "client": lambda: client(count, concurrency, folder),
        "bare": lambda: bare(count, concurrency, folder),
        "curator": lambda: curator(count, concurrency, folder),
        "replay": lambda: client(count, concurrency, folder, "replay"),
    }
    seconds = runs[what]()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {"asking_s": seconds, "cpu_s": used.ru_utime + used.ru_stime, "peak_mib": peak_mib()}
        ),
        flush=True,
    )


def measured(
    python: str, what: str, count: int, concurrency: int, folder: Path, address: str
) -> dict[str, float]:
    """Run one thing in a fresh process; return its numbers and the seconds of the whole process."""
    environment = os.environ | {
        "OPENAI_BASE_URL": address,
        "OPENAI_API_KEY": "none",
        "CURATOR_DISABLE_RICH_DISPLAY": "1",
        "TELEMETRY_ENABLED": "0",
    }
    command = [
        python,
        __file__,
        "--once",
        what,
        "--requests",
        str(count),
        "--concurrency",
        str(concurrency),
        "--folder",
        str(folder),
    ]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [done.stdout[-500:]]
        raise SystemExit(f"error: {what} failed: {lines[-1]}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "whole_s": seconds}


def report(results: dict[str, list[dict[str, float]]], counts: dict[str, int]) -> str:
    """Return the Markdown table: medians, ranges, and ratios to the bare loop."""

    def middle(name: str, key: str) -> float:
        return statistics.median(run[key] for run in results[name])

    lines = [
        (
            "| | requests | a second, sending alone | a second, whole process | a CPU second |"
            " ratio to the bare loop: alone, whole, CPU | peak MiB |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        rates = [
            sorted(counts[name] / run[key] for run in runs)
            for key in ("asking_s", "whole_s", "cpu_s")
        ]
        cells = [
            f"{statistics.median(rate):,.0f} ({rate[0]:,.0f}–{rate[-1]:,.0f})" for rate in rates
        ]
        ratio = (
            " , ".join(
                f"{middle('bare', key) / middle(name, key):.2f}"
                for key in ("asking_s", "whole_s", "cpu_s")
            )
            if counts[name] == counts["bare"]
            else "–"
        )
        lines.append(
            f"| {name} | {counts[name]:,} | {cells[0]} | {cells[1]} | {cells[2]} | {ratio} |"
            f" {max(run['peak_mib'] for run in runs):.0f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--answers", type=int, default=100_000, help="stored answers to replay")
    parser.add_argument(
        "--curator",
        default=".venv-curator/bin/python",
        help="Python of an environment with envs/curator.lock",
    )
    parser.add_argument("--output", type=Path, help="page whose section `## LLMClient` is replaced")
    parser.add_argument(
        "--once", choices=("serve", "client", "bare", "curator", "replay"), help=argparse.SUPPRESS
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.once == "serve":
        asyncio.run(_serve())
    elif args.once:
        once(args.once, args.requests, args.concurrency, args.folder)
    else:
        loads = [os.getloadavg()[0]]
        names = ["client", "bare", *(["curator"] if Path(args.curator).is_file() else [])]
        results: dict[str, list[dict[str, float]]] = {name: [] for name in [*names, "replay"]}
        counts: dict[str, Any] = {**dict.fromkeys(names, args.requests), "replay": args.answers}
        server = subprocess.Popen(
            [sys.executable, __file__, "--once", "serve"], stdout=subprocess.PIPE, text=True
        )
        try:
            address = (
                f"http://127.0.0.1:{server.stdout.readline().strip() if server.stdout else ''}/v1"
            )
            with tempfile.TemporaryDirectory() as stored:
                fill(args.answers, Path(stored))
                for repeat in range(args.repeats):
                    for name in results:
                        with tempfile.TemporaryDirectory() as fresh:
                            python = args.curator if name == "curator" else sys.executable
                            folder = Path(stored if name == "replay" else fresh)
                            results[name].append(
                                measured(
                                    python, name, counts[name], args.concurrency, folder, address
                                )
                            )
                            loads.append(os.getloadavg()[0])
                            rate = counts[name] / results[name][-1]["asking_s"]
                            print(
                                f"repeat {repeat + 1} {name}: {rate:,.0f} a second; load average"
                                f" {loads[-1]:.1f}",
                                flush=True,
                            )
        finally:
            server.kill()
        machine = f"{os.cpu_count()} cores of {processor()}, Python {platform.python_version()}"
        text = (
            f"`bench_client.py`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}; {args.repeats}"
            f" repeats, concurrency {args.concurrency}, "
        )
        text += f"load average {min(loads):.1f} to {max(loads):.1f} during the runs.\n\n"
        text += f"{report(results, counts)}\n"
        print(text)
        if args.output:
            replace_section(args.output, "LLMClient", text)


if __name__ == "__main__":
    main()
