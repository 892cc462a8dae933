"""Promise: sharded in 1, 3 or 8 parts, in any order, killed and resumed, every stage that asks a
model writes the same bytes.
"""

import asyncio
import json
import random
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import filter_rows
import generate_evol
import generate_lamini
import generate_orca
from bezoar.data import schemes
from bezoar.errors import UserError
from bezoar.files import write_jsonl
from bezoar.llm import shards
from bezoar.llm.answer_store import Entry, Store
from bezoar.llm.shards import shard_of_text
from bezoar.llm.stored_model import StoredModel
from bezoar.readers import read_jsonl

ROOT = Path(__file__).parents[3]
MEMORY = (
    "/dev/shm" if Path("/dev/shm").is_dir() else None
)  # hundreds of small stores, each synced to disk at every answer
MODEL = {
    "provider": "openai",
    "api": "chat",
    "model": "m",
    "revision": None,
    "base_url_env": None,
    "api_key_env": "NONE",
    "prompt_form": None,
    "stop": [],
    "temperature": 0.8,
    "max_tokens": 9,
    "timeout_s": 1,
    "reported_as": None,
    "json_schema": False,
    "use_batch_api": False,
}


class Killed(BaseException):
    """What ends a process in the middle."""


def say(request: dict[str, Any]) -> str:
    """What the model says: it follows from the request alone, errs now and then, and needs a second
    asking now and then.
    """
    prompt, attempt = request["messages"][-1]["content"], request["attempt"]
    rng = random.Random(f"{prompt} {attempt}")
    if "<example>" in prompt:
        items = [
            " ".join(f"w{rng.randrange(9000)}" for _ in range(rng.randint(3, 9))) for _ in range(5)
        ]
        return "".join(f"<example>{item}</example>" for item in items)
    if "one word, either equal" in prompt:
        return rng.choice(["equal", "different", "different", "hmm"])
    if "JSON object" in prompt:
        return rng.choice(
            [
                '{"status": "Accept", "rating": 9, "reason": "x"}',
                '{"status": "Reject", "rating": 2, "reason": "y"}',
                "hmm",
            ]
        )
    return rng.choice(
        ["I am sorry.", f"words {rng.randrange(10**6)}", f"other words {rng.randrange(10**6)}"]
    )


