"""Sources on the Hugging Face hub, fetched by the official client from a hub on loopback."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
from loopback_hub import TOKEN, Hub, serving

import bezoar.hub
import doctor
import fetch_source
import pin_sources
import stream_flan
from bezoar.errors import UserError
from bezoar.files import sha256_text, write_json
from bezoar.readers import read_json
from bezoar.workflow import sources
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout

ROOT = Path(__file__).parents[2]
REGISTRY = sources.load(ROOT / "config/sources.yaml")
REPOSITORIES = [entry for entry in REGISTRY.values() if "hub" in entry]
ON_HUB = [entry for entry in REGISTRY.values() if bezoar.hub.is_on_hub(entry.get("url", ""))]
WEIGHTS = bytes(range(256)) * 300
FILES = {"config.json": b"{}", "sub/model.safetensors": WEIGHTS}
ENTRY = {"id": "some_model", "hub": "owner/model", "type": "model", "revision": None}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process's client and programs use; nobody is logged in."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "BEZOAR_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
    monkeypatch.setattr(fetch_source.time, "sleep", lambda _: None)
    with serving() as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        constants = huggingface_hub.constants
        template = started.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", started.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield started


def fetch(folder: Path, entry: dict[str, Any]) -> Path:
    """Fetch a source as the workflow does."""
    place = folder / sources.path_of(entry["id"], {entry["id"]: entry})
    arguments = ["--entry", json.dumps(entry), "--output", str(place)]
    fetch_source.main([*arguments, "--lock", str(folder / "sources.lock")])
    return place


def left(folder: Path) -> set[str]:
    """The files of a fetched repository, but for the client's own."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if ".cache" not in path.parts}


@pytest.mark.parametrize("entry", REPOSITORIES, ids=lambda entry: entry["id"])
def test_every_repository_of_the_registry_is_asked_for_by_its_name_kind_and_revision(
    tmp_path: Path, hub: Hub, entry: dict[str, Any]
) -> None:
    held = hub.add(entry["type"], entry["hub"], FILES)
    if entry["revision"]:  # the pinned commit, and a later one on main
        held.commits = {entry["revision"]: FILES, "f" * 40: {"config.json": b"later"}}
    commit = entry["revision"] or held.head
    manifest = fetch(tmp_path, entry)
    assert read_json(manifest)["revision"] == commit
    assert read_json(manifest)["files"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()
    }
    api = f"/api/{entry['type']}s/{entry['hub']}"
    prefix = "/datasets" if entry["type"] == "dataset" else ""
    paths = {path for _, path in hub.asked}
    assert f"{api}/revision/{commit}" in paths or (entry["revision"] is None and api in paths)
    assert f"{prefix}/{entry['hub']}/resolve/{commit}/sub/model.safetensors" in paths
    assert all(path.startswith((api, f"{prefix}/{entry['hub']}/", "/cdn/")) for path in paths)
    if entry["revision"] is None:
        assert read_json(tmp_path / "sources.lock") == {entry["id"]: commit}


@pytest.mark.parametrize("entry", ON_HUB, ids=lambda entry: entry["id"])
def test_every_file_of_the_registry_is_asked_for_at_its_revision_and_endpoint(
    tmp_path: Path, hub: Hub, entry: dict[str, Any]
) -> None:
    path = entry["url"].removeprefix("https://huggingface.co/")
    repository, _, rest = path.partition("/resolve/")
    revision, _, name = rest.partition("/")
    kind = "dataset" if repository.startswith("datasets/") else "model"
    content = b"\x1f\x8b" + WEIGHTS
    held = hub.add(kind, repository.removeprefix("datasets/"), {name: content})
    if revision != "main":
        held.commits = {revision: {name: content}}
    digest = hashlib.sha256(content).hexdigest()
    place = fetch(tmp_path, {**entry, "sha256": digest})
    assert place.read_bytes() == content
    assert hub.asked[0] == ("GET", f"/{path}")


