"""Promises: the doctor says what the machine has, and what would fail late."""

import shutil
from pathlib import Path

import pytest

import doctor
from bezoar.errors import UserError
from bezoar.release import licences
from bezoar.workflow import duration, machine
from bezoar.workflow.configuration import resolved
from bezoar.workflow.wording import counted

REHEARSAL = "config/rehearsal.yaml"


@pytest.mark.parametrize(
    ("cpuinfo", "flags"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 amx_bf16\n", ["avx512_bf16", "amx_bf16"]),
        ("flags\t\t: fpu avx avx2 fma\nbugs : bf16\n", []),
        ("Features\t: fp asimd svebf16 bf16 i8mm\n", ["bf16"]),
        ("", []),
    ],
)
def test_bfloat16_units_are_read_from_the_processors_flags(cpuinfo: str, flags: list[str]) -> None:
    assert machine.bfloat16(cpuinfo) == flags


@pytest.mark.parametrize(
    ("files", "share", "limit_gib"),
    [
        ({"cpu.max": "150000 100000", "memory.max": f"{2**28}"}, 2, 0.25),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        (
            {
                "cpu/cpu.cfs_quota_us": "50000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": f"{2**29}",
            },
            1,
            0.5,
        ),
        (
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            None,
            None,
        ),
        ({"memory.max": "a lot"}, None, None),
    ],
)
def test_a_containers_share_counts_in_control_groups_of_either_version(
    files: dict[str, str],
    share: int | None,
    limit_gib: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "none")
    cores, memory = machine.cores(), machine.memory_gib()
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert machine.cores() == min(cores, share or cores)
    assert machine.memory_gib() == (limit_gib or memory)


def test_a_noun_is_counted_as_english_does() -> None:
    assert [counted(number, "step") for number in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
    assert [counted(number, "thing is", "things are") for number in (1, 3)] == [
        "1 thing is",
        "3 things are",
    ]


def tool(folder: Path, output: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\nprintf '{output}'\n")
    path.chmod(0o755)
    return str(folder)


TWO = "0, GPU-aa, 24576\\n1, GPU-bb, 81920\\n"


@pytest.mark.parametrize(
    ("visible", "sizes"),
    [
        (None, [24.0, 80.0]),
        ("1", [80.0]),
        ("GPU-aa", [24.0]),
        ("", []),
        ("0,1", [24.0, 80.0]),
        ("1,0", [80.0, 24.0]),
        ("0,-1,1", [24.0]),
        ("-1", []),
    ],
)
def test_gpus_are_those_that_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, sizes: list[float]
) -> None:
    monkeypatch.setenv("PATH", tool(tmp_path, TWO) + ":/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == sizes


def test_that_one_of_two_gpus_is_used_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", tool(tmp_path, TWO) + ":/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(doctor.machine_checks, "problems", lambda *_: iter(()))
    config = resolved(["config/paper.yaml"])
    assert [line for line in doctor.machine(config) if line.startswith("note: GPU: 2 are visible")]
    config["launch"]["processes"] = 2
    assert not [line for line in doctor.machine(config) if "visible" in line]
    config["launch"]["processes"] = 1
    monkeypatch.setattr(machine, "gpus", lambda: [24.0] * 3)
    (line,) = (line for line in doctor.machine(config) if "3 are visible" in line)
    assert "to use 2: `launch: {processes: 2, accelerate: " in line, "3 share no batch of 128"
    config["sft"]["micro_batch_size"] = 128
    assert not [line for line in doctor.machine(config) if "visible" in line]
    monkeypatch.setattr(machine, "gpus", lambda: [24.0])
    assert not [line for line in doctor.machine(config) if "visible" in line]


def test_the_doctor_says_what_there_is_and_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = duration.reference("rehearsal")
    monkeypatch.setattr(duration, "probe", lambda: reference["probe_s"])
    doctor.main(["--config", REHEARSAL, "--cores", "2"])
    output = capsys.readouterr().out
    for word in ("core", "GiB of memory", "bfloat16 units", "Python 3.", "of disk free", "GPU"):
        assert word in output.splitlines()[0]
    assert "expected time: about " in output and "on 2 cores" in output
    assert " on 1 core for " in doctor.expected(resolved([REHEARSAL]), 1, "profiles/default")
    queue = "expected time: depends on the cluster's queue"
    assert doctor.expected(resolved([REHEARSAL]), 2, "profiles/slurm").startswith(queue)


def test_more_cores_help_until_the_longest_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = duration.reference("rehearsal")
    monkeypatch.setattr(duration, "probe", lambda: reference["probe_s"])
    one, two, many = (duration.first_run_s("rehearsal", cores) for cores in (1, 2, 64))
    assert one > two >= many == duration.first_run_s("rehearsal", 128)
    monkeypatch.setattr(duration, "probe", lambda: 3 * reference["probe_s"])
    assert duration.first_run_s("rehearsal", 2) == pytest.approx(3 * two)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "[" * 100_000, '{"results": 7}', '{"results": {"sft": "long"}}'],
    ids=lambda text: text[:14],
)
def test_a_damaged_record_of_seconds_counts_as_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "seconds.json"
    path.write_text(content)
    assert duration.recorded("results", path) == {}
    duration.record("results", "sft", 2.04, path)
    assert duration.recorded("results", path) == {"sft": 2.0}


def test_a_licence_is_acknowledged_by_its_id_however_the_list_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = {"id": "alpaca_seed_tasks", "licence": "CC BY-NC 4.0"}
    (line,) = doctor.licences([entry])
    assert " ACKNOWLEDGE_LICENCES=alpaca_seed_tasks on make's command line, or export BEZ" in line
    of_hub, other = entry | {"licence": "cc-by-nc-4.0"}, entry | {"licence": "See LICENCE"}
    assert len(list(doctor.licences([of_hub, other, entry | {"licence": None}]))) == 1
    monkeypatch.setenv("BEZOAR_ACKNOWLEDGE_LICENCES", "another, alpaca_seed_tasks")
    assert not list(doctor.licences([entry]))
    assert licences.acknowledged() == {"another", "alpaca_seed_tasks"}, "the release's, too"
    monkeypatch.delenv("BEZOAR_ACKNOWLEDGE_LICENCES")
    monkeypatch.setenv("ACKNOWLEDGE_LICENCES", "alpaca_seed_tasks")
    with pytest.raises(UserError, match="write BEZOAR_ACKNOWLEDGE_LICENCES=alpaca_seed_tasks"):
        list(doctor.licences([entry]))


def test_a_dress_rehearsal_needs_the_disk_of_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=4 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    dressed = resolved([REHEARSAL, "config/dress-rehearsal.yaml"])
    assert any(line.startswith("disk: 4 GiB free here, 28") for line in doctor.machine(dressed))
    assert not any(line.startswith("disk:") for line in doctor.machine(resolved([REHEARSAL])))
