"""The teacher's server as a Snakemake service: `transformers serve` with the rehearsal's own base,
asked by the same generation programs.
"""

import json
import socket
import sqlite3
import sys
from pathlib import Path

import pytest
from smallest import snakemake

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from servable import servable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


TARGETS = [f"results/served/generate/{scheme}.jsonl" for scheme in ("orca", "lamini")]


@pytest.fixture(scope="module")
def served(finished: Path) -> Path:
    """The results of two generation jobs whose teacher was the base model behind a server that the
    workflow started and ended.
    """
    model = servable(finished / "results/smallest/base", finished / "teacher")
    model_settings = {
        "provider": "openai",
        "api": "completions",
        "model": str(model),
        "base_url_env": "TEACHER_BASE_URL",
        "api_key_env": "TEACHER_API_KEY",
        "prompt_form": "%s",
        "max_tokens": 8,
        "timeout_s": 60,
        "use_batch_api": False,
    }
    config = {
        "pathvars": {
            "results": "results/served",
            "logs": "logs/served",
            "benchmarks": "benchmarks/served",
        },
        "teacher": model_settings,
        "serve": {
            "program": "transformers",
            "executable": str(Path(sys.executable).with_name("transformers")),
            "dtype": "float32",
            "quantization": None,
            "tensor_parallel_size": 0,
            "max_model_len": 256,
            "start_timeout_s": 180,
        },
        "generate": {
            "lamini": {"rows": 4, "rounds": 1, "calls_per_round": 2, "max_failure_share": 1.0},
            "orca": {"quotas": {"cot": 6}, "rows_per_task": 6, "max_failure_share": 1.0},
        },
    }
    (finished / "served.yaml").write_text(json.dumps(config))
    done = snakemake(finished, "--cores", "3", *TARGETS, more=["served.yaml"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return finished / "results" / "served"


def test_both_jobs_got_their_answers_from_the_served_model(served: Path) -> None:
    rows = [json.loads(line) for line in (served / "generate/orca.jsonl").read_text().splitlines()]
    counts = json.loads((served / "generate/orca.counts.json").read_text())
    assert sum(counts["states"].values()) == 6 and 0 < len(rows) == counts["kept"]
    assert json.loads((served / "generate/lamini.counts.json").read_text())["states"]
    for store in ("generate-orca", "generate-lamini"):
        with sqlite3.connect(served / "store" / f"{store}.sqlite") as connection:
            answers = [
                json.loads(text) for (text,) in connection.execute("SELECT answer FROM answers")
            ]
        assert answers and all(
            answer["model"].split("@")[0].endswith("/teacher") and answer["usage"]["output"] > 0
            for answer in answers
        )


def test_the_server_was_ended_and_its_precision_is_recorded(served: Path) -> None:
    record = json.loads((served / "serve/teacher.json").read_text())
    assert (record["dtype"], record["quantization"]) == ("float32", None)
    assert (
        json.loads((served / "receipts/generate_orca.json").read_text())["recipe"]["serve"]["dtype"]
        == "float32"
    )
    assert not (served / "serve/teacher.url").exists()
    port = int(record["command"][record["command"].index("--port") + 1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_second_plan_of_a_served_run_is_empty(served: Path, finished: Path) -> None:
    done = snakemake(finished, "--cores", "3", "--dry-run", *TARGETS, more=["served.yaml"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Nothing to be done" in done.stdout + done.stderr