class Network:
    """Stands for the provider; ends the process after `left` answers, the stored ones of which
    stay, and refuses the first request if it `refuses`, as often as it comes.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: bool = False) -> None:
        self.left = 10**9
        self.sent = 0
        self.asked: Counter[str] = Counter()
        network = self

        async def send(
            model: StoredModel, missing: dict[str, dict[str, Any]], again: set[str]
        ) -> dict[str, dict[str, Any]]:
            answers = {}
            for key, request in missing.items():
                if network.left == 0:
                    raise Killed
                network.left -= 1
                network.sent += 1
                network.asked[key] += 1
                refused = refuses and key == next(iter(network.asked))
                answers[key] = {
                    "state": "refused" if refused else "answered",
                    "text": "" if refused else say(request),
                    "usage": {},
                    "model": "m",
                    "error": "",
                    "finish": "stop",
                }
                model.store.put([Entry(key, request, answers[key])])
                await asyncio.sleep(0)
            return answers

        monkeypatch.setattr(StoredModel, "send", send)


def prompts(*names: str) -> list[str]:
    return [str(ROOT / "prompts" / name) for name in names]


def stage(name: str, folder: Path) -> tuple[Any, list[str], dict[str, Any]]:
    """The program, its inputs and its recipe."""
    common = {"max_failure_share": 0.0, "seed": 1}
    seeds, rows, flan = folder / "seeds.jsonl", folder / "rows.jsonl", folder / "x_train.tsv"
    write_jsonl(
        seeds,
        [
            {
                "instruction": f"Say {i} of it.",
                "context": "",
                "category": f"c{i % 2}",
                "response": "r",
            }
            for i in range(8)
        ],
    )
    write_jsonl(
        rows, [{"instruction": f"Ask {i}", "source": "s", "response": f"r{i}"} for i in range(12)]
    )
    flan.write_text("".join(f"Why {i}?\tyes\tso\n" for i in range(20)))
    (folder / "topics.txt").write_text("Tea\nTides\nJazz\n")
    if name == "lamini":
        recipe = {
            "rows": 14,
            "rounds": 3,
            "calls_per_round": 3,
            "instructions_per_call": 5,
            "examples": 2,
            "topics": 2,
            "rouge_l": 0.7,
            "seed_set": "x",
        }
        return (
            generate_lamini,
            [
                "--seeds",
                str(seeds),
                "--topics",
                str(folder / "topics.txt"),
                "--prompts",
                *prompts("lamini_example.txt", "lamini_topic.txt"),
            ],
            {**recipe, "teacher": MODEL, **common},
        )
    if name == "evol":
        recipe = {
            "epochs": 3,
            "seeds_per_category": 3,
            "max_seed_tokens": 99,
            "breadth_share": 0.3,
            "strategy_draw": "item",
            "complicate_input": True,
            "evaluator_attempts": 3,
            "teacher": MODEL,
            "evaluator": {**MODEL, "model": "e", "reported_as": "m"},
        }
        names = sorted(str(path) for path in (ROOT / "prompts").glob("evol_*.txt"))
        return generate_evol, ["--seeds", str(seeds), "--prompts", *names], {**recipe, **common}
    if name == "orca":
        recipe = {"quotas": {"cot": 12}, "rows_per_task": 12, "teacher": MODEL}
        return (
            generate_orca,
            ["--flan", str(flan), "--prompts", *prompts("orca_system_messages.yaml")],
            {**recipe, **common},
        )
    recipe = {
        "attempts": 3,
        "max_unrated_share": 1.0,
        "rater": MODEL,
        "teacher": "m",
        "second_rater": {**MODEL, "model": "s", "reported_as": "m"},
    }
    return (
        filter_rows,
        ["--data", str(rows), "--prompts", *prompts("filter.txt")],
        {**recipe, **common},
    )


def run(program: Any, inputs: list[str], recipe: dict[str, Any], folder: Path, *more: str) -> None:
    out = [
        part
        for name, end in (
            ("store", "s.sqlite"),
            ("rows", "r.jsonl"),
            ("counts", "c.json"),
            ("receipt", "t.json"),
        )
        for part in (f"--{name}", str(folder / end))
    ]
    program.main(
        [
            *inputs,
            *out,
            "--recipe",
            json.dumps(recipe),
            "--code",
            "c",
            "--concurrency",
            "4",
            "--mode",
            "online",
            *more,
        ]
    )


@pytest.mark.parametrize("name", ["lamini", "evol", "orca", "filter"])
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    parts=st.sampled_from([1, 3, 8]),
    order=st.randoms(use_true_random=False),
    kills=st.lists(st.integers(0, 9), max_size=6),
)
def test_shards_in_any_order_killed_and_resumed_write_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, name: str, parts: int, order: random.Random, kills: list[int]
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        whole, sharded = Path(place, "whole"), Path(place, "sharded")
        whole.mkdir()
        sharded.mkdir()
        network = Network(monkeypatch)
        program, inputs, recipe = stage(name, Path(place))
        run(program, inputs, recipe, whole)
        once, network.sent = network.sent, 0
        for limit in [
            *kills,
            *[10**9] * 40,
        ]:  # every pass of all shards asks at least one generation of requests
            numbers = list(range(1, parts + 1))
            order.shuffle(numbers)
            before = network.sent
            for number in numbers:
                network.left = limit
                try:
                    run(program, inputs, recipe, sharded, "--shard", f"{number}/{parts}")
                except Killed:
                    assert not (sharded / "r.jsonl").exists()
            if limit == 10**9 and network.sent == before:
                break
        assert network.sent == once, "no request is asked twice, none is left"
        assert not (sharded / "r.jsonl").exists(), "a shard writes its store and nothing else"
        run(program, inputs, recipe, sharded)
        assert network.sent == once
        for end in ("r.jsonl", "c.json"):
            assert (sharded / end).read_bytes() == (whole / end).read_bytes()
        assert len(read_jsonl(whole / "r.jsonl")) >= 5


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1/0", "1/3/3", "-1/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected k/n with 1 <= k <= n"):
        shard_of_text(text)


@pytest.mark.parametrize("name", ["lamini", "evol"])
def test_shards_at_once_wait_for_what_follows_from_each_others_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(shards, "POLL_S", 0.02)
    network = Network(monkeypatch)
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    whole.mkdir()
    shared.mkdir()
    program, inputs, recipe = stage(name, tmp_path)
    run(program, inputs, recipe, whole)
    once, network.sent = network.sent, 0
    at_once = [
        threading.Thread(
            target=run, args=(program, inputs, recipe, shared, "--shard", f"{k}/3", "--wait", "20")
        )
        for k in (1, 2, 3)
    ]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    assert network.sent == once, "all of it, without another start of any shard"
    run(program, inputs, recipe, shared)
    assert network.sent == once
    assert (shared / "r.jsonl").read_bytes() == (whole / "r.jsonl").read_bytes()


def test_a_shards_store_needs_no_memory_that_its_readers_share(tmp_path: Path) -> None:
    job = tmp_path / "job.sqlite"
    path = tmp_path / "job.shard-1-of-2.sqlite"
    writer, reader = Store(path), Store(path)
    before = shards.change(job, (2, 2))
    for number in range(3):
        writer.put([Entry(f"{number}", {}, {"text": "x"})])
        assert reader.get(f"{number}") == {"text": "x"}
        assert [found.name for found in tmp_path.iterdir()] == [path.name], "no log beside it"
    assert shards.change(job, (2, 2)) != before
    assert shards.change(job, (1, 2)) == [], "what a shard stores itself is no other's answer"
    reader.close()
    writer.close()


def test_a_shard_that_is_alone_ends_after_its_patience(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shards, "POLL_S", 0.02)
    network = Network(monkeypatch)
    program, inputs, recipe = stage("evol", tmp_path)
    run(program, inputs, recipe, tmp_path, "--shard", "2/3", "--wait", "0.2")
    assert "shard 2/3 waits for" in capsys.readouterr().out and network.sent > 0


@pytest.mark.parametrize("looks", [1, 3])
def test_a_waiting_shard_asks_what_failed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, looks: int
) -> None:
    """However often it looks whether other shards have answers."""
    monkeypatch.setattr(shards, "POLL_S", 0.02)
    network, wait_for_others = Network(monkeypatch, refuses=True), schemes.wait_for_others
    seen: list[Any] = []

    def wait(*arguments: Any) -> bool:
        seen.append(arguments)
        return len(seen) < looks or wait_for_others(*arguments)

    monkeypatch.setattr(schemes, "wait_for_others", wait)
    program, inputs, recipe = stage("orca", tmp_path)
    recipe["max_failure_share"] = 1.0
    run(program, inputs, recipe, tmp_path, "--shard", "2/3", "--wait", "0.1")
    assert len(seen) == looks
    assert set(network.asked.values()) == {1}
    run(program, inputs, recipe, tmp_path, "--shard", "2/3")
    assert sorted(network.asked.values())[-2:] == [1, 2], "once a process"


def test_a_shard_leaves_no_log_beside_the_jobs_own_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Shards run on several machines, which share no memory; what a killed job has left in its log
    is read all the same.
    """
    network = Network(monkeypatch)
    program, inputs, recipe = stage("orca", tmp_path)
    run(program, inputs, recipe, tmp_path)
    once, get_many, beside = network.sent, Store.get_many, set[str]()

    def get(store: Store, keys: Any) -> dict[str, dict[str, Any]]:
        beside.update(path.name for path in tmp_path.glob("s.sqlite-*"))
        return get_many(store, keys)

    monkeypatch.setattr(Store, "get_many", get)
    run(program, inputs, recipe, tmp_path, "--shard", "1/1")
    assert (network.sent, beside) == (once, set())
    killed = Store(tmp_path / "s.sqlite")
    rows = list(killed.rows())
    killed.forget(row[0] for row in rows)
    killed.put_rows(rows)
    run(program, inputs, recipe, tmp_path, "--shard", "1/1")
    assert network.sent == once and beside
    killed.close()


