"""Whatever the directory of a model or an adapter holds, a program that reads it ends in a result
or in one line that names it, and then nothing is written.
"""

import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from families import snapshot
from hypothesis import given
from hypothesis import strategies as st
from mutations import EXAMPLES, VALUES, damaged, ended, examples
from trained import REFERENCE, SFT, TEMPLATE

import answer_mtbench
import import_base
import measure_learning
import merge_adapter
import run_lm_eval
import score_reference
import train_sft
from bezoar.errors import UserError
from bezoar.files import sha256_file, write_jsonl

NAMED = re.compile(r"prompt \d|rows|pairs|texts|requests|lora|merge:|step \d|the adapter did not")
UNFINISHED = re.compile(r"/\.\w[\w.]*\.(checkpoints|parts)/")  # what a killed stage goes on from
FEW = max(2, EXAMPLES // 15)  # inputs of a program that computes with the model
CHAT = {
    "temperatures": {},
    "default_temperature": 0.7,
    "top_k": 0,
    "max_new_tokens": 2,
    "stop": [],
    "batch_size": 2,
    "dtype": "float32",
    "threads": 1,
    "seed": 0,
}
HARNESS = {"dtype": "float32", "threads": 1, "batch_size": 1, "max_length": 32}
MERGE = {
    "merge_onto": "base",
    "probe_rows": 2,
    "max_length": 32,
    "max_kl": 9.0,
    "threads": 1,
    "seed": 0,
}
LEARNING = {"max_new_tokens": 2, "batch_size": 2, "threads": 1, "seed": 0}
# What configurations of models hold, so that a change may pass for one.
WORDS = [
    *("llama", "qwen2", "gpt2", "float16", "bfloat16", "float8_e4m3fn", "gelu", "silu", "LORA"),
    *("linear", "dynamic", "yarn", "llama3", "<|endoftext|>", "</s>", "CAUSAL_LM", "all-linear"),
    *("PreTrainedTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "{{ messages }}", "{% x %}"),
    *("{{ messages[0].content.x.y }}", "{{ 1 // 0 }}", "{{ raise_exception('no') }}", "BF16", "I8"),
    *(1, 2, 3, 63, 64, 128, 384, 385, 0.5, 1e-300, 1e308, [2, 5], [[2]], {"factor": 2.0}),
]
ANY = (*VALUES, *WORDS, *WORDS)


@dataclass
class Models:
    """A directory with a model, an adapter over it, rows and questions."""

    folder: Path

    def copied(self, to: Path) -> Path:
        """Copy all of it."""
        shutil.copytree(self.folder, to)
        return to


@pytest.fixture(scope="module")
def models(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Models]:
    """A Llama with a SentencePiece model, and a Qwen in two files with a fast tokenizer and a chat
    template; each with an adapter.
    """
    from bezoar.training import qlora

    found = {}
    for family in ("llama", "qwen2"):
        folder = tmp_path_factory.mktemp(family)
        if family == "llama":
            shutil.copytree(tiny_base, folder / "model")
        else:
            snapshot(folder / "model", family)
        adapted = qlora.attach_adapter(qlora.load_4bit(folder / "model"), SFT["lora"], None)
        (folder / "adapter").mkdir()
        qlora.save_adapter(adapted, folder / "adapter")
        qlora.write_lineage(folder / "adapter", folder / "model", None)
        row = {"instruction": "the cat", "response": "is red", "prompt": "the cat"}
        held = {**row, "system_message": "", "answer": "red", "chosen": "red", "rejected": "blue"}
        plain = {key: row[key] for key in ("instruction", "response")}
        write_jsonl(folder / "rows.jsonl", [plain] * 8)
        pair = {"prompt": "the cat", "chosen": "red", "rejected": "blue"}
        write_jsonl(folder / "pairs.jsonl", [pair, pair])
        write_jsonl(folder / "lamini.jsonl", [held])
        question = {"question_id": 81, "category": "math", "turns": ["2 + 3?", "And 4?"]}
        write_jsonl(folder / "questions.jsonl", [question])
        found[family] = Models(folder)
    split = found["qwen2"].folder / "split"
    shutil.copytree(found["qwen2"].folder / "model", split)
    in_two_files(split)
    return found


def in_two_files(model: Path) -> None:
    """Store a model's weights in two files with an index, as large models are."""
    from safetensors.torch import load_file, save_file

    held = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(held)
    index: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": {}}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: held[name] for name in part}, model / file, {"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def stage(main: Callable[[list[str]], None], recipe: Any, *words: str) -> Callable[[Path], None]:
    """Return a run of a program; a word that begins with @ is a path in the folder."""

    def run(folder: Path) -> None:
        main(
            [
                *(str(folder / word[1:]) if word.startswith("@") else word for word in words),
                *("--recipe", json.dumps(recipe), "--code", "x"),
                *("--receipt", str(folder / "out" / "receipt.json")),
            ]
        )

    return run


def asked_by_the_harness(folder: Path) -> None:
    """Load a model as the harness does, and have it score a request."""
    from lm_eval.api.instance import Instance

    backend = run_lm_eval.backend(folder / "model", HARNESS)  # type: ignore[arg-type]
    request = Instance("loglikelihood", {}, ("the cat", " is red"), 0)
    [(score, _)] = backend.loglikelihood([request], disable_tqdm=True)
    assert score <= 0


@dataclass
class Program:
    """A program, and which files of which model are damaged for it."""

    family: str
    run: Callable[[Path], None]
    damaged: str  # directory in the folder


TRAINING = SFT | {"epochs": 1, "eval_steps": 1, "max_length": 32, "load_best_model_at_end": False}
PROGRAMS = {
    "import_base llama": Program(
        "llama",
        stage(
            import_base.main,
            {"dtype": "float32", "seed": 0},
            *("--snapshot", "@model", "--base", "@out/base"),
        ),
        "model",
    ),
    "import_base qwen2": Program(
        "qwen2",
        stage(
            import_base.main,
            {"dtype": "float16", "tokenizer": "tokenizer.json", "seed": 0},
            *("--snapshot", "@split", "--base", "@out/base"),
        ),
        "split",
    ),
    "answer_mtbench": Program(
        "qwen2",
        stage(
            answer_mtbench.main,
            CHAT,
            *("--model", "@model", "--name", "m", "--questions", "@questions.jsonl"),
            *("--template", "tokenizer", "--answers", "@out/answers.jsonl"),
        ),
        "model",
    ),
    "run_lm_eval": Program("qwen2", asked_by_the_harness, "model"),
    "score_reference": Program(
        "llama",
        stage(
            score_reference.main,
            REFERENCE,
            *("--pairs", "@pairs.jsonl", "--base", "@model", "--template", str(TEMPLATE)),
            *("--reference", "@out/reference.jsonl"),
        ),
        "model",
    ),
    "merge_adapter": Program(
        "qwen2",
        stage(
            merge_adapter.main,
            MERGE,
            *("--base", "@model", "--adapter", "@adapter", "--probe", "@rows.jsonl"),
            *("--template", str(TEMPLATE), "--model", "@out/merged"),
        ),
        "adapter",
    ),
    "measure_learning": Program(
        "llama",
        stage(
            measure_learning.main,
            LEARNING,
            *("--base", "@model", "--adapter", "@adapter", "--heldout", "@lamini.jsonl"),
            *("--template", str(TEMPLATE), "--output", "@out/learning.json"),
        ),
        "adapter",
    ),
    "train_sft": Program(
        "qwen2",
        stage(
            train_sft.main,
            TRAINING,
            *("--stage", "sft", "--data", "@rows.jsonl", "--base", "@model"),
            *("--parent", "@adapter", "--template", str(TEMPLATE), "--adapter", "@out/sft"),
        ),
        "adapter",
    ),
}


def damage(path: Path, rng: random.Random) -> None:
    """Damage one file of a model: a value or some bytes; of weights the header or the values."""
    content = path.read_bytes()
    if path.suffix != ".safetensors" or rng.random() < 0.3:
        whole = json.dumps(json.loads(content)).encode() if path.suffix == ".json" else content
        path.write_bytes(damaged(whole, rng, rng.choice((1, 1, 2)), ANY))
        return
    size = int.from_bytes(content[:8], "little")
    header, rest = damaged(content[8 : 8 + size], rng, 1, ANY), content[8 + size :]
    path.write_bytes(len(header).to_bytes(8, "little") + header + rest)


@pytest.mark.parametrize("name", PROGRAMS)
@examples(FEW)
@given(seed=st.integers(0, 2**32))
def test_any_model_ends_in_a_result_or_in_one_line_that_names_it(
    name: str, seed: int, models: dict[str, Models]
) -> None:
    program, rng = PROGRAMS[name], random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = models[program.family].copied(Path(place) / "f")
        (folder / "out").mkdir()
        files = sorted(path for path in (folder / program.damaged).iterdir() if path.is_file())
        damage(rng.choice(files), rng)
        if rng.random() < 0.05:
            rng.choice(files).unlink()
        weights = folder / "model" / "model.safetensors"
        before = sha256_file(weights) if weights.is_file() else ""
        try:
            program.run(folder)
        except UserError as error:
            line = str(error)
            assert "\n" not in line, line
            assert str(folder) in line or NAMED.search(line), line
            left = [path for path in (folder / "out").rglob("*") if path.is_file()]
            assert all(UNFINISHED.search(str(path)) for path in left), left
            ended(name, "one line")
        else:
            assert any((folder / "out").iterdir()) or name == "run_lm_eval"
            ended(name, "a result")
        assert before == (sha256_file(weights) if weights.is_file() else "")
