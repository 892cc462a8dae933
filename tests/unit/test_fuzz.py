"""Whatever a file holds, a program ends in a right result or in one line that names it, and then
nothing is written.

A few inputs for each program in every run; `make fuzz` tries BEZOAR_EXAMPLES of them (2,000) and
states how many ended in which way.
"""

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import EXAMPLES, ended, examples, other_bytes, other_value
from scripted import Scripted

import check_claims
import describe_data
import find_contamination
import find_duplicates
import generate_evol
import generate_lamini
import generate_orca
import import_released
import judge_mtbench
import list_evaluation_items
import prepare_preferences
import remove_rows
import score_mtbench
from bezoar.data import flan, task_families, verdicts
from bezoar.errors import UserError
from bezoar.evaluation import mtbench, paper_values
from bezoar.files import sha256_file, write_json
from bezoar.readers import iter_rows, read_jsonl
from bezoar.training.template import Template
from bezoar.workflow import configuration, sources
from filter_rows import rate

ROOT = Path(__file__).parents[2]
TEXT = "Écris un résumé de l'élection présidentielle, s'il te plaît, à Orléans"
ROW = {
    "instruction": TEXT,
    "response": "Helium is a noble gas, and it is light.",
    "category": "open_qa",
    "context": "A text.",
    "source": "s",
}
RATED = {**ROW, "gpt4_status": "Accept", "gpt4_rating": 9, "gpt4_reason": "True."}
ORCA = {
    "original_index": 1,
    "inputs": TEXT,
    "targets": "yes",
    "task_source": "CoT",
    "task_name": "creak",
    "template_type": "zs_noopt",
    "system_message": "You are kind.",
    "explained_targets": "Because.",
    "dataset_source": "cot",
}
PAIR = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
ITEM = {"task": "t", "item": 0, "part": "question", "text": TEXT}
QUESTION = {"question_id": 81, "category": "math", "turns": ["2 + 3?", "And 4?"]}
ANSWER = {"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": ["5", "20"]}]}
JUDGMENT = {
    "question_id": 81,
    "model": "m",
    "judge": ["j", "single-v1"],
    "user_prompt": "?",
    "judgment": "Good. Rating: [[8]]",
    "score": 8,
    "turn": 1,
    "tstamp": 0.0,
    "category": "math",
    "repeat": 0,
    "state": "rated",
}
MATCH = {"set": "rows", "row": 1, "words": 9, "share": 0.5, "contaminated": True}
COUNTS = {"entered": 2, "kept": 1, "states": {}, "rater": "m", "accept_rate_by_length_decile": [1]}


def jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@dataclass
class Target:
    """A program or reader: the valid files that it reads, and how it is run on them."""

    files: dict[str, bytes]
    run: Callable[[Path], Any]
    outputs: list[str] = field(default_factory=list)


def program(main: Callable[[list[str]], None], recipe: Any, *arguments: str) -> Any:
    """Return a run of a program; an argument that begins with @ is a file of the folder."""

    def run(folder: Path) -> None:
        words = [str(folder / word[1:]) if word.startswith("@") else word for word in arguments]
        main(
            [
                *words,
                *("--recipe", json.dumps(recipe), "--code", "x"),
                *("--receipt", str(folder / "receipt.json")),
            ]
        )

    return run


def released(name: str, content: bytes) -> Target:
    """Import of a released set, whose manifest is right whatever the file holds."""

    def run(folder: Path) -> None:
        manifest = {"revision": "a", "files": {name: sha256_file(folder / name)}}
        write_json(folder / "manifest.json", manifest)
        program(
            import_released.main,
            {"scheme": "lamini", "seed": 0},
            *("--manifest", "@manifest.json", "--rows", "@out", "--counts", "@counts"),
        )(folder)

    return Target({name: content}, run, ["out", "counts"])


def config_is_checked(folder: Path) -> None:
    paper = ROOT / configuration.PAPER
    config = configuration.merge(configuration.load(paper), configuration.load(folder / "c.yaml"))
    configuration.check(config, ROOT / configuration.SCHEMA, [paper, folder / "c.yaml"])
    json.dumps(config, allow_nan=False).encode()


def filtered(folder: Path) -> None:
    answer = '{"status": "Accept", "rating": 9, "reason": "r"}'
    recipe = {
        "attempts": 1,
        "max_unrated_share": 1.0,
        "max_failure_share": 1.0,
        "rater": {"model": "m"},
    }
    rows = read_jsonl(folder / "rows.jsonl")
    rated, _ = rate(
        Scripted(lambda *_: answer), rows, "{instruction} {response}", recipe,
        str(folder / "rows.jsonl"),
    )  # fmt: skip
    json.dumps(rated, ensure_ascii=False, allow_nan=False).encode()


