"""Print every job of a configuration's DAG as JSON, by Snakemake's own account; nothing is run.

Usage: dag.py CONFIGFILE… [-- TARGET…], in the root of a project folder.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import forked
from snakemake.api import SnakemakeApi
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
    StorageSettings,
)

sys.path.insert(0, "scripts")
from bezoar.provenance import staleness
from bezoar.provenance.snakemake_patch import shell_of

Job = dict[str, Any]


def named(files: Any) -> dict[str, list[str]]:
    """Return name -> paths of a job's inputs or outputs."""
    return {
        name: [str(path) for path in files[start : (start + 1 if end is None else end)]]
        for name, (start, end) in files._names.items()
    }


def jobs(configs: list[str], targets: list[str]) -> list[Job]:
    """Return what all jobs are and have, whether they would run or not."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=2),
            config_settings=ConfigSettings(configfiles=[Path(name) for name in configs]),
            storage_settings=StorageSettings(),
            snakefile=Path("Snakefile"),
        )
        workflow.dag(DAGSettings(targets=frozenset(targets)))
        inner = workflow._workflow
        inner._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
        inner._build_dag()
        return [
            {
                "rule": job.rule.name,
                "wildcards": dict(job.wildcards.items()),
                "inputs": named(job.input),
                "outputs": named(job.output),
                "params": {name: str(value) for name, value in job.params.items()},
                "command": staleness.command_in(shell_of(job)) if job.output else [],
            }
            for job in inner.dag.jobs
        ]


def jobs_of(folder: Path, configs: list[str], *targets: str) -> list[Job]:
    """Return the jobs of a project folder's DAG, from a process of its own."""
    command = [str(Path(__file__)), *configs, "--", *targets]
    done = forked.run(command, folder, dict(os.environ))
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[Job] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    named_configs, _, named_targets = " ".join(sys.argv[1:]).partition(" --")
    print(json.dumps(jobs(named_configs.split(), named_targets.split())))
