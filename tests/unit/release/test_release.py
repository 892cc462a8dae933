"""Promises of `make release`: what it publishes, what it refuses, and that it comes back as it was,
on a small finished run with a hub on loopback.
"""

import hashlib
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml
from loopback_hub import TOKEN, Hub, serving

import fetch_source
import import_released
import release
from bezoar.errors import UserError
from bezoar.files import canonical, write_json, write_jsonl
from bezoar.provenance.archive import PROJECT
from bezoar.provenance.receipt import Receipt
from bezoar.readers import read_json
from bezoar.release import contents, licences, upload
from bezoar.workflow import lineage, sources
from bezoar.workflow.configuration import PAPER, resolved
from bezoar.workflow.layout import MODELS, Layout

ROOT = Path(__file__).parents[3]
RESULTS = "results/tiny"
CONFIG = ["config/rehearsal.yaml", "tiny.yaml"]
CARD = (
    "---\nlicense: cc-by-nc-4.0\nbase_model: x\n"
    "datasets:\n- lamini\n- world/preferences.jsonl\n---\n\n# A card\n"
)
ROWS = {scheme: import_released.COLUMNS[scheme] for scheme in ("lamini", "orca", "evol")}


def row(scheme: str, number: int, status: str) -> dict[str, Any]:
    """A row of a scheme with its verdict, as the filter writes it."""
    texts = {name: f"{name} {number}" for name in ROWS[scheme]}
    numbers = {name: number for name in import_released.NUMBERS if name in texts}
    verdict = {"gpt4_status": status, "gpt4_rating": 7, "gpt4_reason": "clear"}
    return {**texts, **numbers, **verdict}


def stage(name: str, outputs: list[str], inputs: list[str] | None = None, **facts: Any) -> None:
    """Write the receipt of a stage that loads a model, so that an audit holds it by hashes."""
    with Receipt(
        Path(f"{RESULTS}/receipts/{name}.json"),
        stage=name,
        recipe={},
        code="0" * 64,
        inputs={"inputs": [Path(path) for path in inputs or []]},
        outputs={"outputs": [Path(path) for path in outputs]},
    ) as receipt:
        receipt.facts |= facts


def make_run(layout: Layout) -> None:
    """Write the results of a small finished run: what a release reads, with receipts."""
    for scheme in layout.schemes:
        rows, card = f"{RESULTS}/filter/{scheme}.jsonl", f"{RESULTS}/data/cards/{scheme}/README.md"
        states = ["Accept", "Reject", "Accept"]
        write_jsonl(Path(rows), [row(scheme, i, status) for i, status in enumerate(states)])
        Path(card).parent.mkdir(parents=True)
        Path(card).write_text("---\nlicense: cc-by-nc-4.0\n---\n\n# Rows\n")
        stage(f"filter_{scheme}", [rows])
        stage(f"data_card_{scheme}", [card])
    for training in lineage.trainings(layout):
        Path(training.directory).mkdir(parents=True)
        Path(training.adapter).write_bytes(training.name.encode() * 99)
        Path(training.directory, "adapter_config.json").write_text("{}")
        stage(training.stage, [training.adapter])
    scores: dict[str, Any] = {"metric": {"arc_easy": "acc_norm"}, "models": {}}
    scores["settings"] = {"limit": 80}
    tables: dict[str, Any] = {"models": {}}
    for number, model in enumerate(layout.merged):
        folder = Path(f"{RESULTS}/merge/{model}")
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(model.encode() * 500)
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "README.md").write_text(CARD)
        stage(f"merge_{model}", [f"{folder}/model.safetensors"])
        stage(f"model_card_{model}", [f"{folder}/README.md"])
        if model in layout.evaluated:
            scores["models"][model] = {"arc_easy": {"mean": 0.25 + number / 100}}
            tables["models"][model] = {"overall": {"mean": 5.5}}
    write_json(Path(f"{RESULTS}/lm_eval.json"), scores)
    write_json(Path(f"{RESULTS}/mtbench.json"), {"judges": {"a judge": tables}})
    stage("mtbench", [f"{RESULTS}/mtbench.json", f"{RESULTS}/lm_eval.json"])
    made = sorted(str(path) for path in Path(f"{RESULTS}/receipts").glob("*.json"))
    Path(f"{RESULTS}/index.html").write_text("<html>")
    stage("report", [f"{RESULTS}/index.html"], made)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A finished run in the current directory, and a hub that takes uploads with TOKEN."""
    for name in PROJECT:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["merge_adapter.py"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "scripts"))
    places = {name: f"{name}/tiny" for name in ("results", "logs", "benchmarks")}
    Path("tiny.yaml").write_text(yaml.safe_dump({"pathvars": places}))
    make_run(Layout(resolved(CONFIG)))
    for name in ("HF_HUB_OFFLINE", "BEZOAR_MIRROR", "BEZOAR_ACKNOWLEDGE_LICENCES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    constants = huggingface_hub.constants
    with serving() as started:
        template = started.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        monkeypatch.setattr(constants, "ENDPOINT", started.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield started


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit finds nothing; tests of the audit itself do without this."""

    def audited(_: str, verdict: Path) -> list[str]:
        verdict.write_text("# Audit of results/tiny: SOUND\n")
        return []

    monkeypatch.setattr(release, "audited", audited)


