"""What every rule promises, and the paper-scale plan on a machine that has nothing of it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from smallest import ROOT, call

from bezoar.workflow import resources

pytestmark = pytest.mark.slow
Plan = Callable[..., str]


def rules() -> dict[str, str]:
    """Return name (with a number where two rules of one name exclude each other) -> text, by
    indentation.
    """
    found: dict[str, str] = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for match in re.finditer(
            r"^( *)rule (\w+):\n((?:\1 +.*\n|\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            name = match[2] if match[2] not in found else f"{match[2]}_2"
            found[name] = re.sub(rf"^{match[1]}", "", match[0], flags=re.MULTILINE)
    return found


RULES = rules()


@pytest.fixture(scope="module")
def plan(unused: Path) -> Plan:
    """What Snakemake would run, where nothing is made, with further arguments."""

    def planned(*arguments: str) -> str:
        done = call(unused, "--profile", "profiles/default", "--cores", "2", "-n", *arguments)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return planned


def test_all_rules_were_found() -> None:
    assert set(RULES) >= {
        "fetch_file",
        "world",
        "base",
        "base_2",
        "generate_lamini",
        "filter",
        "sft",
        "merge",
        "hh_sft",
        "dpo",
        "lm_eval",
        "report",
    }


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_docstring_log_benchmark_code_digest_and_one_screen(name: str) -> None:
    text = RULES[name]
    assert text.splitlines()[1].startswith('    """'), "a docstring that says what it does"
    for section in ("log", "benchmark", "output", "shell"):
        assert f"\n    {section}:" in text
    assert "code=code(" in text, "an edited module must make it stale"
    assert re.findall(r'script="(.+?)"', text) == re.findall(r'code=code\("(.+?)"\)', text), (
        "the digest is that of the program that runs"
    )
    assert "exec &> >(tee {log:q})" in text
    assert len(text.rstrip().splitlines()) <= 42


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_light_or_asks_for_what_its_jobs_need(name: str) -> None:
    rule = name.removesuffix("_2")
    asked = re.findall(r'\*\*NEEDS\.asked\("(\w+)"\)', RULES[name])
    assert asked == ([] if rule in resources.LIGHT and "server=" not in RULES[name] else [rule])
    assert not re.search(r"^ +(mem_mb|runtime|gpu)=", RULES[name], re.MULTILINE)


def test_the_page_of_results_names_every_file_that_a_rule_writes() -> None:
    page = (ROOT / "results/README.md").read_text(encoding="utf-8")
    cells = "".join(line.rpartition("|")[0] for line in page.splitlines() if line.startswith("| `"))
    spans = re.findall(r"`([^`]+)`", cells)
    folders = tuple(span.partition("{")[0] for span in spans if span.endswith("/"))
    paths = {path for text in RULES.values() for path in re.findall(r'"<results>/(.+?)"', text)}
    unnamed = []
    for path in sorted(paths):
        name = re.sub(r"\{+\w+\}+|lamini|orca|evol", "", path.rpartition("/")[2])
        known = path.startswith((*folders, "receipts/")) or name.startswith("{LAYOUT")
        if not known and not any(span.endswith(name) for span in spans):
            unnamed.append(path)
    assert unnamed == [] and len(paths) > 50


