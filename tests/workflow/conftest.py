"""The one expensive fixture of the workflow's tests."""

import os
from pathlib import Path

import pytest
from smallest import fresh, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the smallest rehearsal has been run, for each of pytest's
    workers; BEZOAR_FINISHED names one that is there already.
    """
    if os.environ.get("BEZOAR_FINISHED"):
        return Path(os.environ["BEZOAR_FINISHED"])
    folder = fresh(tmp_path_factory.mktemp("workflow") / "project")
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder
