"""The facts of the DAG that the code states are those of Snakemake's own DAG."""

import json
from functools import cache
from pathlib import Path

import pytest
from dag import Job, jobs_of
from smallest import ROOT

from bezoar.errors import UserError
from bezoar.workflow import duration, lineage
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import LAST, Layout, models_asked
from bezoar.workflow.progress_display import TARGET, name_of

pytestmark = pytest.mark.slow
TWO_MODELS = {
    "extra_models": {
        "mine": {"path": "scripts", "template": "tokenizer"},
        "theirs": {"hub": "Some/Model-3B", "revision": None, "template": "tokenizer"},
    }
}
RELEASED_MODELS = ["config/paper.yaml", "config/released-models.yaml"]
SECOND_RATER = {
    "filter": {
        "second_rater": {
            "provider": "simulator",
            "api": "chat",
            "model": "simulator-strict",
            "revision": None,
            "base_url_env": None,
            "api_key_env": None,
            "prompt_form": None,
            "stop": [],
            "temperature": 0.0,
            "max_tokens": 256,
            "timeout_s": 60,
            "reported_as": None,
            "json_schema": False,
            "use_batch_api": True,
        }
    }
}
# Name -> configuration files, and settings that are laid over them.
CONFIGURATIONS: dict[str, tuple[list[str], dict[str, object]]] = {
    "rehearsal": (["config/rehearsal.yaml"], {}),
    "rehearsal, upstream files": (["config/rehearsal.yaml", "config/rehearsal-upstream.yaml"], {}),
    "dress rehearsal": (["config/rehearsal.yaml", "config/dress-rehearsal.yaml"], {}),
    "paper": (["config/paper.yaml"], {}),
    "paper, merged schemes": (["config/paper.yaml"], {"sft": {"chaining": "merge"}}),
    "paper, one scheme": (["config/paper.yaml"], {"sft": {"order": ["orca"]}}),
    "paper, Flan as files": (["config/paper.yaml", "config/flan-cot.yaml"], {}),
    "paper, a server": (["config/paper.yaml", "config/serve-vllm.yaml"], {}),
    "released": (["config/released.yaml"], {}),
    "trial": (["config/trial.yaml"], {}),
    "trial, another judge": (
        ["config/trial.yaml", "config/open-models.yaml", "config/trial-open-models.yaml"],
        {},
    ),
    "decontaminated": (["config/paper.yaml", "config/decontaminated.yaml"], {}),
    "released, decontaminated": (["config/released.yaml", "config/decontaminated.yaml"], {}),
    "rehearsal, extra models": (["config/rehearsal.yaml"], TWO_MODELS),
    "paper, released models": (RELEASED_MODELS, {}),
    "second judges": (["config/paper.yaml", "config/second-judge.yaml"], {}),
    "second judges, extra models": ([*RELEASED_MODELS, "config/second-judge.yaml"], {}),
    "second rater": (["config/rehearsal.yaml"], SECOND_RATER),
}


@cache
def files_of(name: str, folder: Path) -> list[str]:
    configs, settings = CONFIGURATIONS[name]
    overlay = folder / f"{name}.yaml".replace(" ", "-")
    overlay.write_text(json.dumps(settings))
    return [*configs, str(overlay)] if settings else configs


@cache
def dag(name: str, folder: Path, *targets: str) -> list[Job]:
    return jobs_of(ROOT, files_of(name, folder), *targets)


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("overlays")


def written_and_held(jobs: list[Job], last: str) -> tuple[set[str], set[str]]:
    """The receipts that a DAG's jobs write, and those that its last job reads."""
    receipts = {path for job in jobs for path in job["outputs"].get("receipt", [])}
    final = next(job for job in jobs if job["rule"] == last)
    return receipts - set(final["outputs"]["receipt"]), set(final["inputs"]["receipts"])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_models_stages_and_places_are_those_of_the_dag(name: str, overlays: Path) -> None:
    facts, jobs = layout(name, overlays), dag(name, overlays)
    made = {path for job in jobs for paths in job["outputs"].values() for path in paths}
    receipts = {path for job in jobs for path in job["outputs"].get("receipt", [])}
    assert receipts == {facts.receipt(stage) for stage in (*facts.stages(), LAST[0])}
    assert set(facts.reported()) <= made
    weights = {path for path in made if path.endswith("/model.safetensors")}
    assert weights == {facts.weights(model) for model in {*facts.evaluated, *facts.merged}}
    judged = {job["wildcards"]["model"] for job in jobs if job["rule"] == "mtbench_judgments"}
    assert judged == set(facts.evaluated)
    read = {path for job in jobs for paths in job["inputs"].values() for path in paths}
    assert set(facts.task_files()) | set(facts.task_data().values()) <= read
    assert set(facts.flan_files() if "orca" in facts.generated else []) <= read


