"""Which jobs ask the model that the workflow serves, and what stands before their programs."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import serve_model
from bezoar.errors import UserError
from bezoar.llm.settings import request_of
from bezoar.workflow import recipes, served, shared_generation, sources
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
    assert served.recipe(paper, "generate-orca", teacher) == {}
    assert served.files(paper, "generate-orca", teacher) == []


def test_a_shared_server_is_the_teacher_s_alone() -> None:
    paper = layout("paper.yaml", "serve-vllm.yaml")
    teacher = paper.config["teacher"]
    line = served.before(paper, "generate-orca", teacher)
    assert "--await results/serve/teacher.url" in line and line.endswith("TEACHER_API_KEY=none")
    assert served.before(paper, "filter-orca", teacher) == "", "even with the same settings"
    assert served.threads(paper, "generate-orca", teacher) == 1


@pytest.mark.parametrize(
    ("named", "taken"),
    [
        ({"TEACHER_BASE_URL": "all", "TEACHER_BASE_URL_2": "second"}, "second"),
        ({"TEACHER_BASE_URL": "all", "TEACHER_BASE_URL_1": "first"}, "all"),
        ({}, ""),  # as in a replay
    ],
)
def test_a_shard_has_the_server_of_its_number_or_the_common_one_or_none(
    named: dict[str, str], taken: str
) -> None:
    line = shared_generation.own_server(layout("paper.yaml"))(SimpleNamespace(number="2"))
    strict = ["bash", "-euo", "pipefail", "-c", f'{line}\necho "$TEACHER_BASE_URL"']
    environment = {"PATH": os.environ["PATH"], **named}
    done = subprocess.run(strict, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == taken


def test_a_job_of_the_trial_starts_its_own_server_for_every_model_behind_it() -> None:
    trial = layout("trial.yaml")
    config = trial.config
    judge = config["mtbench"]["judgments"]["judge"]
    for job, model in (("generate-orca", config["teacher"]), ("judge-base", judge)):
        line = shlex.split(served.before(trial, job, model).removesuffix("\\"))
        assert line[:3] == ["exec", "python", "scripts/serve_model.py"]
        assert line[-4:] == ["--export", "TEACHER_BASE_URL", "TEACHER_API_KEY", "--"]
        recipe = json.loads(line[line.index("--recipe") + 1])
        assert recipe["weights"] == "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        assert "shared" not in recipe and served.threads(trial, job, model) == 2
        assert served.files(trial, job, model) == [recipe["weights"]]


def test_a_replay_needs_neither_server_nor_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEZOAR_MODE", "replay")
    for name in ("serve-vllm.yaml", "trial.yaml"):
        here = layout("paper.yaml", name)
        teacher = here.config["teacher"]
        assert served.before(here, "generate-orca", teacher) == ""
        assert served.files(here, "generate-orca", teacher) == []
        assert served.recipe(here, "generate-orca", teacher), "what made the answers stays said"


def test_how_often_a_server_is_started_makes_nothing_stale_and_its_precision_does() -> None:
    trial = layout("trial.yaml")
    made = [recipes.generation(trial, "orca"), recipes.rating(trial), recipes.judging(trial)]
    assert all("shared" not in recipe["serve"] for recipe in made)
    assert all(recipe["serve"]["quantization"] == "Q4_1" for recipe in made)
    assert all(len(recipe["serve"]["lock"]) == 64 for recipe in made)


def test_other_weights_make_other_requests_and_other_recipes(tmp_path: Path) -> None:
    models = []
    for content in (b"one", b"two"):
        (tmp_path / "w.gguf").write_bytes(content)
        (tmp_path / "mine.yaml").write_text(f"serve: {{weights: {tmp_path}/w.gguf}}")
        trial = Layout(resolved(["config/trial.yaml", str(tmp_path / "mine.yaml")]))
        judge = trial.config["mtbench"]["judgments"]["judge"]
        models.append((trial.config["teacher"]["revision"], judge["revision"]))
        assert recipes.generation(trial, "orca")["teacher"]["revision"] == models[-1][0]
        assert trial.config["lm_eval"] == resolved(["config/trial.yaml"])["lm_eval"]
    assert models[0] != models[1] and all(f"{one} Q8_0" == two for one, two in models)


def test_weights_are_requantised_for_the_jobs_of_the_sections_that_say_so() -> None:
    trial = layout("trial.yaml")
    found = [recipes.generation(trial, "orca"), recipes.rating(trial), recipes.judging(trial)]
    assert [recipe["serve"].get("requantize") for recipe in found] == [None, None, "Q8_0"]
    for job, kind in (("generate-orca", None), ("judge-base", "Q8_0"), ("rejudge-x.base", "Q8_0")):
        line = shlex.split(served.before(trial, job, trial.config["teacher"]).removesuffix("\\"))
        recipe = json.loads(line[line.index("--recipe") + 1])
        assert recipe.get("requantize") == kind, job


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("serve: {weights: ./none.gguf}", r"^\./none\.gguf: expected a file, or an entry of"),
        ("serve: {weights: mt_bench}", r"no source `mt_bench`; the nearest id is"),
        ("teacher: {base_url_env: null}", r"^teacher\.base_url_env: expected the name of a var"),
        ("serve: {options: {threads: -1}}", r"^serve\.options\.threads: expected 1 or more"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, change: str, line: str) -> None:
    (tmp_path / "mine.yaml").write_text(change)
    with pytest.raises(UserError, match=line):
        trial = Layout(resolved(["config/trial.yaml", str(tmp_path / "mine.yaml")]))
        served.threads(trial, "generate-orca", trial.config["teacher"])


def test_another_judge_s_server_is_not_ours() -> None:
    trial = layout("trial.yaml", "open-models.yaml")
    judge = trial.config["mtbench"]["judgments"]["judge"]
    assert served.before(trial, "judge-base", judge) == "" and judge["revision"] is None
    assert "serve" not in recipes.judging(trial)


def test_a_model_that_is_served_may_do_without_a_key() -> None:
    trial = layout("trial.yaml")
    judge = {**trial.config["mtbench"]["judgments"]["judge"], "api_key_env": None}
    line = shlex.split(served.before(trial, "judge-base", judge).removesuffix("\\"))
    assert line[line.index("--export") + 1 : line.index("--")] == ["TEACHER_BASE_URL"]


def test_the_card_of_rows_names_the_weights_licence() -> None:
    card = recipes.data_card(layout("trial.yaml"), "orca", [])
    assert {row["licence"] for row in card["sources"] if "SmolLM2" in row["origin"]} == {
        "Apache-2.0"
    }


def command(tmp_path: Path, server: str, line: list[str]) -> list[str]:
    program = tmp_path / "server"
    program.write_text(f"#!{sys.executable}\n{server}")
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
    return [
        *(sys.executable, "scripts/serve_model.py", "--recipe", json.dumps(recipe)),
        *("--record", str(tmp_path / "record.json"), "--export", "HERE_URL", "HERE_KEY"),
        *("--", *line),
    ]


ENVIRONMENT = {**os.environ, "PYTHONPATH": "scripts"}


def run(tmp_path: Path, *line: str, server: str = SERVER) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(tmp_path, server, list(line)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )


@pytest.mark.parametrize("status", [0, 3])
def test_a_command_gets_the_server_and_its_own_exit_status(tmp_path: Path, status: int) -> None:
    done = run(tmp_path, sys.executable, "-c", SHOW.format(status))
    record = json.loads((tmp_path / "record.json").read_text())
    port = record["command"][record["command"].index("--port") + 1]
    assert done.returncode == status, done.stderr
    assert f"http://127.0.0.1:{port}/v1 none" in done.stdout


def test_a_server_that_ends_early_ends_the_command_and_is_one_line(tmp_path: Path) -> None:
    once = SERVER.replace("serve_forever()", "handle_request()")
    done = run(tmp_path, sys.executable, "-c", "import time; time.sleep(60)", server=once)
    assert done.returncode == 2
    assert "error: the server of m ended with status 0 while it was needed" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_job_leaves_neither_server_nor_command(
    tmp_path: Path, sent: signal.Signals
) -> None:
    mark = tmp_path / "began"
    sleeper = f"import time, pathlib; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"
    line = command(tmp_path, SERVER, [sys.executable, "-c", sleeper])
    with subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as job:
        wait_until(mark.exists)
        mine = f"{tmp_path}".encode()
        assert len(processes(mine)) == 3
        job.send_signal(sent)
    assert job.returncode == (143 if sent == signal.SIGTERM else -9)
    wait_until(lambda: not processes(mine))


def processes(mark: bytes) -> list[Path]:
    """The processes whose command line holds `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [path] if mark in path.read_bytes() else []
    return found


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_teacher_is_served_at_the_revision_of_the_registry_unless_the_configuration_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    registry = sources.load(Path("config/sources.yaml"))
    config = resolved(["config/serve-vllm.yaml"])

    def revision(commit: str | None = None, **changed: Any) -> str | None:
        registry["falcon_40b_teacher"]["revision"] = commit
        here = Layout({**config, "teacher": config["teacher"] | changed}, registry)
        found = here.config["teacher"]["revision"]
        assert served.server_recipe(here)["revision"] == found
        assert recipes.generation(here, "orca")["teacher"]["revision"] == found
        assert request_of(here.config["teacher"], [])["revision"] == found
        return None if found is None else str(found)

    assert revision() is None
    assert revision("a" * 40) == "a" * 40
    assert revision("b" * 40) == "b" * 40, "what was served at a commit is not another's answer"
    assert revision("a" * 40, revision="c" * 40) == "c" * 40
    assert revision("a" * 40, model="another") is None
    served_by_another = {**config["serve"], "program": "transformers"}
    assert (
        Layout({**config, "serve": served_by_another}, registry).config["teacher"]
        == (config["teacher"])
    )


def test_the_trials_weights_are_served_as_what_they_are() -> None:
    trial = layout("trial.yaml")
    assert str(trial.config["teacher"]["revision"]).startswith("sha256:")
    line = serve_model.command(served.server_recipe(trial), 9)  # type: ignore[arg-type]
    assert line[line.index("--model") + 1] == trial.place(trial.config["serve"]["weights"])


def test_an_evaluator_behind_a_shared_server_is_the_weights_that_are_served() -> None:
    trial = resolved(["config/trial.yaml"])
    shared = Layout({**trial, "serve": {**trial["serve"], "shared": True}}).config
    evaluator, teacher = shared["generate"]["evol"]["evaluator"], shared["teacher"]
    assert str(evaluator["revision"]).startswith("sha256:")
    assert evaluator["revision"] == teacher["revision"]
    assert shared["filter"]["rater"]["revision"] is None, "which the shared server is not for"