def test_what_has_a_published_hash_or_none_is_pinned_by_revision_where_one_is_known() -> None:
    unpinned = {entry["id"] for entry in REPOSITORIES if entry["revision"] is None}
    moving = {entry["id"] for entry in ON_HUB if "/resolve/main/" in entry["url"]}
    ours = {"falcon_40b_teacher", "openbezoar_sft", "openbezoar_hh_rlhf_sft"}
    ours |= {"openbezoar_hh_rlhf_dpo", "released_lamini", "released_orca", "released_evol"}
    assert unpinned <= ours | {name for name in REGISTRY if name.endswith("_submix")}
    assert moving <= {"falcon_40b_tokenizer"}


def test_an_interrupted_repository_goes_on_and_nothing_of_another_commit_stays(
    tmp_path: Path, hub: Hub
) -> None:
    held = hub.add("model", "owner/model", {**FILES, "old.bin": b"old"})
    first = held.head
    manifest = fetch(tmp_path, ENTRY | {"revision": first})
    assert left(manifest.parent) == {*FILES, "old.bin", "manifest.json"}
    hub.asked.clear()
    (manifest.parent / "config.json").unlink()
    fetch(tmp_path, ENTRY | {"revision": first})
    assert not [path for _, path in hub.asked if path.startswith("/cdn/")]
    held.commits["e" * 40] = {"config.json": b"[]"}
    fetch(tmp_path, ENTRY | {"revision": "e" * 40})
    assert left(manifest.parent) == {"config.json", "manifest.json"}
    assert (manifest.parent / "config.json").read_bytes() == b"[]"


def test_a_file_that_was_changed_on_disk_is_not_taken_for_the_hubs(
    tmp_path: Path, hub: Hub
) -> None:
    revision = hub.add("model", "owner/model", FILES).head
    entry = ENTRY | {"revision": revision}
    manifest = fetch(tmp_path, entry)
    place = manifest.parent / "sub/model.safetensors"
    stamp = place.stat()
    place.write_bytes(WEIGHTS[::-1])
    os.utime(place, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(UserError, match=r"owner/model: sub/model.safetensors is not what the hub"):
        fetch(tmp_path, entry)
    fetch(tmp_path, entry)
    assert place.read_bytes() == WEIGHTS


def test_a_hub_that_refuses_never_leaves_an_old_folder_as_the_new_commit(
    tmp_path: Path, hub: Hub
) -> None:
    held = hub.add("model", "owner/model", FILES)
    fetch(tmp_path, ENTRY | {"revision": held.head})
    del hub.repositories["model", "owner/model"]
    with pytest.raises(UserError, match="owner/model: no such model"):
        fetch(tmp_path, ENTRY | {"revision": "e" * 40})


@pytest.mark.parametrize(
    ("token", "line"),
    [
        ("", r"owner/model: gated: needs a login; accept the conditions on \S+/owner/model and"
             " set HF_TOKEN to a token of that account"),
        ("hf_stranger", r"owner/model: gated: the account of HF_TOKEN has no access; accept"),
    ],
)  # fmt: skip
def test_a_gated_repository_names_the_token(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, line: str
) -> None:
    hub.add("model", "owner/model", FILES, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=line) as caught:
        fetch(tmp_path, ENTRY)
    assert not token or token not in str(caught.value)
    hub.granted.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert set(read_json(fetch(tmp_path, ENTRY))["files"]) == set(FILES)


@pytest.mark.parametrize(
    ("token", "line"),
    [("", "needs a login; .* set HF_TOKEN"), ("hf_stranger", "the account of HF_TOKEN has no")],
)
def test_a_gated_file_names_the_token_and_no_other_host_gets_it(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, line: str
) -> None:
    hub.add("dataset", "owner/data", {"rows.jsonl": b'{"a": 1}\n'}, gated=True)
    url = "https://huggingface.co/datasets/owner/data/resolve/main/rows.jsonl"
    entry = {"id": "rows", "url": url, "path": "rows.jsonl", "sha256": None}
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=line):
        fetch(tmp_path, entry)
    hub.granted.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.tokens.clear()
    assert fetch(tmp_path, entry).read_bytes() == b'{"a": 1}\n'
    assert [token for path, token in hub.tokens if path.startswith("/cdn/")] == [""]


