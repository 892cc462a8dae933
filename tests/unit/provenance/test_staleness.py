"""A receipt holds or it does not, by content; no edit hides behind a date."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bezoar import files, program
from bezoar.files import differences, sha256_file, write_json
from bezoar.provenance import fingerprint, staleness
from bezoar.provenance.fingerprint import Hashes, nothing_to_do, row_digests
from bezoar.provenance.receipt import Receipt
from bezoar.provenance.snakemake_patch import source_reasons
from bezoar.provenance.staleness import command_in, first_row_changed, reasons
from bezoar.workflow.deviations import ours, tagged

COMMAND = [
    "copy.py",
    "--data",
    "in.jsonl",
    "--output",
    "out.jsonl",
    "--concurrency",
    "4",
    "--recipe",
    '{"a": {"b": 1}}',
    "--code",
    "c0de",
    "--receipt",
    "receipt.json",
]


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage that has copied in.jsonl to out.jsonl and left its receipt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", COMMAND)
    Path("in.jsonl").write_text("".join(f'{{"row": {n}}}\n' for n in range(9)))
    with Receipt(
        Path("receipt.json"),
        stage="copy",
        recipe={"a": {"b": 1}},
        code="c0de",
        inputs={"data": Path("in.jsonl")},
        outputs={"output": Path("out.jsonl")},
    ):
        Path("out.jsonl").write_bytes(Path("in.jsonl").read_bytes())
    return tmp_path


def why(hashes: Hashes | None = None, **changed: Any) -> list[str]:
    asked: dict[str, Any] = {
        "inputs": ["in.jsonl"],
        "outputs": ["out.jsonl", "receipt.json"],
        "recipe": '{"a":{"b":1}}',
        "code": "c0de",
        "command": COMMAND,
    }
    return reasons(Path("receipt.json"), **(asked | changed), hashes=hashes or Hashes())


def test_a_receipt_that_holds_has_no_reason_and_its_program_nothing_to_do(finished: Path) -> None:
    assert why() == []
    assert nothing_to_do(COMMAND)


def test_1_and_true_are_two_values_for_the_workflow_and_for_the_program(finished: Path) -> None:
    other = [word.replace('{"b": 1}', '{"b": true}') for word in COMMAND]
    assert why(recipe='{"a":{"b":true}}') == ["recipe.a.b: 1 -> true"]
    assert other != COMMAND and not nothing_to_do(other)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"recipe": '{"a":{"b":2}}'}, "recipe.a.b: 1 -> 2"),
        ({"code": "f00d"}, "code: c0de -> f00d"),
        ({"command": [*COMMAND, "--new", "1"]}, "command line: not the recorded one"),
        ({"inputs": ["in.jsonl", "more.jsonl"]}, "input more.jsonl: not in the receipt"),
        ({"outputs": ["out.jsonl", "more.jsonl"]}, "output more.jsonl: not in the receipt"),
    ],
)
def test_what_the_rule_now_says_is_compared(
    finished: Path, changed: dict[str, Any], reason: str
) -> None:
    assert why(**changed) == [reason]


def test_of_the_hubs_repository_its_name_and_its_commit_are_compared(finished: Path) -> None:
    """Pinning the commit that came, or a word about it, streams nothing again."""
    entry = {"id": "mix", "hub": "owner/mix", "revision": None, "why": "questions"}
    came, other = "a" * 40, "b" * 40

    def asked(**changed: Any) -> list[str]:
        return [*COMMAND, "--entry", json.dumps(entry | changed), "--lock", "sources.lock"]

    facts = {"source": "owner/mix", "revision": came, "read": 9}
    held = json.loads(Path("receipt.json").read_text())
    write_json(Path("receipt.json"), held | {"command": asked(), "facts": facts})
    write_json(Path("sources.lock"), {"mix": came})
    for same in (asked(), asked(revision=came), asked(why="rows")):
        assert why(command=same) == [] and nothing_to_do(same)
    for moved, line in (
        (asked(revision=other), f"revision: {came} -> {other}"),
        (asked(hub="new/mix"), "source: owner/mix -> new/mix"),
    ):
        assert why(command=moved) == [line] and not nothing_to_do(moved)
    Path("sources.lock").write_text("[]")
    assert why(command=asked())[0].startswith("sources.lock: expected a JSON object")
    assert not nothing_to_do(asked())


def test_how_many_requests_run_at_once_is_no_change(finished: Path) -> None:
    other = [word if word != "4" else "9" for word in COMMAND]
    assert why(command=other) == [] and nothing_to_do(other)


@pytest.mark.parametrize("name", ["in.jsonl", "out.jsonl"])
def test_an_edit_with_the_same_size_and_date_is_seen_through_the_cache(
    finished: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(files, "SETTLED_S", 0.1)
    time.sleep(2 * files.SETTLED_S)
    assert why(Hashes()) == []
    cache = Hashes(Path(".snakemake/hashes.json"))
    assert why(cache) == []
    cache.save()
    facts = os.stat(name)
    with open(name, "r+b") as stream:
        stream.write(b"[")
    os.utime(name, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert [line.split(":")[0] for line in why(Hashes(Path(".snakemake/hashes.json")))] == [
        f"{'input' if name == 'in.jsonl' else 'output'} {name}"
    ]
    assert not nothing_to_do(COMMAND)


def test_the_cache_saves_reading(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_S", 0.1)
    time.sleep(2 * files.SETTLED_S)
    cache = Hashes(Path(".snakemake/hashes.json"))
    expected = cache.of("in.jsonl")
    cache.save()
    again = Hashes(Path(".snakemake/hashes.json"))
    monkeypatch.setattr(fingerprint.hashlib, "file_digest", None)
    assert again.of("in.jsonl") == expected


def test_a_touch_is_no_change(finished: Path) -> None:
    for name in ("in.jsonl", "out.jsonl", "receipt.json"):
        os.utime(name, (1, 1))
    assert why() == [] and nothing_to_do(COMMAND)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"recipe": {}}',
        "[" * 100_000,
        '{"a": ' * 100_000,
        '"\\ud800"',
        "1" * 5000,
    ],
)
def test_a_damaged_receipt_is_a_reason_and_no_crash(finished: Path, content: str) -> None:
    Path("receipt.json").write_text(content)
    assert len(why()) == 1 and "receipt" in why()[0]
    assert not nothing_to_do(COMMAND)


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000], ids=["NUL", "long"])
def test_a_recorded_path_that_no_file_can_have_is_a_reason(finished: Path, path: str) -> None:
    held = json.loads(Path("receipt.json").read_text())
    held["inputs"]["data"][path] = "0" * 64
    write_json(Path("receipt.json"), held)
    assert len(why()) == 1 and not nothing_to_do(COMMAND)


def test_a_directory_in_place_of_a_receipt_is_a_reason(finished: Path) -> None:
    Path("receipt.json").unlink()
    Path("receipt.json").mkdir()
    assert len(why()) == 1 and "found a directory" in why()[0]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "7", "{", "[" * 100_000, '{"in.jsonl": 7}', '{"in.jsonl": []}', '{"in.jsonl": [1]}'],
    ids=lambda text: text[:18],
)
def test_damaged_hashes_are_computed_again(tmp_path: Path, content: str) -> None:
    kept, data = tmp_path / "hashes.json", tmp_path / "in.jsonl"
    data.write_text("{}\n")
    kept.write_text(content.replace("in.jsonl", str(data)))
    assert Hashes(kept).of(data) == sha256_file(data)


def test_whoever_asks_for_it_again_gets_it(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fingerprint.AGAIN, "1")
    assert not nothing_to_do(COMMAND)


def test_a_program_with_nothing_to_do_is_not_entered(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.run(lambda: pytest.fail("entered"))
    assert capsys.readouterr().out.startswith("unchanged: ")


def test_a_failed_stage_leaves_no_receipt(finished: Path) -> None:
    with (
        pytest.raises(KeyError),
        Receipt(Path("receipt.json"), stage="copy", recipe={}, code="", inputs={}, outputs={}),
    ):
        raise KeyError
    assert why() == [staleness.NEVER]


@pytest.mark.parametrize(
    "name",
    [
        "BEZOAR_IMAGE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "DNNL_DEFAULT_FPMATH_MODE",
        "DNNL_MAX_CPU_ISA",
    ],
)
def test_variables_that_move_results_are_recorded(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fingerprint.environment.cache_clear()
    before = fingerprint.environment()
    fingerprint.environment.cache_clear()
    monkeypatch.setenv(name, "sha256:12")
    assert list(differences(before, fingerprint.environment(), "environment")) == [
        f"environment.variables.{name}: null -> sha256:12"
    ]
    fingerprint.environment.cache_clear()


def test_a_receipt_that_knows_less_variables_holds_while_the_others_are_not_set(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = json.loads(Path("receipt.json").read_text())
    del held["environment"]["variables"]["DNNL_MAX_CPU_ISA"]
    write_json(Path("receipt.json"), held)
    assert why() == [] and nothing_to_do(COMMAND)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    fingerprint.environment.cache_clear()
    assert why() == ["environment.variables.DNNL_MAX_CPU_ISA: null -> AVX2"]
    assert not nothing_to_do(COMMAND)
    fingerprint.environment.cache_clear()


def test_the_words_of_a_rules_shell_text_are_those_the_program_sees() -> None:
    text = (
        "\n  exec &> >(tee logs/x.txt)\n  python scripts/a.py \\\n      --in 'a b/c.json' --root"
        " $(dirname $(dirname r/report/index.html)) --x 1\n"
    )
    assert command_in(text) == ["scripts/a.py", "--in", "a b/c.json", "--root", "r", "--x", "1"]
    many = text.replace(
        "python ",
        "export BEZOAR_PROCESSES=2 PYTHONPATH=scripts\npython -m bezoar.training.launch"
        " --config_file profiles/accelerate/cpu.yaml --num_processes 2 ",
    )
    assert command_in(many) == command_in(text)  # in how many processes decides nothing


@pytest.mark.parametrize(("rows", "place"), [(9, "row 4"), (fingerprint.BLOCKS * 2, "rows 3-4")])
def test_the_first_changed_row_is_named(tmp_path: Path, rows: int, place: str) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [f"{n}\n" for n in range(rows)]
    path.write_text("".join(lines))
    recorded = row_digests(path)
    path.write_text("".join(["x\n" if n == 3 else line for n, line in enumerate(lines)]))
    assert first_row_changed(recorded, path) == place


def test_a_fetched_file_is_judged_by_the_registry_and_by_the_first_fetch(tmp_path: Path) -> None:
    path, lock = tmp_path / "file", tmp_path / "sources.lock"
    entry: dict[str, Any] = {"id": "one", "path": "file", "sha256": None}
    assert source_reasons(str(path), entry, Hashes(), lock) == [staleness.NEVER]
    path.write_text("right")
    assert "fetching records it" in source_reasons(str(path), entry, Hashes(), lock)[0]
    write_json(lock, {"one": sha256_file(path)})
    assert source_reasons(str(path), entry, Hashes(), lock) == []
    path.write_text("wrong")
    assert source_reasons(str(path), entry, Hashes(), lock)[0].startswith(f"source {path}: ")
    assert source_reasons(str(path), entry | {"sha256": sha256_file(path)}, Hashes(), lock) == []


def test_a_file_inside_a_snapshot_is_judged_too(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("right")
    write_json(
        tmp_path / "manifest.json",
        {"revision": "abc", "files": {"weights": sha256_file(tmp_path / "weights")}},
    )
    entry = {"id": "one", "revision": "abc"}
    asked = (str(tmp_path / "manifest.json"), entry, Hashes(), tmp_path / "none")
    assert source_reasons(*asked) == []
    (tmp_path / "weights").write_text("wrong")
    assert len(source_reasons(*asked)) == 1
    (tmp_path / "weights").write_text("right")
    assert source_reasons(asked[0], entry | {"revision": "abd"}, Hashes(), asked[3]) == [
        "revision: abc -> abd"
    ]


def test_a_tagged_value_is_found_with_its_key_and_reason_wherever_its_line_stands(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "a" / "x.yaml", tmp_path / "b" / "x.yaml"
    for path, text in (
        (first, "a: 1   # [paper] known\nb:\n  c: 2  # temperature [ours] why not\n"),
        (second, "# words\nb:\n\n  c: 2  # temperature [ours] why not\na: 1   # [paper] known\n"),
    ):
        path.parent.mkdir()
        path.write_text(text)
    assert ours([first]) == [
        {
            "file": "x.yaml",
            "key": "b.c",
            "value": "2",
            "reason": "temperature why not",
            "instead": "",
            "count": 1,
        }
    ]
    assert [row | {"file": str(second)} for row in tagged([first])] == tagged([second])
    assert json.dumps(ours([first])) == json.dumps(ours([second]))
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("b:   # [ours] smaller\n  c: 3\n")
    (row,) = ours([first, overlay])
    assert (row["key"], row["value"], row["reason"]) == ("b", "{c: 3}", "smaller")
    assert row["instead"] == "c: 2 [ours]"
    overlay.write_text("b:\n  c: 2   # [ours] as before\n")
    assert [row["file"] for row in ours([first, overlay])] == ["x.yaml"]
    overlay.write_text("a: 4\nscale: small\nb: {d: [5]}\n")
    assert [(row["key"], row["value"], row["instead"]) for row in ours([first, overlay])] == [
        ("b.c", "2", ""),
        ("a", "4", "1 [paper]"),
        ("b.d", "[5]", ""),
    ]


def test_two_configurations_of_one_base_name_keep_their_tags_apart(tmp_path: Path) -> None:
    config, overlay = tmp_path / "config/paper.yaml", tmp_path / "lab/paper.yaml"
    for path, text in ((config, "a: 1   # [paper] known\n"), (overlay, "a: 2\n")):
        path.parent.mkdir()
        path.write_text(text)
    (row,) = ours([config, overlay])
    assert (row["file"], row["key"], row["instead"]) == (str(overlay), "a", "1 [paper]")


def test_a_receipt_of_weights_holds_what_is_loaded_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", COMMAND)
    Path("base").mkdir()
    for name in ("model.safetensors", "config.json", "generation_config.json", "README.md"):
        Path("base", name).write_text(name)
    with Receipt(
        Path("receipt.json"),
        stage="copy",
        recipe={"a": {"b": 1}},
        code="c0de",
        inputs={"base": Path("base/model.safetensors")},
        outputs={"output": Path("out.jsonl")},
    ):
        Path("out.jsonl").write_text("{}\n")
    assert why(inputs=["base/model.safetensors"]) == []
    Path("base/generation_config.json").write_text("do_sample")
    assert [line.split(":")[0] for line in why(inputs=["base/model.safetensors"])] == [
        "input base/generation_config.json"
    ]
    assert not nothing_to_do(COMMAND)
    Path("base/generation_config.json").write_text("generation_config.json")
    Path("base/README.md").write_text("another card")
    assert why(inputs=["base/model.safetensors"]) == []
