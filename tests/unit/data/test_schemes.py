"""What the three schemes and the filter share: the funnel, the limit on failures, and files that
nothing but the recipe decides.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bezoar.data.funnel import Funnel
from bezoar.data.schemes import check_failures, prompt_texts, user
from bezoar.errors import UserError
from bezoar.files import write_json, write_jsonl
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.rehearsal.world import World
from make_world import alpaca_seeds

ROOT = Path(__file__).parents[3]
FILTER = {"filter": ("instruction", "response")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Rate {instruction}.", r"\{response\} is missing; add it"),
        ("{instruction} {response} {answer}", r"found '\{answer\}'; write a brace that belongs"),
        ('{instruction} {response}: {"rating": 1}', r"found '\{\"rating\": 1\}'; write a brace"),
        ("{instruction} {response!r}", r"found '\{response!r\}'; write"),
        ("{instruction} {response:>9}", r"found '\{response:>9\}'; write"),
        ("{instruction} {response.x}", r"found '\{response\.x\}'; write"),
        ("{instruction} {}", r"found '\{\}'; write"),
        ("{instruction} {response} }", r"found: Single '\}' encountered in format string; write"),
        ("{instruction} {response", r"found: expected '\}' before end of string; write"),
    ],
)
def test_a_prompt_without_its_fields_or_with_others_is_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "filter.txt").write_text(text)
    start = r"^\S+filter\.txt: expected the fields \{instruction\}, \{response\} and "
    with pytest.raises(UserError, match=f"{start}no others, .*{message}"):
        prompt_texts([tmp_path / "filter.txt"], FILTER)


def test_a_prompt_file_that_is_not_given_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rate.txt").write_text("{instruction} {response}")
    with pytest.raises(UserError, match=r"expected filter\.txt, found rate\.txt; add it"):
        prompt_texts([tmp_path / "rate.txt"], FILTER)


def test_braces_of_a_prompt_are_written_twice(tmp_path: Path) -> None:
    (tmp_path / "filter.txt").write_text('{{"a": 1}} {instruction}{response}\n')
    text = prompt_texts([tmp_path / "filter.txt"], FILTER)["filter"]
    assert text.format(instruction="{x}", response="y") == '{"a": 1} {x}y'


def test_a_funnel_takes_only_rules_it_knows_and_adds_up() -> None:
    funnel = Funnel("short", "long")
    funnel.leave("short", 2)
    funnel.leave("kept")
    assert funnel.as_json({}) == {"entered": 3, "short": 2, "long": 0, "kept": 1, "states": {}}
    with pytest.raises(KeyError):
        funnel.leave("misspelt")


def test_a_funnel_keeps_the_first_texts_that_a_rule_dropped() -> None:
    funnel = Funnel("short", "long")
    for text in ("one", "two", None, "three", "four", "x" * 1000):
        funnel.leave("short", text=text)
    funnel.leave("long", text="y" * 1000)
    funnel.leave("kept", text="good")
    assert funnel.examples()["short"] == ["one", "two", "three"]
    assert funnel.examples()["long"] == ["y" * 240 + "…"] and "kept" not in funnel.examples()
    assert "examples" not in funnel.as_json({})


def test_a_stage_fails_when_more_than_its_share_of_rows_failed() -> None:
    answers = [
        (
            f"row {i}",
            Answer(
                "provider_error" if i < 3 else "answered", "", {}, "m", "InternalServerError 500"
            ),
        )
        for i in range(10)
    ]
    check_failures(answers, 0.3, "filter")
    with pytest.raises(
        UserError,
        match=(
            r"3 of 10 rows failed, more than 29%: 3 provider_error \(InternalServerError 500\): row"
            r" 0, row 1, row 2"
        ),
    ):
        check_failures(answers, 0.29, "filter")
    refused = [
        ("row a", Answer("refused", "", {}, "m")),
        ("row b", Answer("truncated", "x", {}, "m")),
        ("row c", Answer("unparsable", "", {}, "m")),
    ]
    with pytest.raises(
        UserError, match=r"2 of 3 rows failed, more than 50%: 1 refused, 1 unparsable: row a, row c"
    ):
        check_failures(refused, 0.5, "generate")
    check_failures(refused, 0.0, "filter", ("provider_error",))
    check_failures([], 0.0, "filter")


SMALL = World(seed=3, people=60, held_out_share=0.3, held_out_skill_share=0.3)
SIMULATOR: dict[str, Any] = {
    "provider": "simulator",
    "api": "chat",
    "model": "simulator",
    "revision": None,
    "base_url_env": None,
    "api_key_env": None,
    "prompt_form": None,
    "stop": [],
    "temperature": 0.8,
    "max_tokens": 512,
    "timeout_s": 30,
    "reported_as": None,
    "json_schema": False,
    "use_batch_api": False,
}
RECIPE = {
    "rows": 250,
    "rounds": 10,
    "calls_per_round": 12,
    "instructions_per_call": 20,
    "examples": 3,
    "topics": 3,
    "rouge_l": 0.7,
    "seed_set": "world",
    "max_failure_share": 0.0,
    "teacher": SIMULATOR,
    "seed": 3,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world's facts, seeds and topics."""
    folder = tmp_path_factory.mktemp("world")
    write_json(folder / "facts.json", SMALL.as_json())
    write_jsonl(folder / "seeds.jsonl", alpaca_seeds(SMALL, 20))
    (folder / "topics.txt").write_text("colour\npet\ntown\ndish\ntrade\n")
    return folder