def publish(*more: str) -> None:
    release.main(["--config", *CONFIG, "--namespace", "me", *more])


def fetch(entry: dict[str, Any]) -> Path:
    """Fetch a repository as the workflow does; return its directory."""
    place = Path(sources.path_of(entry["id"], {entry["id"]: entry}))
    arguments = ["--entry", json.dumps(entry), "--output", str(place)]
    fetch_source.main([*arguments, "--lock", "lock.json"])
    return place.parent


@pytest.mark.usefixtures("sound")
def test_what_is_published_is_the_source_of_another_run_with_the_same_bytes(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    publish()
    files = capsys.readouterr().out.rpartition('CONFIG="')[2].rstrip('"\n').split()
    assert files == [*CONFIG, "config/released.yaml", "openbezoar-released.yaml"]
    other = Layout(resolved(files))
    assert other.results == "results/tiny-published", "no run of one scale in another's place"
    for scheme in other.schemes:
        entry = other.registry[other.released(scheme)]
        folder = fetch(entry)
        assert entry["hub"] == f"me/openbezoar-{scheme}-tiny"
        assert read_json(folder / "manifest.json")["revision"] == entry["revision"]
        assert str(folder / "manifest.json") == other.place(other.released(scheme))
        ours = Path(f"{RESULTS}/filter/{scheme}.jsonl").read_bytes()
        assert (folder / f"{scheme}.jsonl").read_bytes() == ours
        import_released.main(
            [
                *("--manifest", str(folder / "manifest.json"), "--rows", "rows.jsonl"),
                *("--recipe", canonical({"scheme": scheme, "seed": 0}), "--code", "c"),
                *("--counts", "counts.json", "--receipt", "receipt.json"),
            ]
        )
        assert Path("rows.jsonl").read_bytes() == ours
    for model in MODELS[1:]:
        identifier = str(sources.model_source(other.extra[f"published-{model}"]))
        folder = fetch(other.registry[identifier])
        for name in ("model.safetensors", "config.json"):
            place = Path(f"{RESULTS}/merge/{model}/{name}")
            assert (folder / name).read_bytes() == place.read_bytes()


def test_adapters_verdict_and_an_archive_without_weights_are_published(hub: Hub) -> None:
    publish()
    adapters = hub.repositories["model", "me/openbezoar-adapters-tiny"].at("main")
    weights = {name for name in adapters if name.endswith("adapter_model.safetensors")}
    assert {name.split("/")[0] for name in weights} == {
        training.stage for training in lineage.trainings(Layout(resolved(CONFIG)))
    }
    assert adapters["dpo/adapter_model.safetensors"] == b"dpo" * 99
    assert hashlib.sha256(b"dpo" * 99).hexdigest() in adapters["README.md"].decode()
    run = hub.repositories["dataset", "me/openbezoar-run-tiny"].at("main")
    assert b": SOUND" in run["AUDIT.md"]
    with tarfile.open(fileobj=BytesIO(run["openbezoar.tar"])) as packed:
        names = packed.getnames()
    assert f"{RESULTS}/receipts/report.json" in names
    assert not [name for name in names if name.endswith(".safetensors")]
    assert TOKEN.encode() not in run["openbezoar.tar"]


@pytest.mark.usefixtures("sound")
def test_the_archive_has_the_configuration_that_its_card_names(
    hub: Hub, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    run = hub.repositories["dataset", "me/openbezoar-run-tiny"].at("main")
    (files,) = re.findall(r'make audit CONFIG="(.*?)"', run["README.md"].decode())
    monkeypatch.chdir(tmp_path_factory.mktemp("reviewer"))
    with tarfile.open(fileobj=BytesIO(run["openbezoar.tar"])) as packed:
        packed.extractall(filter="data")
    results = resolved(files.split())["pathvars"]["results"]
    assert Path(results, "receipts/report.json").is_file()


@pytest.mark.usefixtures("sound")
def test_a_model_between_two_schemes_is_published_without_an_evaluation(hub: Hub) -> None:
    shutil.rmtree(RESULTS)
    held = yaml.safe_load(Path("tiny.yaml").read_text())
    Path("tiny.yaml").write_text(yaml.safe_dump(held | {"sft": {"chaining": "merge"}}))
    make_run(Layout(resolved(CONFIG)))
    publish()
    cards = {
        name: hub.repositories["model", f"me/{name}-tiny"].at("main")["README.md"]
        for name in ("sft-lamini", MODELS[1])
    }
    assert [b"model-index:" in card for card in cards.values()] == [False, True]


@pytest.mark.usefixtures("sound")
def test_a_models_card_has_its_results_and_the_addresses_of_what_it_was_made_from(hub: Hub) -> None:
    publish()
    head, _, text = hub.repositories["model", f"me/{MODELS[2]}-tiny"].at("main")[
        "README.md"
    ].decode().removeprefix("---\n").partition("\n---\n")  # fmt: skip
    data = yaml.safe_load(head)
    assert data["base_model"] == f"me/{MODELS[1]}-tiny"
    assert data["datasets"] == ["me/openbezoar-lamini-tiny"]
    results = data["model-index"][0]["results"]
    found = {r["dataset"]["type"]: r["metrics"][0] for r in results}
    assert found["arc_easy"]["value"] == 0.26
    assert {r["dataset"]["name"] for r in results} >= {"arc_easy (lm-evaluation-harness, 80 items)"}
    assert (found["mt_bench"]["value"], found["mt_bench"]["name"]) == (
        5.5,
        "rating from 1 to 10 by a judge",
    )
    assert "# A card" in text


@pytest.mark.usefixtures("sound")
def test_a_dry_run_sends_nothing_and_needs_no_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    publish("--dry")
    shown = capsys.readouterr().out
    size = Path(f"{RESULTS}/filter/evol.jsonl").stat().st_size
    assert f"  {size:>15,}  evol.jsonl" in shown
    line = next(line for line in shown.splitlines() if "/me/openbezoar-evol-tiny" in line)
    assert line.startswith(f"{hub.address}/datasets/me/openbezoar-evol-tiny  dataset, apache-2.0")
    sizes = re.findall(r"files, ([0-9,]+) bytes", shown)
    size = sum(int(found.replace(",", "")) for found in sizes)
    last = f"{len(sizes)} repositories, {size:,} bytes in all; nothing forbids it; nothing was sent"
    assert sizes and shown.splitlines()[-1] == last
    assert {method for method, _ in hub.asked} == {"GET"}
    assert "deletes" not in shown
    assert not Path("openbezoar-released.yaml").exists()


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("more", [["--dry"], []])
def test_what_a_release_deletes_is_said_before(
    hub: Hub, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    old = {"old.jsonl": b"{}", "evol.jsonl": b"{}", ".gitattributes": b""}
    hub.add("dataset", "me/openbezoar-evol-tiny", old)
    publish(*more)
    shown = capsys.readouterr().out.splitlines()
    place = f"{hub.address}/datasets/me/openbezoar-evol-tiny: "
    assert [line for line in shown if " deletes " in line] == [f"{place}deletes 1 file: old.jsonl"]
    if not more:
        assert shown[shown.index(f"{place}deletes 1 file: old.jsonl") + 1].startswith(place)


@pytest.mark.usefixtures("sound")
def test_a_dry_run_without_the_hub_says_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hub: Hub
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    publish("--dry")
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("note: ")]
    assert "not known: me/openbezoar-" in line and "its files could not be listed (" in line
    assert hub.asked == []


@pytest.mark.usefixtures("sound")
def test_an_interrupted_upload_goes_on_without_what_has_arrived(hub: Hub) -> None:
    hub.uploads_before_failure = 5
    with pytest.raises(UserError, match=r"HF_TOKEN may not write|the upload broke off"):
        publish()
    arrived = set(hub.objects)
    assert arrived
    hub.uploads_before_failure = None
    hub.asked.clear()
    publish()
    assert hub.sent()
    assert not arrived & set(hub.sent())
    assert len(hub.sent()) == len(set(hub.sent()))
    heads = {key: held.head for key, held in hub.repositories.items()}
    hub.asked.clear()
    publish()
    assert hub.sent() == []
    assert {key: held.head for key, held in hub.repositories.items()} == heads


def test_a_second_release_leaves_nothing_of_the_first(hub: Hub) -> None:
    first = {"tokenizer.json": b"{}", "sub/old.safetensors": b"old", "config.json": b"{}"}
    for files in (first, {"tokenizer.model": b"new", "config.json": b'{"a": 1}'}):
        repository = contents.Repository("some", "model", "mit", dict(files))
        old = upload.superseded(repository, "me", TOKEN)
        upload.send(repository, "me", TOKEN, old)
        held = hub.repositories["model", "me/some"].at("main")
        assert {name: held[name] for name in held if name != ".gitattributes"} == files
        assert ".gitattributes" in held


def test_an_unsound_audit_is_never_published(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"{RESULTS}/filter/evol.jsonl").write_text("{}\n")
    Path(f"{RESULTS}/mtbench.json").write_text("{}\n")
    with pytest.raises(UserError, match=r"audit: \w+: .* not the bytes that the receipt has"):
        publish()
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: audit: filter_evol: ")]
    assert hub.asked == []


@pytest.mark.usefixtures("sound")
def test_a_licence_that_a_part_forbids_is_refused(hub: Hub) -> None:
    strict = {"data": {"cards": {"lamini": {"licence": "cc-by-nc-4.0"}}}}
    Path("wrong.yaml").write_text(yaml.safe_dump(strict))
    line = (
        "openbezoar-adapters-tiny: made from lamini, which is cc-by-nc-4.0, but declared as"
        " apache-2.0; declare a licence with NC in the configuration"
    )
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        release.main(["--config", *CONFIG, "wrong.yaml", "--namespace", "me"])
    assert hub.asked == []


@pytest.mark.parametrize(
    ("token", "namespace", "line"),
    [
        ("", "me", "HF_TOKEN is not set; export a token with write access"),
        ("hf_wrong", "me", "the hub does not know this HF_TOKEN"),
        (TOKEN, "somebody-else", "HF_TOKEN may not write to somebody-else; use a token"),
        (TOKEN, "", "expected a user or an organisation of the hub"),
        (TOKEN, "me/model", "expected a user or an organisation of the hub"),
        (TOKEN, "two words", "expected a user or an organisation of the hub"),
    ],
)
@pytest.mark.usefixtures("sound")
def test_who_may_not_write_gets_one_line_without_the_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, namespace: str, line: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=line) as caught:
        release.main(["--config", *CONFIG, "--namespace", namespace])
    assert not token or token not in str(caught.value)
    assert not Path("openbezoar-released.yaml").exists()


def test_a_root_that_no_name_on_the_hub_can_end_with_is_refused(hub: Hub) -> None:
    Path("spaced.yaml").write_text("pathvars: {results: results/my run}")
    with pytest.raises(UserError, match="results/my run: its last part ends the repositories'"):
        release.main(["--config", *CONFIG, "spaced.yaml", "--namespace", "me"])
    assert hub.asked == []


@pytest.mark.usefixtures("sound")
def test_an_unfinished_run_is_not_published(hub: Hub) -> None:
    Path(f"{RESULTS}/receipts/report.json").unlink()
    with pytest.raises(UserError, match="results/tiny: no report yet; finish the run before"):
        publish()


@pytest.mark.parametrize(
    ("licence", "declared", "kind", "found"),
    [
        ("CC BY-NC 4.0", "apache-2.0", "model", "declare a licence with NC"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0", "model", None),
        ("CC BY-SA 3.0", "cc-by-nc-4.0", "dataset", "declare a licence with SA"),
        ("CC BY-SA 3.0", "cc-by-sa-3.0", "dataset", None),
        ("CC BY-SA 3.0", "cc-by-nc-4.0", "model", None),
        ("CC BY-ND 4.0", "cc-by-nc-4.0", "dataset", "allows no adaptations"),
        ("Apache-2.0", "mit", "dataset", None),
        (None, "cc-by-nc-4.0", "dataset", "states no licence; ask its authors"),
    ],
)
def test_terms_of_a_part_hold_for_the_whole(
    licence: str | None, declared: str, kind: str, found: str | None
) -> None:
    part = {"id": "a_part", "licence": licence}
    lines = licences.refusals("name", kind, declared, [part], set())
    assert len(lines) == (found is not None)
    assert found is None or found in lines[0]
    assert licences.refusals("name", kind, declared, [part], {"a_part"}) == []


def test_the_papers_own_licences_allow_all_but_what_states_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    layout = Layout(resolved([str(PAPER)]))
    assert [line for made in contents.datasets(layout, set()) for line in made.refused] == []
    again = Layout(resolved(["config/released.yaml"]))
    refused = [line for made in contents.datasets(again, set()) for line in made.refused]
    assert len(refused) == 3
    assert all("which states no licence" in line for line in refused)
    parts = contents.parts_of_model(layout, {"sft", "dpo"})
    assert {"open_llama_3b_v2", "hh_rlhf_helpful_base_train", "lamini"} <= {p["id"] for p in parts}
    assert licences.refusals("m", "model", "cc-by-nc-4.0", parts, set()) == []


def test_somebody_elses_files_without_a_licence_stay_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    layout = Layout(resolved([str(PAPER)]))
    glue, arc = "data/hub/glue/rte.parquet", "data/hub/ai2_arc/easy.parquet"
    listed = "data/hub/super_glue/manifest.json"
    items, matches = "results/data/evaluation_items.jsonl", "results/data/contamination.jsonl"
    page, rows = "results/report/rows.html", "results/filter/orca.jsonl"
    weights = "results/merge/openbezoar-sft/model.safetensors"
    receipts = {
        "explorer": {
            "inputs": {"rows": {rows: "5"}, "items": {items: "3"}},
            "outputs": {"page": {page: "6"}},
        },
        "data_contamination": {
            "inputs": {"rows": {rows: "5"}, "evaluation": {items: "3"}},
            "outputs": {"matches": {matches: "7"}},
        },
        "data_items": {
            "inputs": {"data": {listed: "0", arc: "2"}},
            "outputs": {"items": {items: "3"}},
        },
        "lm_eval_base": {"inputs": {"data": {glue: "1"}}, "outputs": {}},
        "merge": {"inputs": {}, "outputs": {"model": {weights: "4"}}},
        "import_model_x": {
            "inputs": {"model": {"/models/x/notes.txt": "8"}},
            "outputs": {"tokenizer": {"results/models/x/tokenizer.json": "9"}},
        },
    }
    assert contents.left_behind(layout, receipts, set()) == {
        glue: "glue states no licence",
        **dict.fromkeys((items, matches, page), "copies evaluation items that state no licence"),
        weights: "weights, in repositories of their own",
        **dict.fromkeys(
            ("/models/x/notes.txt", "results/models/x/tokenizer.json"),
            "of a model that was only evaluated",
        ),
    }
