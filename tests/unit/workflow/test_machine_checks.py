"""Promises: the doctor says what of this machine cannot run the paper's scale, and only notes what
may still work.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bezoar.workflow import cluster, machine_checks
from bezoar.workflow import machine as machine_of
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout
from bezoar.workflow.machine_checks import Card, disk, gpu, memory, problems
from bezoar.workflow.resources import Needs, jobs

NEED_MB = 12_900
RTX_4090 = {"name": "NVIDIA GeForce RTX 4090", "total_mb": 24_080, "free_mb": 23_600}
ADA = {"capability": [8, 9]}


class Machine:
    """What nvidia-smi and torch say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cards, self.complaint = [Card(RTX_4090["name"], "580.95", 24_564)], ""
        self.seen: dict[str, Any] = {
            "version": "2.13.0+cu130",
            "cuda": "13.0",
            "devices": [RTX_4090 | ADA],
            "error": "",
        }
        monkeypatch.setattr(machine_checks, "cards", lambda: (self.cards, self.complaint))
        monkeypatch.setattr(machine_checks, "torch_view", lambda: self.seen)
        monkeypatch.setattr(machine_checks, "compiler", lambda: iter(()))
        monkeypatch.setattr(machine_of, "memory_gib", lambda: 64.0)
        usage = shutil._ntuple_diskusage(0, 0, 500 * 10**9)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
        monkeypatch.delenv("BEZOAR_CPU", raising=False)

    def without_gpu(self) -> None:
        self.cards, self.complaint = [], "no nvidia-smi"
        self.seen |= {"devices": [], "cuda": None, "version": "2.13.0+cpu"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def paper(*more: str) -> dict[str, Any]:
    return resolved(["config/paper.yaml", *more])


def test_an_rtx_4090_is_good_enough(machine: Machine) -> None:
    assert list(problems(paper())) == []


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (("cc", "Python.h"), []),
        (("Python.h",), ["no C compiler found"]),
        (("cc",), ["no Python.h found"]),
        ((), ["no C compiler and no Python.h found"]),
    ],
)
def test_triton_wants_a_compiler_and_the_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], said: list[str]
) -> None:
    for name in there:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    monkeypatch.setattr(machine_checks.sysconfig, "get_path", lambda name: str(tmp_path))
    lines = list(machine_checks.compiler())
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert line.startswith(f"note: GPU: {words}, ") and "gcc and python3-dev" in line


def test_a_cpu_is_refused_unless_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.without_gpu()
    (line,) = problems(paper())
    assert line.startswith("GPU: none found (no nvidia-smi)") and "CPU=1" in line
    monkeypatch.setenv("BEZOAR_CPU", "1")
    lines = list(problems(paper()))
    assert lines and all(line.startswith("note: ") for line in lines)
    assert "hours" in lines[-1]
    monkeypatch.delenv("BEZOAR_CPU")
    assert list(problems(resolved(["config/rehearsal.yaml"]))) == []


def test_the_hours_of_a_cpu_are_those_of_every_job_on_the_cores_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BEZOAR_CPU", "1")
    monkeypatch.setattr(machine_of, "cores", lambda: 64)
    layout = Layout(paper())
    needs, counts = Needs(layout).by_rule, jobs(layout)
    hours = sum(counts[rule] * need.seconds for rule, need in needs.items()) / 3600
    assert machine_checks.cpu_hours(paper()) == pytest.approx(hours)
    assert machine_checks.cpu_hours(paper("config/serve-vllm.yaml")) == pytest.approx(hours)
    one = machine_checks.cpu_hours(paper(), ["lm_eval"])
    assert one == pytest.approx(needs["lm_eval"].seconds / 3600)
    threads = paper()["sft"]["threads"]
    monkeypatch.setattr(machine_of, "cores", lambda: threads // 4)
    assert 3.5 * hours < machine_checks.cpu_hours(paper()) < 4 * hours


def test_a_server_of_ones_own_and_the_run_need_gpus_of_their_own(machine: Machine) -> None:
    machine.seen["devices"] = [RTX_4090 | ADA | {"free_mb": 2_400}]
    (line,) = problems(paper())
    assert line.startswith("note: GPU: 2.3 GiB are free now")
    assert "gets other GPUs than the run (CUDA_VISIBLE_DEVICES of both)" in line
    served = ["config/serve-vllm.yaml", "config/open-models.yaml"]
    assert not machine_checks.asks_own_server(paper(served[0]))
    assert machine_checks.asks_own_server(paper(*served))
    (line,) = gpu(NEED_MB)
    assert line.endswith("end what else computes there (nvidia-smi lists it)")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"version": "", "error": "libcudart.so.13: cannot open"},
            "cannot open); remove .venv, then make environment",
        ),
        (
            {"version": "2.13.0+cpu", "cuda": None, "devices": []},
            "; run `make environment TORCH=cuda`",
        ),
        (
            {"devices": [], "error": "CUDA initialization: The NVIDIA driver is too old"},
            "cannot use it (CUDA initialization: The NVIDIA driver is too old); it is built for"
            " CUDA 13.0, which needs driver 580 or newer, here is 580.95",
        ),
        ({"devices": [], "error": ""}, "CUDA_VISIBLE_DEVICES may hide it"),
        ({"error": "no kernel image is available"}, "a product on it fails (no kernel image"),
    ],
)
def test_a_torch_that_cannot_use_the_gpu_is_a_problem(
    machine: Machine, changed: dict[str, Any], said: str
) -> None:
    machine.seen |= changed
    (line,) = gpu(NEED_MB)
    assert said in line and not line.startswith("note: ")


