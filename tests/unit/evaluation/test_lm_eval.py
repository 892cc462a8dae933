"""The harness really runs on task files of our own; its items are kept, compared in pairs, and
calibrated where something is published.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness_data import SOURCE, snapshots
from trained import killed_before_the_receipt

import collect_lm_eval
import list_evaluation_items
import run_lm_eval
from bezoar.errors import UserError
from bezoar.evaluation import harness
from bezoar.files import write_json, write_jsonl
from bezoar.readers import read_json, read_jsonl
from bezoar.workflow.configuration import resolved

ROOT = Path(__file__).parents[3]
VERSIONS = resolved([])["lm_eval"]["versions"]
RECIPE = {
    "tasks": ["tiny"],
    "versions": VERSIONS | {"tiny": 1.0},
    "task_files": [],
    "data": {},
    "num_fewshot": 0,
    "batch_size": 8,
    "dtype": "float32",
    "max_length": 64,
    "limit": None,
    "bootstrap_iters": 0,
    "threads": 1,
    "seed": 0,
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    words = ["red", "blue", "green", "white"]
    write_jsonl(
        folder / "tiny.jsonl",
        [
            {"question": f"The colour number {i}:", "choices": words, "label": i % 4}
            for i in range(12)
        ],
    )
    (folder / "tiny.yaml").write_text(
        "task: tiny\ndataset_path: json\ndataset_kwargs: {data_files: {test:"
        f" {folder / 'tiny.jsonl'}}}}}\ntest_split: test\noutput_type:"
        " multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice:"
        " '{{choices}}'\ndoc_to_target: '{{label}}'\nmetric_list: [{metric: acc,"
        " aggregation: mean, higher_is_better: true}]\nmetadata: {version: 1.0}\n"
    )
    return folder


def command(base: Path, made: Path, out: Path, name: str, **changes: object) -> list[str]:
    return [
        "--model",
        str(base),
        "--name",
        name,
        "--task-files",
        str(made / "tiny.yaml"),
        str(made / "tiny.jsonl"),
        "--recipe",
        json.dumps(RECIPE | changes),
        "--code",
        "x",
        "--results",
        str(out / f"{name}.json"),
        "--samples",
        str(out / f"{name}.samples.jsonl"),
        "--receipt",
        str(out / f"{name}.receipt.json"),
    ]


def test_an_edit_that_keeps_the_date_is_read_and_not_an_earlier_copy_of_the_data(
    tmp_path: Path,
) -> None:
    data, task = tmp_path / "tiny.jsonl", tmp_path / "tiny.yaml"
    task.write_text(
        "task: tiny\ndataset_path: json\ndataset_kwargs: {data_files: {test:"
        f" {data}}}}}\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text:"
        " '{{question}}'\ndoc_to_choice: ['a', 'b']\ndoc_to_target: 0\nmetric_list: [{metric:"
        " acc}]\nmetadata: {version: 1.0}\n"
    )
    ask = "import sys; from pathlib import Path; from bezoar.evaluation.harness import load_tasks\n"
    ask += (
        "print([row['question'] for row in load_tasks(['tiny'], [Path(sys.argv[1])],"
        " {})['tiny'].dataset['test']])"
    )
    outputs = []
    for word in ("red", "sad"):
        write_jsonl(data, [{"question": word}])
        os.utime(data, (1_700_000_000, 1_700_000_000))
        done = subprocess.run(
            [sys.executable, "-c", ask, str(task)],
            env=os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(done.stdout.splitlines()[-1])
    assert outputs == ["['red']", "['sad']"]


def test_every_item_is_kept_and_running_again_gives_the_same_bytes(
    tiny_base: Path, tasks: Path, tmp_path: Path
) -> None:
    run_lm_eval.main(command(tiny_base, tasks, tmp_path, "base"))
    rows = read_jsonl(tmp_path / "base.samples.jsonl")
    assert [row["doc_id"] for row in rows] == list(range(12))
    assert {len(row["loglikelihoods"]) for row in rows} == {4}
    best = [max(range(4), key=lambda choice: row["loglikelihoods"][choice]) for row in rows]
    assert [row["acc"] for row in rows] == [
        float(choice == index % 4) for index, choice in enumerate(best)
    ]
    found = read_json(tmp_path / "base.json")
    assert found["results"]["tiny"]["acc,none"] == sum(row["acc"] for row in rows) / 12
    assert (found["versions"], found["n-shot"], found["config"]["batch_size"]) == (
        {"tiny": 1.0},
        {"tiny": 0},
        8,
    )
    assert {
        found["config"][f"{kind}_seed"] for kind in ("random", "numpy", "torch", "fewshot")
    } == {0}
    before = (tmp_path / "base.json").read_bytes(), (tmp_path / "base.samples.jsonl").read_bytes()
    run_lm_eval.main(command(tiny_base, tasks, tmp_path, "base"))
    assert (
        (tmp_path / "base.json").read_bytes(),
        (tmp_path / "base.samples.jsonl").read_bytes(),
    ) == before


def test_a_value_over_all_items_is_no_score_of_single_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        {
            "task": "t",
            "doc_id": i,
            "target": "x",
            "acc": i % 2,
            "perplexity": -15.0 - i,
            "f1,s": 1.0,
        }
        | {"loglikelihoods": []}
        for i in range(4)
    ]
    results = {"acc,none": 0.5, "acc_stderr,none": "N/A", "perplexity,none": 4e6, "f1,s": 1.0}
    found = {"results": {"t": results}}
    kept = run_lm_eval.with_means([dict(row) for row in rows], found)
    assert {name for row in kept for name in row} == set(rows[0]) - {"perplexity"}
    assert "t: perplexity is no mean over items; left out" in capsys.readouterr().out
    bare = [
        {key: row[key] for key in ("task", "doc_id", "target", "loglikelihoods")} for row in rows
    ]
    with pytest.raises(UserError, match=r"task t has no score of single items \(mcc\), which"):
        run_lm_eval.with_means(bare, {"results": {"t": {"mcc,none": 0.1}}})


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("'{{question}}'", "'{{qestion.text}}'", "'qestion' is undefined"),
        ("'{{question}}'", "'{{question'", "unexpected end of template"),
        ("'{{question}}'", "!function nowhere.text", "nowhere"),
    ],
)
def test_what_a_task_of_ones_own_does_wrong_is_one_line(
    old: str, new: str, line: str, tiny_base: Path, tasks: Path, tmp_path: Path
) -> None:
    for path in tasks.iterdir():
        text = path.read_text().replace(str(tasks), str(tmp_path)).replace(old, new)
        (tmp_path / path.name).write_text(text)
    with pytest.raises(UserError, match=f"lm_eval: tiny cannot be .*{line}") as error:
        run_lm_eval.main(command(tiny_base, tmp_path, tmp_path, "base"))
    assert "\n" not in str(error.value)


def evaluate(model: Path, recipe: dict, results: Path, more: list[str]) -> None:
    """Run the program; its samples and receipt lie beside the results."""
    beside = {"--samples": ".samples.jsonl", "--receipt": ".receipt.json"}
    paths = [word for name, end in beside.items() for word in (name, str(results.with_suffix(end)))]
    run_lm_eval.main(
        [
            *("--model", str(model), "--name", "base", "--recipe", json.dumps(recipe)),
            *("--code", "x", "--results", str(results), *paths, *more),
        ]
    )


def test_a_task_that_cannot_be_run_is_one_line_with_the_reason(
    tiny_base: Path, tasks: Path, tmp_path: Path
) -> None:
    def refused(message: str, *more: str, **changes: object) -> None:
        with pytest.raises(UserError, match=message) as error:
            run_lm_eval.main([*command(tiny_base, tasks, tmp_path, "base", **changes), *more])
        assert "\n" not in str(error.value)

    refused("lm_eval: no task tinny; see", tasks=["tinny"])
    refused("record cannot be run: its data set is read by a script", tasks=["record"])
    refused("arc_easy has no local data; name its data set under lm_eval.data", tasks=["arc_easy"])
    refused("tiny is version 1.0, 2.0 is pinned", versions={"tiny": 2.0})
    refused("tiny has no pinned version; add `tiny: 1.0` under lm_eval.versions", versions={})
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").write_text("raise SystemExit\n")
    (tmp_path / "scripted" / "manifest.json").write_text("{}")
    refused(
        "holds a loading script and no data",
        "--task-data",
        f"piqa={tmp_path / 'scripted' / 'manifest.json'}",
        tasks=["piqa"],
    )
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "manifest.json").write_text("{}")
    refused(
        "piqa cannot be read from .*bare",
        "--task-data",
        f"piqa={tmp_path / 'bare' / 'manifest.json'}",
        tasks=["piqa"],
    )
    assert not list(tmp_path.glob("*.json*"))


@pytest.fixture(scope="module")
def ten(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The ten tasks of the paper's config, run on local data with the right columns, without a
    network.
    """
    out = tmp_path_factory.mktemp("ten")
    data = snapshots(out / "hub", rows=6)
    recipe = RECIPE | {"tasks": resolved([])["lm_eval"]["tasks"], "max_length": 256}
    evaluate(tiny_base, recipe, out / "base.json", ["--task-data", *data])
    return out, data


