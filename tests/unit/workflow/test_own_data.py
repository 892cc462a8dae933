"""What docs/reproducing.md says of data of one's own: its lines as they are printed, and rows in
the columns of its tables.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import doctor
import fetch_source
import generate_evol
import generate_lamini
import import_released
from bezoar.data import flan, hh_rlhf
from bezoar.errors import UserError
from bezoar.evaluation import mtbench
from bezoar.files import write_json, write_jsonl
from bezoar.readers import read_json, read_jsonl
from bezoar.release import contents
from bezoar.training.template import Template
from bezoar.workflow import layout, recipes, sources
from bezoar.workflow.configuration import SCHEMA, check, files_of, resolved
from bezoar.workflow.layout import Layout

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reproducing.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## With your own teacher, base and data\n")[2].partition("\n## ")[0]
MINE, TEACHER, ENTRY, RELEASED = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
COLUMNS = {  # slot or scheme -> what its row of a table names
    row[0]: re.findall(r"`([^`]+)`", row[1])
    for row in re.findall(r"^\| `(\w+)`(?:, a list)? \| (.*) \|$", SECTION, re.MULTILINE)
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def with_lines(tmp_path: Path, text: str, *files: str) -> Layout:
    """The layout of the printed lines over configurations."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(text, encoding="utf-8")
    names = [*files, str(mine)]
    check(resolved(names), SCHEMA, files_of(names))
    return Layout(resolved(names))


def fetched(entry: dict[str, Any], output: Path, lock: Path) -> None:
    arguments = ["--entry", json.dumps(entry), "--output", str(output), "--lock", str(lock)]
    fetch_source.main(arguments)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """The printed configuration, with the printed entry in the registry."""
    registry = tmp_path / "sources.yaml"
    registry.write_text(layout.REGISTRY.read_text(encoding="utf-8") + ENTRY, encoding="utf-8")
    monkeypatch.setattr(layout, "REGISTRY", registry)
    return with_lines(tmp_path, MINE, "config/paper.yaml")


@pytest.mark.parametrize("key", ["what", "url", "path", "sha256", "licence"])
def test_an_entry_without_one_of_the_printed_keys_is_named_with_it(
    tmp_path: Path, key: str
) -> None:
    registry = tmp_path / "sources.yaml"
    lines = re.sub(rf"(?m)^ *{key}: .*\n", "", ENTRY)
    registry.write_text(f"sources:\n{lines}", encoding="utf-8")
    with pytest.raises(UserError, match=rf"^\S+sources\.yaml: my_pairs: no `{key}`; add it"):
        sources.load(registry)


def test_a_local_file_is_read_where_it_lies_and_its_licence_is_not_stated(own: Layout) -> None:
    assert own.source("dolly") == "mine/seeds.jsonl"
    card = recipes.data_card(own, "evol", [])
    stated = {"what": "mine/seeds.jsonl", "origin": "a local file", "licence": "not stated"}
    assert stated in card["sources"]
    refused = {made.name: made.refused for made in contents.datasets(own, set())}
    assert [line for lines in refused.values() for line in lines] == [
        "openbezoar-evol-mine: made from mine/seeds.jsonl, which states no licence; ask its"
        " authors, and add it to ACKNOWLEDGE_LICENCES if they agree"
    ]
    reading = {"inputs": {"seeds": {"mine/seeds.jsonl": "1"}}, "outputs": {}}
    beside = {"inputs": {"seeds": {"mine/seeds.jsonl.more": "1"}}, "outputs": {}}
    receipts = {"generate_evol": reading, "generate_orca": beside}
    assert contents.left_behind(own, receipts, set()) == {
        "mine/seeds.jsonl": "mine/seeds.jsonl states no licence"
    }
    assert contents.left_behind(own, receipts, {"mine/seeds.jsonl"}) == {}
    assert list(doctor.absent(own.config)) == [
        "source: mine/seeds.jsonl does not exist; bring it, or correct its path under `sources:`"
    ]


def test_the_licence_of_a_base_in_a_directory_is_not_stated(tmp_path: Path) -> None:
    lines = "sources: {base_model: models/mine}"
    parts = contents.parts_of_model(with_lines(tmp_path, lines, "config/paper.yaml"), {"sft"})
    assert {"models/mine": None}.items() <= {part["id"]: part["licence"] for part in parts}.items()


def test_a_teacher_of_ones_own_brings_its_context_and_no_other_models_tokenizer(
    tmp_path: Path,
) -> None:
    mine = with_lines(tmp_path, TEACHER, "config/paper.yaml", "config/open-models.yaml")
    assert mine.source("teacher_tokenizer") is None
    asked = {role: settings["base_url_env"] for role, settings in layout.models_asked(mine.config)}
    assert asked.pop("teacher") == "TEACHER_BASE_URL" and mine.config["teacher"]["context"] == 32768
    assert set(asked.values()) == {"OPEN_MODEL_BASE_URL"}


def test_an_entry_is_fetched_from_mirror_and_pinned(
    own: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own.source_list("preferences") == ["data/mine/pairs.jsonl.gz"]
    (entry,) = yaml.safe_load(ENTRY)
    assert own.registry[entry["id"]] == entry
    file = tmp_path / "mirror" / entry["path"]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\x1f\x8b and more")
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "mirror"))
    fetched(entry, tmp_path / "data" / entry["path"], tmp_path / "sources.lock")
    assert (tmp_path / "data" / entry["path"]).read_bytes() == file.read_bytes()
    assert read_json(tmp_path / "sources.lock").keys() == {"my_pairs"}


def test_a_local_file_below_data_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data/x\.jsonl: data/ holds what is fetched") as no:
        with_lines(tmp_path, "sources: {dolly: data/x.jsonl}", "config/paper.yaml")
    assert "\n" not in str(no.value)


def test_a_file_of_ones_own_beside_the_prompts_is_not_the_projects(tmp_path: Path) -> None:
    mine = with_lines(tmp_path, "sources: {topics: prompts/our_topics.txt}", "config/paper.yaml")
    assert mine.local_files() == ["prompts/our_topics.txt"]
    card = recipes.data_card(mine, "lamini", [])["sources"]
    assert {row["what"]: row["licence"] for row in card}["prompts/our_topics.txt"] == "not stated"
    named = {
        item
        for file in Path("config").glob("*.yaml")
        for item in re.findall(r"^  [a-z_]+: (prompts/\S+)", file.read_text("utf-8"), re.MULTILINE)
    }
    assert named == set(sources.PROMPTS)


def test_a_file_of_a_world_that_there_is_not_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^sources: world/x\.jsonl: .*`world: null`") as no:
        with_lines(tmp_path, "sources: {dolly: world/x.jsonl}", "config/paper.yaml")
    assert "\n" not in str(no.value)


def test_rows_in_the_columns_of_the_table_are_read(tmp_path: Path) -> None:
    def rows(slot: str, **values: Any) -> Path:
        assert values.keys() <= set(COLUMNS[slot]), slot
        write_jsonl(tmp_path / f"{slot}.jsonl", [values])
        return tmp_path / f"{slot}.jsonl"

    topics = tmp_path / "topics.txt"
    topics.write_text("Mills\n", encoding="utf-8")
    seeds = rows("alpaca_seeds", instruction="Say it.")
    one = {"examples": 1, "topics": 1}
    assert generate_lamini.read_inputs(seeds, topics, one) == (["Say it."], ["Mills"])
    assert generate_evol.read_seeds(rows("dolly", instruction="Say it.", category="qa"))
    question = {**dict.fromkeys(flan.COLUMNS, "CoT"), "template_type": "zs_opt"}
    taken, _ = flan.read(rows("flan", **question))
    assert [row["dataset_source"] for row in taken] == ["cot"]
    talk = "\n\nHuman: Why?\n\nAssistant: "
    pair = rows("preferences", chosen=f"{talk}So.", rejected=f"{talk}No.")
    assert [hh_rlhf.convert(row) for row in read_jsonl(pair)] == [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    ]
    turns = ["a", "b"]
    asked = rows("mt_bench_questions", question_id=1, category="math", turns=turns)
    assert mtbench.read_questions(asked)
    right = rows("mt_bench_references", question_id=1, choices=[{"turns": turns}])
    assert mtbench.read_references(right) == {1: turns}
    template = tmp_path / "template.json"
    write_json(template, dict.fromkeys(COLUMNS["chat_template"], "{instruction}"))
    assert Template(template)


def test_released_rows_in_the_columns_of_the_table_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {scheme: tuple(COLUMNS[scheme]) for scheme in import_released.COLUMNS} == (
        import_released.COLUMNS
    )
    assert all(f"`{name}`" in SECTION for name in import_released.VERDICT)
    own = with_lines(tmp_path, RELEASED, "config/released.yaml")
    assert own.schemes == ["lamini"]
    identifier = own.released("lamini")
    assert f"`MIRROR/hub/{identifier}/`" in SECTION
    texts = dict.fromkeys(COLUMNS["lamini"], "a text")
    verdict = {"gpt4_status": "Accept", "gpt4_rating": 7, "gpt4_reason": "clear"}
    folder = tmp_path / "mirror" / "hub" / identifier
    folder.mkdir(parents=True)
    write_jsonl(folder / "rows.jsonl", [{**texts, **verdict}])
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "mirror"))
    manifest = tmp_path / "snapshot" / "manifest.json"
    fetched(own.registry[identifier], manifest, tmp_path / "sources.lock")
    import_released.main(
        [
            *("--manifest", str(manifest), "--rows", str(tmp_path / "rows.jsonl")),
            *("--recipe", json.dumps({"scheme": "lamini", "seed": 0}), "--code", "c"),
            *("--counts", str(tmp_path / "counts.json")),
            *("--receipt", str(tmp_path / "receipt.json")),
        ]
    )
    assert read_jsonl(tmp_path / "rows.jsonl") == [{**texts, **verdict}]
