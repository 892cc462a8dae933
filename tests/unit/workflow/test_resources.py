"""Promises: what a job asks for follows from the configuration and its scale, each attempt asks for
more than the one before, and nothing of it reaches a recipe.
"""

from pathlib import Path
from typing import Any

import pytest

import write_resources
from bezoar.errors import UserError
from bezoar.workflow import cluster, recipes, resources
from bezoar.workflow.configuration import merge, resolved
from bezoar.workflow.layout import Layout
from bezoar.workflow.resources import Limits, Need, Needs, Place, asked

ROOT = Path(__file__).parents[3]
REHEARSAL, PAPER = ["config/rehearsal.yaml"], ["config/paper.yaml"]
SERVED = ["config/paper.yaml", "config/serve-vllm.yaml"]


def layout(files: list[str], settings: dict[str, Any] | None = None) -> Layout:
    return Layout(merge(resolved(files), settings or {}))


def needs(files: list[str], settings: dict[str, Any] | None = None) -> dict[str, Need]:
    return Needs(layout(files, settings)).by_rule


# (seconds, millions of bytes) of the largest job of a rule, in the run of docs/trial.md.
TRIAL = {
    "sft": (151, 5236),
    "hh_sft": (484, 3159),
    "dpo_reference": (116, 2291),
    "dpo": (365, 3960),
    "merge": (36, 1828),
    "lm_eval": (74, 1745),
    "mtbench_answers": (163, 3266),
}


def test_what_a_real_model_took_is_asked_for() -> None:
    then = {"mtbench": {"answers": {"batch_size": 40}}}
    asked_for = needs(["config/trial.yaml"], then)
    for rule, (seconds, millions) in TRIAL.items():
        assert asked_for[rule].seconds > seconds, rule
        assert asked_for[rule].mem_mb * 2**20 > millions * 1e6, rule


def test_two_million_parameters_ask_for_megabytes_and_three_billion_for_gigabytes() -> None:
    small, large = needs(REHEARSAL), needs(PAPER)
    for rule, need in small.items():
        assert resources.MEASURED_MB[rule] * 1.2 < need.mem_mb <= 2000, rule
        assert (need.gpus, need.gpu_mb) == (0, 0) and need.minutes < 90
    for rule in ("sft", "hh_sft", "dpo", "dpo_reference", "merge", "lm_eval", "mtbench_answers"):
        weights = 2 * resources.PAPER_PARAMETERS / 2**20  # in 16 bits
        assert large[rule].mem_mb > weights and large[rule].gpus == 1
    assert resources.most_gpu_mb(large.values()) < 16 * 1024


def test_a_plan_says_what_the_largest_job_of_a_rule_took() -> None:
    receipts = [
        {"stage": "sft", "wall_s": 61.0, "peak_memory_bytes": 500 * 2**20},
        {"stage": "sft", "wall_s": 7.0, "peak_memory_bytes": 800 * 2**20},
        {"stage": "report", "wall_s": 1.0, "peak_memory_bytes": 1e8},
    ]
    lines = resources.table(layout(REHEARSAL), resources.used(receipts))
    assert lines[0].split()[-2:] == ["took", "peak"]
    assert [line.split()[-3:] for line in lines if line.startswith("sft")] == [
        ["1:01", "800", "MB"]
    ]
    assert "took" not in resources.table(layout(REHEARSAL))[0]


def test_a_dress_rehearsal_has_the_shape_of_the_papers_base() -> None:
    dressed = layout([*REHEARSAL, "config/dress-rehearsal.yaml"])
    assert resources.parameters(dressed) == pytest.approx(resources.PAPER_PARAMETERS, rel=1e-3)


def test_a_dress_rehearsal_takes_one_gpu_a_job_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dressed = [*REHEARSAL, "config/dress-rehearsal.yaml"]
    for cards, expected in (([], 0), ([24.0, 24.0], 1)):
        monkeypatch.setattr(resources.machine, "gpus", lambda cards=cards: cards)
        assert {need.gpus for rule, need in needs(dressed).items() if rule in DRESSED} == {expected}
        assert needs(REHEARSAL)["sft"].gpus == 0
        for of_cluster in (True, False):  # whatever the submitting host has
            monkeypatch.setenv("BEZOAR_LIMITS", Limits(gpus=of_cluster).text())
            assert needs(dressed)["sft"].gpus == int(of_cluster)
        monkeypatch.delenv("BEZOAR_LIMITS")


