"""Files that others write or edit: each is read by the readers, and a cache that cannot be written
leaves nothing half-written.
"""

import errno
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import audit_results
import import_released
from bezoar.errors import UserError
from bezoar.files import write_json
from bezoar.provenance import code_digest
from bezoar.provenance.fingerprint import Hashes, recorded
from bezoar.workflow import deviations, duration, extra_models
from bezoar.workflow.source_lock import require


@pytest.mark.parametrize("content", ["[]", "7", "{", '{"a": 1, "a": 2}'])
def test_a_lock_that_is_none_is_one_line_and_stays_as_it_is(tmp_path: Path, content: str) -> None:
    lock = tmp_path / "sources.lock"
    lock.write_text(content)
    with pytest.raises(UserError, match=r"sources\.lock"):
        require("x", "sha256", "0" * 64, None, lock)
    with pytest.raises(UserError, match=r"sources\.lock"):
        recorded(lock)
    assert lock.read_text() == content


@pytest.mark.parametrize("content", ["{}", "extra_models: [a]", "extra_models:"])
def test_evaluated_models_that_are_none_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate/models.yaml").write_text(content)
    config = {"pathvars": {"results": str(tmp_path)}, "sources": {"chat_template": "t"}}
    with pytest.raises(UserError, match=r"models\.yaml: expected models under `extra_models`|line"):
        extra_models.with_model(config, "owner/name", "", "", "")


def test_models_of_one_name_are_compared_by_what_json_says() -> None:
    known = {"m": {"path": "a", "template": 1}}
    assert extra_models.add(known, "m", {"template": 1, "path": "a"}) == known
    with pytest.raises(UserError, match="another model of this name"):
        extra_models.add(known, "m", {"path": "a", "template": True})


def test_a_file_that_a_manifest_names_and_nobody_brought_is_one_line(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"revision": "a", "files": {"rows.jsonl": "0" * 64}})
    with pytest.raises(UserError, match=r"rows\.jsonl: not the file of the manifest"):
        import_released.released_files(tmp_path / "manifest.json")


def test_a_packed_configuration_has_its_reasons_too(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(gzip.compress("\ufeffseed: 3  # [ours] für uns\n".encode()))
    assert [row["reason"] for row in deviations.tagged([path])] == ["für uns"]


def kept_hashes(folder: Path) -> None:
    hashes = Hashes(folder / "hashes.json")
    hashes.known, hashes.changed = {"a": [1, 2, 3, 4, "0" * 64]}, True
    hashes.save()


def kept_seconds(folder: Path) -> None:
    duration.record("results", "step", 1.0, folder / "seconds.json")


def kept_sources(folder: Path) -> None:
    code_digest.save()


@pytest.mark.parametrize("keep", [kept_hashes, kept_seconds, kept_sources])
def test_a_cache_on_a_full_disk_is_given_up_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(code_digest, "CACHE", tmp_path / "sources.json")
    keep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    for path in tmp_path.iterdir():
        path.unlink()

    def full(value: Any, stream: Any, **_: Any) -> None:
        stream.write("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    keep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_is_killed_while_it_is_audited_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(audit_results, "SCRIPTS", tmp_path)
    receipt = {"inputs": {}, "outputs": {}, "command": ["k.py"]}
    assert audit_results.make_again("x", receipt, tmp_path) == [
        "x: cannot be made again: status -9"
    ]


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refused)
    line = f"{tmp_path}: Function not implemented; its file system has no locks"
    with pytest.raises(UserError, match=re.escape(line)):
        require("x", "sha256", "1", None, tmp_path / "sources.lock")