@pytest.mark.parametrize("name", ["evol", "orca"])
def test_a_shard_asks_nothing_that_any_store_of_the_job_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Of two shards one ran; the last job asked the rest, and later there are three."""
    network = Network(monkeypatch)
    program, inputs, recipe = stage(name, tmp_path)
    run(program, inputs, recipe, tmp_path, "--shard", "1/2")
    run(program, inputs, recipe, tmp_path)
    once = network.sent
    for shard in ("1/2", "2/2", "1/3", "2/3", "3/3"):
        run(program, inputs, recipe, tmp_path, "--shard", shard)
        run(program, inputs, recipe, tmp_path, "--shard", shard, "--mode", "replay")
    assert network.sent == once


def test_a_shard_asks_again_what_failed_in_another_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = Network(monkeypatch)
    program, inputs, recipe = stage("orca", tmp_path)
    recipe["max_failure_share"] = 1.0
    run(program, inputs, recipe, tmp_path)
    once = network.sent
    store = Store(tmp_path / "s.sqlite")
    rows = list(store.rows())
    store.forget(row[0] for row in rows)
    lost = {"state": "refused", "text": "", "usage": {}, "model": "m"}
    store.put([Entry(row[0], json.loads(row[1]), lost) for row in rows])
    store.close()
    for shard in ("1/2", "2/2"):
        run(program, inputs, recipe, tmp_path, "--shard", shard)
    assert network.sent == 2 * once


def test_only_the_missing_shard_is_asked_by_the_run_that_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = Network(monkeypatch)
    program, inputs, recipe = stage("orca", tmp_path)
    run(program, inputs, recipe, tmp_path, "--shard", "2/3")
    asked = network.sent
    run(program, inputs, recipe, tmp_path)
    assert 0 < asked < network.sent == 12