# (GB of host memory, GB of GPU memory) at their peak, on an H200 (docs/benchmarks.md).
DRESSED = {
    "sft": (8.0, 2.4),
    "hh_sft": (8.0, 2.4),
    "merge": (8.4, 7.1),
    "lm_eval": (21.5, 14.1),
    "mtbench_answers": (21.3, 14.1),
}


def test_what_the_papers_shape_took_on_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.machine, "gpus", lambda: [141.0])
    asked_for = needs([*REHEARSAL, "config/dress-rehearsal.yaml"])
    for rule, (host, gpu) in DRESSED.items():
        assert asked_for[rule].mem_mb * 2**20 > host * 1e9, rule
        assert asked_for[rule].gpu_mb * 2**20 > gpu * 1e9, rule


def test_a_model_twice_as_large_asks_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    once = needs(PAPER)
    monkeypatch.setattr(resources, "parameters", lambda layout: 2 * resources.PAPER_PARAMETERS)
    twice = needs(PAPER)
    for rule in ("base", "sft", "dpo", "merge", "lm_eval"):
        assert twice[rule].mem_mb > 1.3 * once[rule].mem_mb
        assert twice[rule].seconds > 1.5 * once[rule].seconds


def test_a_larger_micro_batch_and_kept_weights_want_a_larger_gpu_and_no_other_memory() -> None:
    usual, larger = needs(PAPER), needs(["config/paper.yaml", "config/gpu-80gb.yaml"])
    for rule in ("sft", "hh_sft", "dpo", "dpo_reference"):
        assert larger[rule].gpu_mb > 2 * usual[rule].gpu_mb
        assert larger[rule].mem_mb == usual[rule].mem_mb


