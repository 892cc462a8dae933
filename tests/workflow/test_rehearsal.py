"""The rehearsal's whole DAG at its smallest, in a copy of the project: it ends, it is lazy, and it
rebuilds exactly what is missing.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from smallest import CONFIG, MODELS, RESULTS, SCHEMES, planned, snakemake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_every_artifact_is_there(finished: Path) -> None:
    wanted = [
        *(f"{stage}/{scheme}.jsonl" for stage in ("generate", "filter") for scheme in SCHEMES),
        *(f"sft/{scheme}/adapter_model.safetensors" for scheme in SCHEMES),
        *(f"merge/{model}/model.safetensors" for model in MODELS),
        "base/model.safetensors",
        "hh_sft/adapter_model.safetensors",
        "dpo/adapter_model.safetensors",
        *(
            f"{kind}/{model}{end}"
            for model in ("base", *MODELS)
            for kind, end in (("lm_eval", ".json"), ("mtbench", "/judgments.jsonl"))
        ),
        *(
            f"data/{name}"
            for name in ("duplicates.jsonl", "contamination.jsonl", "description.json")
        ),
        *(f"data/cards/{scheme}/README.md" for scheme in SCHEMES),
        *(f"merge/{model}/README.md" for model in MODELS),
        "dpo_reference/logps.jsonl",
        "dpo/held_out.json",
        "lm_eval.json",
        "mtbench.json",
        "learning.json",
        "claims.json",
        "report/index.html",
    ]
    assert [name for name in wanted if not (finished / RESULTS / name).stat().st_size] == []


def test_every_generated_row_is_accounted_for(finished: Path) -> None:
    for scheme in SCHEMES:
        counts = json.loads((finished / RESULTS / f"generate/{scheme}.counts.json").read_text())
        judged = json.loads((finished / RESULTS / f"filter/{scheme}.counts.json").read_text())
        rows = (finished / RESULTS / f"filter/{scheme}.jsonl").read_text().splitlines()
        assert counts["kept"] == len(rows) == judged["kept"] + judged["reject"] + judged["unrated"]


def test_the_data_stages_account_for_every_row_and_find_no_held_out_item_in_them(
    finished: Path,
) -> None:
    def table(name: str) -> dict:
        return json.loads((finished / RESULTS / "data" / f"{name}.json").read_text())

    described, duplicates, shared = (
        table(name) for name in ("description", "duplicates", "contamination")
    )
    for scheme in SCHEMES:
        funnel = described["schemes"][scheme]["funnel"]
        rows = (finished / RESULTS / f"filter/{scheme}.jsonl").read_text().splitlines()
        assert funnel["entered"] == sum(funnel["dropped"].values()) + sum(
            funnel["eliminated"].values()
        ) + len(rows)
        assert (
            funnel["accepted"] + funnel["rejected"] + funnel["unrated"]
            == len(rows)
            == duplicates["rows"][scheme]
            == shared["sets"][scheme]["rows"]
        )
        assert shared["sets"][scheme]["contaminated"] == 0, (
            "the world splits what it teaches from what it asks"
        )
        assert (
            f"{len(rows):,} rows"
            in (finished / RESULTS / f"data/cards/{scheme}/README.md").read_text()
        )
    assert duplicates["exact"]["lamini"]["lamini"] == 0, "LaMini's own rule drops them"
    assert shared["texts_checked"].keys() == {"mt_bench", "world_facts", "world_skills"}
    assert (
        sum(described["task_families"]["accepted_by_relation"].values())
        == described["schemes"]["orca"]["funnel"]["accepted"]
    )


def test_a_model_card_tells_its_lineage_its_settings_and_its_losses(finished: Path) -> None:
    """Each digest is the file's own, and each setting says where it comes from."""
    for model, parent, adapters in (
        (MODELS[0], f"{RESULTS}/base", [f"sft/{scheme}" for scheme in SCHEMES]),
        (MODELS[1], MODELS[0], ["hh_sft"]),
        (MODELS[2], MODELS[1], ["dpo"]),
    ):
        card = (finished / RESULTS / f"merge/{model}/README.md").read_text()
        assert f"base_model: {parent}\n" in card and "license: apache-2.0" in card
        for path in (f"merge/{model}", *adapters):
            folder = finished / RESULTS / path
            weights = folder / (
                "model.safetensors" if path.startswith("merge") else "adapter_model.safetensors"
            )
            assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
        assert (
            "| learning_rate | " in card
            and card.count("| ours |") >= 8
            and "kl nats per token" in card
        )


def test_every_turn_is_answered_and_judged_or_has_a_reason(finished: Path) -> None:
    for model in ("base", *MODELS):
        rows = [
            json.loads(line)
            for line in (
                (finished / RESULTS / f"mtbench/{model}/judgments.jsonl").read_text().splitlines()
            )
        ]
        questions = (finished / RESULTS / "world/questions.jsonl").read_text().splitlines()
        assert len(rows) == 2 * len(questions)
        assert all(
            row["state"] and (row["score"] == -1) == (row["state"] != "rated") for row in rows
        )