def test_the_ten_tasks_run_on_local_copies_of_their_data(ten: tuple[Path, list[str]]) -> None:
    out, _ = ten
    found, rows = read_json(out / "base.json"), read_jsonl(out / "base.samples.jsonl")
    assert {task: float(version) for task, version in found["versions"].items()} == {
        task: float(VERSIONS[task]) for task in found["versions"]
    }
    assert len(rows) == 10 * 6 and {
        sample["effective"] for sample in found["n-samples"].values()
    } == {6}
    assert all(str(out / "hub") in found["configs"][task]["dataset_path"] for task in SOURCE)
    metric = resolved([])["lm_eval_table"]["metric"]
    assert all(metric[row["task"]] in row for row in rows)
    soft = [row["acc"] for row in rows if row["task"] == "truthfulqa_mc2"]
    assert all(0 < value < 1 for value in soft), "mc2 is a probability, not right or wrong"
    assert len(read_json(out / "base.receipt.json")["inputs"]["data"]) == 8


def test_a_killed_evaluation_goes_on_with_the_next_task_to_the_same_bytes(
    ten: tuple[Path, list[str]], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data = ten
    evaluated, real = [], run_lm_eval.evaluate

    def dies(model: object, task: object, recipe: dict) -> dict:
        evaluated.append(task.task_name)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return real(model, task, recipe)

    def run(name: str) -> None:
        recipe = RECIPE | {"tasks": ["piqa", "rte"], "max_length": 256}
        evaluate(tiny_base, recipe, tmp_path / name, ["--task-data", *data])

    run("whole.json")
    monkeypatch.setattr(run_lm_eval, "evaluate", dies)
    with pytest.raises(KeyboardInterrupt):
        run("killed.json")
    assert not (tmp_path / "killed.json").exists()
    with killed_before_the_receipt():
        run("killed.json")
    run("killed.json")
    assert evaluated == ["piqa", "rte", "rte"]
    for end in ("json", "samples.jsonl"):
        killed, whole = tmp_path / f"killed.{end}", tmp_path / f"whole.{end}"
        assert killed.read_bytes() == whole.read_bytes()


def test_every_item_is_listed_from_where_it_is_evaluated(ten: tuple[Path, list[str]]) -> None:
    tasks = harness.load_tasks(["winogrande", "arc_easy"], [], harness.assignments(ten[1])[0])
    rows = [
        row for name, task in tasks.items() for row in list_evaluation_items.of_task(name, task)
    ]
    assert {(row["task"], row["item"]) for row in rows} == {
        (task, i) for task in tasks for i in range(6)
    }
    assert "Ann told Ben that _ was right." in {
        row["text"] for row in rows if row["task"] == "winogrande"
    }


def test_reading_the_items_needs_no_torch() -> None:
    code = (
        "import sys, bezoar.evaluation.harness as h, lm_eval.tasks; sys.exit('torch' in"
        " sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "scripts")}, check=False
        ).returncode
        == 0
    )