def test_a_renamed_repository_is_followed_and_named_in_one_line(
    tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("model", "owner/new-name", FILES)
    hub.renamed["model", "owner/model"] = "owner/new-name"
    assert set(read_json(fetch(tmp_path, ENTRY))["files"]) == set(FILES)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert notes == ["note: owner/model is called owner/new-name now; correct the source's entry"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Data processing error: I/O error: No space left on device (os error 28)"),
        MemoryError(),
    ],
)
def test_a_full_disk_or_memory_is_not_the_hubs_fault(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    hub.add("model", ENTRY["hub"], FILES)

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(type(error)) as raised:
        fetch(tmp_path, ENTRY)
    assert raised.value is error


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_missing_repository_is_one_line(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, kind: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=f"owner/model: no such {kind} at .* set HF_TOKEN") as error:
        fetch(tmp_path, ENTRY | {"type": kind})
    assert "\n" not in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_missing_revision_is_one_line(tmp_path: Path, hub: Hub) -> None:
    hub.add("model", "owner/model", FILES)
    with pytest.raises(UserError, match=f"owner/model: no revision {'e' * 40}; look it up on http"):
        fetch(tmp_path, ENTRY | {"revision": "e" * 40})


def test_a_missing_data_set_of_flan_is_the_same_line(tmp_path: Path, hub: Hub) -> None:
    entry = ENTRY | {"type": "dataset"}
    with pytest.raises(UserError, match=r"owner/model: no such dataset at .* set HF_TOKEN"):
        list(stream_flan.stream(entry, None, tmp_path / "lock"))


def test_a_submix_is_streamed_from_another_endpoint(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)  # read at its import
    rows = b'{"inputs": "a"}\n{"inputs": "b"}\n'
    revision = hub.add("dataset", "owner/submix", {"train.jsonl": rows}).head
    entry = {"id": "submix", "hub": "owner/submix", "type": "dataset", "revision": revision}
    found = list(stream_flan.stream(entry, None, tmp_path / "lock"))
    assert [row["inputs"] for row in found] == ["a", "b"]


def test_a_repository_is_asked_for_at_the_commit_of_its_first_fetch_whatever_main_has_by_then(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
    rows, entry = b'{"inputs": "a"}\n', ENTRY | {"hub": "owner/mix", "type": "dataset"}
    held = hub.add("dataset", "owner/mix", {"train.jsonl": rows})
    first, lock = held.head, tmp_path / "config/sources.lock"
    fetch(tmp_path, entry)
    lock.parent.mkdir()
    shutil.copy(tmp_path / "sources.lock", lock)
    later = held.commit({"train.jsonl": b'{"inputs": "b"}\n'})
    shutil.rmtree(tmp_path / "data")
    hub.asked.clear()
    assert doctor.unreachable([entry]) == []
    manifest = fetch(tmp_path, entry)
    assert (manifest.parent / "train.jsonl").read_bytes() == rows
    assert [row["inputs"] for row in stream_flan.stream(entry, None, lock)] == ["a"]
    asked = [path for _, path in hub.asked]
    assert any(first in path for path in asked) and not [path for path in asked if later in path]
    del held.commits[first]
    shutil.rmtree(tmp_path / "data")
    assert doctor.unreachable([entry])[0].startswith(f"source: owner/mix: no revision {first}")


def test_a_submix_in_the_mirror_is_held_to_its_commit(tmp_path: Path) -> None:
    copy, lock = tmp_path / "hub/some_model", tmp_path / "lock"
    copy.mkdir(parents=True)
    came = {"id": "some_model", "hub": "owner/model", "revision": "a" * 40, "files": {}}
    write_json(copy / "manifest.json", came)
    write_json(lock, {"some_model": "b" * 40})
    with pytest.raises(UserError, match=r"some_model: expected revision b+, found a+; fetch"):
        list(stream_flan.stream(ENTRY, tmp_path, lock))


def program(folder: Path, entry: dict[str, Any], **environment: str) -> tuple[int, str]:
    """Run the program as a user does, with these variables; return its status and stderr."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    place = sources.path_of(entry["id"], {entry["id"]: entry})
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/fetch_source.py"), "--entry", json.dumps(entry),
         "--output", str(folder / place), "--lock", str(folder / "lock")],
        env={**known, "PYTHONPATH": str(ROOT / "scripts"), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, "\n".join(lines)


def test_offline_takes_the_cache_and_asks_nothing(tmp_path: Path) -> None:
    with serving() as hub:
        revision = hub.add("model", "owner/model", FILES).head
        entry = ENTRY | {"revision": revision}
        known = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
        status, line = program(tmp_path, entry, HF_HUB_OFFLINE="1", **known)
        assert (status, hub.asked) == (2, [])
        assert line.startswith("error: owner/model: HF_HUB_OFFLINE is set, and the cache")
        cache = tmp_path / "home/hub"
        script = (
            "import sys; from huggingface_hub import snapshot_download as get;"
            " get(sys.argv[1], revision=sys.argv[2], cache_dir=sys.argv[3])"
        )
        subprocess.run(
            [sys.executable, "-c", script, "owner/model", revision, str(cache)],
            env={**os.environ, **known, "HF_HUB_OFFLINE": "0"}, check=True, capture_output=True,
        )  # fmt: skip
        hub.asked.clear()
        (tmp_path / "data/hub/some_model").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/hub/some_model/model-00002.safetensors").touch()  # of an older revision
        assert program(tmp_path, entry, HF_HUB_OFFLINE="1", **known) == (0, "")
        assert hub.asked == []
    manifest = read_json(tmp_path / "data/hub/some_model/manifest.json")
    assert manifest["revision"] == revision
    assert set(manifest["files"]) == set(FILES)
    assert not (tmp_path / "data/hub/some_model/model-00002.safetensors").exists()


DOCTOR = (
    "import json, sys; sys.path[:0] = ['scripts/commands']; import doctor;"
    " print(doctor.reachable(json.loads(sys.argv[1])))"
)


def looked_for(entry: dict[str, Any], **environment: str) -> str:
    """What `make doctor` says of a source, in a process of its own: the client reads its variables
    while it is imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", DOCTOR, json.dumps(entry)],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), **environment},
    )  # fmt: skip
    return done.stdout.strip()


def test_doctor_asks_for_repositories_as_the_fetch_does(tmp_path: Path) -> None:
    with serving() as hub:  # which, as many mirrors do, serves no pages
        revision = hub.add("model", "owner/model", FILES).head
        known = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path)}
        entry = ENTRY | {"revision": revision}
        assert looked_for(entry, **known) == "None"
        assert looked_for(entry | {"revision": "0" * 40}, **known).startswith(
            "source: owner/model: no revision 000"
        )
        hub.asked.clear()
        line = looked_for(entry, HF_HUB_OFFLINE="1", **known)
        assert line.startswith("source: owner/model: HF_HUB_OFFLINE is set, and the cache")
        held = tmp_path / f"hub/models--owner--model/snapshots/{revision}"
        held.mkdir(parents=True)
        (held / "config.json").write_bytes(b"{}")
        assert looked_for(entry, HF_HUB_OFFLINE="1", **known) == "None"
        assert hub.asked == []


