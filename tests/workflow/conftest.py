"""A copy of the project, and the expensive one in which the smallest rehearsal has been run."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from smallest import fresh, snakemake


@pytest.fixture(scope="session")
def unused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which nothing was made, so that a plan holds every job."""
    return fresh(tmp_path_factory.mktemp("unused") / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the smallest rehearsal has been run: once for all of pytest's
    workers, each of which gets a copy; BEZOAR_FINISHED names one that is there already.
    """
    if os.environ.get("BEZOAR_FINISHED"):
        return Path(os.environ["BEZOAR_FINISHED"])
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    run, ready = shared / "finished", shared / "finished.ready"
    with FileLock(shared / "finished.lock"):
        if not ready.exists():
            shutil.rmtree(run, ignore_errors=True)
            done = snakemake(fresh(run))
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
            ready.touch()
    return Path(
        shutil.copytree(run, tmp_path_factory.mktemp("workflow") / "project", symlinks=True)
    )