def collect(
    place: Path, values: dict[str, list[float]], metric: str = "acc", **changes: object
) -> dict:
    settings = changes.pop("settings", {})
    for model, items in values.items():
        write_jsonl(
            place / f"{model}.samples.jsonl",
            [{"task": "t", "doc_id": i, "target": "0", metric: v} for i, v in enumerate(items)],
        )
        mine = {
            "model": model,
            "harness": "0.4",
            "versions": {"t": 1.0},
            "n-shot": {"t": 0},
            "recipe": {"limit": None, **settings.get(model, {})},
        }
        write_json(place / f"{model}.json", mine)
    pairs = [["candidate", "base"]] if "candidate" in values else []
    recipe = {
        "pairs": pairs,
        "metric": {},
        "published_base": None,
        "tolerance": 0.02,
        "seed": 0,
    } | changes
    collect_lm_eval.main(
        [
            "--results",
            *(str(place / f"{model}.json") for model in values),
            "--samples",
            *(str(place / f"{model}.samples.jsonl") for model in values),
            "--output",
            str(place / "lm_eval.out.json"),
            "--code",
            "x",
            "--recipe",
            json.dumps(recipe),
            "--receipt",
            str(place / "r.json"),
        ]
    )
    return read_json(place / "lm_eval.out.json")