def one(jobs: list[Job], stage: str, facts: Layout) -> Job:
    return next(job for job in jobs if job["outputs"].get("receipt") == [facts.receipt(stage)])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_is_trained_on_what_is_what_the_dag_says(name: str, overlays: Path) -> None:
    facts, jobs = layout(name, overlays), dag(name, overlays)
    for training in lineage.trainings(facts):
        job = one(jobs, training.stage, facts)
        rows = job["inputs"].get("data") or job["inputs"]["pairs"]
        assert (rows, job["inputs"]["base"]) == ([training.rows], [training.base])
        assert job["inputs"].get("parent", []) == ([training.parent] if training.parent else [])
        assert job["outputs"]["adapter"] == [training.adapter]
        assert Path(training.adapter).parent == Path(training.directory)
    for model in facts.merged:
        merge, job = lineage.merge(facts, model), one(jobs, f"merge_{model}", facts)
        assert job["outputs"]["model"] == [facts.weights(model)]
        assert {key: job["inputs"][key] for key in ("base", "adapter", "probe")} == {
            "base": [merge.base],
            "adapter": [merge.adapter],
            "probe": [merge.probe],
        }
        # The trainings that a merge sums up are those between its base and its adapter.
        since, adapter = [], merge.adapter
        by_adapter = {training.adapter: training for training in lineage.trainings(facts)}
        while adapter:
            since.insert(0, by_adapter[adapter])
            assert since[0].base == merge.base
            adapter = since[0].parent or ""
        assert tuple(since) == merge.trainings
    # From the last model back to the base, by the DAG alone.
    weights = facts.weights("openbezoar-hh-rlhf-dpo")
    models = {job["outputs"]["model"][0]: job for job in jobs if job["rule"] == "merge"}
    chain = [weights]
    while weights in models:
        (weights,) = models[weights]["inputs"]["base"]
        chain.append(weights)
    assert chain == [facts.weights(model) for model in ("base", *facts.merged)][::-1]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_reports_receipt_holds_every_other_receipt_of_a_run(name: str, overlays: Path) -> None:
    written, held = written_and_held(dag(name, overlays), "report")
    assert written == held


@pytest.mark.parametrize("name", ["rehearsal, extra models", "second judges, extra models"])
def test_an_evaluations_receipt_holds_every_receipt_of_its_models(
    name: str, overlays: Path
) -> None:
    results = {"rehearsal, extra models": "results/rehearsal"}.get(name, "results")
    written, held = written_and_held(
        dag(name, overlays, f"{results}/evaluate/table.csv"), "evaluate"
    )
    assert written - {f"{results}/receipts/world.json"} == held


def layout(name: str, folder: Path) -> Layout:
    return Layout(resolved(files_of(name, folder)))


def asking(jobs: list[Job]) -> dict[str, str]:
    """Receipt -> store of every job that asks a language model."""
    return {
        job["outputs"]["receipt"][0]: job["params"]["store"]
        for job in jobs
        if "store" in job["params"]
    }


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_job_that_asks_a_language_model_is_known_with_its_store_and_models(
    name: str, overlays: Path
) -> None:
    facts, jobs = layout(name, overlays), dag(name, overlays)
    known = facts.language_model_jobs()
    assert asking(jobs) == {facts.receipt(job.stage): job.store for job in known}
    for job in known:
        recipe = next(
            json.loads(found["params"]["recipe"])
            for found in jobs
            if found["outputs"].get("receipt") == [facts.receipt(job.stage)]
        )
        assert job.settings in recipe.values()
        assert all(other in recipe.values() for other in job.second.values())


def test_an_evaluation_asks_the_main_judge_about_the_extra_models_only(overlays: Path) -> None:
    name = "second judges, extra models"
    facts = layout(name, overlays)
    jobs = facts.judging_jobs(facts.extra)
    assert len(jobs) == 3
    assert asking(dag(name, overlays, "results/evaluate/table.csv")) == {
        facts.receipt(job.stage): job.store for job in jobs
    }


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_make_doctor_looks_at_every_model_that_a_run_asks(name: str, overlays: Path) -> None:
    facts = layout(name, overlays)
    jobs = facts.language_model_jobs()
    asked = [settings for job in jobs for settings in (job.settings, *job.second.values())]
    looked_at = [settings for _, settings in models_asked(facts.config)]
    missed = [settings for settings in asked if settings not in looked_at]
    assert missed == [] and all(settings in asked for settings in looked_at)


def test_the_time_of_every_step_of_a_first_rehearsal_is_known(overlays: Path) -> None:
    names = {name_of(job["rule"], job["wildcards"]) for job in dag("rehearsal", overlays)}
    assert names - {TARGET} == set(duration.reference("rehearsal")["seconds"])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_command_of_a_receipt_is_found_behind_what_serves_its_model(
    name: str, overlays: Path
) -> None:
    for job in dag(name, overlays):
        if "receipt" in job["outputs"]:
            assert job["command"][0] == job["inputs"]["script"][0]
            assert job["command"][-1] == job["outputs"]["receipt"][0]


def test_a_model_that_is_compared_with_none_of_those_evaluated_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    config = resolved(RELEASED_MODELS)
    for name in ("openbezoar-sft", "released-hh-rlhf-dpo", None):
        config["extra_models"]["released-sft"]["compare_with"] = name
        assert "released-sft" in Layout(config).evaluated
    config["extra_models"]["released-sft"]["compare_with"] = "openbezoar-stf"
    line = r"^extra_models\.released-sft\.compare_with: expected one of base, openbezoar-sft, "
    with pytest.raises(UserError, match=f"{line}.+, found 'openbezoar-stf'$"):
        Layout(config)
