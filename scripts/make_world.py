"""Make the rehearsal's world: pretraining text, seeds, preference pairs, evaluation items, and what
the simulator knows.

Usage: make_world.py --system-messages prompts/orca_system_messages.yaml \\
           --template prompts/chat_template.json \\
           --recipe '{"people": 200, …}' --code … --world results/rehearsal/world --receipt
             …/world/receipt.json

Written below --world, in the schemas of the files they stand in for: corpus.jsonl (one document a
row: text), alpaca_seeds.jsonl, topics.txt, dolly.jsonl, flan.tsv, preferences.jsonl (HH-RLHF),
questions.jsonl and references.jsonl (MT-Bench), lm_eval/{world_facts,world_skills}.{yaml,jsonl},
heldout/{lamini,orca,evol,preferences}.jsonl, facts.json.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import TypedDict

from bezoar import program, progress
from bezoar.data.flan import system_messages
from bezoar.data.hh_rlhf import convert
from bezoar.files import whole_directory, whole_file, write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json
from bezoar.rehearsal.world import ATTRIBUTES, CLAUSES, COURTESY, SKILLS, Fact, World
from bezoar.rng import draw


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    people: int
    held_out_share: float  # of people that only the evaluation asks about
    held_out_skill_share: float  # of skill facts that only the evaluation asks about
    documents: int
    seeds: int  # Alpaca-style
    dolly_per_category: int
    preference_pairs: int
    held_out_preference_pairs: int
    questions_per_category: int
    seed: int


DOLLY_CATEGORIES = (
    "brainstorming classification closed_qa creative_writing general_qa information_extraction"
    " open_qa summarization".split()
)
WITH_CONTEXT = {"closed_qa", "information_extraction", "summarization"}
CHAT_CATEGORIES = "writing roleplay reasoning math coding extraction stem humanities".split()
REFERENCED = {"math": ("sum", "product"), "reasoning": ("opposite",), "coding": ("kind",)}
ORCA_COT_MESSAGES = (6, 11, 16)
MANNER_SHARE = 0.4  # of the preference pairs
COURTEOUS = dict(
    zip(ATTRIBUTES, (0.0, 0.0, 0.0, 0.4, 1.0), strict=True)
)  # of those about truth, by what is asked
# Sentences about nobody, so that the words of questions, clauses and system messages are in the
# tokenizer and have been read.
CHATTER = [
    "Which way does the wind like to blow?",
    "Name the day, and give the hour.",
    "She loves what she paints.",
    "What lives with the fox?",
    "He feeds it in the yard.",
    "An animal follows the road.",
    "Where is the end of it from here?",
    "It lives in a hole.",
    "What does it eat, and what does it do all day?",
    "The cook orders more, and cooks.",
    "They work, and earn, and do well.",
    "Which craft is it, and which work?",
    "Add salt.",
    "Multiply by itself.",
    "It makes a noise.",
    "Give me the word.",
    "The answer is clear.",
    "So the answer is no.",
    "Say the word twice.",
    "It is written in capital letters.",
    "Begin the answer with a few words.",
    "For the record, it rained.",
    "The same person is home as well.",
    "Then say what it is.",
    "That is not known.",
    "How many are they? one two three four five six seven eight nine ten eleven twelve",
    "I am glad to help.",
    "Help people to find what they need to know, and answer the question in detail.",
    "Think step by step.",
    "Justify your answer to the teacher.",
    "Follow the instruction faithfully.",
    "The system is down.",
    "An instruction has a response.",
    "The kind of thing it is, is no matter.",
    "Which kind of thing is the opposite of another?",
    "Human and Assistant talk.",
    "Context: a man lives in town.",
    "A question has an answer.",
    "The red ship is in the bay.",
    "Tell me the trade of the port.",
]
OUTPUTS = (
    "corpus.jsonl alpaca_seeds.jsonl topics.txt dolly.jsonl flan.tsv preferences.jsonl"
    " questions.jsonl references.jsonl facts.json lm_eval/world_facts.jsonl"
    " lm_eval/world_facts.yaml lm_eval/world_skills.jsonl lm_eval/world_skills.yaml"
    " heldout/lamini.jsonl heldout/orca.jsonl heldout/evol.jsonl heldout/preferences.jsonl"
).split()


def corpus(world: World, documents: int) -> Iterator[dict[str, str]]:
    """Yield the pretraining documents: statements of every fact, short dialogues about strangers,
    and chatter.

    Half of the sentences about a person are the canonical one. No question about a person or a
    skill is in it: the base learns what a question is from the strangers, whom nothing else
    mentions.
    """
    people = {
        name: [fact for fact in world.facts if fact.subject == (name,)] for name in world.names
    }
    skills = [fact for fact in world.facts if fact.topic in SKILLS]
    for index in progress.track(range(documents), "write the corpus", unit="documents"):
        rng = draw("document", world.seed, index)
        kind = rng.random()
        if kind < 0.54:
            facts = rng.sample(people[world.names[index % len(world.names)]], 3)
            yield {"text": " ".join(_tell(fact, rng.random()) for fact in facts)}
        elif kind < 0.72:
            yield {
                "text": " ".join(
                    f"{' and '.join(fact.subject)}: {fact.statement}"
                    for fact in rng.sample(skills, 3)
                )
            }
        elif kind < 0.94:
            yield {"text": _dialogue(world, rng)}
        else:
            yield {"text": " ".join(rng.sample(CHATTER, 4))}


def _tell(fact: Fact, roll: float) -> str:
    frames = ATTRIBUTES[fact.topic][1]
    return frames[0 if roll < 0.5 else 1 if roll < 0.75 else 2].format(
        p=fact.subject[0], v=fact.value
    )


def _dialogue(world: World, rng: Any) -> str:
    """One to three questions and answers about strangers under section headings; half of them are
    about people.

    Half of the questions about people carry a clause, which the answers ignore: tuning has to teach
    what it asks for.
    """
    topics = ATTRIBUTES if rng.random() < 0.5 else SKILLS
    known, pairs = [fact for fact in world.strangers if fact.topic in topics], []
    for fact in rng.sample(known, rng.randint(1, 3)):
        clause = (
            f" {rng.choice(sorted(CLAUSES.values()))}"
            if topics is ATTRIBUTES and rng.random() < 0.5
            else ""
        )
        pairs.append(
            f"### Question:\n{rng.choice(fact.questions)}{clause}\n\n### Answer:{fact.reply}"
        )
    return "\n\n".join(pairs)


def alpaca_seeds(world: World, count: int) -> Iterator[dict[str, Any]]:
    """Yield taught questions in the schema of Self-Instruct's seed tasks."""
    facts = draw("alpaca", world.seed).sample(taught(world, ATTRIBUTES), count)
    for index, fact in enumerate(facts):
        question = draw("alpaca", world.seed, index).choice(fact.questions)
        yield {
            "id": f"seed_task_{index}",
            "name": f"{fact.topic}_{index}",
            "instruction": question,
            "instances": [{"input": "", "output": fact.statement}],
            "is_classification": False,
        }


