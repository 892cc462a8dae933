"""Promises of bezoar.files, bezoar.errors and bezoar.provenance.receipt."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from bezoar import files, program
from bezoar.errors import UserError
from bezoar.provenance.receipt import Receipt, git


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_text("old\n")

    def rows():
        yield {"a": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_jsonl(target, rows())
    assert target.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_process_hashes_a_file_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "weights", []
    digest = hashlib.file_digest

    def counted(stream, name):
        read.append(stream.name)
        return digest(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    monkeypatch.setattr(files, "SETTLED_S", -1.0)
    path.write_bytes(b"one")
    facts = path.stat()
    first = files.sha256_file(path)
    assert files.sha256_file(path) == first == hashlib.sha256(b"one").hexdigest()
    assert len(read) == 1
    time.sleep(0.02)  # beyond a tick of the file system's clock
    path.write_bytes(b"two")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert files.sha256_file(path) == hashlib.sha256(b"two").hexdigest()
    assert len(read) == 2


def test_the_hash_of_a_file_that_has_just_changed_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for content in (b"1", b"2", b"3"):  # within one tick
        path.write_bytes(content)
        assert files.sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_an_edit_is_seen_where_times_are_in_whole_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts_of = os.fstat

    def coarse(descriptor: int) -> SimpleNamespace:
        facts = facts_of(descriptor)
        fine = {name: getattr(facts, name) for name in ("st_dev", "st_ino", "st_size")}
        second = began // 10**9
        return SimpleNamespace(**fine, st_mtime_ns=second, st_ctime_ns=second, st_ctime=second)

    path, began = tmp_path / "rows", time.time_ns()
    monkeypatch.setattr(files.os, "fstat", coarse)
    for content in (b"1", b"2"):
        path.write_bytes(content)
        monkeypatch.setattr(files.time, "time", lambda: began // 10**9 + 0.9)
        assert files.sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_a_directory_of_many_files_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, listdir = [], os.listdir

    def counted(folder):
        listed.append(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", counted)
    for number in range(5):
        files.write_json(tmp_path / f"{number}.json", number)
    assert len(listed) == 1


def test_a_written_file_has_the_mode_of_a_plain_open(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    files.write_json(tmp_path / "whole", {})
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "stale").write_text("x")
    with files.whole_directory(target) as fresh:
        (fresh / "new").write_text("y")
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(ZeroDivisionError), files.whole_directory(target) as fresh:
        (fresh / "half").write_text("z")
        1 / 0  # noqa: B018 - the failure is the point
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_run_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    for name in ("llama-3", "llama-3.1", "llama-[3]"):
        with pytest.raises(ZeroDivisionError), files.whole_directory(tmp_path / name) as fresh:
            copy = shutil.copytree(fresh, tmp_path / "kept")
            1 / 0  # noqa: B018 - the failure is the point
        copy.rename(fresh)  # as a kill leaves it
        os.utime(fresh, (0, 0))
    for name in ("llama-3", "llama-[3]"):
        with files.whole_directory(tmp_path / name):
            pass
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(left) == 1 and left[0].startswith(".llama-3.1.")
    place = tmp_path / "llama-3"
    with files.whole_directory(place) as others, files.whole_directory(place):
        assert others.is_dir(), "it is at work"


def test_a_kill_while_a_directory_is_replaced_leaves_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    for text in ("old", "new"):
        with monkeypatch.context() as killed, suppress(KeyboardInterrupt):
            if text == "new":
                killed.setattr(shutil, "rmtree", raised)
            with files.whole_directory(target) as fresh:
                for name in ("config.json", "manifest.json"):
                    (fresh / name).write_text(text)
    assert {path.read_text() for path in target.iterdir()} == {"new"}
    assert len(list(target.iterdir())) == 2


def raised(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_where_a_link_leads_a_directory_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "stale").write_text("x")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "model").symlink_to("../big")
    for text in ("y", "z"):
        with files.whole_directory(tmp_path / "results" / "model") as fresh:
            (fresh / "new").write_text(text)
    assert (tmp_path / "results" / "model").is_symlink()
    assert [path.name for path in (tmp_path / "big").iterdir()] == ["new"]
    assert (tmp_path / "big" / "new").read_text() == "z"
    assert sorted(os.listdir(tmp_path)) == ["big", "results"]


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_user_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("rows.jsonl:3: expected a response; add one")

    with pytest.raises(SystemExit) as stop:
        program.run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: rows.jsonl:3: expected a response; add one\n"


def test_the_systems_refusal_of_a_file_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there").write_text("x")

    with pytest.raises(SystemExit) as stop:
        program.run(main)
    assert stop.value.code == 2
    line = f"error: {tmp_path / 'there'}: Is a directory; change its permissions or name another\n"
    assert capsys.readouterr().err == line


def _receipt(folder: Path) -> Receipt:
    return Receipt(
        folder / "receipt.json",
        stage="sft",
        recipe={"beta": 0.1},
        code="c0de",
        inputs={"data": folder / "data"},
        outputs={"model": [folder / "model"]},
    )


def test_a_receipt_names_inputs_and_outputs_by_content(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in")
    with _receipt(tmp_path) as receipt:
        (tmp_path / "model").write_text("out")
        receipt.facts["rows"] = 1
    written = json.loads((tmp_path / "receipt.json").read_text())
    assert written["inputs"]["data"] == {str(tmp_path / "data"): files.sha256_text("in")}
    assert written["outputs"]["model"] == {str(tmp_path / "model"): files.sha256_text("out")}
    assert written["facts"] == {"rows": 1}
    assert written["wall_s"] >= 0


def test_no_receipt_when_an_input_changed_or_the_stage_failed(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in")
    (tmp_path / "receipt.json").write_text("{}")
    with pytest.raises(UserError, match="data: changed while sft ran"), _receipt(tmp_path):
        (tmp_path / "data").write_text("other")
    assert not (tmp_path / "receipt.json").exists()
    with pytest.raises(ZeroDivisionError), _receipt(tmp_path):
        1 / 0  # noqa: B018 - the failure is the point
    assert not (tmp_path / "receipt.json").exists()


def test_a_receipt_leaves_gits_index_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is killed while git holds the lock would leave it behind."""
    monkeypatch.chdir(tmp_path)
    for words in (
        ("init", "-q"),
        ("add", "rows"),
        ("-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"),
    ):
        Path("rows").touch()
        subprocess.run(["git", *words], check=True)
    os.utime("rows", (1, 1))  # as git sees it, perhaps changed: it would write its index anew
    index = Path(".git/index").read_bytes()
    assert git("status", "--porcelain") == ""
    assert Path(".git/index").read_bytes() == index


def test_a_missing_output_is_an_error_not_a_receipt(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in")
    with pytest.raises(UserError, match="model: expected a file as `model`"), _receipt(tmp_path):
        pass
    assert not (tmp_path / "receipt.json").exists()


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written_again(tmp_path: Path) -> None:
    path, kill = tmp_path / "rows.jsonl", "os.kill(os.getpid(), signal.SIGKILL)"
    write = f"import os, pathlib, signal, bezoar.files as f; path = pathlib.Path({str(path)!r})\n"
    write += f"with f.whole_file(path) as stream:\n  stream.write('x'); {kill}"
    subprocess.run([sys.executable, "-c", write], check=False)
    (left,) = tmp_path.iterdir()
    os.utime(left, (files.BEGAN - 1, files.BEGAN - 1))
    at_work = tmp_path / ".rows.jsonl.another.partial"  # of a process that writes it now
    for other in (at_work, tmp_path / ".rows.jsonl.backup", tmp_path / ".other.jsonl.x.partial"):
        other.touch()
    with files.whole_file(path) as stream:
        stream.write("whole")
    assert path.read_text() == "whole" and not left.exists()
    assert at_work.exists() and len(list(tmp_path.iterdir())) == 4
