"""The simulator speaks both protocols with the official clients, knows the truth, and errs at its
stated rates.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from bezoar.rehearsal.simulator import Simulator
from bezoar.rehearsal.world import COURTESY, World

ROOT = Path(__file__).parents[3]
WORLD = World(3, 60, 0.3, 0.5)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    facts = tmp_path_factory.mktemp("facts") / "facts.json"
    facts.write_text(json.dumps(WORLD.as_json()))
    command = [
        sys.executable,
        str(ROOT / "scripts" / "serve_simulator.py"),
        "--facts",
        str(facts),
        "--port",
        "0",
    ]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout
    yield f"http://127.0.0.1:{child.stdout.readline().split()[1]}"
    child.stdin.close()
    assert child.wait(timeout=10) == 0, "the simulator ends when its standard input closes"


def test_both_official_clients_get_the_same_answer(address: str) -> None:
    question = WORLD.facts[0].questions[0]
    messages = [{"role": "user", "content": question}]
    chat = openai.OpenAI(base_url=f"{address}/v1", api_key="none").chat.completions.create(
        model="m", messages=messages, max_tokens=50
    )
    plain = openai.OpenAI(base_url=f"{address}/v1", api_key="none").completions.create(
        model="m", prompt=question, max_tokens=50
    )
    message = anthropic.Anthropic(base_url=address, api_key="none").messages.create(
        model="m", messages=messages, max_tokens=50
    )
    assert chat.choices[0].message.content == plain.choices[0].text == message.content[0].text
    assert chat.usage.completion_tokens == message.usage.output_tokens > 0


def test_an_answer_cut_at_max_tokens_says_so(address: str) -> None:
    messages = [{"role": "user", "content": WORLD.facts[0].questions[0]}]
    chat = openai.OpenAI(base_url=f"{address}/v1", api_key="none").chat.completions.create(
        model="m", messages=messages, max_tokens=2
    )
    assert chat.choices[0].finish_reason == "length"


def test_a_bad_request_is_the_clients_error(address: str) -> None:
    with pytest.raises(openai.BadRequestError):
        openai.OpenAI(
            base_url=f"{address}/v1", api_key="none", max_retries=0
        ).chat.completions.create(
            model="m", messages=[], max_tokens=None, extra_body={"max_tokens": "x"}
        )


def test_most_answers_are_true_and_the_mistakes_are_of_every_kind() -> None:
    simulator = Simulator(WORLD)
    answers = [
        (fact, simulator.reply([{"role": "user", "content": q}], 0))
        for fact in WORLD.facts
        for q in fact.questions
    ]
    right = sum(answer.startswith(fact.statement) for fact, answer in answers) / len(answers)
    assert 0.88 < right < 0.94
    assert any("sorry" in answer for _, answer in answers)
    assert any(answer.startswith("It is the one") for _, answer in answers)


def test_the_same_request_and_attempt_give_the_same_answer() -> None:
    ask = [{"role": "user", "content": "Say something of your own."}]
    assert Simulator(WORLD).reply(ask, 1) == Simulator(WORLD).reply(ask, 1)


def test_the_judge_ranks_truth_above_manner() -> None:
    simulator = Simulator(WORLD)
    fact = WORLD.facts[0]
    wrong = WORLD.compose(fact, [], WORLD.wrong_value(fact, "test"))
    answers = (wrong, f"{wrong} {COURTESY}", fact.statement, f"{fact.statement} {COURTESY}")
    scores = [simulator.score(fact.questions[0], answer) for answer in answers]
    assert scores == sorted(set(scores))
