"""Any model can be evaluated: both benchmarks on a directory, a row a model, and nothing is
trained; the 80 real questions are all accounted for.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from smallest import CONFIG, RESULTS, SNAKEMAKE, messages, planned

import answer_mtbench
import judge_mtbench
from bezoar.evaluation.mtbench import read_questions
from bezoar.readers import read_json, read_jsonl
from bezoar.workflow.configuration import load

MIRROR = Path(os.environ.get("BEZOAR_MIRROR") or Path(__file__).parents[2] / "data")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished rehearsal, so that what is evaluated here is in no other test's
    results.
    """
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("evaluate") / "project"))


def evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(folder / "scripts"),
        "PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}",
    }
    command = [
        sys.executable,
        "scripts/commands/evaluate_model.py",
        *arguments,
        "--config",
        *CONFIG,
        "--cores",
        "2",
    ]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_model_directory_gets_a_row_with_the_scores_it_has_in_the_rehearsal(
    project: Path,
) -> None:
    done = evaluate(project, "--model", f"{RESULTS}/merge/openbezoar-sft", "--name", "again")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "pretrain_base" not in done.stdout and "train_sft" not in done.stdout
    with open(project / RESULTS / "evaluate/table.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    harness, chat = (
        read_json(project / RESULTS / name) for name in ("lm_eval.json", "mtbench.json")
    )
    assert [row["model"] for row in rows] == ["again"] and rows[0]["source"].endswith(
        "merge/openbezoar-sft"
    )
    for task, value in harness["models"]["openbezoar-sft"].items():
        assert rows[0][task] == f"{value['mean']:.4f}"
    overall = chat["judges"]["simulator"]["models"]["openbezoar-sft"]["overall"]
    assert rows[0]["chat"] == f"{overall['mean']:.3f}" and rows[0]["chat failures"] == str(
        overall["failures"]
    )
    assert rows[0]["chat over the first"] == "", "it is the first"
    assert planned(project) == {}, "the rehearsal's own results are as they were"
    stages = ["evaluate", "evaluate_lm_eval", "evaluate_mtbench", "mtbench_judgments_again"]
    command = [sys.executable, "scripts/commands/audit_results.py", "--results", RESULTS]
    audit = subprocess.run(
        [*command, "--only", *stages],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": "scripts"},
    )
    assert audit.stdout.startswith(f"# Audit of {RESULTS}: SOUND"), audit.stdout[:3000]


def test_another_model_is_another_row_and_a_name_is_given_once(project: Path) -> None:
    hub = (
        "--model",
        "Some/Model-3B",
        "--revision",
        "9f2c4e7a1b3d5f60718293a4b5c6d7e8f9012345",
        "--template",
        "tokenizer",
        "--dry-run",
    )
    done = evaluate(project, *hub)
    assert done.returncode == 0, done.stderr[-3000:]
    for job in ("fetch_snapshot", "import_model", "lm_eval", "mtbench_judgments", "evaluate"):
        assert any(line.split()[:2] == [job, "1"] for line in done.stdout.splitlines()), job
    assert list(load(project / RESULTS / "evaluate/models.yaml")["extra_models"]) == ["again"], (
        "a plan evaluates nothing"
    )
    done = evaluate(
        project,
        *hub[:2],
        "--revision",
        "0123c4e7a1b3d5f60718293a4b5c6d7e8f9a45ff",
        "--name",
        "again",
        "--dry-run",
    )
    assert done.returncode == 2 and "the table has another model of this name" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", ""], "MODEL is not set"),
        (["--model", "nowhere"], "neither a directory nor owner/name of a hub repository"),
        (["--model", "scripts"], "no config.json; expected a Hugging Face model directory"),
        (["--model", "a/b", "--revision", "main"], "REVISION=main: expected a commit of a/b"),
        (["--model", "a/table"], "'table': cannot be a model's name here"),
    ],
)
def test_a_model_that_cannot_be_found_is_one_line(
    project: Path, arguments: list[str], message: str
) -> None:
    done = evaluate(project, *arguments, "--dry-run")
    assert (
        done.returncode == 2
        and message in done.stderr
        and "Traceback" not in done.stderr
        and len(messages(done.stderr)) == 1
    )


@pytest.mark.skipif(
    not (MIRROR / "mt_bench").is_dir(),
    reason="no upstream files: set MIRROR to a folder that holds them",
)
def test_all_160_turns_of_the_real_questions_end_in_one_state(
    finished: Path, tmp_path: Path
) -> None:
    recipe = read_json(finished / RESULTS / "receipts/mtbench_answers_base.json")["recipe"]
    answer_mtbench.main(
        [
            "--model",
            str(finished / RESULTS / "merge/openbezoar-hh-rlhf-dpo"),
            "--name",
            "tiny",
            "--questions",
            str(MIRROR / "mt_bench/question.jsonl"),
            "--template",
            str(MIRROR / "openbezoar/alpaca_modified.json"),
            "--answers",
            str(tmp_path / "answers.jsonl"),
            "--recipe",
            json.dumps(recipe),
            "--code",
            "x",
            "--receipt",
            str(tmp_path / "a.json"),
        ]
    )
    judged = read_json(finished / RESULTS / "receipts/mtbench_judgments_base.json")["recipe"]
    judge_mtbench.main(
        [
            "--questions",
            str(MIRROR / "mt_bench/question.jsonl"),
            "--answers",
            str(tmp_path / "answers.jsonl"),
            "--references",
            str(MIRROR / "mt_bench/reference_answer.gpt-4.jsonl"),
            "--judge-prompts",
            str(MIRROR / "mt_bench/judge_prompts.jsonl"),
            "--store",
            str(tmp_path / "store.sqlite"),
            "--facts",
            str(finished / RESULTS / "world/facts.json"),
            "--concurrency",
            "8",
            "--recipe",
            json.dumps(judged),
            "--code",
            "x",
            "--judgments",
            str(tmp_path / "judgments.jsonl"),
            "--counts",
            str(tmp_path / "counts.json"),
            "--receipt",
            str(tmp_path / "j.json"),
        ]
    )
    questions = {
        row["question_id"]: row["category"]
        for row in read_questions(MIRROR / "mt_bench/question.jsonl")
    }
    rows = read_jsonl(tmp_path / "judgments.jsonl")
    assert Counter((row["question_id"], row["turn"], row["repeat"]) for row in rows) == Counter(
        (n, t, 0) for n in questions for t in (1, 2)
    )
    assert all(
        row["state"] in ("rated", "no_rating") and (row["score"] == -1) == (row["state"] != "rated")
        for row in rows
    )
    counts = read_json(tmp_path / "counts.json")
    assert counts["judgments"] == 160 == counts["rated"] + counts.get("no_rating", 0)
    for row in rows:
        math = questions[row["question_id"]] in ("math", "reasoning", "coding")
        assert row["judge"][1] == ("single-math-v1" if math else "single-v1") + (
            "-multi-turn" if row["turn"] == 2 else ""
        )