def command(inputs: Path, out: Path, concurrency: int, mode: str = "online") -> list[str]:
    return [
        sys.executable,
        str(ROOT / "scripts" / "generate_lamini.py"),
        "--seeds",
        str(inputs / "seeds.jsonl"),
        "--topics",
        str(inputs / "topics.txt"),
        "--facts",
        str(inputs / "facts.json"),
        "--prompts",
        str(ROOT / "prompts" / "lamini_example.txt"),
        str(ROOT / "prompts" / "lamini_topic.txt"),
        "--store",
        str(out / "store.sqlite"),
        "--concurrency",
        str(concurrency),
        "--mode",
        mode,
        "--recipe",
        json.dumps(RECIPE),
        "--code",
        "c0de",
        "--rows",
        str(out / "rows.jsonl"),
        "--counts",
        str(out / "counts.json"),
        "--dropped",
        str(out / "dropped.jsonl"),
        "--receipt",
        str(out / "receipt.json"),
    ]


def outputs(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("rows.jsonl", "counts.json", "dropped.jsonl")]


def test_concurrency_a_kill_and_a_replay_change_no_byte(inputs: Path, tmp_path: Path) -> None:
    """One request at a time, 16 at a time after a kill, and from the store alone: the same rows and
    counts.
    """
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    proxy = {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }  # must not stand between us and our own child
    subprocess.run(command(inputs, calm, 1), check=True, env={**os.environ, **proxy})
    child = subprocess.Popen(command(inputs, killed, 16))
    store = killed / "store.sqlite-wal"
    while child.poll() is None and not (store.exists() and store.stat().st_size > 100_000):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (killed / "rows.jsonl").exists()
    subprocess.run(command(inputs, killed, 16), check=True)
    assert outputs(killed) == outputs(calm)
    sent = [
        json.loads((out / "receipt.json").read_text())["facts"]["sent"] for out in (calm, killed)
    ]
    assert 0 < sent[1] < sent[0]
    (calm / "rows.jsonl").unlink()
    subprocess.run(command(inputs, calm, 4, "replay"), check=True, env={**os.environ, "PATH": ""})
    assert outputs(killed) == outputs(calm)
    assert json.loads((calm / "receipt.json").read_text())["facts"]["sent"] == 0


@pytest.mark.parametrize("api", ["chat", "completions", "messages"])
def test_the_simulator_says_the_same_in_every_protocol(
    inputs: Path, tmp_path: Path, api: str
) -> None:
    question = next(iter(SMALL.by_question))
    with LLMClient.of(
        {**SIMULATOR, "api": api}, tmp_path / "s.sqlite", 2, inputs / "facts.json"
    ) as client:
        answers = client.ask([user(question, "Be brief."), user(question)], ["a", "b"])
    assert [answer.state for answer in answers] == ["answered", "answered"]
    with LLMClient.of(SIMULATOR, tmp_path / "other.sqlite", 2, inputs / "facts.json") as client:
        assert client.ask([user(question)], ["b"])[0].text == answers[1].text


def test_the_simulator_ends_with_its_parent(inputs: Path) -> None:
    client = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "scripts" / "serve_simulator.py"),
            "--facts",
            str(inputs / "facts.json"),
            "--port",
            "0",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline().startswith("listening ")
    assert client.stdin is not None
    client.stdin.close()
    assert client.wait(timeout=10) == 0
    client.stdout.close()
