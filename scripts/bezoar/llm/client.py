"""Language models as the stages ask them: teacher, filter and judge.

Every row ends in exactly one state: answered; refused (by the model, or by the provider's content
filter); truncated (at max_tokens, or in the middle of its reasoning); unparsable (nothing in it,
not what was asked for to the last re-ask, or ended by something other than an answer);
provider_error (also an answer under another model's id); over_budget. Faults that may pass are
retried. A request that the server refuses by itself, or that failed at every try, is stored, so
that a replay agrees, and asked again by the next run, as is every answer without a text; settings,
key, model or address that the server refuses end the stage with one line, and nothing is stored.

From the environment: BEZOAR_MODE (online; batch; replay, which sends nothing and names the row
whose answer is missing) and BEZOAR_BUDGET_USD, which is reserved before each call and shared by all
jobs of a results folder.

The parts: `settings` (a model's settings, and the request they make), `protocol` (bodies and
responses), `connection` and `transport` (the official SDKs), `faults` (whom a fault concerns),
`limits`, `budget`, `answer_store`, `exchange` with `online` and `batch_run` (the two ways of
sending), and `stored_model`, which puts them together. `language_model.LanguageModel` is the
protocol that everything which answers has.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from bezoar.llm.language_model import Answer, LanguageModel
from bezoar.llm.settings import Messages, ModelSpec
from bezoar.llm.shards import ShardedModel
from bezoar.llm.stored_model import StoredModel

T = TypeVar("T")
ASKED_AGAIN = ("answered", "refused", "truncated", "unparsable")


class LLMClient:
    """Context manager around a `LanguageModel`; `ask` takes lists of chat messages and returns
    their answers in the same order. `states` and `usage` count rows, `unnamed` those whose server
    did not say which model answered; `store` is the job's own file of answers, if it has one.
    """

    def __init__(self, model: LanguageModel, store: Path | None = None) -> None:
        self.model, self.store = model, store
        self.states: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self.unnamed = 0
        self._used_beside: dict[str, float] = {}

    @classmethod
    def of(
        cls,
        settings: ModelSpec | Mapping[str, Any],
        store: Path,
        concurrency: int,
        facts: Path | None,
        mode: str | None = None,
        shard: tuple[int, int] | None = None,
        asked_again: set[str] | None = None,
    ) -> "LLMClient":
        """Return a client of one model of a job: of all its requests, or of one shard of them.
        `store` is the job's own file of answers; `facts` are those of the rehearsal's world;
        `asked_again` is as of a `StoredModel`.
        """
        read = ModelSpec.of(settings)
        if shard:
            sharded = ShardedModel(read, store, concurrency, facts, mode, shard, asked_again)
            return cls(sharded, store)
        return cls(StoredModel(read, store, concurrency, facts, mode, asked_again), store)

    def __enter__(self) -> "LLMClient":
        self.model.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.model.close()

    @property
    def settings(self) -> ModelSpec:
        """What model it is."""
        return self.model.settings

    @property
    def sent(self) -> int:
        """How many calls were sent."""
        return self.model.sent

    @property
    def usd(self) -> float:
        """What they were charged."""
        return self.model.usd

    def remedy(self, unread: bool) -> str:
        """Return what to do about answers that a stage cannot use; `unread`: some have a text, so
        that they are stored for good.
        """
        if not unread:
            return "run again; answers are kept"
        return (
            f"correct the settings of {self.settings.model} and run again, or correct its server,"
            f" `make forget STORE={shlex.quote(str(self.store or 'file'))}` and run again"
        )

    def ask(
        self,
        prompts: list[Messages],
        names: list[str],
        attempt: int = 0,
        schema: dict[str, Any] | None = None,
    ) -> list[Answer]:
        """Return one answer a prompt, in order. `names` say which rows they are, for errors;
        `attempt` tells re-asks apart.
        """
        answers = self.model.answers(prompts, names, attempt, schema)
        self._count(answers)
        return answers

    def ask_until(
        self,
        prompts: list[Messages],
        names: list[str],
        parse: Callable[[str], T | None],
        attempts: int,
        schema: dict[str, Any] | None = None,
    ) -> list[tuple[T | None, Answer]]:
        """Ask each prompt until `parse(text)` is not None, at most `attempts` times; return (parsed
        or None, last answer).

        A row that is never parsed is `unparsable`. A row that the provider failed is not asked
        under another attempt: it would fail the same way, or the next run asks it again. `schema`
        is what a server with `json_schema` holds its answers to; the parser stays as strict.
        """
        results: list[tuple[T | None, Answer]] = [(None, Answer("unparsable", "", {}, ""))] * len(
            prompts
        )
        open_rows = list(range(len(prompts)))
        for attempt in range(attempts):
            answers = self.model.answers(
                [prompts[i] for i in open_rows], [names[i] for i in open_rows], attempt, schema
            )
            for i, answer in zip(open_rows, answers, strict=True):
                parsed = parse(answer.text) if answer.state == "answered" else None
                lost = parsed is None and answer.state == "answered"
                results[i] = (parsed, replace(answer, state="unparsable") if lost else answer)
            open_rows = [
                i for i in open_rows if results[i][0] is None and results[i][1].state in ASKED_AGAIN
            ]
            if not open_rows:
                break
        self._count([answer for _, answer in results])
        return results

    def facts_for_receipt(self) -> dict[str, Any]:
        """Return states and tokens of rows, calls that this process sent and USD charged for them,
        and number and price of the answers used, for the stage's receipt; and how many answers no
        model was named with, if any.
        """
        unnamed = {"unnamed": self.unnamed} if self.unnamed else {}
        beside = self._used_beside
        used = {name: round(n + beside.get(name, 0), 6) for name, n in self.model.used().items()}
        return unnamed | {
            "states": self.counts(),
            "tokens": dict(sorted(self.usage.items())),
            "sent": self.sent,
            "usd": round(self.usd, 6),
            "answers_used": used,
            "mode": self.model.mode,
        }

    def count_in(self, other: "LLMClient") -> None:
        """Count what a stage's other model answered among the answers used."""
        for name, number in other.model.used().items():
            self._used_beside[name] = self._used_beside.get(name, 0) + number

    def counts(self) -> dict[str, int]:
        """Return how many rows ended in each state that occurred."""
        return dict(sorted(self.states.items()))

    def _count(self, answers: list[Answer]) -> None:
        self.states.update(answer.state for answer in answers)
        self.unnamed += sum(answer.usable and not answer.model for answer in answers)
        for answer in answers:
            for kind, tokens in answer.usage.items():
                self.usage[kind] += tokens