def test_doctor_names_a_host_that_does_not_answer_once_with_all_its_sources(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add("model", "owner/model", FILES)
    dead = "http://127.0.0.1:1"
    files = [
        {"id": name, "url": f"{dead}/{name}", "path": f"some/{name}", "sha256": None}
        for name in ("one", "two", "here")
    ]
    (tmp_path / "data/some").mkdir(parents=True)
    (tmp_path / "data/some/here").touch()
    missing = {"id": "gone", "hub": "owner/gone", "type": "model", "revision": None}
    of_hub, of_host = doctor.unreachable([*files, ENTRY, missing])
    assert of_hub.startswith("source: owner/gone: no such model")
    assert of_host.startswith(f"source: no answer from {dead} (")
    assert "which has 2 sources (one, two); check the network, or set MIRROR" in of_host
    hub.asked.clear()
    monkeypatch.setenv("HF_ENDPOINT", dead)
    (line,) = doctor.unreachable([ENTRY, missing])
    assert "2 sources (some_model, gone); check the network and HF_ENDPOINT" in line
    assert hub.asked == []
    monkeypatch.setenv("HF_ENDPOINT", "no address")
    of_hub, of_host = doctor.unreachable([*files, ENTRY, missing])
    assert of_hub.startswith("source: HF_ENDPOINT: expected an address")
    assert "check the network, or set MIRROR" in of_host


def test_doctor_finds_a_source_wherever_the_fetch_does(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    mirror = tmp_path / "mirror"
    monkeypatch.setenv("BEZOAR_MIRROR", str(mirror))
    file = {"id": "file", "url": f"{bezoar.hub.HUB}/owner/f", "path": "some/f.tsv"}
    file |= {"sha256": sha256_text("rows")}
    member = {"id": "member", "url": "pkg:pypi/some-package@1.2#some/rows.json"}
    member |= {"package_sha256": sha256_text("wheel"), "path": "some/rows.json"}
    member |= {"sha256": sha256_text("{}")}
    for name, content in (("other/renamed.tsv", "rows"), ("wheels/a.whl", "wheel")):
        (mirror / name).parent.mkdir(parents=True)
        (mirror / name).write_text(content)
    (mirror / "hub/some_model").mkdir(parents=True)
    assert doctor.unreachable([file, member, ENTRY]) == []
    (mirror / "some").mkdir()
    (mirror / "some/f.tsv").symlink_to("gone")
    (line,) = doctor.unreachable([file])
    assert line.startswith(f"source: {mirror}/some/f.tsv: a link to a file that does not exist")
    monkeypatch.setenv("BEZOAR_MIRROR", f"{mirror}x")
    (line,) = doctor.unreachable([file, member, ENTRY])
    assert line.startswith(f"source: MIRROR={mirror}x: no such directory; set it to one that holds")
    monkeypatch.delenv("BEZOAR_MIRROR")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (line,) = doctor.unreachable([file])
    assert line.startswith("source: file is not in MIRROR, and HF_HUB_OFFLINE is set; unset it, or")


def test_doctor_looks_for_no_submix_whose_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = resolved(["config/paper.yaml"])
    config["pathvars"]["results"] = str(tmp_path)
    (tmp_path / "flan").mkdir()
    (tmp_path / "flan/flan_t0_submix.jsonl").touch()
    entries = doctor.wanted(config)
    left = doctor.to_fetch(Layout(config), entries)
    assert [entry["id"] for entry in entries if entry not in left] == ["flan_t0_submix"]


def test_an_endpoint_that_does_not_answer_is_named(tmp_path: Path) -> None:
    status, line = program(tmp_path, ENTRY, HF_ENDPOINT="http://127.0.0.1:1", HF_HOME=str(tmp_path))
    assert status == 2
    assert line == (
        "error: owner/model: no answer from http://127.0.0.1:1; check the network and HF_ENDPOINT,"
        " or put it into MIRROR/hub/some_model"
    )


def test_offline_no_file_of_the_hub_is_asked_for(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set; unset it, or put the file into"):
        fetch(tmp_path, ON_HUB[0])
    with pytest.raises(UserError, match="streamed from the hub, and HF_HUB_OFFLINE is set"):
        list(stream_flan.stream(ENTRY | {"type": "dataset"}, None, tmp_path / "lock"))
    assert hub.asked == []


UNPINNED = """# A comment.
sources:
  - id: some_file
    what: a file
    url: https://huggingface.co/owner/model/resolve/main/sub/tokenizer.json
    path: some/tokenizer.json
    sha256: null
    licence: MIT
  - id: fetched
    what: a repository
    hub: owner/fetched
    type: dataset
    revision: null
    licence: MIT
  - id: some_data
    what: data
    hub: owner/data
    type: dataset
    revision: null
    licence: null
  - id: pinned
    what: a repository
    licence: null
    hub: owner/model
    type: model
    revision: 0123456789012345678901234567890123456789
"""


def test_one_command_pins_what_has_no_revision_and_names_what_the_hub_does_not_give(
    tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    registry, lock = tmp_path / "sources.yaml", tmp_path / "sources.lock"
    registry.write_text(UNPINNED)
    lock.write_text(json.dumps({"fetched": "a" * 40}))
    model = hub.add("model", "owner/model", FILES).head
    arguments = ["--registry", str(registry), "--lock", str(lock)]
    with pytest.raises(UserError, match="1 source has no revision yet"):
        pin_sources.main(arguments)
    assert "some_data: owner/data: no such dataset at" in capsys.readouterr().out
    data = hub.add("dataset", "owner/data", FILES).head
    pin_sources.main(arguments)
    expected = UNPINNED.replace("resolve/main", f"resolve/{model}")
    fetched = "revision: null\n    licence: MIT"
    expected = expected.replace(fetched, fetched.replace("null", "a" * 40))
    assert registry.read_text() == expected.replace("revision: null", f"revision: {data}")
    assert "1 source pinned" in capsys.readouterr().out
    hub.asked.clear()
    pin_sources.main(arguments)
    assert hub.asked == [], "nothing is left to ask for"


def test_without_an_answer_from_the_hub_nothing_is_pinned(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tmp_path / "sources.yaml"
    registry.write_text(UNPINNED)
    lock = tmp_path / "sources.lock"
    lock.write_text(json.dumps({"fetched": "a" * 40}))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"^owner/model: no answer from http:"):
        pin_sources.main(["--registry", str(registry), "--lock", str(lock)])
    assert registry.read_text() == UNPINNED


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("- id: some_data\n", "- id: some_data  # ours\n"),
        ("- id: some_data\n", '- id: "some_data"\n'),
        ("- id: some_data\n    what: data\n", "- what: data\n    id: some_data\n"),
        ("revision: null\n    licence: null\n", "revision: ~\n    licence: null\n"),
    ],
)
def test_an_entry_that_is_laid_out_in_another_way_is_named_and_the_others_are_pinned(
    tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str], line: str, other: str
) -> None:
    registry, lock = tmp_path / "sources.yaml", tmp_path / "sources.lock"
    assert UNPINNED.count(line) == 1
    registry.write_text(UNPINNED.replace(line, other))
    lock.write_text(json.dumps({"fetched": "a" * 40}))
    hub.add("model", "owner/model", FILES)
    data = hub.add("dataset", "owner/data", FILES).head
    with pytest.raises(UserError, match="1 source has no revision yet; see above"):
        pin_sources.main(["--registry", str(registry), "--lock", str(lock)])
    assert "expected a line `- id: some_data` and after it" in (said := capsys.readouterr().out)
    assert f"write {data} by hand" in said and "2 sources pinned" in said
    pinned = sources.load(registry)
    assert pinned["some_data"]["revision"] is None and pinned["fetched"]["revision"] == "a" * 40


def test_a_registry_in_another_encoding_is_one_line(tmp_path: Path, hub: Hub) -> None:
    registry = tmp_path / "sources.yaml"
    registry.write_text(UNPINNED, encoding="utf-16")
    with pytest.raises(UserError, match=r"sources\.yaml: expected UTF-8; save it in that encoding"):
        pin_sources.main(["--registry", str(registry), "--lock", str(tmp_path / "lock")])
    assert hub.asked == []


def test_every_source_of_the_registry_can_be_pinned(tmp_path: Path, hub: Hub) -> None:
    registry = tmp_path / "sources.yaml"
    shutil.copy(ROOT / "config/sources.yaml", registry)
    for entry in REGISTRY.values():
        if repository := pin_sources.moving(entry):
            hub.add(repository["type"], repository["hub"], FILES)
    pin_sources.main(["--registry", str(registry), "--lock", str(tmp_path / "none")])
    pinned = sources.load(registry)
    assert not [name for name, entry in pinned.items() if pin_sources.moving(entry)]
    for name, entry in pinned.items():
        if "hub" in entry:
            assert {**entry, "revision": None} == {**REGISTRY[name], "revision": None}
            assert REGISTRY[name]["revision"] in (None, entry["revision"])