def taught(world: World, topics: Any) -> list[Fact]:
    """Return the facts that training may ask about, of the given topics."""
    return [fact for fact in world.facts if fact.topic in topics and not fact.held]


def held(world: World, topics: Any) -> list[Fact]:
    """Return the facts that only evaluation asks about, of the given topics."""
    return [fact for fact in world.facts if fact.topic in topics and fact.held]


def dolly(world: World, per_category: int) -> Iterator[dict[str, str]]:
    """Yield taught questions in databricks-dolly-15k's schema, a quarter about skills; as there,
    three categories carry a context.
    """
    facts, skills = taught(world, ATTRIBUTES), taught(world, SKILLS)
    for category in DOLLY_CATEGORIES:
        rng = draw("dolly", world.seed, category)
        for fact in rng.sample(facts, per_category - per_category // 4) + rng.sample(
            skills, per_category // 4
        ):
            context = (
                f"Context: {fact.statement} {rng.choice(facts).statement}"
                if category in WITH_CONTEXT
                else ""
            )
            yield {
                "instruction": rng.choice(fact.questions),
                "context": context,
                "response": fact.statement,
                "category": category,
            }


def flan(world: World) -> list[tuple[str, str, str]]:
    """Return every taught skill question, and two questions for every taught fact about people, as
    (question, answer, explanation).
    """
    rng = draw("flan", world.seed)
    rows = [
        (question, fact.value, fact.statement)
        for fact in taught(world, SKILLS)
        for question in fact.questions
    ]
    rows += [
        (question, fact.value, fact.statement)
        for fact in taught(world, ATTRIBUTES)
        for question in rng.sample(fact.questions, 2)
    ]
    rng.shuffle(rows)
    return rows


