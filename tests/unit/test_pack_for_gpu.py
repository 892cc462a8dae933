"""Promises of the pack for a GPU machine without a network: what it lacks, and no more."""

import zipfile
from pathlib import Path

import pytest

import pack_for_gpu
from pack_for_gpu import LOCK, installed, lacking, locked, slim


def test_what_the_machine_has_is_left_out_but_for_what_decides_a_number(tmp_path: Path) -> None:
    there = tmp_path / "freeze.txt"
    lock = locked(LOCK)
    trl = lock["trl"].split("==")[1].split()[0]
    there.write_text(
        f"# a machine\nNumPy==2.0\nscikit_learn\ntransformers==4.0\ntrl=={trl}\n"
        "openai @ file:///tmp/openai\n"
    )
    names = set(lacking(lock, installed(there)))
    assert {"transformers", "openai", "bitsandbytes", "lm-eval"} <= names
    assert names.isdisjoint({"numpy", "scikit-learn", "trl", "torch"})


def test_every_package_of_the_lock_has_its_hashes() -> None:
    found = locked(LOCK)
    text = LOCK.read_text(encoding="utf-8")
    assert sum(entry.count("--hash=") for entry in found.values()) == text.count("--hash=")
    assert all("--hash=" in entry and "\n#" not in entry for entry in found.values())


def test_binaries_of_other_systems_and_other_cuda_are_left_out(tmp_path: Path) -> None:
    wheel = tmp_path / "some-1-py3-none-any.whl"
    kept = ["some/lib_cuda130.so", "some/lib_cpu.so", "some/solverdir/cbc/linux/i64/cbc"]
    dropped = ["some/lib_cuda121.so", "some/lib_rocm72.so", "some/solverdir/cbc/win/i64/cbc.exe"]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as whole:
        for name in [*kept, *dropped]:
            whole.writestr(name, name)
    slim(wheel, "13.0")
    with zipfile.ZipFile(wheel) as whole:
        assert whole.namelist() == kept
        assert whole.read(kept[0]).decode() == kept[0]


def test_a_pack_that_is_too_large_says_so_and_a_failed_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "freeze.txt").write_text("")
    pack = tmp_path / "wheels.tar.xz"
    command = ["--installed", str(tmp_path / "freeze.txt"), "--pack", str(pack)]

    def none(*_: object) -> None:
        raise pack_for_gpu.UserError("pip download: no network")

    monkeypatch.setattr(pack_for_gpu, "pip", none)
    with pytest.raises(pack_for_gpu.UserError, match="no network"):
        pack_for_gpu.main(command)
    assert not pack.exists()

    def one(_entries: object, _built: object, _python: str, wheels: Path) -> None:
        with zipfile.ZipFile(wheels / "one-1-py3-none-any.whl", "w") as whole:
            whole.writestr("one.py", "")

    monkeypatch.setattr(pack_for_gpu, "download", one)
    with pytest.raises(pack_for_gpu.UserError, match=r"expected at most 1e-05"):
        pack_for_gpu.main([*command, "--limit", "0.00001"])
    pack_for_gpu.main(command)
    assert "MiB" in capsys.readouterr().out
