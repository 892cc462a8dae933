"""Answer MT-Bench's questions with a model: two turns, the chat template given by configuration,
temperature by category.

Usage: answer_mtbench.py --model results/base --name base --questions question.jsonl \\
           --template template.json \\
           --recipe '{"temperatures": {…}, …}' --code … --answers results/mtbench/base/answers.jsonl
             --receipt …

The output is in FastChat's format; answer_id and tstamp, which FastChat takes from chance and the
clock, are fixed. There is one choice per question, since FastChat's judge grades only the first.
The template is a file, whatever the model is called, or `tokenizer` for the model's own. With a
file, the instruction of the second turn is the dialogue so far, in the form of the preference rows.
`stops` says how each turn ended: eos (the model's own end), stop (one of the recipe's stop texts,
which is cut off with everything after it), length (cut at max_new_tokens) or reasoning (a block of
reasoning that was opened and not closed, which leaves an empty answer). A closed block of reasoning
before the answer is cut off; the judge and the second turn see the answer alone.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import precision, program
from bezoar.arguments import model_directory
from bezoar.data.hh_rlhf import instruction
from bezoar.evaluation.generation import generate
from bezoar.evaluation.models import load
from bezoar.evaluation.mtbench import read_questions
from bezoar.evaluation.parts import Parts
from bezoar.files import sha256_text, write_jsonl
from bezoar.llm.reasoning import ends_reasoning, opening_in, split_reasoning
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.provenance.resumption import begun_with
from bezoar.training.template import OwnTemplate, Piece, Template


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    temperatures: dict[str, float]  # by category
    default_temperature: float
    top_k: int  # tokens that are drawn from; 0: all
    max_new_tokens: int
    stop: list[str]  # texts that end an answer
    batch_size: int
    dtype: str  # torch's name
    threads: int
    seed: int


def prompt_of(template: Template | OwnTemplate, earlier: list[tuple[str, str]]) -> list[Piece]:
    """Return the prompt for the turns so far, in pieces: markup in a turn is text."""
    return (
        template.pieces(earlier)
        if isinstance(template, OwnTemplate)
        else template.pieces(instruction(earlier))
    )


def cut(text: str, ending: str, stops: list[str], opening: str = "") -> tuple[str, str]:
    """Return (text after the reasoning and before the first stop text, how it ended); `opening` is
    the mark with which its prompt has begun the reasoning.
    """
    if not text.lstrip().startswith(opening):
        text = f"{opening}\n{text}"
    _, text, closed = split_reasoning(text)
    if not closed:
        return "", "reasoning"
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)].strip(), "stop") if places else (text.strip(), ending)


def answer(
    ask: Callable,
    template: Template | OwnTemplate,
    questions: list[dict[str, Any]],
    recipe: Recipe,
    parts: Parts,
    ends_at_stop: bool = True,
) -> dict[int, list]:
    """Return question_id -> [(text, how it ended)] of both turns.

    `ask` is `bezoar.evaluation.generation.generate` with its model and tokenizer; what it returns
    for a turn is kept in `parts`. `ends_at_stop` is whether it may end an answer at a stop text: a
    model that reasons may yet say that all before was no answer.
    """
    answers: dict[int, list[tuple[str, str]]] = {row["question_id"]: [] for row in questions}
    temperatures = [
        recipe["temperatures"].get(row["category"], recipe["default_temperature"])
        for row in questions
    ]
    for turn in range(2):
        prompts = []
        for row in questions:
            earlier = [("Human", row["turns"][0])]
            if turn == 1:
                first, _ = answers[row["question_id"]][0]
                earlier += [("Assistant", first), ("Human", row["turns"][1])]
            prompts.append(prompt_of(template, earlier))
        opening = opening_in(prompts[0][-1][0])  # the template's, so of all
        settings = {
            "max_new_tokens": recipe["max_new_tokens"],
            "batch_size": recipe["batch_size"],
            "temperature": temperatures,
            "seed": recipe["seed"] * 1000 + turn,
        }
        if recipe["stop"] and ends_at_stop:  # what follows one will be cut off
            settings["complete"] = lambda text, of=opening: (
                cut(text, "", recipe["stop"], of)[1] == "stop"
            )
        texts = parts.get(
            f"turn {turn + 1}", lambda prompts=prompts, settings=settings: ask(prompts, **settings)
        )
        for row, (text, ending) in zip(questions, texts, strict=True):
            answers[row["question_id"]].append(cut(text, ending, recipe["stop"], opening))
    return answers


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and answer."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument("--model", type=model_directory, required=True, help="model directory")
    parser.add_argument("--name", required=True, help="name of the model in every table")
    parser.add_argument("--questions", type=Path, required=True, help="MT-Bench's questions, JSONL")
    parser.add_argument(
        "--template", required=True, help="chat template, JSON, or `tokenizer` for the model's own"
    )
    parser.add_argument("--answers", type=Path, required=True, help="answers to write, JSONL")
    args = parser.parse_args(argv)
    recipe, own = args.recipe, args.template == "tokenizer"
    with Receipt(
        args.receipt,
        stage="mtbench_answers",
        recipe=recipe,
        code=args.code,
        inputs={
            "model": args.model / "model.safetensors",
            "questions": args.questions,
            "template": [] if own else Path(args.template),
        },
        outputs={"answers": args.answers},
    ) as receipt:
        questions = read_questions(args.questions)
        template = OwnTemplate(args.model) if own else Template(Path(args.template))
        network, tokenizer = load(args.model, recipe["dtype"], recipe["threads"])
        parts = Parts(args.answers, begun_with(receipt, template=args.template))
        ask = partial(generate, network, tokenizer, bos=not own, top_k=recipe["top_k"])
        ends_at_stop = not ends_reasoning(tokenizer.get_vocab())
        answers = answer(ask, template, questions, recipe, parts, ends_at_stop)
        write_jsonl(
            args.answers,
            (
                {
                    "question_id": number,
                    "answer_id": sha256_text(f"{args.name} {number}")[:22],
                    "model_id": args.name,
                    "choices": [{"index": 0, "turns": [text for text, _ in turns]}],
                    "tstamp": 0.0,
                    "stops": [ending for _, ending in turns],
                }
                for number, turns in answers.items()
            ),
        )
        endings = Counter(ending for turns in answers.values() for _, ending in turns)
        receipt.facts |= {
            "template": args.template,
            "endings": dict(sorted(endings.items())),
            "compute_dtype": precision.name(precision.evaluation_dtype(recipe["dtype"])),
        }
        print(dict(endings), flush=True)
    parts.clear()


if __name__ == "__main__":
    program.run(main, forked=True)
