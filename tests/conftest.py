"""What every run of the tests says at its end: what was not tested here, and what would change
that.
"""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from bezoar import fork_server

# A shell's background job ignores Ctrl-C, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A user's own settings of the hub are none of the tests'.
for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(variable, None)

# Words of a reason to skip -> what to install or set. Any other reason is printed as it is.
REMEDIES = {
    "upstream files": "put the sources of config/sources.yaml below a folder and name it:"
    " make test MIRROR=folder",
    "chromium": "install chromium (Debian: apt install chromium)",
    "make .venv-crate": "make .venv-crate",
    "BEZOAR_TEST_SLURM": "BEZOAR_TEST_SLURM=1",
    "slurmctld": "install slurmctld, slurmd and munge (Debian: apt install slurm-wlm munge), and"
    " run make development",
    "strace": "install strace; in a container, allow ptrace",
    "unshare": "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)",
    "setpriv": "run as root, with util-linux and a Python that other users may run",
    "xllamacpp": "run make development",
    "BEZOAR_TEST_IMAGE": "BEZOAR_TEST_IMAGE=1, as root, with the tools that builds of images need",
    "bf16 matrix units": "a processor with AMX or AVX-512 bfloat16 units",
    "no make": "install make",
}


@contextmanager
def _environment_restored() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True, scope="module")
def the_environment_outlives_a_file() -> Iterator[None]:
    """Undo what a file's own fixtures set: the harness's tasks forbid the hub."""
    with _environment_restored():
        yield


@pytest.fixture(autouse=True)
def the_environment_outlives_a_test() -> Iterator[None]:
    """Undo what a program sets for its own process."""
    with _environment_restored():
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Have the programs that tests start forked, as in a run, where a test changes nothing that
    their libraries read while they are imported. All workers share the server.
    """
    until_the_end = ExitStack()
    until_the_end.enter_context(fork_server.running())
    config.add_cleanup(until_the_end.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first, so that no worker is left alone with one at the end, and
    before them the one that mostly waits, while another worker runs the rehearsal of the others.
    """

    def place(item: pytest.Item) -> tuple[bool, bool]:
        return item.get_closest_marker("slow") is None, item.path.name != "test_slurm.py"

    items.sort(key=place)


def not_tested(reasons: list[str]) -> list[str]:
    """Return a line for each reason to skip: how many tests, why, and what would change it."""
    lines = []
    for reason, count in sorted(Counter(reasons).items(), key=lambda pair: (-pair[1], pair[0])):
        remedy = next((do for word, do in REMEDIES.items() if word in reason), None)
        lines.append(f"{count:5}  {reason}" + (f"\n       -> {remedy}" if remedy else ""))
    return lines


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print them, after pytest's own summary of the run."""
    reasons = [
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report, pytest.TestReport | pytest.CollectReport)
        and isinstance(report.longrepr, tuple)
    ]
    if reasons:
        terminalreporter.section(f"not tested here: {len(reasons)}")
        for line in not_tested(reasons):
            terminalreporter.write_line(line)