def test_items_of_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    collect(tmp_path, {"base": [1.0, 0.0]})
    (tmp_path / "again").mkdir()
    samples = [tmp_path / "base.samples.jsonl", tmp_path / "again/base.samples.jsonl"]
    shutil.copy(*samples)
    recipe = {"pairs": [], "metric": {}, "published_base": None, "tolerance": 0.02, "seed": 0}
    with pytest.raises(UserError, match=r"again/base\.samples\.jsonl: .* is called base\.samples"):
        collect_lm_eval.main(
            [
                *("--results", str(tmp_path / "base.json"), "--samples", *map(str, samples)),
                *("--output", str(tmp_path / "out.json"), "--code", "x"),
                *("--recipe", json.dumps(recipe), "--receipt", str(tmp_path / "r2.json")),
            ]
        )


def test_models_are_compared_in_pairs(tmp_path: Path) -> None:
    base, better = [1.0, 0.0] * 50, [1.0] * 60 + [1.0, 0.0] * 20
    table = collect(tmp_path, {"base": base, "candidate": better})
    found = table["differences"][0]["tasks"]["t"]
    assert (
        found["mean"] == pytest.approx(0.3)
        and found["low"] > 0.2
        and found["p_holm"] == pytest.approx(2 / 2**30)
    )
    assert (
        found["test"] == "McNemar, exact"
        and found["excludes_zero"]
        and 0 < found["detectable"] < found["mean"]
    )
    assert table["models"]["base"]["t"]["mean"] == 0.5
    assert table["calibration"]["verdict"] == "not applicable"
    assert table["settings"] == {
        "harness": "0.4",
        "versions": {"t": 1.0},
        "n-shot": {"t": 0},
        "limit": None,
    }


def test_scores_between_0_and_1_are_tested_by_sign_flips(tmp_path: Path) -> None:
    table = collect(tmp_path, {"base": [0.4] * 30, "candidate": [0.5] * 30})
    found = table["differences"][0]["tasks"]["t"]
    assert found["test"] == "sign flips" and found["p"] < 0.001
    same = collect(tmp_path, {"base": [0.4, 0.5] * 15, "candidate": [0.5, 0.4] * 15})[
        "differences"
    ][0]
    assert (
        not same["tasks"]["t"]["excludes_zero"]
        and not same["all_items"]["excludes_zero"]
        and not same["mean_of_tasks"]["excludes_zero"]
    )


