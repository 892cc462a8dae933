"""A finished run can be read by others: the crate says what the receipts say, and the official
validator accepts it, and only it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks import paths, receipts
from smallest import RESULTS, ROOT, messages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
VALIDATOR = ROOT / ".venv-crate/bin/python"
Graph = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crate") / "with a space"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(".snakemake"))
    return folder


def call(
    project: Path, program: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(project / "scripts"), **variables}
    return subprocess.run(
        [sys.executable, f"scripts/commands/{program}", "--results", RESULTS, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def described(project: Path) -> dict[str, Any]:
    done = call(project, "write_crate.py")
    assert done.returncode == 0, done.stderr
    return json.loads((project / "ro-crate-metadata.json").read_text())


@pytest.fixture(scope="module")
def graph(described: dict[str, Any]) -> Graph:
    found = {entity["@id"]: entity for entity in described["@graph"]}
    assert len(found) == len(described["@graph"]), "no id stands twice"
    return found


def ids(value: Any) -> set[str]:
    return {item["@id"] for item in (value if isinstance(value, list) else [value])}


def test_every_job_and_every_file_of_the_receipts_is_in_the_crate(
    project: Path, graph: Graph
) -> None:
    held = receipts(project)
    for stage, receipt in held.items():
        run = graph[f"#run/{stage}"]
        assert ids(run["object"]) == paths(receipt["inputs"]) | {f"#recipe/{stage}"}
        assert ids(run["result"]) == paths(receipt["outputs"]) | {
            f"{RESULTS}/receipts/{stage}.json"
        }
        assert ids(run["instrument"]) == {f"scripts/{receipt['command'][0]}"}
        assert json.loads(graph[f"#recipe/{stage}"]["value"]) == receipt["recipe"]
        assert ids(graph[f"#control/{stage}"]["object"]) == {run["@id"]}
    assert ids(graph["#engine"]["object"]) == {f"#control/{stage}" for stage in held}
    assert ids(graph["#workflow-run"]["result"]) == set().union(
        *(ids(graph[f"#run/{stage}"]["result"]) for stage in held)
    )


def test_sizes_and_hashes_are_those_of_the_files(project: Path, graph: Graph) -> None:
    files = [entity for entity in graph.values() if "sha256" in entity]
    assert len(files) > 150
    for entity in files:
        content = (project / entity["name"]).read_bytes()
        assert (entity["contentSize"], entity["sha256"]) == (
            str(len(content)),
            hashlib.sha256(content).hexdigest(),
        ), entity["@id"]


def test_the_crate_has_no_clock_and_no_chance_in_it(project: Path, graph: Graph) -> None:
    first = (project / "ro-crate-metadata.json").read_bytes()
    (project / "ro-crate-metadata.json").unlink()
    done = call(project, "write_crate.py", PYTHONHASHSEED="7", TZ="Asia/Tokyo", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert (project / "ro-crate-metadata.json").read_bytes() == first


def test_a_file_that_is_not_as_its_receipt_says_is_one_line(project: Path, graph: Graph) -> None:
    path = project / RESULTS / "mtbench.json"
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    try:
        done = call(project, "write_crate.py", "--output", "other.json")
    finally:
        path.write_bytes(content)
    assert (done.returncode, len(messages(done.stderr))) == (
        2,
        1,
    ) and f"{RESULTS}/mtbench.json: not the bytes" in done.stderr
    assert not (project / "other.json").exists()


def test_the_archive_holds_the_crate_and_what_the_crate_names(
    project: Path, graph: Graph, tmp_path: Path
) -> None:
    done = call(project, "archive_results.py", "--output", str(tmp_path / "run.tar"))
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "run.tar") as archive:
        names = set(archive.getnames())
        packed = archive.extractfile("ro-crate-metadata.json")
        assert packed and packed.read() == (project / "ro-crate-metadata.json").read_bytes()
    assert {entity["name"] for entity in graph.values() if "sha256" in entity} <= names


def validate(*folders: Path) -> subprocess.CompletedProcess[str]:
    if not VALIDATOR.is_file():
        pytest.skip("needs the validator's environment: `make .venv-crate`")
    # No network, to prove that none is needed; where a namespace cannot be made, the validator's
    # own offline mode has to do.
    alone = (
        ["unshare", "-rn"]
        if not subprocess.run(
            ["unshare", "-rn", "true"], capture_output=True, check=False
        ).returncode
        else []
    )
    command = [
        *alone,
        str(VALIDATOR),
        str(ROOT / "scripts/commands/validate_crate.py"),
        *map(str, folders),
    ]
    return subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_official_validator_accepts_the_crate(project: Path, graph: Graph) -> None:
    done = validate(project)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), (
        done.stdout[-3000:] + done.stderr[-2000:]
    )


def no_control(graph: Graph) -> None:
    del graph["#engine"]["object"]


def step_of_nothing(graph: Graph) -> None:
    del graph["#step/dpo"]["workExample"]


def run_of_no_program(graph: Graph) -> None:
    graph["#run/dpo"]["instrument"] = {"@id": "#run/mtbench"}


def not_this_profile(graph: Graph) -> None:
    graph["./"]["conformsTo"] = [
        item for item in graph["./"]["conformsTo"] if "provenance" not in item["@id"]
    ]


def file_of_nobody(graph: Graph) -> None:
    graph["./"]["hasPart"] = [
        item for item in graph["./"]["hasPart"] if not item["@id"].endswith("/mtbench.json")
    ]


def no_workflow(graph: Graph) -> None:
    graph["Snakefile"]["@type"] = ["File", "SoftwareSourceCode"]


FAULTS = {
    no_control: "OrganizeAction must reference the ControlAction",
    step_of_nothing: "HowToStep must refer to its corresponding tool",
    run_of_no_program: "MUST have an instrument property",
    not_this_profile: "permalink of the Provenance Run Crate profile",
    file_of_nobody: "mtbench.json",
    no_workflow: "must have types File, SoftwareSourceCode, ComputationalWorkflow",
}


# Faults that can be found beside each other: a validation takes ten seconds.
TOGETHER = (
    (no_control, step_of_nothing, run_of_no_program, file_of_nobody),
    (not_this_profile, no_workflow),
)


@pytest.fixture(scope="module")
def verdicts(
    described: dict[str, Any], project: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Callable[[Graph], None], str]:
    """What the validator says of each of the faults, in one process."""
    folders = []
    for faults in TOGETHER:
        faulty = json.loads(json.dumps(described))
        for fault in faults:
            before = json.dumps(faulty)
            fault({entity["@id"]: entity for entity in faulty["@graph"]})
            assert json.dumps(faulty) != before
        folders.append(tmp_path_factory.mktemp(faults[0].__name__))
        (folders[-1] / "Snakefile").write_bytes((project / "Snakefile").read_bytes())
        (folders[-1] / "ro-crate-metadata.json").write_text(json.dumps(faulty))
    done = validate(*folders)
    assert done.returncode == 1, done.stderr[-2000:]
    said, found = done.stdout, {}
    for faults, folder in zip(TOGETHER, folders, strict=True):
        verdict, _, said = said.partition(f"{folder}: ")
        found |= dict.fromkeys(faults, verdict)
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(
    verdicts: dict[Callable[[Graph], None], str], fault: Callable[[Graph], None]
) -> None:
    assert FAULTS[fault] in verdicts[fault]


def test_a_folder_without_a_crate_is_one_line(tmp_path: Path) -> None:
    done = validate(tmp_path)
    assert (done.returncode, len(messages(done.stderr))) == (2, 1)
