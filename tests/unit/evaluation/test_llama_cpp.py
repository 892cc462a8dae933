"""A server that nobody here wrote: llama.cpp's, out of the package xllamacpp, serves the tiny
base of the tests as GGUF to the generation code, as in the trial.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bezoar.readers import read_jsonl

ROOT = Path(__file__).parents[3]
pytest.importorskip("xllamacpp", reason="no package xllamacpp")


@pytest.fixture(scope="module")
def weights(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import load_file, save_file

    base = tmp_path_factory.mktemp("llama") / "base"
    shutil.copytree(tiny_base, base)
    held = load_file(tiny_base / "model.safetensors")
    save_file({key: value.float() for key, value in held.items()}, base / "model.safetensors")
    path = base.with_name("tiny.gguf")
    subprocess.run([sys.executable, ROOT / "tests/unit/to_gguf.py", base, path], check=True)
    return path


def served(
    tmp_path: Path, weights: Path, line: list[str], **more: Any
) -> "subprocess.CompletedProcess[str]":
    recipe = {
        "program": "xllamacpp",
        "executable": sys.executable,
        "weights": str(weights),
        "dtype": "float16",
        "quantization": None,
        "tensor_parallel_size": 0,
        "max_model_len": 128,
        "start_timeout_s": 60,
        "options": {"parallel": 2},
        "model": "tiny",
        "revision": None,
        "seed": 0,
        **more,
    }
    return subprocess.run(
        [
            *(sys.executable, "scripts/serve_model.py", "--recipe", json.dumps(recipe)),
            *("--record", str(tmp_path / "record.json")),
            *("--export", "TEACHER_BASE_URL", "TEACHER_API_KEY", "--", *line),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def orca(tmp_path: Path, **more: Any) -> list[str]:
    (tmp_path / "flan.tsv").write_text(
        "".join(f"red blue {word}?\tcat\tdog\n" for word in ("one", "two", "three"))
    )
    teacher = {
        "provider": "openai",
        "api": "completions",
        "model": "tiny",
        "revision": None,
        "base_url_env": "TEACHER_BASE_URL",
        "api_key_env": "TEACHER_API_KEY",
        "prompt_form": "%s",
        "stop": [],
        "temperature": 0.8,
        "max_tokens": 6,
        "timeout_s": 30,
        "reported_as": None,
        "json_schema": False,
        "use_batch_api": False,
        **more,
    }
    recipe = {
        "quotas": {"cot": 3},
        "rows_per_task": 3,
        "max_failure_share": 1.0,
        "teacher": teacher,
        "seed": 0,
    }
    return [
        *(sys.executable, "scripts/generate_orca.py", "--flan", str(tmp_path / "flan.tsv")),
        *("--prompts", "prompts/orca_system_messages.yaml", "--concurrency", "2", "--code", "x"),
        *("--store", str(tmp_path / "s.sqlite"), "--rows", str(tmp_path / "rows.jsonl")),
        *("--counts", str(tmp_path / "counts.json"), "--receipt", str(tmp_path / "receipt.json")),
        *("--recipe", json.dumps(recipe)),
    ]


def test_rows_are_generated_by_llama_cpps_server(tmp_path: Path, weights: Path) -> None:
    done = served(tmp_path, weights, orca(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "receipt.json").read_text())["facts"]
    assert sum(facts["states"].values()) == 3 and facts["tokens"]["output"] > 0
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert len(rows) == facts["states"].get("answered", 0) + facts["states"].get("truncated", 0) > 0
    assert all(row["explained_targets"] for row in rows)


def test_a_requantised_copy_is_served_and_gone_afterwards(tmp_path: Path, weights: Path) -> None:
    seen = (sys.executable, "-c", f"import os; print(os.listdir({str(tmp_path)!r}))")
    done = served(tmp_path, weights, list(seen), requantize="Q8_0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "record.json" in done.stdout and ".gguf'" not in done.stdout, "it is held open, unnamed"
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["requantize"] == "Q8_0" and record["weights"] == str(weights)
    assert record["command"][record["command"].index("--model") + 1] == f"{tmp_path}/record.gguf"


def test_a_grammar_holds_every_answer(tmp_path: Path, weights: Path) -> None:
    extra = {"grammar": 'root ::= "cat" | "dog"'}
    done = served(tmp_path, weights, orca(tmp_path, extra=extra, max_tokens=16))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert len(rows) == 3 and {row["explained_targets"] for row in rows} <= {"cat", "dog"}


def test_weights_that_llama_cpp_cannot_read_are_one_line(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "half.gguf").write_bytes(weights.read_bytes()[:5000])
    done = served(tmp_path, tmp_path / "half.gguf", orca(tmp_path))
    assert done.returncode == 2 and not (tmp_path / "rows.jsonl").exists()
    assert f"{tmp_path}/half.gguf: llama.cpp cannot serve it" in done.stderr
    assert "the server of tiny ended with status 1 before it answered" in done.stderr
