"""The generation code against a server nobody here wrote: llama-cpp-python's, with the tests' tiny
base as GGUF.

Needs an environment with `llama-cpp-python[server]`, gguf, safetensors and sentencepiece, whose
Python is named by BEZOAR_LLAMA_CPP_PYTHON; its build takes minutes, so it is skipped otherwise.
`transformers serve` is in tests/workflow/test_serve.py.
"""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

import generate_orca
from bezoar.readers import read_jsonl

PYTHON = os.environ.get("BEZOAR_LLAMA_CPP_PYTHON", "")
ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(
    not PYTHON, reason="set BEZOAR_LLAMA_CPP_PYTHON to a Python that has llama-cpp-python[server]"
)
def test_rows_are_generated_by_llama_cpp_s_server(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    base, model = tmp_path / "base", tmp_path / "tiny.gguf"
    base.mkdir()
    for name in ("config.json", "tokenizer.model"):
        (base / name).write_bytes((tiny_base / name).read_bytes())
    save_file(
        {
            name: weight.float()
            for name, weight in load_file(tiny_base / "model.safetensors").items()
        },
        base / "model.safetensors",
    )
    subprocess.run(
        [PYTHON, str(Path(__file__).parents[1] / "to_gguf.py"), str(base), str(model)], check=True
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        PYTHON,
        "-m",
        "llama_cpp.server",
        "--model",
        str(model),
        "--model_alias",
        "tiny",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(
        [*command, "--n_ctx", "256"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        monkeypatch.setenv("TEACHER_BASE_URL", f"http://127.0.0.1:{port}/v1")
        monkeypatch.setenv("TEACHER_API_KEY", "none")
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
        }
        recipe = {
            "quotas": {"cot": 3},
            "rows_per_task": 3,
            "max_failure_share": 1.0,
            "teacher": teacher,
            "seed": 0,
        }
        generate_orca.main(
            [
                "--flan",
                str(tmp_path / "flan.tsv"),
                "--prompts",
                str(ROOT / "prompts/orca_system_messages.yaml"),
                "--store",
                str(tmp_path / "s.sqlite"),
                "--concurrency",
                "2",
                "--rows",
                str(tmp_path / "rows.jsonl"),
                "--counts",
                str(tmp_path / "counts.json"),
                "--recipe",
                json.dumps(recipe),
                "--code",
                "x",
                "--receipt",
                str(tmp_path / "receipt.json"),
            ]
        )
    finally:
        server.kill()
        server.wait()
    facts = json.loads((tmp_path / "receipt.json").read_text())["facts"]
    assert sum(facts["states"].values()) == 3 and facts["tokens"]["output"] > 0
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert len(rows) == facts["states"].get("answered", 0) + facts["states"].get("truncated", 0) > 0
    assert all(row["explained_targets"] for row in rows)
