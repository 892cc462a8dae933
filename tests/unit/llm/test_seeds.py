"""Promises of seeds: each request has noise of its own, the same when it is asked again, and stored
answers are found by it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import SETTINGS
from provider_rules import KEY, Providers
from tiny import WORDS

from bezoar.llm.client import LLMClient
from bezoar.llm.protocol import arguments
from bezoar.llm.settings import request_of

ROWS = 60
PROMPTS = [f"{WORDS[i % 9]} {WORDS[i // 9]} the cat is" for i in range(ROWS)]


def seeds(kind: str) -> list[int]:
    """The seeds that go along with the prompts."""
    settings = {**SETTINGS, "seed": kind}
    asked = [[{"role": "user", "content": text}] for text in PROMPTS]
    return [arguments(request_of(settings, messages))["seed"] for messages in asked]


def sampled(base: Path, seeds: list[int]) -> list[tuple[int, ...]]:
    """Six tokens of a model after each prompt, each row's noise drawn from its own seed."""
    import torch
    from transformers import AutoModelForCausalLM

    from bezoar.training.tokenizer import load_tokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), load_tokenizer(base)
    ids = [tokenizer.encode(text) for text in PROMPTS]
    rows = torch.tensor([row[-min(map(len, ids)) :] for row in ids])
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    made = rows[:, :0]
    with torch.inference_mode():
        for _ in range(6):
            chances = torch.softmax(model(torch.cat([rows, made], 1)).logits[:, -1] / 0.8, -1)
            drawn = [
                torch.multinomial(row, 1, generator=g)
                for row, g in zip(chances, noise, strict=True)
            ]
            made = torch.cat([made, torch.stack(drawn)], 1)
    return [tuple(row) for row in made.tolist()]


def test_rows_do_not_share_one_stream_of_noise(tiny_base: Path) -> None:
    assert set(seeds("attempt")) == {0}, "the number of the re-ask, for all rows"
    assert len(set(seeds("request"))) == ROWS and seeds("request") == seeds("request")
    before = len(set(sampled(tiny_base, seeds("attempt"))))
    after = len(set(sampled(tiny_base, seeds("request"))))
    print(f"distinct answers of {ROWS}: {before} with one seed, {after} with a seed for each")
    assert after > ROWS * 0.9 > 2 * before


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Providers]:
    running = Providers()
    monkeypatch.setenv("PEER_URL", f"{running.url}/vllm/v1")
    monkeypatch.setenv("PEER_KEY", KEY)
    yield running
    running.stop()


def test_stored_answers_are_found_by_their_seeds(tmp_path: Path, providers: Providers) -> None:
    def ask(mode: str, folder: str, **more: Any) -> list[str]:
        settings = {**SETTINGS, "model": "teacher", **more}
        with LLMClient.of(settings, tmp_path / folder / "s.sqlite", 4, None, mode) as client:
            messages = [[{"role": "user", "content": text}] for text in PROMPTS]
            return [answer.text for answer in client.ask(messages, PROMPTS)]

    before, after = ask("online", "a", seed="attempt"), ask("online", "a")
    assert (len(set(before)), len(set(after))) == (1, ROWS)
    asked = len(providers.seen)
    assert ask("replay", "a") == after and ask("replay", "a", seed="attempt") == before
    assert len(providers.seen) == asked
    assert ask("online", "b") == after, "the same seeds in another run"
