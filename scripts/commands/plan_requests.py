"""Say what a configuration will take before anything is sent or computed: requests, tokens, money
and disk of what is pending; memory, hours and GPUs of what is computed.

Usage: plan_requests.py --config config/paper.yaml [more.yaml …] \\
           [--model DIRECTORY|owner/name [--revision …] [--template …] [--name …]]

With --model it is the evaluation of that model that is planned (`make evaluate`), else a whole run.
Which jobs ask which model, and with which store, is `bezoar.workflow.layout`'s to say.

Each stage's own code runs against a client that sends nothing: a request whose answer is stored is
no longer pending, any other gets a stand-in of the assumed length, on which the next stage builds.
An input that is not there yet gets one, too, and is marked `assumed`. Tokens in are counted with
the teacher's tokenizer once that is fetched, of other models as 4 bytes a token: GPT-4's tokenizer
takes 4.4 on average and 2.8 to 5.6 in 90 of 100 texts (measured on our prompts, MT-Bench and
Self-Instruct's seeds). A rehearsal's world is made as the run makes it, and the simulator answers
as it will, so that its plan is exact from the start. Low: half the assumed answers, no re-asks.
High: every answer as long as it may be, every re-ask and round used. Prices: config/prices.yaml,
with their dates.
"""

import argparse
import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import generate_evol
import generate_lamini
import generate_orca
import judge_mtbench
import make_world
from bezoar import program
from bezoar.data.context import read_tokenizer
from bezoar.data.flan import system_messages
from bezoar.data.schemes import prompt_texts, second_store, user
from bezoar.data.verdicts import PROMPTS, VERDICT, rater_prompt, verdict
from bezoar.evaluation.mtbench import (
    corrected,
    override,
    read_judge_prompts,
    read_questions,
    read_references,
)
from bezoar.llm.answer_store import Store
from bezoar.llm.budget import LEDGER, Ledger, budget_of_environment, price_of, prices_file
from bezoar.llm.client import LLMClient
from bezoar.llm.language_model import Answer
from bezoar.llm.model_ends import listed_end, warning
from bezoar.llm.protocol import seed_of
from bezoar.llm.settings import Messages, ModelSpec, Request, request_of
from bezoar.llm.shards import stores_with
from bezoar.llm.stored_model import checked, final, keys_of
from bezoar.provenance.audit import read_receipts
from bezoar.readers import column, read_json, read_jsonl, read_lines, read_yaml, read_yaml_entries
from bezoar.rehearsal.simulator import Simulator
from bezoar.rehearsal.world import World
from bezoar.surroundings import own
from bezoar.workflow import cluster, configuration, dress_rehearsal, extra_models, resources
from bezoar.workflow.layout import OVERRIDES, LanguageModelJob, Layout

BYTES_PER_TOKEN = 4
OUT = {  # tokens out [ours], until answers tell
    "list": 600,
    "response": 200,
    "instruction": 60,
    "evaluator": 2,
    "verdict": 45,
    "judgment": 180,
}
THOUGHT = 500  # and what a model with an effort thinks before, which counts as output [ours]
STAND_IN_VERDICT = '{"status": "Accept", "rating": 9, "reason": "a stand-in"}'


