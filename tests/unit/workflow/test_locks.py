"""Promises of envs/*.lock: the same versions on every Python, nothing of CUDA without a GPU, every
file by hash.
"""

import re
import tomllib
from itertools import product
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import lock_environments
from bezoar.provenance.fingerprint import environment

ROOT = Path(__file__).parents[3]
ENVS = ROOT / "envs"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
SHA256 = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def blocks(name: str) -> list[tuple[Requirement, list[str]]]:
    """Every requirement of a lock with its hashes."""
    lines = (ENVS / f"{name}.lock").read_text().replace("\\\n", " ").splitlines()
    parsed = [line.split(" --hash", 1) for line in lines if line and not line.startswith("#")]
    return [
        (Requirement(first), SHA256.findall(f"--hash{rest[0]}" if rest else ""))
        for first, *rest in parsed
    ]


def installed(name: str, python: str, machine: tuple[str, str]) -> dict[str, str]:
    """Name -> version of what pip takes from a lock there."""
    platform, processor = machine
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.2",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": platform,
        "platform_system": platform.capitalize(),
        "platform_machine": processor,
    }
    taken = [
        (canonicalize_name(found.name), str(found.specifier))
        for found, _ in blocks(name)
        if found.marker is None or found.marker.evaluate(environment)
    ]
    assert len({found for found, _ in taken}) == len(taken), f"{name}: one package twice"
    return dict(taken)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_python_gets_the_same_versions(machine: tuple[str, str]) -> None:
    for name in ("main", "dev"):
        first, *others = (installed(name, python, machine) for python in PYTHONS)
        assert first
        assert all(other == first for other in others)


@pytest.mark.parametrize(("python", "machine"), product(PYTHONS, MACHINES))
def test_every_direct_requirement_is_locked_within_its_range(
    python: str, machine: tuple[str, str]
) -> None:
    for source, torch in (("main", "torch-cpu"), ("main", "torch-cuda"), ("dev", "torch-cpu")):
        locked = installed(source, python, machine) | installed(torch, python, machine)
        for line in (ENVS / f"{source}.in").read_text().splitlines():
            if wanted := line.split("#")[0].strip():
                requirement = Requirement(wanted)
                version = locked[canonicalize_name(requirement.name)].removeprefix("==")
                assert requirement.specifier.contains(version), (line, version)


@pytest.mark.parametrize(("python", "machine"), product(PYTHONS, MACHINES))
def test_without_a_gpu_nothing_of_cuda_is_installed(python: str, machine: tuple[str, str]) -> None:
    everything = [
        *installed("main", python, machine),
        *installed("dev", python, machine),
        *installed("torch-cpu", python, machine),
    ]
    assert everything.count("torch") == 1
    assert not [name for name in everything if re.match(r"nvidia-|cuda-|triton", name)]


def test_the_cpu_build_is_of_the_cuda_builds_version_and_has_a_hash_for_each_python() -> None:
    ((cuda, _),) = ((found, _) for found, _ in blocks("torch-cuda") if found.name == "torch")
    for python, (platform, _) in product(PYTHONS, MACHINES):
        cpu = installed("torch-cpu", python, (platform, "any"))["torch"]
        assert cpu.removesuffix("+cpu") == str(cuda.specifier)
        assert cpu.endswith("+cpu") == (platform == "linux")
    kinds = {f"cp{python.replace('.', '')} {m}" for python in PYTHONS for _, m in MACHINES[:2]}
    assert set(lock_environments.TORCH_CPU_SHA256) == kinds
    assert len(set(lock_environments.TORCH_CPU_SHA256.values())) == len(kinds)


@pytest.mark.parametrize("lock", sorted(ENVS.glob("*.lock")), ids=lambda path: path.stem)
def test_every_requirement_is_one_version_with_hashes(lock: Path) -> None:
    for requirement, hashes in blocks(lock.stem):
        assert hashes, requirement
        assert str(requirement.specifier).startswith("=="), requirement


def test_main_and_dev_lock_share_nothing() -> None:
    assert not {found.name for found, _ in blocks("main")} & {
        found.name for found, _ in blocks("dev")
    }


def test_what_is_built_comes_last_and_with_its_tools() -> None:
    wheels, built = (ENVS / "main.lock").read_text().split(lock_environments.BUILT_HEAD)
    names = set(re.findall(r"^([a-z0-9-]+)==", built, re.MULTILINE))
    assert names == lock_environments.BUILT
    assert "\nsetuptools==" in wheels
    assert "\nsetuptools-scm==" in wheels


def test_pyproject_and_the_script_name_the_same_pythons() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    allowed = SpecifierSet(settings["project"]["requires-python"])
    script = (ROOT / "scripts/commands/make_environment.sh").read_text()
    accepted = re.search(r"^\s+([0-9.|]+)\) ", script, re.MULTILINE)
    assert accepted
    assert accepted[1].split("|") == [python for python in PYTHONS if f"{python}.0" in allowed]


def test_a_result_rests_on_main_lock_and_one_lock_of_torch() -> None:
    assert [name.split("-")[0] for name in environment()["locks"]] == ["main.lock", "torch"]
