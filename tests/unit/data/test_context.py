"""Promises of long inputs: what the teacher has no room for is dropped by rule and counted before
the quotas are filled, and the stage goes on.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from provider_rules import KEY, Providers
from scripted import SETTINGS, Scripted
from tokenizers import Tokenizer, models, pre_tokenizers

import generate_evol
import generate_orca
import plan_requests
import stream_flan
from bezoar.data import flan
from bezoar.data.context import SPARE, Context, read_tokenizer
from bezoar.data.schemes import prompt_texts
from bezoar.errors import UserError
from bezoar.files import write_jsonl
from bezoar.llm.client import LLMClient

ROOT = Path(__file__).parents[3]
MESSAGES = yaml.safe_load((ROOT / "prompts" / "orca_system_messages.yaml").read_text())
LIMITS: dict[str, Any] = {"context": 200, "max_tokens": 50, "prompt_form": "<|prompt|>%s<|end|>"}
RECIPE = {"quotas": {"t0": 30}, "rows_per_task": 12, "max_failure_share": 0.0, "seed": 0}


def row(number: int, words: int) -> dict[str, Any]:
    return {
        "inputs": " ".join(f"w{number}x{i}" for i in range(words)),
        "targets": "gold",
        "task_source": "T0",
        "task_name": f"task {number % 4}",
        "template_type": "zs_noopt",
    }


ROWS = [row(i, 400 if i % 5 == 0 else 20) for i in range(200)]  # one in five is too long


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer to which a word is a token."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:66\n", "found a Git LFS pointer"),
        ('{"version": "1.0"}', r"expected a tokenizer\.json \(.+\); fetch it again"),
        (None, "no such file"),
    ],
)
def test_a_file_that_holds_no_tokenizer_is_one_line(
    tmp_path: Path, content: str | None, found: str
) -> None:
    path = tmp_path / "m" / "tokenizer.json"
    path.parent.mkdir()
    if content is not None:
        path.write_text(content)
    for read in (read_tokenizer, lambda path: Context(**LIMITS, tokenizer=path)):
        with pytest.raises(UserError, match=rf"^{path}: .*{found}"):
            read(path)
    if content is not None:
        with pytest.raises(UserError, match=found):
            plan_requests.counter(path)


def test_a_disk_that_fails_is_not_the_tokenizers_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: str) -> None:
        raise RuntimeError("Input/output error (os error 5)")

    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setattr("tokenizers.Tokenizer", SimpleNamespace(from_file=failing))
    with pytest.raises(RuntimeError, match="os error 5"):
        read_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(("count", "fits"), [(120, True), (142, True), (143, False)])
def test_prompt_and_longest_answer_must_fit_to_the_token(
    words: Path, count: int, fits: bool
) -> None:
    """200 tokens less an answer of 50 and `SPARE` are 142."""
    assert LIMITS["context"] - LIMITS["max_tokens"] - SPARE == 142
    context = Context(**{**LIMITS, "prompt_form": "%s"}, tokenizer=words)
    assert context.fits("", " ".join(["word"] * count)) is fits
    assert context.fits("word " * 20, " ".join(["word"] * (count - 20))) is fits


def test_without_a_limit_everything_fits_and_without_a_tokenizer_words_are_counted() -> None:
    assert Context().fits("word " * 10**6)
    context = Context(**LIMITS)
    assert context.fits(" ".join(["word"] * 106)) and not context.fits(" ".join(["word"] * 107))
    assert not Context(**{**LIMITS, "prompt_form": "form " * 90 + "%s"}).fits("word " * 30)


def long(rows: list[dict[str, Any]]) -> int:
    return sum(len(row["inputs"].split()) > 100 for row in rows)


def test_other_rows_take_the_place_of_those_that_do_not_fit(tmp_path: Path, words: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    client = Scripted(lambda prompt, _: "so")
    client.model.settings = replace(SETTINGS, **LIMITS)
    made, funnel = generate_orca.make(
        client, [tmp_path / "rows.jsonl"], MESSAGES, RECIPE, tokenizer=words
    )
    assert len(made) == funnel.left["kept"] == 30 and long(made) == 0, "the quota is filled"
    assert len(client.asked) == 30 and funnel.left["no_response"] == 0
    assert 0 < funnel.left["too_long"] < 40
    assert funnel.entered == len(ROWS) == sum(funnel.left.values())
    free, funnel = generate_orca.make(
        Scripted(lambda prompt, _: "so"), [tmp_path / "rows.jsonl"], MESSAGES, RECIPE
    )
    assert long(free) > 0 and funnel.left["too_long"] == 0


@pytest.mark.parametrize("batch", [7, 50, 10_000])
def test_a_streamed_submix_drops_and_counts_the_same_rows_in_any_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Path, batch: int
) -> None:
    monkeypatch.setattr(stream_flan, "BATCH", batch)
    room = Context(**LIMITS, tokenizer=words).fits
    fits = flan.fitting(room, MESSAGES, RECIPE["seed"])
    kept, counts = stream_flan.select(ROWS, RECIPE, fits)
    write_jsonl(tmp_path / "whole.jsonl", ROWS)
    client = Scripted(lambda prompt, _: "so")
    client.model.settings = replace(SETTINGS, **LIMITS)
    _, funnel = generate_orca.make(
        client, [tmp_path / "whole.jsonl"], MESSAGES, RECIPE, tokenizer=words
    )
    assert len(kept) == 30 and long(kept) == 0
    assert counts["too_long"] == funnel.left["too_long"]
    assert counts["over_quota"] == funnel.left["over_quota"]
    assert counts["read"] == len(ROWS)


def test_evolutions_that_do_not_fit_are_not_asked_and_their_parents_stay(words: Path) -> None:
    texts = prompt_texts((ROOT / "prompts").glob("evol_*.txt"), {})
    overhead = max(len(texts[name].split()) for name in ("evol_in_depth", "evol_in_breadth"))
    limits = {**LIMITS, "context": overhead + 400}
    pool = {"qa": {1: "Why is it so?", 2: " ".join(["word"] * 500), 3: "How is it made?"}}
    recipe = {"epochs": 1, "seed": 0, "strategy_draw": "pool", "breadth_share": 0.5}
    recipe |= {"complicate_input": False, "evaluator_attempts": 1, "max_failure_share": 0.0}

    def say(prompt: str, attempt: int) -> str:
        return "Say why and how, please." if "nstruction" in prompt else "word " * 30

    client = Scripted(say)
    client.model.settings = replace(SETTINGS, **limits)
    evaluator = Scripted(lambda prompt, _: "Different")
    rows, funnel = generate_evol.evolve(client, evaluator, texts, pool, recipe, words)
    assert funnel.left["too_long"] == 1 and funnel.entered == 3 and len(rows) == 2
    assert all("word word" not in prompt for prompt, _ in client.asked)
    assert pool["qa"][2].startswith("word"), "the parent stays"


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Providers]:
    running = Providers(context=200)
    monkeypatch.setenv("TEACHER_BASE_URL", f"{running.url}/vllm/v1")
    monkeypatch.setenv("TEACHER_API_KEY", KEY)
    yield running
    running.stop()


@pytest.mark.parametrize("known", [True, False])
def test_a_teacher_that_refuses_long_prompts_refuses_none_of_a_run(
    tmp_path: Path, providers: Providers, words: Path, known: bool
) -> None:
    """`known`: the configuration states the context. Without it the stage fails, as it used to."""
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    settings = {
        **{"provider": "openai", "api": "completions", "model": "teacher", "revision": None},
        **{"base_url_env": "TEACHER_BASE_URL", "api_key_env": "TEACHER_API_KEY", "stop": []},
        **{"temperature": 0.8, "timeout_s": 10, **LIMITS},
        "context": LIMITS["context"] if known else None,
    }
    with LLMClient.of(settings, tmp_path / "s.sqlite", 4, None, "online") as client:
        arguments = (client, [tmp_path / "rows.jsonl"], MESSAGES, RECIPE)
        if known:
            made, funnel = generate_orca.make(*arguments, tokenizer=words)
            assert len(made) == 30 and client.counts() == {"answered": 30}
            assert funnel.left["too_long"] > 0
        else:
            with pytest.raises(Exception, match="maximum context length is 200 tokens"):
                generate_orca.make(*arguments)


def test_the_papers_teacher_has_its_context_and_the_recipe_of_a_stream_knows_it() -> None:
    from bezoar.workflow import recipes
    from bezoar.workflow.configuration import resolved
    from bezoar.workflow.layout import Layout

    config = resolved([str(ROOT / "config" / "paper.yaml")])
    assert config["teacher"]["context"] == 2048
    teacher = recipes.flan(Layout(config))["teacher"]
    assert teacher.keys() == {"context", "max_tokens", "prompt_form"}, "nothing else of it"
    config["teacher"]["context"] = None
    assert set(recipes.flan(Layout(config))["teacher"].values()) == {None}
