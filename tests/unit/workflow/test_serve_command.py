"""Promises of the teacher's server: the locked vLLM is told which architecture the teacher has, and
further options have a place in the configuration.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import serve_model
from bezoar.errors import UserError
from bezoar.workflow import served
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout, models_asked

ROOT = Path(__file__).parents[3]
# What the locked vLLM does with the teacher's config.json: it knows RWForCausalLM up to 0.28 only.
VLLM = f"""#!{sys.executable}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
line = sys.argv[1:]
assert line[0] == "serve"
named = "--hf-overrides" in line
overrides = json.loads(line[line.index("--hf-overrides") + 1]) if named else {{}}
if overrides.get("architectures") != ["FalconForCausalLM"]:
    sys.exit("Model architectures ['RWForCausalLM'] were supported until v0.28.0")
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers()
        self.wfile.write(b"{{}}")
HTTPServer(("127.0.0.1", int(line[line.index("--port") + 1])), Handler).handle_request()
"""


def recipe(names: list[str], **changes: Any) -> dict[str, Any]:
    layout = Layout(resolved([str(ROOT / "config" / name) for name in names]))
    return {**served.server_recipe(layout), **changes}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("program", ["transformers", "llama.cpp"])
def test_a_setting_that_a_program_would_ignore_is_refused(program: str) -> None:
    named = recipe(["serve-vllm.yaml"], program=program, options={}, tensor_parallel_size=1)
    assert serve_model.command({**named, "revision": None}, 1)[0] == named["executable"]
    with pytest.raises(UserError, match=rf"^teacher\.revision: {program} serves what it finds"):
        serve_model.command({**named, "revision": "a" * 40}, 1)


def test_transformers_serves_on_one_gpu() -> None:
    two = recipe(["serve-vllm.yaml"], program="transformers", options={}, tensor_parallel_size=2)
    with pytest.raises(UserError, match=r"^serve\.tensor_parallel_size: transformers uses one GPU"):
        serve_model.command(two, 1)


def test_without_weights_there_is_nothing_to_requantise() -> None:
    line = recipe(["serve-vllm.yaml"], requantize="Q8_0")
    with pytest.raises(UserError, match=r"^serve\.requantize: expected a GGUF file under"):
        serve_model.command(line, 1)


@pytest.mark.parametrize("ended", [True, False])
def test_a_requantised_copy_goes_with_a_server_that_never_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """SIGTERM while the copy is made, or a program that is not there."""

    def requantize(weights: Path, copy: Path, kind: str) -> None:
        copy.write_text("weights")
        if ended:
            sys.exit(serve_model.TERMINATED)

    monkeypatch.setattr(serve_model, "requantize", requantize)
    changes = {"weights": "w.gguf", "requantize": "Q8_0", "executable": str(tmp_path / "none")}
    line = recipe(["serve-vllm.yaml"], program="llama.cpp", revision=None, options={}, **changes)
    with (
        pytest.raises(SystemExit if ended else UserError),
        serve_model.running(line, tmp_path / "serve" / "record.json", None),
    ):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "serve"]


@pytest.mark.parametrize("mapped", [True, False])
def test_the_locked_vllm_starts_with_the_shipped_configuration_and_not_without_the_mapping(
    tmp_path: Path, mapped: bool
) -> None:
    program = tmp_path / "vllm"
    program.write_text(VLLM)
    program.chmod(0o755)
    changes: dict[str, Any] = {"executable": str(program)} | ({} if mapped else {"options": {}})
    command = [sys.executable, str(ROOT / "scripts" / "serve_model.py")]
    command += ["--recipe", json.dumps(recipe(["serve-vllm.yaml"], **changes))]
    command += ["--address", str(tmp_path / "url"), "--record", str(tmp_path / "record.json")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 2 and (tmp_path / "record.json").exists() is mapped
    assert ("answers at http://127.0.0.1:" in printed) is mapped
    assert ("supported until v0.28.0" in printed) is not mapped


def test_further_options_are_added_to_vllms_command_line() -> None:
    options = {
        "hf-overrides": {"architectures": ["X"]},
        "gpu-memory-utilization": 0.8,
        "enforce-eager": True,
        "swap-space": None,
        "disable-log-requests": False,
    }
    line = serve_model.command(recipe(["serve-vllm.yaml"], options=options), 7)
    place = line.index("--hf-overrides")
    assert line[place:] == [
        "--hf-overrides",
        '{"architectures": ["X"]}',
        "--gpu-memory-utilization",
        "0.8",
        "--enforce-eager",
    ]
    assert line[:2] == [".venv-serve/bin/vllm", "serve"]


@pytest.mark.parametrize("name", ["api-key", "port", "hf-token", "--port", "x y", "max-model-len"])
def test_an_option_that_is_set_elsewhere_or_is_a_secret_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=rf"^serve: options: `{name}`: expected the name"):
        serve_model.command(recipe(["serve-vllm.yaml"], options={name: "x"}), 7)


@pytest.mark.parametrize(
    ("names", "bits", "at_once"),
    [
        (["teacher-48gb.yaml"], "Q6_K", 16),
        (["teacher-48gb.yaml", "teacher-24gb.yaml"], "Q3_K_M", 8),
    ],
)
def test_a_quantised_teacher_is_served_by_llama_cpp_under_a_name_of_its_own(
    names: list[str], bits: str, at_once: int
) -> None:
    served = recipe(names)
    line = serve_model.command(served, 7)
    options = dict(zip(line[1::2], line[2::2], strict=True))
    assert line[0] == "llama-server"
    assert options["--alias"] == served["model"] == f"h2ogpt-gm-oasst1-en-2048-falcon-40b-v2-{bits}"
    assert options["--hf-file"].endswith(f"-{bits}.gguf")
    assert int(options["--ctx-size"]) == 2048 * at_once == 2048 * int(options["--parallel"]), (
        "the context is divided among requests"
    )
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "7")


def test_without_commercial_keys_every_model_is_on_a_server_of_ones_own() -> None:
    config = resolved(["config/open-models.yaml"])
    found = dict(models_asked(config))
    assert {settings["base_url_env"] for settings in found.values()} == {
        "TEACHER_BASE_URL",
        "OPEN_MODEL_BASE_URL",
    }
    assert {settings["api_key_env"] for settings in found.values()} == {
        "TEACHER_API_KEY",
        "OPEN_MODEL_API_KEY",
    }
    assert config["pathvars"]["results"] != resolved([])["pathvars"]["results"]
    others = {found[role]["model"] for role in ("rater", "evaluator", "judge")}
    assert len(others) == 1 and config["mtbench"]["judgments"]["paper_judge"] not in others


def test_who_waits_for_a_server_notices_that_it_was_killed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    address, record = tmp_path / "url", tmp_path / "record.json"
    address.write_text(f"http://127.0.0.1:1/v1\n{gone.pid}\n")
    with pytest.raises(UserError, match=f"url: left behind, its process {gone.pid} was killed"):
        serve_model.awaited(address, record)
    address.write_text(f"http://127.0.0.1:1/v1\n{os.getpid()}\n")
    record.write_text("{}")
    assert serve_model.awaited(address, record) == "http://127.0.0.1:1/v1"


def test_a_server_of_nothing_is_a_wrong_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        serve_model.main(["--record", str(tmp_path / "x")])
    assert ended.value.code == 2
    assert "--recipe is required, unless --await says" in capsys.readouterr().err


@contextmanager
def speaking(answer: bytes) -> Iterator[str]:
    """A port that answers everything with these bytes."""

    def answer_all() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.recv(4096)
                peer.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_all, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def test_whatever_listens_at_an_address_doctor_and_server_say_it_in_a_line() -> None:
    import doctor

    with speaking(b"SSH-2.0-OpenSSH_9.2\r\n") as address:
        assert not isinstance(doctor.knock(f"{address}/models"), int)
        assert "SSH-2.0" in serve_model.answers(address, "m")
    with speaking(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as address:
        assert doctor.knock(f"{address}/models", "GET") == 404
        assert not doctor.has(f"{address}/file")
    for wrong in ("http://127.0.0.1:80x0/v1", "http://my host:80/v1", "http://127.0.0.1:80\r/v1"):
        assert not doctor.has(wrong)