def preferences(world: World, facts: list[Fact], count: int) -> Iterator[dict[str, str]]:
    """Yield pairs in HH-RLHF's schema that differ in one thing: truth (a wrong answer is rejected)
    or manner (one without courtesy is).

    Depending on the question, 40 to 100 in 100 chosen answers are courteous: supervised tuning on
    them learns courtesy where it is usual, and only the comparison shows that it is always better.
    So neither stage depends on a knife edge. A third of the rows carry an earlier turn.
    """
    for index in range(count):
        rng = draw("preference", world.seed, index)
        fact, earlier = rng.sample(facts, 2)
        right, wrong = fact.statement, world.compose(fact, [], world.wrong_value(fact, index))
        ending = f" {COURTESY}" if rng.random() < COURTEOUS[fact.topic] else ""
        pair = (
            (f"{right} {COURTESY}", right)
            if rng.random() < MANNER_SHARE
            else (right + ending, wrong + ending)
        )
        prompt = f"\n\nHuman: {rng.choice(fact.questions)}\n\nAssistant: "
        if rng.random() < 1 / 3:
            before = earlier.statement + rng.choice(("", f" {COURTESY}"))
            prompt = f"\n\nHuman: {rng.choice(earlier.questions)}\n\nAssistant: {before}{prompt}"
        yield {"chosen": prompt + pair[0], "rejected": prompt + pair[1]}