def test_what_is_asked_for_changes_no_command(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("-p", "results/dpo/adapter_model.safetensors")
    usual = commands(plan(*arguments))
    place = resources.Place("other", 60, 64_000, 1)
    monkeypatch.setenv("BEZOAR_LIMITS", resources.Limits(place, place).text())
    assert commands(plan(*arguments)) == usual and len(usual) > 10


def commands(text: str) -> list[str]:
    """The shell text of every job of a plan, in an order of its own."""
    return sorted(re.findall(r"^ +exec &> .*\n(?: +.*\n)+", text, re.MULTILINE))


def test_seeds_that_two_schemes_start_from_are_searched_once(plan: Plan) -> None:
    files = ["config/trial.yaml", "config/trial-without-dolly.yaml"]
    text = plan("-p", "results/trial/data/duplicates.json", "--configfile", *files)
    (command,) = [one for one in commands(text) if "find_duplicates.py" in one]
    assert command.count("data/alpaca/seed_tasks.jsonl") == 1


def test_the_snakefile_fits_a_screen_and_what_rules_share_two() -> None:
    assert len((ROOT / "Snakefile").read_text(encoding="utf-8").splitlines()) <= 50
    assert len((ROOT / "rules/common.smk").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_whole_paper_can_be_planned_without_any_of_it(plan: Plan) -> None:
    text = plan()
    for job in ("base", "generate_lamini", "sft", "dpo", "mtbench_judgments", "report"):
        assert re.search(rf"^{job}\s+\d", text, re.MULTILINE), job
    assert not re.search(r"^(world|learning)\s", text, re.MULTILINE), (
        "nothing of the rehearsal is in it"
    )


def test_a_part_of_the_paper_can_be_planned(plan: Plan) -> None:
    text = plan("results/mtbench.json")
    assert re.search(r"^mtbench_judgments\s+4", text, re.MULTILINE)
    assert not re.search(r"^(lm_eval|report)\s", text, re.MULTILINE)


def test_the_released_data_need_no_teacher_and_no_filter(plan: Plan) -> None:
    text = plan("--configfile", "config/released.yaml")
    assert re.search(r"^fetch_snapshot\s+12", text, re.MULTILINE), (
        "base, three data sets, and eight that the evaluation reads"
    )
    assert not re.search(r"^(generate_\w+|flan)\s", text, re.MULTILINE)
    assert "scripts/import_released.py" in text and "scripts/filter_rows.py" not in text


def test_removal_puts_other_rows_before_sft_and_is_off_by_default(plan: Plan) -> None:
    assert not re.search(
        r"^data_clean\s", plan("results/sft/lamini/adapter_model.safetensors"), re.MULTILINE
    )
    text = plan(
        "results/decontaminated/sft/evol/adapter_model.safetensors",
        "--configfile",
        "config/paper.yaml",
        "config/decontaminated.yaml",
    )
    assert re.search(r"^data_clean\s+3", text, re.MULTILINE)
    assert re.search(r"input: .*train_sft\.py.*results/decontaminated/data/clean/evol\.jsonl", text)
    text = plan(
        "results/decontaminated/report/index.html",
        "--configfile",
        "config/paper.yaml",
        "config/decontaminated.yaml",
    )
    assert re.search(r"^data_clean\s+4", text, re.MULTILINE)
    clean = r"results/decontaminated/data/clean/pairs\.jsonl"
    for program in ("train_sft", "score_reference", "train_dpo", "build_explorer"):
        assert re.search(rf"input: .*{program}\.py.*{clean}", text), program
    reading = re.findall(r"input: scripts/(\w+)\.py.*preferences/pairs\.jsonl", text)
    assert set(reading) == {"find_contamination", "remove_rows"}, "no training reads all pairs"


def test_the_flan_submixes_are_streamed_by_default_and_the_files_are_an_overlay(plan: Plan) -> None:
    assert re.search(r"^flan\s+4", plan("results/generate/orca.jsonl"), re.MULTILINE)
    text = plan(
        "results/generate/orca.jsonl", "--configfile", "config/paper.yaml", "config/flan-cot.yaml"
    )
    assert re.search(r"^fetch_file\s+8", text, re.MULTILINE) and not re.search(
        r"^flan\s", text, re.MULTILINE
    )


def test_a_misspelt_key_stops_before_the_first_job(unused: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("sft: {learning_rat: 0.1}\n")
    done = call(unused, "-n", "--cores", "1", "--configfile", "config/paper.yaml", str(mine))
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert (
        "mine.yaml: `sft.learning_rat`: unknown key; the nearest valid key is `learning_rate`"
        in printed
    )
    assert "Traceback" not in printed


def test_an_untested_snakemake_stops_before_the_first_job_in_one_line(unused: Path) -> None:
    program = (
        "import snakemake; snakemake.__version__ = '10.1.0'; from snakemake.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "-n", "--cores", "1"],
        cwd=unused,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "10.1.0" in line]
    assert line.startswith("error: Snakemake 10.1.0: not tested") and "9.27.1" in line


def test_a_schemes_requests_can_be_shared_by_jobs_at_once(
    unused: Path, plan: Plan, tmp_path: Path
) -> None:
    overlay = tmp_path / "shared.yaml"
    overlay.write_text("generate: {shards: 3}\n")
    configs = ("--configfile", "config/paper.yaml", str(overlay))
    text = plan("results/generate/lamini.jsonl", "-p", *configs)
    assert re.search(r"^generate_lamini_shard\s+3$", text, re.MULTILINE)
    assert re.search(r"^generate_lamini\s+1$", text, re.MULTILINE)
    for number in (1, 2, 3):
        assert f"--shard {number}/3 --wait 600" in text
        own = f'"${{TEACHER_BASE_URL_{number}:-${{TEACHER_BASE_URL-}}}}"'
        assert f"export TEACHER_BASE_URL={own}" in text
    assert "--shard" not in plan("results/generate/lamini.jsonl", "-p")
    refused = call(unused, "-n", "--cores", "1", *configs, "config/serve-vllm.yaml")
    assert refused.returncode == 2
    assert "error: generate.shards: `serve` starts one server" in refused.stderr


def test_the_images_base_is_pinned_by_digest() -> None:
    first = next(
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("ARG BASE=")
    )
    assert (
        "nvidia/cuda:13.0.3-cudnn-runtime-ubuntu24.04@sha256:" in first
        and len(first.rsplit(":", 1)[1]) == 64
    )


def test_schemes_can_be_merged_one_after_the_other(plan: Plan) -> None:
    """Each adapter stands on the model before it, and none is carried on."""
    text = plan(
        "results/merge/openbezoar-sft/model.safetensors", "-p", "--config", "sft={chaining: merge}"
    )
    assert re.search(r"^merge\s+3", text, re.MULTILINE)
    trained = re.findall(
        r"--stage sft --data \S+/(\w+)\.jsonl --base (\S+)/model.safetensors --parent (.*?)\\", text
    )
    assert trained == [
        ("lamini", "results/base", " "),
        ("orca", "results/merge/sft-lamini", " "),
        ("evol", "results/merge/sft-orca", " "),
    ]
    carried = plan("results/merge/openbezoar-sft/model.safetensors", "-p")
    assert (
        re.search(r"^merge\s+1$", carried, re.MULTILINE)
        and carried.count("--parent results/sft/") == 2
    )