def test_gibibytes_are_what_the_bytes_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge on a GPU holds three bytes a parameter, and the logits of a row."""
    merge = layout(PAPER).config["merge"]
    held = 3 * resources.PAPER_PARAMETERS + merge["max_length"] * resources.LOGIT_BYTES
    monkeypatch.setattr(resources, "CONTEXT_MB", 0)
    assert needs(PAPER)["merge"].gpu_mb == pytest.approx(held / 2**20, abs=1)
    (line,) = (line for line in resources.table(layout(PAPER)) if line.startswith("merge "))
    assert f" {held / 2**30:.1f} GiB" in line


def test_several_processes_get_a_gpu_each_on_one_node() -> None:
    launch = {"launch": {"processes": 4, "accelerate": "profiles/accelerate/gpus.yaml"}}
    one, four = needs(PAPER)["sft"], needs(PAPER, launch)["sft"]
    start = resources.START_S + Needs(Layout(resolved(PAPER))).moved() / 2
    assert (one.gpus, four.gpus) == (1, 4)
    assert four.mem_mb == 4 * one.mem_mb
    assert four.seconds - start == pytest.approx((one.seconds - start) / 4)
    assert asked(four, Limits())["nodes"] == 1


def test_jobs_that_ask_a_server_of_the_workflow_run_beside_it_and_others_where_snakemake_does() -> (
    None
):
    here, served = Needs(layout(PAPER)), Needs(layout(SERVED))
    asking = {"generate_lamini", "generate_evol", "generate_orca"}
    assert asking <= set(here.light()) and not asking & set(served.light())
    limits = Limits(Place("cpu"), Place("gpu"))
    for rule in (*asking, "serve"):
        assert asked(served.by_rule[rule], limits)["slurm_partition"] == "gpu"
    assert asked(served.by_rule["data_items"], limits)["slurm_partition"] == "cpu"
    assert here.asked("generate_lamini") == {} != served.asked("generate_lamini")


def amounts(need: Need, limits: Limits, attempt: int, threads: int = 8) -> dict[str, Any]:
    given = {"attempt": attempt, "threads": threads}
    return {
        name: value(None, **{key: given[key] for key in value.__code__.co_varnames if key in given})
        if callable(value)
        else value
        for name, value in asked(need, limits).items()
    }


def test_an_attempt_asks_for_more_than_the_one_before_up_to_what_there_is() -> None:
    need = Need(mem_mb=1000, seconds=600, gpus=1)
    free = amounts(need, Limits(), 1)
    assert free == {"mem_mb": 1000, "runtime": need.minutes, "gpu": 1, "nodes": 1}
    again = amounts(need, Limits(), 3)
    assert (again["mem_mb"], again["runtime"]) == (3000, 3 * need.minutes)
    limits = Limits(gpu=Place("gpu", minutes=60, memory_mb=2500, cores=4))
    assert amounts(need, limits, 3) == {
        "mem_mb": 2500,
        "runtime": 60,
        "gpu": 1,
        "nodes": 1,
        "cpus_per_task": 4,
        "slurm_partition": "gpu",
    }
    assert amounts(need, Limits(gpu=Place("gpu", memory_mb=0)), 1)["mem_mb"] == 0


def test_limits_pass_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(Place("cpu", 60, 0, 4), Place("gpu", None, 2500), True)
    monkeypatch.setenv("BEZOAR_LIMITS", limits.text())
    assert resources.limits_of_environment() == limits
    monkeypatch.delenv("BEZOAR_LIMITS")
    assert resources.limits_of_environment() == Limits()


@pytest.mark.parametrize("text", ["7", "{", "[]x", '{"plain": 7}', '{"other": {}}'])
def test_limits_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BEZOAR_LIMITS", text)
    with pytest.raises(UserError, match=r"^BEZOAR_LIMITS: expected"):
        resources.limits_of_environment()


def test_parameters_come_from_the_shape_or_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"embedding_rows": 32_000, "hidden_size": 3_200, "layers": 26, "mlp_size": 8_640}
    shaped = layout(REHEARSAL, {"pretrain": made})
    assert resources.parameters(shaped) == pytest.approx(resources.PAPER_PARAMETERS, rel=1e-3)
    paper = layout(PAPER)
    assert resources.parameters(paper) == resources.PAPER_PARAMETERS
    for wrong in ("3B", 0, True, 3.4):
        entry = {**paper.registry["open_llama_3b_v2"], "parameters": wrong}
        monkeypatch.setitem(paper.registry, "open_llama_3b_v2", entry)
        with pytest.raises(UserError, match="open_llama_3b_v2: parameters: expected"):
            resources.parameters(paper)


def test_what_is_asked_for_is_in_no_recipe() -> None:
    for files in (REHEARSAL, PAPER):
        made = layout(files)
        for section in ("sft", "hh_sft", "dpo", "merge", "lm_eval", "mtbench.answers"):
            recipe = recipes.section(made, section)
            assert not {"mem_mb", "runtime", "gpu", "parameters"} & recipe.keys()


def test_the_table_has_a_line_for_each_rule_with_its_jobs() -> None:
    lines = resources.table(layout(PAPER))
    assert [line.split()[0] for line in lines[1:-1]] == list(needs(PAPER))
    sft = next(line for line in lines if line.startswith("sft "))
    assert sft.split()[1] == "3" and " GPU-hours at most" in lines[-1]
    assert "GPU-hours" not in resources.table(layout(REHEARSAL))[-1]
    apart = "; and 96 if the teacher's server takes all its time"
    assert resources.table(layout(SERVED))[-1] == lines[-1] + apart


def test_the_page_is_what_the_code_says() -> None:
    written = (ROOT / "docs/resources.md").read_text(encoding="utf-8")
    assert written == write_resources.page(), "run scripts/dev/write_resources.py"


def test_jobs_that_start_a_server_of_their_own_ask_for_it_and_have_a_line() -> None:
    files = ["config/trial.yaml"]
    asking = {f"generate_{scheme}" for scheme in ("lamini", "orca", "evol")}
    asking |= {"filter", "mtbench_judgments"}
    here = Needs(layout(files))
    assert asking <= here.by_rule.keys() and asking.isdisjoint(here.light())
    assert {here.by_rule[rule].gpus for rule in asking} == {0}
    on_a_gpu = needs(files, {"serve": {"tensor_parallel_size": 1}})
    assert {on_a_gpu[rule].gpus for rule in asking} == {1}
    named = {line.split()[0] for line in resources.table(layout(files))}
    assert asking <= named and "serve" not in named


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("model.safetensors", 2000),
        ("model.gguf", 2000),
        ("Qwen3-0.6B-Q4_K_M.gguf", 8000),
        ("model.BF16.gguf", 2000),
        ("model-iq2_xs.gguf", 16000),
        ("model-fp8.gguf", 4000),
        ("model-FP32.gguf", 1000),
    ],
)
def test_a_base_on_this_disk_is_as_large_as_its_weights(
    tmp_path: Path, name: str, count: int
) -> None:
    (tmp_path / name).write_bytes(b"0" * 4000)
    place = tmp_path / name if name.endswith(".gguf") else tmp_path
    found = layout(PAPER, {"sources": {"base_model": str(place)}})
    assert resources.parameters(found) == count


def test_a_model_that_is_evaluated_gets_memory_and_time_for_its_own_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with open(tmp_path / "model.safetensors", "wb") as stream:
        stream.truncate(140_000_000_000)  # of 70 thousand million parameters, and no bytes on disk
    entry = {"path": str(tmp_path), "template": "tokenizer"}
    large, usual = needs(PAPER, {"extra_models": {"large": entry}}), needs(PAPER)
    for rule in ("lm_eval", "mtbench_answers"):
        assert large[rule].mem_mb > 10 * usual[rule].mem_mb
        assert large[rule].gpu_mb > 10 * usual[rule].gpu_mb
    assert large["import_model"].mem_mb > 10 * usual["base"].mem_mb
    assert large["sft"] == usual["sft"]


def test_only_jobs_that_ask_the_served_model_ask_for_its_gpus() -> None:
    own = {"serve": {"shared": False}}
    found = Needs(layout(SERVED, own))
    assert found.by_rule["generate_orca"].gpus == 2
    light = set(found.light())
    assert {"filter", "mtbench_judgments"} <= light, "their models are a provider's"


def test_a_server_without_a_gpu_and_the_jobs_beside_it_have_one_place() -> None:
    found = needs(SERVED, {"serve": {"tensor_parallel_size": 0}})
    limits = Limits(Place("cpu"), Place("gpu"))
    rules = ["serve", "generate_lamini", "generate_evol", "generate_orca"]
    assert {asked(found[rule], limits)["slurm_partition"] for rule in rules} == {"cpu"}


def test_a_replay_asks_for_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEZOAR_MODE", "replay")
    for files in (SERVED, ["config/trial.yaml"]):
        found = Needs(layout(files))
        assert "serve" not in found.by_rule and "generate_orca" in found.light()


def test_the_server_and_the_jobs_beside_it_fit_on_one_node_at_every_attempt() -> None:
    node = Place("gpu", memory_mb=48_000, cores=16)
    options = {"serve": {"options": {"threads": 16}}}
    found = needs(SERVED, options)
    limits = Limits(gpu=node)
    rules = ["serve", "generate_lamini", "generate_evol", "generate_orca"]
    for attempt in (1, 2, 3):
        each = [amounts(found[rule], limits, attempt, threads=1) for rule in rules]
        assert sum(job["mem_mb"] for job in each) <= 48_000
        assert [job["cpus_per_task"] for job in each] == [13, 1, 1, 1]
    with pytest.raises(UserError, match=r"serve: needs 34,\d00 MB"):
        cluster.fits(found, Limits(gpu=Place("gpu", memory_mb=33_000)))
    with pytest.raises(UserError, match=r"serve: needs 4 cores, and no such node of partition gpu"):
        cluster.fits(found, Limits(gpu=Place("gpu", cores=3)))
    cluster.fits(found, Limits(gpu=Place("gpu", cores=4)))
    few = Limits(gpu=Place("gpu", cores=3))
    assert amounts(found["serve"], few, 1, threads=1)["cpus_per_task"] == 1
