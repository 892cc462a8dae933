"""`make evaluate` leaves nothing behind on a cluster when it is told to end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Snakemake, which takes a while to cancel its jobs.
CHILD = """
import signal, sys, time
def end(number, frame):
    time.sleep(1)
    print("cancelled", flush=True)
    sys.exit(1)
signal.signal(signal.{name}, end)
print("started", flush=True)
time.sleep(60)
"""
PARENT = """
import os, sys
import evaluate_model
print("status", evaluate_model.status_of([sys.executable, "-c", sys.argv[1]], dict(os.environ)))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_that_is_told_to_end_has_time_to_cancel_its_jobs(name: str) -> None:
    path = os.pathsep.join(str(ROOT / place) for place in ("scripts", "scripts/commands"))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.format(name=name)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        if name == "SIGINT":
            os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
        else:
            parent.terminate()
        assert parent.stdout.read() == "cancelled\nstatus 1\n"