def test_the_harness_is_calibrated_against_published_values_or_says_that_it_is_not(
    tmp_path: Path,
) -> None:
    values = {"base": [1.0, 0.0] * 50, "candidate": [1.0] * 100}

    def verdict(**changes: object) -> dict:
        return collect(tmp_path, values, **changes)["calibration"]

    assert verdict(published_base={"t": {"acc": 0.51}})["verdict"] == "calibrated"
    found = verdict(published_base={"t": {"acc": 0.60}})
    assert found["verdict"] == "not calibrated" and "t acc" in found["reason"]
    assert found["rows"] == [
        {"task": "t", "metric": "acc", "published": 0.6, "ours": 0.5, "n": 100}
    ]
    assert verdict(published_base={"other": {"acc": 0.5}})["verdict"] == "not run"
    limited = {model: {"limit": 20} for model in values}
    assert verdict(published_base={"t": {"acc": 0.5}}, settings=limited)["verdict"] == "not run"


def test_models_with_other_items_or_settings_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="were not evaluated on the same items"):
        collect(tmp_path, {"base": [1.0, 0.0], "candidate": [1.0]})
    with pytest.raises(UserError, match="candidate was evaluated with another limit"):
        collect(tmp_path, {"base": [1.0], "candidate": [1.0]}, settings={"candidate": {"limit": 5}})
    with pytest.raises(
        UserError, match="base has no metric acc of task t; name one it has under lm_eval_table"
    ):
        collect(tmp_path, {"base": [1.0]}, metric="f1")


