"""Promises of the other ways in: Flan's submixes streamed through `datasets`, and the released
sets; on local files, by datasets' own loaders.
"""

import errno
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Scripted

import generate_orca
import import_released
import stream_flan
from bezoar.data.flan import choose
from bezoar.data.verdicts import verdict
from bezoar.errors import UserError
from bezoar.files import sha256_file, write_json, write_jsonl
from bezoar.readers import read_json, read_jsonl

ROOT = Path(__file__).parents[3]
ENTRY = {"id": "flan_niv2_submix", "hub": "nobody/niv2", "type": "dataset", "revision": "a" * 40}
QUOTAS = {"quotas": {"niv2": 20, "cot": 7}, "rows_per_task": 4, "seed": 3}


def flan(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "inputs": f"Question {index}?",
        "targets": "gold",
        "task_source": "NIv2",
        "task_name": f"task{index % 9}",
        "template_type": "zs_opt",
        **changes,
    }


SUBMIX = [
    *(flan(i) for i in range(120)),
    flan(120, template_type="fs_opt"),
    flan(121, inputs=" "),
    flan(122, targets=None),
    flan(123, task_source="P3", task_name="bigbench_x"),
    flan(124, task_source="mascot"),
    *(flan(i, task_source="CoT") for i in range(125, 160)),
]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_submix_is_streamed_and_every_row_is_kept_or_dropped_by_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "hub" / ENTRY["id"] / "data"
    folder.mkdir(parents=True)
    halves = (SUBMIX[:70], SUBMIX[70:])
    for number, rows in enumerate(halves):
        table, name = Dataset.from_list(rows), str(folder / f"train-0000{number}-of-00002.{kind}")
        table.to_parquet(name) if kind == "parquet" else table.to_json(name)
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path))
    out = {name: tmp_path / name for name in ("rows.jsonl", "counts.json", "receipt.json")}
    stream_flan.main(
        [
            "--entry",
            json.dumps(ENTRY),
            "--lock",
            str(tmp_path / "lock"),
            "--prompts",
            str(ROOT / "prompts" / "orca_system_messages.yaml"),
            "--rows",
            str(out["rows.jsonl"]),
            "--counts",
            str(out["counts.json"]),
            "--receipt",
            str(out["receipt.json"]),
            "--code",
            "c",
            "--recipe",
            json.dumps(QUOTAS),
        ]
    )
    counts = read_json(out["counts.json"])
    dropped = {
        "few_shot": 1,
        "empty": 1,
        "malformed": 1,
        "bigbench": 1,
        "unknown_submix": 1,
        "too_long": 0,
        "over_quota": 155 - 27,
        "kept": 27,
    }
    assert counts == {"read": len(SUBMIX), **dropped}
    rows = read_jsonl(out["rows.jsonl"])
    assert all(SUBMIX[row["original_index"]]["inputs"] == row["inputs"] for row in rows), (
        "original_index is the place in the stream"
    )
    messages = yaml.safe_load((ROOT / "prompts" / "orca_system_messages.yaml").read_text())
    recipe = {**QUOTAS, "max_failure_share": 0.0}
    written, funnel = generate_orca.make(
        Scripted(lambda prompt, _: "so"), [out["rows.jsonl"]], messages, recipe, [counts]
    )
    assert funnel.entered == len(SUBMIX) == sum(funnel.left.values())
    assert funnel.left == {**dict.fromkeys(generate_orca.RULES, 0), **dropped}
    write_jsonl(tmp_path / "whole.jsonl", SUBMIX)
    assert (
        written
        == generate_orca.make(
            Scripted(lambda prompt, _: "so"), [tmp_path / "whole.jsonl"], messages, recipe
        )[0]
    ), "as from the whole submix"


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 30), st.integers(1, 9), st.integers(8, 40))
def test_choosing_in_batches_or_shards_is_choosing_at_once(
    rng: random.Random, quota: int, per_task: int, batch: int
) -> None:
    rows = [
        {
            "original_index": i,
            "inputs": f"Ask {i}.",
            "task_name": f"t{rng.randrange(6)}",
            "dataset_source": rng.choice(["cot", "niv2", "t0"]),
        }
        for i in range(90)
    ]
    recipe = {
        "quotas": {"cot": quota, "niv2": 12, "t0": quota},
        "rows_per_task": per_task,
        "seed": 0,
    }
    long = {row["original_index"] for row in rows if rng.random() < 0.2}

    def chosen(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return choose(rows, recipe, lambda row: row["original_index"] not in long)

    at_once = chosen(rows)
    held: list[dict[str, Any]] = []
    for start in range(0, len(rows), batch):
        taken, too_long = chosen(held + rows[start : start + batch])
        held = taken + too_long
    assert (taken, too_long) == at_once
    shards = [taken + too_long for taken, too_long in (chosen(rows[k::3]) for k in range(3))]
    rng.shuffle(shards)
    assert chosen([row for shard in shards for row in shard]) == at_once


def pinned(*_: Any, **__: Any) -> SimpleNamespace:
    """What the hub's client says of the repository of `ENTRY`."""
    return SimpleNamespace(id=ENTRY["hub"], sha=ENTRY["revision"])


def test_a_disk_that_is_full_while_a_submix_is_streamed_is_not_its_fault() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield flan(0)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(stream_flan._read(rows, "x"))


def test_a_submix_does_not_come_from_the_hub_where_the_mirror_is_misspelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "none"))
    names = ("lock", "prompts", "rows", "counts", "receipt")
    places = [text for name in names for text in (f"--{name}", str(tmp_path / name))]
    more = ["--entry", json.dumps(ENTRY), "--recipe", json.dumps(QUOTAS), "--code", "c"]
    with pytest.raises(UserError, match=r"MIRROR=.*none: no such directory; set it to one that"):
        stream_flan.main([*places, *more])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["huggingface_hub.HfApi.repo_info", "datasets.load_dataset"])