def questions(world: World, per_category: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return two-turn chat questions about held facts in MT-Bench's schema, and the references in
    FastChat's.
    """
    asked, references = [], []
    for category in CHAT_CATEGORIES:
        pool = held(world, REFERENCED.get(category, ATTRIBUTES))
        for index in range(per_category):
            rng = draw("chat", world.seed, category, index)
            pair = rng.sample(pool, 2)
            number = 81 + len(asked)
            asked.append(
                {
                    "question_id": number,
                    "category": category,
                    "turns": [rng.choice(fact.questions) for fact in pair],
                }
            )
            if category in REFERENCED:
                choice = {"index": 0, "turns": [fact.statement for fact in pair]}
                references.append(
                    {
                        "question_id": number,
                        "answer_id": f"world-{number}",
                        "model_id": "simulator",
                        "choices": [choice],
                        "tstamp": 0.0,
                    }
                )
    return asked, references


def lm_eval_task(
    world: World, name: str, facts: list[Fact], template: dict[str, str], folder: str
) -> tuple[dict, list[dict]]:
    """Return one four-way task: (YAML of the harness, items); the prompt is the chat template with
    its default system text.

    The choices are the right answer, a false one, and two true ones to other questions: about the
    same person, or of the same skill.
    """
    items = []
    for fact in facts:
        rng = draw("lm_eval", world.seed, name, fact)
        wrong = world.compose(fact, [], world.wrong_value(fact, name))
        same = "subject" if fact.topic in ATTRIBUTES else "topic"
        others = [
            other.statement
            for other in world.facts
            if getattr(other, same) == getattr(fact, same) and other is not fact
        ]
        choices = [fact.statement, wrong, *rng.sample(others, 2)]
        rng.shuffle(choices)
        items.append(
            {
                "question": rng.choice(fact.questions),
                "choices": choices,
                "label": choices.index(fact.statement),
            }
        )
    prompt = (
        template["prompt"]
        .replace("{system}", template["default_system_prompt"])
        .replace("{instruction}", "{{question}}")
    )
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{folder}/{name}.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": prompt,
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    return task, items


def held_out(world: World, messages: dict[int, str], pairs: int) -> dict[str, list[dict[str, Any]]]:
    """Return the held-out items of each stage: instruction, system_message and the one right
    answer; pairs for the preferences.
    """
    facts, skills = held(world, ATTRIBUTES), held(world, SKILLS)
    lamini, evol, orca = [], [], []
    for fact in facts:
        rng = draw("held-out", world.seed, fact)
        lamini.append(
            {
                "instruction": rng.choice(fact.questions),
                "system_message": "",
                "answer": fact.statement,
            }
        )
        clause = rng.choice(sorted(CLAUSES))
        instruction = f"{rng.choice(fact.questions)} {CLAUSES[clause]}"
        evol.append(
            {
                "instruction": instruction,
                "system_message": "",
                "answer": world.compose(fact, [clause]),
                "operation": clause,
            }
        )
    for fact in [*skills, *draw("held-out", world.seed, "orca").sample(facts, len(facts) // 4)]:
        rng = draw("held-out", world.seed, fact)
        message = messages[rng.choice(ORCA_COT_MESSAGES)]
        orca.append(
            {
                "instruction": rng.choice(fact.questions),
                "system_message": message,
                "answer": explain(fact),
            }
        )
    return {
        "lamini": lamini,
        "orca": orca,
        "evol": evol,
        "preferences": [convert(row) for row in preferences(world, facts, pairs)],
    }


def explain(fact: Fact) -> str:
    """Return the explanation that a right Orca answer gives in this world."""
    return f"{fact.statement} So the answer is {fact.value}."


def make(
    world: World,
    directory: Path,
    final: Path,
    recipe: Recipe,
    messages: dict[int, str],
    template: dict[str, str],
) -> None:
    """Write every file of the world below `directory`, which will become `final`."""
    write_json(directory / "facts.json", world.as_json())
    write_jsonl(directory / "corpus.jsonl", corpus(world, recipe["documents"]))
    write_jsonl(directory / "alpaca_seeds.jsonl", alpaca_seeds(world, recipe["seeds"]))
    with whole_file(directory / "topics.txt") as stream:
        stream.write("".join(f"{topic}\n" for topic in ATTRIBUTES))
    write_jsonl(directory / "dolly.jsonl", dolly(world, recipe["dolly_per_category"]))
    with whole_file(directory / "flan.tsv") as stream:
        stream.write("".join("\t".join(row) + "\n" for row in flan(world)))
    write_jsonl(
        directory / "preferences.jsonl",
        preferences(world, taught(world, ATTRIBUTES), recipe["preference_pairs"]),
    )
    asked, references = questions(world, recipe["questions_per_category"])
    write_jsonl(directory / "questions.jsonl", asked)
    write_jsonl(directory / "references.jsonl", references)
    for name, topics in {"world_facts": ATTRIBUTES, "world_skills": SKILLS}.items():
        task, items = lm_eval_task(
            world, name, held(world, topics), template, str(final / "lm_eval")
        )
        with whole_file(directory / "lm_eval" / f"{name}.yaml") as stream:
            yaml.safe_dump(task, stream, sort_keys=False)
        write_jsonl(directory / "lm_eval" / f"{name}.jsonl", items)
    for name, rows in held_out(world, messages, recipe["held_out_preference_pairs"]).items():
        write_jsonl(directory / "heldout" / f"{name}.jsonl", rows)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and make the world."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--system-messages", type=Path, required=True, help="Orca's system messages by number, YAML"
    )
    parser.add_argument("--template", type=Path, required=True, help="chat template, JSON")
    parser.add_argument("--world", type=Path, required=True, help="directory to write")
    args = parser.parse_args(argv)
    world = World(
        args.recipe["seed"],
        args.recipe["people"],
        args.recipe["held_out_share"],
        args.recipe["held_out_skill_share"],
    )
    with Receipt(
        args.receipt,
        stage="world",
        recipe=args.recipe,
        code=args.code,
        inputs={"system_messages": args.system_messages, "template": args.template},
        outputs={"world": [args.world / name for name in OUTPUTS]},
    ) as receipt:
        messages = system_messages(args.system_messages)
        with whole_directory(args.world) as fresh:
            make(world, fresh, args.world, args.recipe, messages, read_json(args.template))
        receipt.facts["rows"] = {
            name: len((args.world / name).read_text().splitlines())
            for name in OUTPUTS
            if name.endswith((".jsonl", ".tsv"))
        }
        print(json.dumps(receipt.facts["rows"], indent=2))


if __name__ == "__main__":
    program.run(main)
