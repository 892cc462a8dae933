"""The harness really runs on task files of our own; its items are kept, compared in pairs, and calibrated where something is published."""

import json
from pathlib import Path

import pytest

import collect_lm_eval
import run_lm_eval
from bezoar.errors import UserError
from bezoar.files import read_json, read_jsonl, write_jsonl

RECIPE = {
    "tasks": ["tiny"], "num_fewshot": 0, "batch_size": 8, "dtype": "float32", "max_length": 64, "limit": None, "bootstrap_iters": 0,
    "threads": 1, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    words = ["red", "blue", "green", "white"]
    write_jsonl(folder / "tiny.jsonl", [{"question": f"The colour number {i}:", "choices": words, "label": i % 4} for i in range(12)])
    (folder / "tiny.yaml").write_text(
        f"task: tiny\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'tiny.jsonl'}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: '{{label}}'\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return folder


def command(base: Path, made: Path, out: Path, name: str, **changes: object) -> list[str]:
    return [
        "--model", str(base), "--name", name, "--tasks-from", str(made / "tiny.yaml"), "--tasks-data", str(made / "tiny.jsonl"),
        "--recipe", json.dumps(RECIPE | changes), "--code", "x", "--results", str(out / f"{name}.json"),
        "--samples", str(out / f"{name}.samples.jsonl"), "--receipt", str(out / f"{name}.receipt.json"),
    ]  # fmt: skip


def test_every_item_is_kept_and_running_again_gives_the_same_bytes(tiny_base: Path, tasks: Path, tmp_path: Path) -> None:
    run_lm_eval.main(command(tiny_base, tasks, tmp_path, "base"))
    rows = read_jsonl(tmp_path / "base.samples.jsonl")
    assert [row["doc_id"] for row in rows] == list(range(12))
    assert {len(row["loglikelihoods"]) for row in rows} == {4}
    best = [max(range(4), key=lambda choice: row["loglikelihoods"][choice]) for row in rows]
    assert [row["acc"] for row in rows] == [float(choice == index % 4) for index, choice in enumerate(best)]
    assert read_json(tmp_path / "base.json")["results"]["tiny"]["acc,none"] == sum(row["acc"] for row in rows) / 12
    before = (tmp_path / "base.json").read_bytes(), (tmp_path / "base.samples.jsonl").read_bytes()
    run_lm_eval.main(command(tiny_base, tasks, tmp_path, "base"))
    assert ((tmp_path / "base.json").read_bytes(), (tmp_path / "base.samples.jsonl").read_bytes()) == before


def test_an_unknown_task_is_one_line(tiny_base: Path, tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lm_eval: no task tinny; see"):
        run_lm_eval.main(command(tiny_base, tasks, tmp_path, "base", tasks=["tinny"]))
    with pytest.raises(UserError, match="record cannot be run"):
        run_lm_eval.main(command(tiny_base, tasks, tmp_path, "base", tasks=["record"]))
    assert not list(tmp_path.glob("*.json*"))


def collect(place: Path, values: dict[str, list[float]], **changes: object) -> dict:
    for model, items in values.items():
        write_jsonl(place / f"{model}.samples.jsonl", [{"task": "t", "doc_id": i, "target": "0", "acc": v} for i, v in enumerate(items)])
    collect_lm_eval.main([
        "--samples", *(str(place / f"{model}.samples.jsonl") for model in values), "--output", str(place / "lm_eval.json"), "--code", "x",
        "--recipe", json.dumps({"metric": {}, "published_base": None, "tolerance": 0.02, "seed": 0} | changes), "--receipt", str(place / "r.json"),
    ])  # fmt: skip
    return read_json(place / "lm_eval.json")


def test_models_are_compared_in_pairs(tmp_path: Path) -> None:
    base, better = [1.0, 0.0] * 50, [1.0] * 60 + [1.0, 0.0] * 20
    table = collect(tmp_path, {"base": base, "child": better})
    found = table["differences"][0]["tasks"]["t"]
    assert found["mean"] == pytest.approx(0.3) and found["low"] > 0.2 and found["p_holm"] == pytest.approx(2 / 2**30)
    assert table["models"]["base"]["t"]["mean"] == 0.5
    assert table["calibration"]["verdict"] == "not applicable"


def test_the_harness_is_calibrated_against_published_values(tmp_path: Path) -> None:
    values = {"base": [1.0, 0.0] * 50, "child": [1.0] * 100}
    assert collect(tmp_path, values, published_base={"t": 0.51})["calibration"]["verdict"] == "calibrated"
    found = collect(tmp_path, values, published_base={"t": 0.60})["calibration"]
    assert found["verdict"] == "not calibrated" and found["outside"] == ["t"]


def test_models_with_other_items_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="were not evaluated on the same items"):
        collect(tmp_path, {"base": [1.0, 0.0], "child": [1.0]})