def test_a_submix_that_cannot_be_had_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.delenv("BEZOAR_MIRROR", raising=False)

    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", pinned)
    monkeypatch.setattr(broken, offline)
    with pytest.raises(
        UserError,
        match=(
            r"nobody/niv2: ConnectionError \(no network\) from https://huggingface\.co; try again"
            r" later, or put it into MIRROR/hub/flan_niv2_submix"
        ),
    ):
        list(stream_flan.stream(ENTRY, None, tmp_path / "lock"))


def test_the_hub_is_asked_for_the_pinned_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, Any]] = []

    def load(*arguments: Any, **named: Any) -> list[dict[str, Any]]:
        asked.append((arguments, named))
        return SUBMIX[:1]

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", pinned)
    assert list(stream_flan.stream(ENTRY, None, tmp_path / "lock")) == SUBMIX[:1]
    assert asked == [
        (("nobody/niv2",), {"revision": "a" * 40, "split": "train", "streaming": True})
    ]


VERDICT = {"gpt4_status": "Accept", "gpt4_rating": 9, "gpt4_reason": "good"}
RELEASED = {
    "lamini": [
        {"instruction": f"Do {i}.", "source": "s", "response": f"done {i}", **VERDICT}
        for i in range(12)
    ],
    "evol": [
        {
            "instruction": f"Do {i}.",
            "response": "d",
            "category": "c",
            "evolution_strategy": "in-breadth",
            "in-depth-evolving_operation": None,
            "epoch": 1,
            **VERDICT,
        }
        for i in range(12)
    ],
    "orca": [
        {
            "original_index": i,
            "inputs": "i",
            "targets": "t",
            "task_source": "CoT",
            "task_name": "aqua",
            "template_type": "zs_opt",
            "system_message": None,
            "explained_targets": "e",
            "dataset_source": "cot",
            **VERDICT,
        }
        for i in range(12)
    ],
}