def filler(seed: str, tokens: int) -> str:
    """Return a text of about so many tokens whose words occur in no other."""
    words = [
        hashlib.sha256(f"{seed} {i}".encode()).hexdigest()[:6]
        for i in range(max(1, tokens * BYTES_PER_TOKEN // 7))
    ]
    return " ".join(words)


@dataclass
class Load:
    """The pending requests of one stage and one model, in tokens; `low` and `high` are tokens
    out.
    """

    settings: ModelSpec
    assumed: bool = False
    requests: int = 0
    stored: int = 0
    tokens_in: int = 0
    out: dict[str, float] = field(
        default_factory=lambda: {"low": 0.0, "expected": 0.0, "high": 0.0}
    )
    most_asks: float = 1.0  # how often a request is sent at most

    def money(self, case: str, via: str) -> float | None:
        """Return USD, or None if the model has no price."""
        price = price_of(self.settings.model)
        asks = self.most_asks if case == "high" else 1.0
        return (
            None
            if price is None
            else asks
            * price.of(
                self.tokens_in, self.out[case], via if self.settings.use_batch_api else "online"
            )
        )


class Planner:
    """A `LanguageModel` that sends nothing: it counts what is not stored, and answers with
    stand-ins of `say(prompt)`, a text and what kind of answer it is.
    """

    mode, sent, usd = "replay", 0, 0.0

    def __init__(
        self,
        load: Load,
        store: Path,
        count: Callable[[str], int],
        say: Callable[[str], tuple[str, str]],
        simulator: Simulator | None = None,
    ) -> None:
        self.settings = load.settings
        self.load, self.count, self.say = load, count, say
        self.simulator = simulator
        self.seen: set[str] = set()
        self.stores = [Store(path, to_read=True) for path in stores_with(store)]

    def open(self) -> None:
        """Nothing is opened."""

    def used(self) -> dict[str, float]:
        """Return nothing: nothing is paid for."""
        return {}

    def close(self) -> None:
        """Close the stores."""
        for store in self.stores:
            store.close()

    def answers(
        self, prompts: list[Messages], names: list[str], attempt: int, schema: dict[str, Any] | None
    ) -> list[Answer]:
        """Return stored answers and stand-ins, in order."""
        requests = [request_of(self.settings, prompt, attempt, schema) for prompt in prompts]
        keys = keys_of(requests, names)
        known = {
            key: answer
            for store in self.stores
            for key, answer in store.get_many(keys).items()
            if final(answer, self.settings)
        }
        self.load.stored += len(known)
        return [
            checked(known[key], self.settings) if key in known else self._pend(key, request)
            for key, request in zip(keys, requests, strict=True)
        ]

    def _pend(self, key: str, request: Request) -> Answer:
        text, kind = self.say(request["messages"][-1]["content"])
        if key not in self.seen:
            self.seen.add(key)
            thinks = self.settings.effort not in (None, "none")
            expected = OUT[kind] + (THOUGHT if thinks else 0)
            most = request["max_tokens"] or expected
            self.load.requests += 1
            self.load.tokens_in += self.count(
                "\n".join(message["content"] for message in request["messages"])
                + (request["prompt_form"] or "")
            )
            for case, tokens in {"low": expected / 2, "expected": expected, "high": most}.items():
                self.load.out[case] += min(tokens, most)
        if self.simulator and self.settings.provider == "simulator":
            model, words = request["model"], self.settings.max_tokens
            text = self.simulator.reply(request["messages"], seed_of(request) or 0, model)
            if words and len(cut := text.split(" ")) > words:
                return Answer("truncated", " ".join(cut[:words]), {}, model)
        return Answer("answered", text, {}, self.settings.model)


def counter(path: Path | None) -> Callable[[str], int]:
    """Return a function that counts tokens: a tokenizer.json's, or without one so many bytes."""
    if path is None:
        return lambda text: -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)
    tokenizer = read_tokenizer(path)
    return lambda text: len(tokenizer.encode(text).ids)


class Plan:
    """All stages of one configuration, in order; `loads` is stage -> what is pending.

    `scratch` is a directory for the rehearsal's world, if it is not there yet. With `evaluation`
    only the extra models' judgments are planned.
    """

    def __init__(self, config: dict[str, Any], scratch: Path, evaluation: bool = False) -> None:
        self.layout, self.evaluation = Layout(config), evaluation
        self.config = self.layout.config
        self.results = Path(self.layout.results)
        self.loads: dict[str, Load] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.world = World(**made) if (made := self.make_world(scratch)) else None
        self.simulator = Simulator(self.world) if self.world else None

    def make_world(self, scratch: Path) -> dict[str, Any] | None:
        """Make the world's files as the run will, but for the text that only pretraining reads;
        return the world's facts, or None where there is no world.
        """
        if not self.config["world"]:
            self.made = self.results / "world"
            return None
        recipe = {**self.config["world"], "seed": self.config["seed"], "documents": 0}
        keys = ("seed", "people", "held_out_share", "held_out_skill_share")
        world = World(**{key: recipe[key] for key in keys})
        messages = system_messages(Path("prompts/orca_system_messages.yaml"))
        template = read_json(Path("prompts/chat_template.json"))
        self.made = scratch
        make_world.make(world, scratch, scratch, recipe, messages, template)
        return world.as_json()

    def paths(self, name: str) -> list[Path]:
        """Return the files of an input, or nothing unless all are there."""
        if name == "flan":
            places = self.layout.flan_files()
        else:
            places = [place] if (place := self.layout.source(name)) else []
        below = f"{self.results}/world/"
        found = [
            self.made / place.removeprefix(below) if place.startswith(below) else Path(place)
            for place in places
        ]
        return found if all(path.is_file() for path in found) else []

    def tokenizer(self, model: str) -> Path | None:
        """Return the tokenizer.json of a model, if it is the teacher and the file is there."""
        known = self.paths("teacher_tokenizer") if model == self.config["teacher"]["model"] else []
        return known[0] if known else None

    def job(self, stage: str) -> LanguageModelJob:
        """Return the job of the DAG that a stage's receipt is named after."""
        return next(job for job in self.layout.language_model_jobs() if job.stage == stage)

    def client(
        self,
        stage: str,
        job: LanguageModelJob,
        say: Callable[[str], tuple[str, str]],
        assumed: bool,
        role: str = "",
    ) -> tuple[LLMClient, Load]:
        """Return a client of a job's model, or of its second one of that role, that counts under
        `stage`; and what it counts.
        """
        settings = job.second[role] if role else job.settings
        load = self.loads.setdefault(stage, Load(ModelSpec.of(settings), assumed))
        load.assumed |= assumed
        store = Path(job.store)
        planner = Planner(
            load,
            second_store(store, role) if role else store,
            counter(self.tokenizer(load.settings.model)),
            say,
            self.simulator,
        )
        return LLMClient(planner), load

    def whole(self) -> None:
        """Plan every job that the DAG has."""
        with contextlib.redirect_stdout(io.StringIO()):  # the stages' own progress
            if not self.evaluation:
                for scheme in self.layout.generated:
                    getattr(self, scheme)()
                self.filter()
            self.judge()

    def recipe(self, section: str) -> dict[str, Any]:
        """Return a scheme's settings, without a limit on failures."""
        return {
            **self.config["generate"][section],
            "seed": self.config["seed"],
            "max_failure_share": 1.0,
        }

    def lamini(self) -> None:
        """Plan new instructions and their responses."""
        recipe, files, topics = (
            self.recipe("lamini"),
            self.paths("alpaca_seeds"),
            self.paths("topics"),
        )
        seeds = (
            [row["instruction"] for row in read_jsonl(files[0])]
            if files
            else [filler(f"seed {i}", 25) for i in range(175)]
        )
        names = read_lines(topics[0]) if topics else [f"topic {i}" for i in range(100)]

        def say(prompt: str) -> tuple[str, str]:
            if "<example>" not in prompt:
                return filler(prompt, OUT["response"]), "response"
            items = (
                f"<example>{filler(f'{prompt} {i}', 25)}</example>"
                for i in range(recipe["instructions_per_call"])
            )
            return "\n".join(items), "list"

        job = self.job("generate_lamini")
        client, load = self.client("generate lamini", job, say, not (files and topics))
        texts = prompt_texts(Path("prompts").glob("lamini_*.txt"), generate_lamini.PROMPTS)
        self.rows["lamini"], funnel = generate_lamini.make(client, texts, seeds, names, recipe)
        lists, most = funnel.more["asked"], recipe["rounds"] * recipe["calls_per_round"]
        load.most_asks = (most + recipe["rows"]) / max(1, lists + len(self.rows["lamini"]))

    def evol(self) -> None:
        """Plan the evolutions, their comparisons and their responses."""
        recipe, files = self.recipe("evol"), self.paths("dolly")
        rows = (
            generate_evol.read_seeds(files[0])
            if files
            else [
                {"instruction": filler(f"dolly {i}", 60), "category": f"category {i % 8}"}
                for i in range(8 * recipe["seeds_per_category"])
            ]
        )

        def say(prompt: str) -> tuple[str, str]:
            asks = "instruction:" in prompt.lower()
            return filler(prompt, OUT["instruction" if asks else "response"]), (
                "instruction" if asks else "response"
            )

        job, different = self.job("generate_evol"), ("Different", "evaluator")
        client, _ = self.client("generate evol", job, say, not files)
        judge, judge_load = self.client(
            "generate evol: evaluator", job, lambda _: different, not files, "evaluator"
        )
        judge_load.most_asks = recipe["evaluator_attempts"]
        texts = prompt_texts(
            Path("prompts").glob("evol_*.txt"), generate_evol.prompt_fields(recipe)
        )
        known = self.paths("teacher_tokenizer")
        tokenizer = read_tokenizer(known[0]) if known else None
        self.rows["evol"], _ = generate_evol.evolve(
            client,
            judge,
            texts,
            generate_evol.pools(rows, recipe, tokenizer),
            recipe,
            known[0] if known else None,
        )

    def orca(self) -> None:
        """Plan the explanations."""
        recipe, files = self.recipe("orca"), self.paths("flan")
        client, _ = self.client(
            "generate orca",
            self.job("generate_orca"),
            lambda p: (filler(p, OUT["response"]), "response"),
            not files,
        )
        messages = system_messages(Path("prompts/orca_system_messages.yaml"))
        if files:
            known = self.paths("teacher_tokenizer")
            self.rows["orca"], _ = generate_orca.make(
                client, files, messages, recipe, tokenizer=known[0] if known else None
            )
        else:
            asked = [filler(f"flan {i}", 80) for i in range(sum(recipe["quotas"].values()))]
            answers = client.ask(
                [user(text, messages[1 + i % 16]) for i, text in enumerate(asked)], asked
            )
            self.rows["orca"] = [
                {"inputs": text, "explained_targets": answer.text, "system_message": ""}
                for text, answer in zip(asked, answers, strict=True)
            ]

    def filter(self) -> None:
        """Plan the verdicts, on the generated rows or on stand-ins for them."""
        settings, template = (
            self.config["filter"],
            prompt_texts([Path("prompts/filter.txt")], PROMPTS)["filter"],
        )
        for scheme in self.rows:
            path = self.results / "generate" / f"{scheme}.jsonl"
            rows = read_jsonl(path) if path.is_file() else self.rows[scheme]
            job = self.job(f"filter_{scheme}")
            prompts = [user(rater_prompt(template, row)) for row in rows]
            names = [str(i) for i in range(len(rows))]
            for role in ("", *job.second):
                label = f"filter {scheme}{f': {role}' if role else ''}"
                answer = (STAND_IN_VERDICT, "verdict")
                client, load = self.client(
                    label, job, lambda _, a=answer: a, not path.is_file(), role
                )
                load.most_asks = settings["attempts"]
                client.ask_until(prompts, names, verdict, settings["attempts"], VERDICT)

    def judge(self) -> None:
        """Plan the judgments of every model's answers to MT-Bench, in every column."""
        settings, files = self.config["mtbench"]["judgments"], self.paths("mt_bench_questions")
        questions, right = self.questions(files)
        prompts_file = self.paths("mt_bench_judge_prompts") or [Path("prompts/judge_prompts.jsonl")]
        prompts = read_judge_prompts(prompts_file[0])
        models = list(self.layout.extra) if self.evaluation else self.layout.evaluated
        answers = {model: self.answers(model, questions) for model in models}

        def plan(label: str, job: LanguageModelJob, model: str, overrides: list[str]) -> None:
            there, turns = answers[model]
            client, _ = self.client(label, job, lambda _: ("Rating: [[5]]", "judgment"), not there)
            asked, references = questions, right
            if overrides and files:
                references = override(right, Path(overrides[0]))
                asked = corrected(questions, right, references)
            elif overrides:
                asked = questions[: overridden()]
            judge_mtbench.judge(
                client, asked, turns, references, prompts, model, settings["repeats"]
            )

        for model, job in zip(models, self.layout.judging_jobs(models), strict=True):
            plan("judge", job, model, [])
        for other in [] if self.evaluation else self.layout.columns:
            for model in models:
                job = self.job(f"mtbench_rejudge_{other}_{model}")
                plan(f"judge: {other}", job, model, self.layout.overrides(other))

    def questions(self, files: list[Path]) -> tuple[list[dict[str, Any]], dict[int, list[str]]]:
        """Return MT-Bench's questions and reference answers, or stand-ins."""
        questions = (
            read_questions(files[0])
            if files
            else [
                {
                    "question_id": i,
                    "category": "math" if i % 3 == 0 else "writing",
                    "turns": [filler(f"q {i} {t}", 60) for t in "12"],
                }
                for i in range(80)
            ]
        )
        references = self.paths("mt_bench_references")
        return questions, (
            read_references(references[0])
            if references
            else {q["question_id"]: [filler("r", 150)] * 2 for q in questions}
        )

    def answers(
        self, model: str, questions: list[dict[str, Any]]
    ) -> tuple[bool, dict[int, list[str]]]:
        """Return whether a model's answers are there, and both turns by question or stand-ins."""
        path = self.results / "mtbench" / model / "answers.jsonl"
        known = read_references(path) if path.is_file() else {}
        return bool(known), {
            number: known.get(number) or [filler(f"{model} {number} {turn}", 200) for turn in "12"]
            for number in (question["question_id"] for question in questions)
        }


def overridden() -> int:
    """Return how many questions have a corrected reference answer."""
    rows = read_yaml_entries(Path(OVERRIDES), "overrides")
    return len({row["question_id"] for row in rows})


UNSAID = {"tokens_per_second": 0, "gpus": 1}  # of a model whose entry does not say them


def table(plan: Plan, via: str) -> list[str]:
    """Return the lines to print."""
    path = prices_file()
    entries = read_yaml(path)
    width = max(28, *(len(stage) + 3 for stage in plan.loads))
    lines = [
        f"{'stage':{width}}{'pending':>9}{'stored':>8}{'in':>12}{'out':>12}"
        f"{'USD low':>10}{'expected':>10}{'high':>10}{'GPU-h':>8}{'MB':>7}"
    ]
    total = {"low": 0.0, "expected": 0.0, "high": 0.0}
    unpriced: list[str] = []
    for stage, load in plan.loads.items():
        usd = {case: load.money(case, via) for case in total}
        for case, amount in usd.items():
            total[case] += amount or 0.0
        if None in usd.values():
            unpriced.append(stage)
        entry = entries["models"].get(load.settings.model) or {}
        where = f"{path}: {load.settings.model}"
        speed, gpus = (column({**UNSAID, **entry}, name, float, where) for name in UNSAID)
        hours = f"{load.out['expected'] / speed / 3600 * gpus:.1f}" if speed else "-"
        # A store holds the request once, the answer's text twice.
        megabytes = (load.tokens_in + 2 * load.out["expected"]) * BYTES_PER_TOKEN / 1e6
        money = "".join(
            f"{'no price' if amount is None else f'{amount:.2f}':>10}" for amount in usd.values()
        )
        lines.append(
            f"{stage + (' *' if load.assumed else ''):{width}}{load.requests:>9,}{load.stored:>8,}"
            f"{load.tokens_in:>12,}{load.out['expected']:>12,.0f}{money}{hours:>8}{megabytes:>7.0f}"
        )
    lines.append(
        f"{'all':{width}}{'':49}" + "".join(f"{amount:>10.2f}" for amount in total.values())
    )
    if unpriced:
        lines.append(f"all without {', '.join(unpriced)}: add the price of the model to {path}")
    lines.append("* on inputs that are not there yet: stand-ins of assumed number and length")
    for model in dict.fromkeys(load.settings.model for load in plan.loads.values()):
        entry = entries["models"].get(model)
        exact = (
            "its own tokenizer"
            if plan.tokenizer(model)
            else f"{BYTES_PER_TOKEN} bytes a token (texts vary by a third)"
        )
        lines.append(f"{model}: {exact}; {price_line(entry, entries.get('date'))}")
    lines += ends(plan)
    budget = budget_of_environment()
    lines.append(
        f"BUDGET_USD={budget:g}"
        if budget is not None
        else "BUDGET_USD is not set: nothing stops the run"
    )
    ledger = plan.results / "store" / LEDGER
    if ledger.is_file():
        spent = Ledger(ledger, None).total()
        needed = " to ".join(f"{spent + total[case]:.2f}" for case in ("expected", "high"))
        lines.append(
            f"it counts the {spent:.2f} spent or reserved in {plan.results} so far: {needed} in all"
        )
    return lines


def price_line(entry: dict[str, Any] | None, day: object) -> str:
    """Return a model's price in words, with when and where it was looked up, where that is said."""
    if not entry:
        return "no price"
    origin = ", ".join(str(part) for part in (day, entry.get("source")) if part)
    said = ": ".join(filter(None, (origin, str(entry.get("verified") or ""))))
    price = f"{entry['input']:g}/{entry['output']:g} USD a million tokens in/out"
    return f"{price}, {said}" if said else price


def ends(plan: Plan) -> list[str]:
    """Return a line for each provider's model that the dated list says is gone, or ends soon."""
    today = datetime.now(UTC).date()
    specs = {load.settings.model: load.settings for load in plan.loads.values()}
    known = [spec for spec in specs.values() if not spec.base_url_env]
    return [line for spec in known if (line := warning(spec, listed_end(spec), today))]


def computing(layout: Layout, profile: str) -> list[str]:
    """Return the lines about computing: what is asked for here or on a profile's cluster, beside
    what it took in earlier runs of this configuration, or else in the dress rehearsal here.
    """
    measured = resources.used(read_receipts(Path(layout.results))[0].values())
    dressed = dress_rehearsal.took(layout)
    devices = cluster.devices(profile, layout.config["scale"])
    needs = dress_rehearsal.raised(resources.Needs(layout, devices).by_rule, dressed)
    lines = resources.table(layout, dressed | measured, needs)
    if names := [rule for rule in needs if rule in dressed.keys() - measured.keys()]:
        lines.append(
            f"took and peak of {', '.join(names)}: the dress rehearsal on this machine, in a few"
            " steps on short rows"
        )
    return lines


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", nargs="+", required=True, help="configuration files, the later over the earlier"
    )
    for name, text in {
        "model": "plan the evaluation of this model: a directory, or owner/name on the hub",
        "revision": "commit of the hub repository",
        "template": "chat template file or id, or `tokenizer`",
        "name": "its name in the table",
    }.items():
        parser.add_argument(f"--{name}", default="", help=text)
    parser.add_argument("--profile", default="profiles/default", help="Snakemake's profile")
    args = parser.parse_args(argv)
    config = configuration.checked(args.config)
    if args.model:
        config = configuration.merge(
            config,
            extra_models.with_model(config, args.model, args.revision, args.template, args.name),
        )
        files = [*configuration.files_of(args.config), extra_models.evaluated(config)]
        configuration.check(config, configuration.SCHEMA, files)
    with tempfile.TemporaryDirectory(prefix="plan-") as scratch:
        plan = Plan(config, Path(scratch), bool(args.model))
        plan.whole()
    print("\n".join(table(plan, "batch" if own("MODE") == "batch" else "online")))
    if not args.model:
        print("", *computing(plan.layout, args.profile), sep="\n")


if __name__ == "__main__":
    program.run(main)