SUMS = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
repeats: 2
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 2}
filter_list:
  - name: strict-match
    filter: [{function: regex, regex_pattern: "^(NEVER)$"}, {function: take_first}]
  - name: flexible-extract
    filter: [{function: regex, regex_pattern: "^(NEVER)$", fallback: even}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


SUMS_RECIPE = RECIPE | {"tasks": ["sums"], "versions": {"sums": "Yaml"}}


def sums_task(folder: Path, tokens: str) -> None:
    """The task with another setting in place of the length of its answers."""
    write_jsonl(folder / "sums.jsonl", [{"question": "is 2 odd?", "answer": "even"}])
    text = SUMS.replace("DATA", str(folder / "sums.jsonl"))
    (folder / "sums.yaml").write_text(text.replace("max_gen_toks: 2", tokens))


def sums_files(folder: Path) -> list[str]:
    return ["--task-files", str(folder / "sums.yaml"), str(folder / "sums.jsonl")]


@pytest.fixture(scope="module")
def sums(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six items that strict-match never finds right and flexible-extract always, and a group of
    this task and another.
    """
    out = tmp_path_factory.mktemp("sums")
    rows = [{"question": f"is {2 * i} odd </s> or even?", "answer": "even"} for i in range(6)]
    write_jsonl(out / "sums.jsonl", rows)
    task = SUMS.replace("DATA", str(out / "sums.jsonl"))
    (out / "sums.yaml").write_text(task)
    (out / "more.yaml").write_text(task.replace("task: sums", "task: more_sums"))
    (out / "both.yaml").write_text("group: both\ntask: [sums, more_sums]\n")
    recipe = RECIPE | {"tasks": ["both"], "versions": {"sums": "Yaml", "more_sums": "Yaml"}}
    evaluate(
        tiny_base,
        recipe,
        out / "base.json",
        [
            "--task-files",
            *(str(out / name) for name in ("both.yaml", "sums.yaml", "more.yaml", "sums.jsonl")),
        ],
    )
    return out


def collected(out: Path, metric: dict[str, str]) -> dict:
    recipe = {"metric": metric, "pairs": [], "published_base": None, "tolerance": 0.02, "seed": 0}
    collect_lm_eval.main(
        [
            "--results",
            str(out / "base.json"),
            "--samples",
            str(out / "base.samples.jsonl"),
            "--output",
            str(out / "table.json"),
            "--recipe",
            json.dumps(recipe),
            "--code",
            "x",
            "--receipt",
            str(out / "table.receipt.json"),
        ]
    )
    return read_json(out / "table.json")


def test_metric_and_filter_name_a_score_and_n_counts_items(sums: Path) -> None:
    rows = read_jsonl(sums / "base.samples.jsonl")
    assert len(rows) == 12 and {row["task"] for row in rows} == {"sums", "more_sums"}
    names = {"strict-match": 0.0, "flexible-extract": 1.0}
    for row in rows:
        assert {name: row[f"exact_match,{name}"] for name in names} == names
        assert row["loglikelihoods"] == []
    scores = {
        task: f"exact_match,{name}" for task, name in zip(["sums", "more_sums"], names, strict=True)
    }
    table = collected(sums, scores)
    found = table["models"]["base"]
    assert (found["sums"]["mean"], found["sums"]["n"]) == (0.0, 6)
    assert (found["more_sums"]["mean"], found["more_sums"]["n"]) == (1.0, 6)
    assert table["metric"] == scores


def test_a_metric_by_several_filters_is_refused_with_their_names(sums: Path) -> None:
    with pytest.raises(
        UserError, match=r"exact_match by several filters; name one of 'exact_match,"
    ):
        collected(sums, {"sums": "exact_match", "more_sums": "exact_match"})


def test_a_metric_with_one_filter_needs_no_second_name() -> None:
    named = collect_lm_eval.score_named
    assert named("acc", ["acc", "acc,x"], "t", "m") == "acc"
    assert named("f1", ["f1,x", "f1a,y"], "t", "m") == "f1,x"


def item(value: object, kind: str = "none", metric: str = "acc") -> dict:
    return {
        "doc_id": 0,
        "target": 1,
        "metrics": [metric],
        metric: value,
        "filter": kind,
        "filtered_resps": [["x", "y"]],
    }


@pytest.mark.parametrize("value", [1, 1.0, True, "numpy", "numpy bool"])
def test_a_score_of_any_numeric_type_is_kept(value: object) -> None:
    import numpy as np

    value = {"numpy": np.int64(1), "numpy bool": np.bool_(True)}.get(str(value), value)
    [row] = run_lm_eval.samples({"samples": {"t": [item(value), item((1, 2), "x", "f1")]}})
    assert row == {"task": "t", "doc_id": 0, "target": "1", "acc": 1.0, "loglikelihoods": []}


def test_a_result_that_is_not_finite_is_one_line() -> None:
    found = {"results": {"arc_easy": {"perplexity,none": float("inf")}}, "config": {}}
    with pytest.raises(UserError, match=r"^lm_eval: arc_easy: a result is not finite; .*float32$"):
        run_lm_eval.raw(found)


def test_a_score_that_is_not_finite_or_comes_twice_is_one_line() -> None:
    with pytest.raises(UserError, match="t, item 0: acc is nan"):
        run_lm_eval.samples({"samples": {"t": [item(float("nan"))]}})
    with pytest.raises(UserError, match="t, item 0: acc was scored twice"):
        run_lm_eval.samples({"samples": {"t": [item(1), item(0)]}})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        ("1.0", 1, True),
        ("v2", "v2", True),
        ("None", None, True),
        ("Yaml", "Yaml", True),
        ("2", 3, False),
        ("v2", 2, False),
        (None, 0, False),
    ],
)
def test_versions_of_any_form_compare(one: object, other: object, same: bool) -> None:
    assert harness.same_version(one, other) is same


def test_rows_that_do_not_fit_together_are_refused() -> None:
    row = {"task": "t", "doc_id": 0, "target": "0", "acc": 1.0}
    with pytest.raises(UserError, match="an item of task t has two rows"):
        collect_lm_eval.scores_of([row, row])
    with pytest.raises(UserError, match="1 of 2 items of task t have a f1"):
        collect_lm_eval.scores_of([row | {"f1": 0.5}, row | {"doc_id": 1}])


def test_models_that_were_asked_other_questions_are_not_compared() -> None:
    row = {"task": "t", "doc_id": 0, "target": "0"}
    same = collect_lm_eval.items_of([row])
    collect_lm_eval.require_same_items({"base": same, "candidate": same})
    for other in (row | {"doc_id": 1}, row | {"target": "1"}):
        with pytest.raises(
            UserError, match="candidate and base were not evaluated on the same items"
        ):
            collect_lm_eval.require_same_items(
                {"base": same, "candidate": collect_lm_eval.items_of([other])}
            )


def test_a_request_beyond_the_models_context_is_one_line(tasks: Path, tmp_path: Path) -> None:
    from families import snapshot

    model = snapshot(tmp_path / "gpt2", "gpt2")
    long = tmp_path / "long"
    long.mkdir()
    write_jsonl(
        long / "tiny.jsonl",
        [{"question": "red " * 70, "choices": ["red", "blue"], "label": 0} for _ in range(2)],
    )
    text = (tasks / "tiny.yaml").read_text().replace(str(tasks), str(long))
    (long / "tiny.yaml").write_text(text)
    with pytest.raises(UserError, match=r"lm_eval: requests: the longest has \d+ tokens .* for 64"):
        run_lm_eval.main(command(model, long, tmp_path, "gpt2", max_length=512))
    run_lm_eval.main(command(model, tasks, tmp_path, "gpt2", max_length=512))
    assert len(read_jsonl(tmp_path / "gpt2.samples.jsonl")) == 12


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        ("max_gen_toks: 64", "sums asks for answers of 64 tokens, expected 1 to 63"),
        ("max_new_tokens: 300", "sums asks for answers of 300 tokens, expected 1 to 63"),
        ("top_p: 1.0", "sums asks for answers of 256 tokens, expected 1 to 63"),
        ("max_gen_toks: 0", "sums asks for answers of 0 tokens, expected 1 to 63"),
        ("max_gen_toks: many", "sums cannot be evaluated: .*many"),
    ],
)
def test_answers_that_leave_no_room_for_a_question_are_one_line_before_the_model_is_loaded(
    tokens: str, line: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lm_eval, "load", lambda *_: pytest.fail("the model was loaded"))
    sums_task(tmp_path, tokens)
    with pytest.raises(UserError, match=f"lm_eval: {line}"):
        evaluate(tiny_base, SUMS_RECIPE, tmp_path / "base.json", sums_files(tmp_path))
    assert not list(tmp_path.glob("base*"))


def test_answers_that_leave_no_room_in_the_models_context_are_one_line(tmp_path: Path) -> None:
    from families import snapshot

    model = snapshot(tmp_path / "gpt2", "gpt2")
    sums_task(tmp_path, "max_gen_toks: 64")
    with pytest.raises(
        UserError, match=r"answers of 64 tokens, expected 1 to 63 because .* made for 64"
    ):
        evaluate(
            model, SUMS_RECIPE | {"max_length": 512}, tmp_path / "base.json", sums_files(tmp_path)
        )
    assert not list(tmp_path.glob("base*"))


def test_markup_in_a_question_is_text(tiny_base: Path) -> None:
    model = run_lm_eval.backend(tiny_base, RECIPE)
    assert 2 not in model.tok_encode("red </s> blue")
    assert 2 not in model.tok_batch_encode(["red </s> blue"])[0]


def test_an_end_that_is_not_special_is_no_part_of_an_answer(
    tiny_base: Path, tmp_path: Path
) -> None:
    from lm_eval.api.instance import Instance

    def answer() -> str:
        model = run_lm_eval.backend(tmp_path / "model", RECIPE)
        options = {"until": ["\n\n"], "max_gen_toks": 6}
        asked = Instance("generate_until", {}, ("red green", options), 0)
        return str(model.generate_until([asked], disable_tqdm=True)[0])

    shutil.copytree(tiny_base, tmp_path / "model")
    whole = answer()
    tokenizer = run_lm_eval.backend(tmp_path / "model", RECIPE).tokenizer
    end = tokenizer(whole, add_special_tokens=False)["input_ids"][-1]
    write_json(tmp_path / "model/generation_config.json", {"eos_token_id": [2, end]})
    assert whole and tokenizer.decode([end]).strip() not in answer().split()
