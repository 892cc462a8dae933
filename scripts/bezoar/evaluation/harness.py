"""The LM Evaluation Harness's tasks on local data: which of them, and from which copy.
Imports no torch.

A task is one of the harness's own, redirected to a local copy of its data set, or a YAML file in
the harness's form that names its data.
"""

import argparse
import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bezoar.errors import UserError, reason, shortage
from bezoar.readers import read_json_object

LOST = {
    "record": (
        "its data set is read by a script, which datasets refuses since version 4"
        " (lm-evaluation-harness issue 3171)"
    )
}


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--task-files` and `--task-data`: additional tasks, and the data of the harness's own."""
    parser.add_argument(
        "--task-files",
        type=Path,
        nargs="*",
        default=[],
        help="task YAML files, and the data files they read",
    )
    parser.add_argument(
        "--task-data",
        nargs="*",
        default=[],
        help="task=manifest.json of its data set, for the harness's own tasks",
    )


def assignments(texts: Sequence[str]) -> tuple[dict[str, Path], list[Path]]:
    """Return (task -> directory of its data set, the manifests of those) from arguments of the form
    `task=path/of/manifest.json`.
    """
    found = {}
    for text in texts:
        task, _, path = text.partition("=")
        if Path(path).name != "manifest.json":
            raise UserError(f"--task-data {text}: expected task=path/of/manifest.json")
        found[task] = Path(path).parent
    return found, sorted({folder / "manifest.json" for folder in found.values()})


def load_tasks(
    names: Sequence[str], files: Sequence[Path], data: dict[str, Path]
) -> dict[str, Any]:
    """Return name -> the harness's task object, its data loaded, in the order of `names`; a group
    or a tag stands for its tasks.

    `files` are YAML task files (other files among them are ignored); `data` redirects the harness's
    own tasks to local data sets. Nothing is fetched: a task with neither is refused, and so is one
    whose data set needs a loading script.
    """
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = (
        "1"  # read when datasets is imported, which is below
    )
    from datasets import config
    from lm_eval.tasks import TaskManager

    config.HF_DATASETS_CACHE = Path(_cache())
    config.DOWNLOADED_DATASETS_PATH = config.HF_DATASETS_CACHE / "downloads"
    config.EXTRACTED_DATASETS_PATH = config.DOWNLOADED_DATASETS_PATH / "extracted"

    for name in names:
        if name in LOST:
            raise UserError(f"lm_eval: {name} cannot be run: {LOST[name]}; evaluate another task")
    own = TaskManager(
        include_path=[
            str(path) for path in sorted({path.parent for path in files if path.suffix == ".yaml"})
        ],
        include_defaults=False,
    )
    found: dict[str, Any] = {}
    for name in names:
        mine = name in own.all_tasks
        for task, loaded in _load(own if mine else _defaults(), name, data.get(name), mine).items():
            if task in found:
                raise UserError(
                    f"lm_eval: {task} is asked for twice, by its name and within a group; name it"
                    " once"
                )
            found[task] = loaded
    return found


@cache
def _cache() -> str:
    """A directory for this process's copies of the data: datasets identifies a file by its path and
    date, and would read an earlier copy of it.
    """
    folder = tempfile.mkdtemp(prefix="datasets-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _defaults() -> Any:
    """The harness's own definitions: some 13,000 files, six seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _load(manager: Any, name: str, folder: Path | None, own: bool) -> dict[str, Any]:
    """Return name -> task with its data, of a task, a group or a tag; for the harness's own,
    `folder` takes the place of the hub's repository.
    """
    if name in manager.all_tags:
        members = sorted(manager.task_index[name].tags)
        return {
            task: loaded
            for member in members
            for task, loaded in _load(manager, member, folder, own).items()
        }
    if name not in manager.all_tasks:
        raise UserError(
            f"lm_eval: no task {name}; see `lm_eval ls tasks`, or name its YAML file under"
            " lm_eval.task_files"
        )
    if folder is None and not own:
        raise UserError(
            f"lm_eval: {name} has no local data; name its data set under lm_eval.data and in"
            " config/sources.yaml"
        )
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such directory; expected the data set of {name}")
    if (
        folder is not None
        and (folder / f"{folder.name}.py").is_file()
        and not any(folder.rglob("*.parquet"))
    ):
        raise UserError(
            f"lm_eval: {name} cannot be run: {folder} holds a loading script and no data; evaluate"
            " another task"
        )
    try:  # a group of one, because the harness merges a group's settings over a task's definition
        kind = "group" if name in manager.all_groups else "task"
        here = {kind: name, "dataset_path": str(folder), **(_settings(folder) if folder else {})}
        loaded = manager.load([{"group": "local", "task": [here]}] if folder else name)
    except Exception as error:  # of any kind: data, templates and functions are the task's own
        if shortage(error):
            raise
        where = folder or "the files its YAML names"
        why = reason(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise UserError(f"lm_eval: {name} cannot be read from {where}: {why}") from None
    return dict(loaded["tasks"])


def _settings(folder: Path) -> dict[str, Any]:
    """What the manifest of a data set changes in a task's definition: the splits it has."""
    manifest = folder / "manifest.json"
    return dict(read_json_object(manifest).get("task", {})) if manifest.is_file() else {}


def versions(tasks: dict[str, Any]) -> dict[str, str]:
    """Return name -> version of the task's definition, as the harness reports it: a number, a text,
    or `Yaml` or `None` where the definition has none.
    """
    return {name: str(task.VERSION) for name, task in tasks.items()}


def same_version(one: Any, other: Any) -> bool:
    """Say whether two versions are the same: 1, 1.0 and "1.0" are, and so are equal texts."""
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return str(one).strip() == str(other).strip()