def test_no_remedy_removes_the_other_environments() -> None:
    """`make clean` removes vLLM's and llama.cpp's, too; `make environment` remakes .venv alone."""
    texts = Path(machine_checks.__file__).parents[2].rglob("*.py")
    assert [path for path in texts if "make clean" in path.read_text(encoding="utf-8")] == []


def test_memory_that_may_do_is_a_note_and_less_is_a_problem() -> None:
    assert list(memory("GPU", 1.2 * NEED_MB, NEED_MB, "x")) == []
    (note,) = memory("GPU", 0.8 * NEED_MB, NEED_MB, "x")
    assert note.startswith("note: GPU: 10.1 GiB of memory may not do, a job needs about 12.6 GiB")
    (problem,) = memory("GPU", 0.5 * NEED_MB, NEED_MB, "x")
    assert problem.startswith("GPU: 6.3 GiB of memory, and a job needs about 12.6 GiB; x")


def test_the_host_and_a_large_configuration_are_looked_at(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_of, "memory_gib", lambda: 8.0)
    (line,) = problems(paper())
    assert line.startswith("memory: 8.0 GiB of memory, and a job needs about")
    monkeypatch.setattr(machine_of, "memory_gib", lambda: 64.0)
    (line,) = problems(paper("config/gpu-80gb.yaml"))
    assert line.startswith("note: GPU: NVIDIA") or line.startswith("GPU: NVIDIA")


@pytest.mark.parametrize(
    ("names", "sizes", "said"),
    [
        (["serve-vllm"], [80.0, 80.0], ""),
        (["serve-vllm"], [47.5, 80.0], "note: teacher: its server's GPU: 47.5 GiB of memory may"),
        (["serve-vllm"], [24.0, 24.0], "teacher: its server's GPU: 24.0 GiB of memory, and a job"),
        (["serve-vllm"], [80.0], "teacher: its server wants 2 GPUs"),
        (["teacher-48gb"], [47.5], ""),
        (["teacher-48gb"], [24.0], "teacher: its server's GPU: 24.0 GiB"),
        (["teacher-48gb", "teacher-24gb"], [24.0], ""),
        (["teacher-48gb", "teacher-24gb"], [16.0], "note: teacher: its server's GPU: 16.0 GiB"),
        ([], [16.0], ""),
    ],
)
def test_the_server_of_the_teacher_needs_its_gpus(
    monkeypatch: pytest.MonkeyPatch, names: list[str], sizes: list[float], said: str
) -> None:
    monkeypatch.setattr(machine_of, "gpus", lambda: sizes)
    lines = list(machine_checks.teacher_gpus(paper(*(f"config/{name}.yaml" for name in names))))
    assert [line[: len(said)] for line in lines] == ([said] if said else [])
    assert all("a quantised teacher" in line for line in lines)
    monkeypatch.setenv("BEZOAR_MODE", "replay")
    assert not list(machine_checks.teacher_gpus(paper(*(f"config/{n}.yaml" for n in names))))


def test_a_run_on_the_cpu_has_no_gpu_for_the_teachers_server_either(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.without_gpu()
    monkeypatch.setattr(machine_of, "gpus", lambda: [])
    monkeypatch.setenv("BEZOAR_CPU", "1")
    lines = list(problems(paper("config/serve-vllm.yaml")))
    (problem,) = (line for line in lines if not line.startswith("note: "))
    assert problem.startswith("teacher: its server wants 2 GPUs") and "and 0 can be seen" in problem


def test_the_weights_that_the_teachers_server_fetches_need_room_in_its_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "not" / "made"))
    asked = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(0, 0, 50 * 10**9)

    monkeypatch.setattr(machine_checks.shutil, "disk_usage", usage)
    (line,) = machine_checks.teacher_disk(paper("config/serve-vllm.yaml"))
    assert line.startswith("note: disk: the teacher's server fetches 84 GB into") and asked == [
        tmp_path
    ]
    assert "50 are free there; set HF_HOME" in line
    assert not list(machine_checks.teacher_disk(paper("config/teacher-48gb.yaml")))
    assert not list(machine_checks.teacher_disk(paper()))
    monkeypatch.setenv("BEZOAR_MODE", "replay")
    assert not list(machine_checks.teacher_disk(paper("config/serve-vllm.yaml")))


