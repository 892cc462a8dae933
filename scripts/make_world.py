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
from pathlib import Path

import yaml
from typing_extensions import TypedDict

from bezoar import program
from bezoar.data.flan import system_messages
from bezoar.files import whole_directory, whole_file, write_json, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.readers import read_json
from bezoar.rehearsal.corpus import corpus
from bezoar.rehearsal.evaluation_data import held_out, lm_eval_task, questions
from bezoar.rehearsal.training_data import alpaca_seeds, dolly, flan, preferences
from bezoar.rehearsal.world import ATTRIBUTES, SKILLS, WORLD_FILES, World, held, taught


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
        outputs={"world": [args.world / name for name in WORLD_FILES]},
    ) as receipt:
        messages = system_messages(args.system_messages)
        with whole_directory(args.world) as fresh:
            make(world, fresh, args.world, args.recipe, messages, read_json(args.template))
        receipt.facts["rows"] = {
            name: len((args.world / name).read_text().splitlines())
            for name in WORLD_FILES
            if name.endswith((".jsonl", ".tsv"))
        }
        print(json.dumps(receipt.facts["rows"], indent=2))


if __name__ == "__main__":
    program.run(main)