def explained(folder: Path) -> None:
    quotas = {"cot": 10, "niv2": 10, "t0": 10, "flan2021": 10, "dialog": 10}
    recipe = {"quotas": quotas, "rows_per_task": 5, "max_failure_share": 1.0, "seed": 0}
    messages = flan.system_messages(ROOT / "prompts/orca_system_messages.yaml")
    paths = [folder / "flan.jsonl", folder / "aqua_train.tsv"]
    rows, _ = generate_orca.make(Scripted(lambda *_: "Because."), paths, messages, recipe)
    json.dumps(rows, ensure_ascii=False, allow_nan=False).encode()


def judged(folder: Path) -> None:
    questions = mtbench.read_questions(folder / "question.jsonl")
    references = mtbench.read_references(folder / "references.jsonl")
    _, answers = judge_mtbench.read_answers(folder / "answers.jsonl", questions)
    prompts = mtbench.read_judge_prompts(folder / "prompts.jsonl")
    for question in questions:
        number = question["question_id"]
        for turn in (1, 2):
            reference = references.get(number) or question.get("reference")
            mtbench.judge_messages(prompts, question, answers[number], reference, turn)
    for row in list_evaluation_items.of_chat(questions, references):
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()


TARGETS = {
    "find_duplicates": Target(
        {"rows.jsonl": jsonl(RATED, RATED), "seeds.jsonl": jsonl(ROW, ROW)},
        program(
            find_duplicates.main,
            {"jaccard": 0.7, "permutations": 16, "bands": 4, "seed": 0},
            *("--rows", "@rows.jsonl", "--seeds", "@seeds.jsonl"),
            *("--pairs", "@pairs", "--summary", "@summary"),
        ),
        ["pairs", "summary"],
    ),
    "find_contamination": Target(
        {"rows.jsonl": jsonl(RATED, ORCA), "items.jsonl": jsonl(ITEM, ITEM)},
        program(
            find_contamination.main,
            {"ngram": 8, "min_words": 5, "contaminated_share": 0.5, "seed": 0},
            *("--rows", "@rows.jsonl", "--items", "@items.jsonl"),
            *("--matches", "@matches", "--summary", "@summary"),
        ),
        ["matches", "summary"],
    ),
    "prepare_preferences": Target(
        {"pairs.jsonl": jsonl(PAIR, PAIR, PAIR)},
        program(
            prepare_preferences.main,
            {"first": 10, "seed": 0},
            *("--data", "@pairs.jsonl", "--pairs", "@pairs", "--counts", "@counts"),
        ),
        ["pairs", "counts"],
    ),
    "remove_rows": Target(
        {
            "rows.jsonl": jsonl({**ORCA, **RATED}, RATED),
            "matches.jsonl": jsonl(MATCH, MATCH),
            "families.yaml": b"families:\n"
            b"- {match: creak, evaluation: [t], relation: none, reason: r}\n",
        },
        program(
            remove_rows.main,
            {"remove": ["contaminated", "task_family"], "tasks": ["t"], "seed": 0},
            *("--rows", "@rows.jsonl", "--matches", "@matches.jsonl"),
            *("--families", "@families.yaml", "--kept", "@kept", "--counts", "@counts"),
        ),
        ["kept", "counts"],
    ),
    "describe_data": Target(
        {"orca.jsonl": jsonl({**RATED, **ORCA}, {**RATED, **ORCA}), "judged.json": jsonl(COUNTS)},
        program(
            describe_data.main,
            {"tasks": ["boolq"], "seed": 0},
            *("--rows", "@orca.jsonl", "--judged", "@judged.json", "--description", "@out"),
            *("--families", str(ROOT / "config/task_families.yaml")),
        ),
        ["out"],
    ),
    "import_released jsonl": released("lamini.jsonl", jsonl(RATED, RATED)),
    "import_released json": released("lamini.json", json.dumps([RATED, RATED]).encode()),
    "import_released csv": released(
        "lamini.csv",
        b"instruction,source,response,gpt4_status,gpt4_rating,gpt4_reason\n"
        b'a,s,"b, ""c""",Accept,9,r\nd,s,e,Reject,1.0,\n',
    ),
    "score_mtbench": Target(
        {"judgments.jsonl": jsonl(JUDGMENT, {**JUDGMENT, "turn": 2})},
        program(
            score_mtbench.main,
            {"pairs": [], "seed": 0},
            *("--judgments", "@judgments.jsonl", "--output", "@out"),
        ),
        ["out"],
    ),
    "generate_lamini seeds": Target(
        {"seeds.jsonl": jsonl(ROW, ROW), "topics.txt": b"Tea\r\nBotany\n"},
        lambda folder: generate_lamini.read_inputs(
            folder / "seeds.jsonl", folder / "topics.txt", {"examples": 1, "topics": 1}
        ),
    ),
    "generate_evol seeds": Target(
        {"seeds.jsonl": jsonl(ROW, ROW)},
        lambda folder: generate_evol.pools(
            generate_evol.read_seeds(folder / "seeds.jsonl"),
            {"seed": 0, "seeds_per_category": 2, "max_seed_tokens": 5},
        ),
    ),
    "generate_orca rows": Target(
        {"flan.jsonl": jsonl(ORCA, ORCA), "aqua_train.tsv": b"Why?\tyes\tbecause\r\nWo?\tda\t\n"},
        explained,
    ),
    "filter_rows rows": Target({"rows.jsonl": jsonl(ROW, ORCA)}, filtered),
    "judge_mtbench files": Target(
        {
            "question.jsonl": jsonl(QUESTION, {**QUESTION, "question_id": 82}),
            "answers.jsonl": jsonl(ANSWER, {**ANSWER, "question_id": 82}),
            "references.jsonl": jsonl(ANSWER, {**ANSWER, "question_id": 82}),
            "prompts.jsonl": (ROOT / "prompts/judge_prompts.jsonl").read_bytes(),
        },
        judged,
    ),
    "reference overrides": Target(
        {"overrides.yaml": b"overrides:\n- {question_id: 81, turn: 1, wrong: five, right: six}\n"},
        lambda folder: mtbench.override({81: ["five", "ten"]}, folder / "overrides.yaml"),
    ),
    "configuration": Target(
        {"c.yaml": b"seed: 3\nsft: {learning_rate: 0.0001}\ndata:\n  remove: [contaminated]\n"},
        config_is_checked,
    ),
    "configuration schema": Target(
        {"c.yaml": (ROOT / "config/rehearsal.yaml").read_bytes()}, config_is_checked
    ),
    "sources": Target(
        {"sources.yaml": (ROOT / "config/sources.yaml").read_bytes()[:4000].rpartition(b"  - ")[0]},
        lambda folder: sources.load(folder / "sources.yaml"),
    ),
    "claims": Target(
        {"claims.yaml": (ROOT / "config/claims.yaml").read_bytes()},
        lambda folder: check_claims.read_claims(folder / "claims.yaml"),
    ),
    "task families": Target(
        {"families.yaml": (ROOT / "config/task_families.yaml").read_bytes()},
        lambda folder: task_families.family_of(
            "creak", task_families.load(folder / "families.yaml"), ["boolq"]
        ),
    ),
    "paper values": Target(
        {
            "values.csv": b"table,benchmark,model,task,metric,value,tolerance\n"
            b'"Table 5",lm_eval,m,boolq,acc,0.52,0.01\nTable 6,mtbench,m,overall,j,4.5,0.2\n'
        },
        lambda folder: paper_values.read(folder / "values.csv", ["m"]),
    ),
    "template": Target(
        {
            "template.json": json.dumps(
                {
                    "prompt": "{system}\n### Instruction:\n{instruction}\n### Response:",
                    "default_system_prompt": "Be kind.",
                    "response_split": "### Response:",
                }
            ).encode()
        },
        lambda folder: Template(folder / "template.json").prompt("Hi"),
    ),
    "parquet": Target(
        {"t.parquet": b""}, lambda folder: list(iter_rows(folder / "t.parquet"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
@examples(EXAMPLES)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 3))
def test_any_input_ends_in_a_result_or_in_one_line_that_names_it(
    name: str, seed: int, changes: int
) -> None:
    target, rng = TARGETS[name], random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        contents = dict(target.files)
        for _ in range(changes):
            file = rng.choice(list(contents))
            change = other_value if rng.random() < 0.5 else other_bytes
            contents[file] = change(contents[file], rng)
        for file, content in contents.items():
            (folder / file).write_bytes(content)
        ended(name, ends(target, folder))


def ends(target: Target, folder: Path) -> str:
    """Run a target and return how it ended; anything but the two ways is an error."""
    try:
        target.run(folder)
    except UserError as error:
        line = str(error)
        assert "\n" not in line, line
        assert any(file in line for file in (*target.files, "manifest.json")), line
        assert not [path for path in (*target.outputs, "receipt.json") if (folder / path).exists()]
        assert not list(folder.glob(".*")), "a half-written file"
        return "one line"
    for path in target.outputs:
        assert (folder / path).read_text(encoding="utf-8") is not None
    return "a result"


@pytest.mark.parametrize("read", [verdicts.verdict, mtbench.read_rating, generate_evol.equal])
@examples(10 * EXAMPLES)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(
                '[[ ]] 8 [[8]] 8/10 rating: { } " , "status": "Accept" "rating": 9 "reason": "x"'
                " <think> </think> not equal different ? . n't \\[ ［ 【 \n ```json NaN".split(" ")
            ),
        ),
        max_size=30,
    )
)
def test_any_answer_is_read_or_not_read(read: Callable[[str], Any], parts: list[str]) -> None:
    for text in ("".join(parts), " ".join(parts)):
        found = read(text)
        json.dumps(found, allow_nan=False).encode()
        if isinstance(found, tuple):
            assert (found[1] == "rated") == (1 <= found[0] <= 10)
        ended(read.__qualname__, "read or not read")
