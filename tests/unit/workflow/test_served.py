"""Which jobs ask the model that the workflow serves, and what stands before their programs."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bezoar.workflow import recipes, served
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout

ROOT = Path(__file__).parents[3]
# A server that answers everything with {}, and a command that shows what it was given.
SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers()
        self.wfile.write(b"{}")
line = sys.argv[1:]
HTTPServer(("127.0.0.1", int(line[line.index("--port") + 1])), Handler).serve_forever()
"""
SHOW = "import os, sys; print(os.environ.get('HERE_URL'), os.environ.get('HERE_KEY')); sys.exit({})"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def layout(*files: str) -> Layout:
    return Layout(resolved([f"config/{name}" for name in files]))


def test_without_serve_nothing_is_started() -> None:
    paper = layout("paper.yaml")
    teacher = paper.config["teacher"]
    assert served.before(paper, "generate-orca", teacher) == ""
    assert served.recipe(paper, teacher) == {} and served.weights(paper, teacher) == []


def test_a_shared_server_is_the_teacher_s_alone() -> None:
    paper = layout("paper.yaml", "serve-vllm.yaml")
    teacher, rater = paper.config["teacher"], paper.config["filter"]["rater"]
    assert "--await results/serve/teacher.url" in served.before(paper, "generate-orca", teacher)
    assert served.before(paper, "filter-orca", rater | {"base_url_env": "TEACHER_BASE_URL"}) == ""
    assert served.threads(paper, teacher) == 1


def test_a_job_of_the_trial_starts_its_own_server_for_every_model_behind_it() -> None:
    trial = layout("trial.yaml")
    config = trial.config
    judge = config["mtbench"]["judgments"]["judge"]
    for job, model in (("generate-orca", config["teacher"]), ("judge-base", judge)):
        line = shlex.split(served.before(trial, job, model))
        assert line[-4:] == ["--export", "TEACHER_BASE_URL", "TEACHER_API_KEY", "--"]
        recipe = json.loads(line[line.index("--recipe") + 1])
        assert recipe["weights"] == "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        assert "shared" not in recipe and served.threads(trial, model) == 2
        assert served.weights(trial, model) == [recipe["weights"]]


def test_how_often_a_server_is_started_makes_nothing_stale_and_its_precision_does() -> None:
    trial = layout("trial.yaml")
    made = [recipes.generation(trial, "orca"), recipes.rating(trial), recipes.judging(trial)]
    assert all("shared" not in recipe["serve"] for recipe in made)
    assert all(recipe["serve"]["quantization"] == "Q4_1" for recipe in made)


def test_another_judge_s_server_is_not_ours() -> None:
    trial = layout("trial.yaml", "open-models.yaml")
    judge = trial.config["mtbench"]["judgments"]["judge"]
    assert served.before(trial, "judge-base", judge) == ""
    assert "serve" not in recipes.judging(trial)


def run(tmp_path: Path, status: int, **environment: str) -> "subprocess.CompletedProcess[str]":
    program = tmp_path / "server"
    program.write_text(f"#!{sys.executable}\n{SERVER}")
    program.chmod(0o755)
    recipe: dict[str, Any] = {
        "program": "llama.cpp",
        "executable": str(program),
        "dtype": "float16",
        "quantization": None,
        "tensor_parallel_size": 0,
        "max_model_len": 8,
        "start_timeout_s": 30,
        "model": "m",
        "revision": None,
        "seed": 0,
    }
    command = [sys.executable, "scripts/serve_model.py", "--recipe", json.dumps(recipe)]
    command += ["--record", str(tmp_path / "record.json"), "--export", "HERE_URL", "HERE_KEY"]
    command += ["--", sys.executable, "-c", SHOW.format(status)]
    here = {**os.environ, "PYTHONPATH": "scripts", **environment}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=here
    )


@pytest.mark.parametrize("status", [0, 3])
def test_a_command_gets_the_server_and_its_own_exit_status(tmp_path: Path, status: int) -> None:
    done = run(tmp_path, status)
    record = json.loads((tmp_path / "record.json").read_text())
    port = record["command"][record["command"].index("--port") + 1]
    assert done.returncode == status
    assert f"http://127.0.0.1:{port}/v1 none" in done.stdout


def test_a_replay_starts_no_server(tmp_path: Path) -> None:
    done = run(tmp_path, 0, BEZOAR_MODE="replay")
    assert done.returncode == 0 and "None None" in done.stdout
    assert not (tmp_path / "record.json").exists()