def test_a_documented_command_needs_no_number_of_cores(finished: Path) -> None:
    """Snakemake finds profiles/default by itself, and there how many."""
    target = f"{RESULTS}/mtbench.json"
    command = [sys.executable, "-m", "snakemake", target, "--configfile", *CONFIG]
    done = subprocess.run(command, cwd=finished, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Nothing to be done" in done.stderr + done.stdout, done.stderr


def test_running_again_does_nothing(finished: Path) -> None:
    assert planned(finished) == {}


def test_touched_files_make_nothing_stale(finished: Path) -> None:
    for path in [
        *finished.glob("scripts/**/*.py"),
        *finished.glob("config/*"),
        *finished.glob("prompts/*"),
        *finished.glob("envs/*"),
    ]:
        path.touch()
    assert planned(finished) == {}


def test_a_touched_input_of_any_size_makes_nothing_stale(finished: Path) -> None:
    for name in ("world/corpus.jsonl", "base/model.safetensors", "filter/orca.jsonl"):
        (finished / RESULTS / name).touch()
    assert planned(finished) == {}


AFTER_SFT = {
    "merge": 3,
    "model_card": 3,
    "hh_sft": 1,
    "dpo_reference": 1,
    "dpo": 1,
    "lm_eval": 3,
    "lm_eval_table": 1,
    "mtbench_answers": 3,
    "mtbench_judgments": 3,
    "mtbench": 1,
    "mtbench_rejudge": 3,
    "bridge": 1,
    "claims": 1,
    "learning_table": 1,
    "explorer": 1,
    "report": 1,
}

AFTER_DPO = dict.fromkeys(
    "merge model_card learning lm_eval lm_eval_table mtbench_answers mtbench_judgments"
    " mtbench_rejudge bridge mtbench claims learning_table explorer report".split(),
    1,
)
DATA = {"data_duplicates": 1, "data_contamination": 1, "data_description": 1, "data_card": 3}


@pytest.mark.parametrize(
    ("deleted", "rebuilt"),
    [
        (
            "generate/orca.jsonl",
            {"generate_orca": 1, "filter": 1, "sft": 2, "learning": 5, **DATA, **AFTER_SFT},
        ),
        ("filter/evol.jsonl", {"filter": 1, "sft": 1, "learning": 4, **DATA, **AFTER_SFT}),
        ("sft/lamini/adapter_model.safetensors", {"sft": 3, "learning": 6, **AFTER_SFT}),
        (
            "preferences/pairs.jsonl",
            {
                "preferences": 1,
                "data_contamination": 1,
                "data_card": 3,
                **AFTER_SFT,
                "learning": 2,
                "merge": 2,
                "model_card": 2,
                "lm_eval": 2,
                "mtbench_answers": 2,
                "mtbench_judgments": 2,
                "mtbench_rejudge": 2,
            },
        ),
        ("dpo/adapter_model.safetensors", {"dpo": 1, **AFTER_DPO}),
        ("merge/openbezoar-hh-rlhf-dpo/model.safetensors", AFTER_DPO),
        (
            "lm_eval/base.json",
            {"lm_eval": 1, "lm_eval_table": 1, "claims": 1, "explorer": 1, "report": 1},
        ),
        (
            "data/contamination.json",
            {"data_contamination": 1, "data_card": 3, "explorer": 1, "report": 1},
        ),
        (
            "mtbench/base/judgments.jsonl",
            {
                "mtbench_judgments": 1,
                "mtbench": 1,
                "bridge": 1,
                "claims": 1,
                "explorer": 1,
                "report": 1,
            },
        ),
        ("bridge/strict.json", {"bridge": 1, "report": 1}),
        ("claims.json", {"claims": 1, "report": 1}),
        ("report/index.html", {"report": 1}),
    ],
)
def test_a_deleted_artifact_is_rebuilt_with_what_depends_on_it_and_nothing_else(
    finished: Path, deleted: str, rebuilt: dict[str, int]
) -> None:
    path = finished / RESULTS / deleted
    hidden = path.with_name(f".{path.name}.hidden")
    path.rename(hidden)
    try:
        assert planned(finished) == rebuilt
    finally:
        hidden.rename(path)


def test_a_deleted_result_comes_back_with_the_same_bytes(finished: Path) -> None:
    """Really run, for the cheapest and for a training stage."""
    kept = {}
    for name in ("dpo/adapter_model.safetensors", "claims.json"):
        path = finished / RESULTS / name
        kept[path] = path.read_bytes()
        path.unlink()
    done = snakemake(finished)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path: path.read_bytes() for path in kept} == kept
    assert planned(finished) == {}, "the cards and pages that tell of them are made again, too"