def snapshot(folder: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    """A fetched data set: one file and its manifest."""
    folder.mkdir()
    table, path = Dataset.from_list(rows), folder / f"train.{kind}"
    {"parquet": table.to_parquet, "json": table.to_json, "csv": table.to_csv}[kind](str(path))
    (folder / "README.md").write_text("card")
    write_json(
        folder / "manifest.json",
        {
            "id": "x",
            "files": {path.name: sha256_file(path), "README.md": sha256_file(folder / "README.md")},
        },
    )
    return folder / "manifest.json"


def test_a_released_rating_is_read_as_a_raters_own() -> None:
    values = [9, 9.0, "9", " 9.0 ", True, "８", 9.5, 11, None]
    read = [9, 9, 9, 9, None, None, None, None, None]
    assert [import_released.rating(value) for value in values] == read
    for value, expected in zip(values, read, strict=True):
        text = json.dumps({"status": "Accept", "rating": value, "reason": "r"})
        assert (verdict(text) or {"rating": None})["rating"] == expected


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
@pytest.mark.parametrize("scheme", ["lamini", "orca", "evol"])
def test_released_rows_get_the_columns_of_generated_ones(
    tmp_path: Path, scheme: str, kind: str
) -> None:
    rows = [{**row, "note": "extra"} for row in RELEASED[scheme]]
    rows[1] |= {"gpt4_status": "reject", "gpt4_rating": 2}
    rows[2] |= {"gpt4_status": "?", "gpt4_rating": 77}
    rows[3][import_released.NEEDED[scheme][1]] = " "
    manifest = snapshot(tmp_path / "set", rows, kind)
    import_released.main(
        [
            "--manifest",
            str(manifest),
            "--rows",
            str(tmp_path / "r.jsonl"),
            "--counts",
            str(tmp_path / "c.json"),
            "--receipt",
            str(tmp_path / "t.json"),
            "--code",
            "c",
            "--recipe",
            json.dumps({"scheme": scheme, "seed": 0}),
        ]
    )
    written, counts = read_jsonl(tmp_path / "r.jsonl"), read_json(tmp_path / "c.json")
    assert all(
        list(row) == [*import_released.COLUMNS[scheme], *import_released.VERDICT] for row in written
    )
    assert [row["gpt4_status"] for row in written[:3]] == ["Accept", "Reject", "Unrated"]
    assert [row["gpt4_rating"] for row in written[:3]] == [9, 2, None]
    assert {key: counts[key] for key in ("entered", "malformed", "kept", "reject", "unrated")} == {
        "entered": 12,
        "malformed": 1,
        "kept": 9,
        "reject": 1,
        "unrated": 1,
    }
    assert counts["columns_left_out"] == ["note"]
    assert None not in written[0].values()


def listed(folder: Path) -> Path:
    """Write a manifest of the files below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(folder)): sha256_file(path) for path in files}
    write_json(folder / "manifest.json", {"id": "x", "files": names})
    return folder / "manifest.json"


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["a.csv", "a.jsonl"], ["a.jsonl"]),
        (["a.csv", "a.csv.gz"], ["a.csv"]),
        (["a.json", "a.jsonl.xz", "b.json", "b.jsonl.xz"], ["a.jsonl.xz", "b.jsonl.xz"]),
        (["a.csv", "a.parquet", "a.jsonl"], ["a.parquet"]),
        (["a.csv", "b.csv", "README.md", "a.csv.bak"], ["a.csv", "b.csv"]),
        (["a.csv.jsonl", "b.jsonl"], ["a.csv.jsonl", "b.jsonl"]),
        (["a.jsonl", "dataset_infos.json", "data/state.json", ".cache/x.json"], ["a.jsonl"]),
        (["dataset_infos.json"], "names no file of .parquet, .jsonl, .json, .csv; fetch"),
        (["a.csv", "b.jsonl"], "other files in .csv than in .jsonl; expected one form, or all"),
        (["a.csv", "a.jsonl", "b.csv"], "other files in .csv than in .jsonl; expected one form"),
    ],
)
def test_no_row_of_a_released_set_is_read_twice_and_no_description_of_it_as_rows(
    names: list[str], read: list[str] | str
) -> None:
    if isinstance(read, list):
        assert import_released.files_of_rows(names, Path("manifest.json")) == read
    else:
        with pytest.raises(UserError, match=f"manifest.json: {re.escape(read)}"):
            import_released.files_of_rows(names, Path("manifest.json"))


def test_a_released_set_in_two_forms_counts_once(tmp_path: Path) -> None:
    rows = RELEASED["lamini"]
    Dataset.from_list(rows).to_csv(str(tmp_path / "train.csv"))
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_json(tmp_path / "dataset_infos.json", {"default": {"splits": {}}})
    found = import_released.released_rows(import_released.released_files(listed(tmp_path)))
    assert [row for _, row in found] == rows


def test_a_set_without_verdicts_or_with_another_file_is_refused(tmp_path: Path) -> None:
    bare = [
        {key: value for key, value in row.items() if key != "gpt4_status"}
        for row in RELEASED["lamini"]
    ]
    with pytest.raises(
        UserError,
        match=r"no column gpt4_status; expected the columns of lamini, found instruction, source",
    ):
        import_released.convert((("set: row 1", row) for row in bare), "lamini", "set")
    with pytest.raises(UserError, match=r"12 rows, none with gpt4_status Accept"):
        import_released.convert(
            (("set", {**row, "gpt4_status": "no"}) for row in RELEASED["lamini"]), "lamini", "set"
        )
    manifest = snapshot(tmp_path / "set", RELEASED["lamini"], "json")
    (tmp_path / "set" / "train.json").write_text("{}")
    with pytest.raises(UserError, match=r"train\.json: not the file of the manifest"):
        import_released.released_files(manifest)