def test_what_else_computes_there_and_an_old_card_are_noted(machine: Machine) -> None:
    machine.seen["devices"] = [RTX_4090 | {"capability": [7, 5], "free_mb": 3_000}]
    notes = list(gpu(NEED_MB))
    assert [line.startswith("note: GPU: ") for line in notes] == [True, True]
    assert "2.9 GiB are free now" in notes[0] and "does not compute in bfloat16" in notes[1]


A100 = {"name": "NVIDIA A100", "total_mb": 81_000, "free_mb": 80_000, "capability": [8, 0]}
OLD = {"name": "Tesla P4", "total_mb": 7_600, "free_mb": 7_500, "capability": [6, 1]}


def test_the_gpus_that_jobs_take_are_the_first_ones_and_the_least_of_them_counts(
    machine: Machine,
) -> None:
    machine.seen["devices"] = [A100, OLD]
    assert list(gpu(NEED_MB)) == []
    problem, note = gpu(NEED_MB, 2)
    assert problem.startswith("GPU: Tesla P4: 7.4 GiB of memory, and a job needs about 12.6 GiB")
    assert note.startswith("note: GPU: Tesla P4 does not compute in bfloat16")
    machine.seen["devices"] = [OLD, A100]
    assert list(gpu(NEED_MB)) == [problem, note]
    machine.seen["devices"] = [A100, A100]
    (line,) = gpu(NEED_MB, 4)
    assert line.startswith("GPU: 2 can be seen, and a training is to start 4 processes, each on")
    for kind, count in (("gpus", 4), ("cpu", 1)):
        launch = {"processes": 4, "accelerate": f"profiles/accelerate/{kind}.yaml"}
        assert machine_checks.processes_on_gpus(launch) == count


def test_the_disk_holds_the_models_and_what_lies_there_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layout = Layout(paper() | {"pathvars": {"results": str(tmp_path)}})

    def said(free_gb: float) -> list[str]:
        usage = shutil._ntuple_diskusage(0, 0, int(free_gb * 1e9))
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
        return [line[:11] for line in disk(layout, 3_400_000_000)]

    assert said(200) == [] and said(70) == ["note: disk:"]
    assert said(50) == ["disk: 50 GB"]
    made = tmp_path / "base/model.safetensors"
    made.parent.mkdir()
    with made.open("wb") as stream:
        stream.truncate(7 * 10**9)  # a hole: it takes no space
    assert said(50) == ["note: disk:"]


def test_on_a_cluster_the_cluster_is_looked_at(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.without_gpu()
    monkeypatch.setattr(cluster, "plan", lambda *_: cluster.Plan((), {}, "cluster: Slurm 22"))
    lines = list(problems(paper(), "profiles/slurm"))
    assert lines[0] == "note: cluster: Slurm 22"
    assert lines[1].startswith("torch: the CPU build, and jobs are to compute on GPUs; run `make")
    assert lines[1].endswith("environment TORCH=cuda PROFILE=profiles/slurm`")
    machine.seen["cuda"] = "13.0"
    assert list(problems(paper(), "profiles/slurm")) == lines[:1]
    served = paper("config/serve-vllm.yaml")
    asking, fetching = list(problems(served, "profiles/slurm"))[1:]
    assert asking.startswith("note: network: generate_evol asks gpt-5.5-2026-04-23 from a node, b")
    assert fetching.startswith("note: network: the teacher's server fetches 84 GB on a node; if")
    own = paper("config/serve-vllm.yaml", "config/open-models.yaml")
    assert list(problems(own, "profiles/slurm"))[1:] == [fetching]


def test_nvidia_smi_is_read_and_its_complaint_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_checks.cards() == ([], "no nvidia-smi")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 580.95.05, 24564'\n")
    tool.chmod(0o755)
    assert machine_checks.cards() == ([Card(str(RTX_4090["name"]), "580.95.05", 24564)], "")
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n")
    assert machine_checks.cards() == ([], "NVIDIA-SMI has failed")


def test_torch_is_loaded_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = 'class torch: __version__, cuda = "2", None'
    probe = machine_checks.PROBE.replace("import torch", stand_in)
    monkeypatch.setattr(machine_checks, "PROBE", probe)
    assert "AttributeError" in machine_checks.torch_view()["error"], "it asks torch itself"
    monkeypatch.setattr(machine_checks, "PROBE", 'print(\'{"version": "2"}\')')
    assert machine_checks.torch_view() == {"version": "2"}
    monkeypatch.setattr(machine_checks, "PROBE", "raise ImportError('libcudart is missing')")
    assert machine_checks.torch_view()["error"] == "ImportError: libcudart is missing"
    monkeypatch.setattr(machine_checks, "PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(machine_checks, "PROBE_S", 0.2)
    assert machine_checks.torch_view()["error"] == "no answer in 0.2 s"
