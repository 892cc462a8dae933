"""A receipt: what a stage read, what it ran with and what it wrote, by sha256.

It is written last, beside the outputs, and only if no input changed while the stage ran.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.files import sha256_file, write_json
from bezoar.model_files import COMPANIONS
from bezoar.provenance.fingerprint import environment, files_in, recorded_command, row_digests
from bezoar.recipe import add_recipe_argument

Files = dict[str, "Path | list[Path]"]

LIBRARIES = [
    "snakemake",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "trl",
    "datasets",
    "lm-eval",
    "openai",
    "anthropic",
]


def stage_parser(description: str | None, recipe: type) -> argparse.ArgumentParser:
    """Return a parser with what the workflow hands to every stage program: `--recipe`, which must
    match the `TypedDict` `recipe`, `--code` and `--receipt`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_recipe_argument(parser, recipe)
    parser.add_argument("--code", required=True, help="sha256 over the sources the stage executes")
    parser.add_argument("--receipt", type=Path, required=True, help="where to write the receipt")
    return parser


def digests(files: Files) -> dict[str, dict[str, str]]:
    """Return {name: {path: sha256}}, for weights with the files that complete the model; raise
    `UserError` naming a missing file.
    """
    result: dict[str, dict[str, str]] = {}
    for name, paths in files.items():
        result[name] = {}
        for path in paths if isinstance(paths, list) else [paths]:
            if not path.is_file():
                raise UserError(
                    f"{path}: expected a file as `{name}`; run the stage that writes it"
                )
            beside = [
                found
                for other in COMPANIONS.get(path.name, ())
                if (found := path.with_name(other)).is_file()
            ]
            result[name] |= {str(found): sha256_file(found) for found in (path, *beside)}
    return result


def git(*arguments: str) -> str | None:
    """Return what git prints, or None if it fails or is not there.

    It locks nothing: a stage that is killed meanwhile would leave the lock, and every later commit
    would fail.
    """
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:  # an image may lack git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    """Versions of the installed libraries that can change a number."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _hardware() -> dict[str, Any]:
    """Processor, cores and, where torch is already loaded, the accelerator."""
    facts: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    return facts


def _peak_memory() -> int:
    """The most memory that this process has held, in bytes; macOS counts in them, Linux in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Receipt:
    """Context manager around a stage's work; `facts` takes what only the stage knows (tokens,
    money, counts).
    """

    def __init__(
        self,
        path: Path,
        *,
        stage: str,
        recipe: dict[str, Any],
        code: str,
        inputs: Files,
        outputs: Files,
    ) -> None:
        self.path, self.stage, self.recipe, self.code = path, stage, recipe, code
        self.inputs, self.outputs = inputs, outputs
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> "Receipt":
        for word in recorded_command():
            try:
                word.encode()
            except UnicodeEncodeError:
                raise UserError(
                    f"{word!a}: expected a name that is UTF-8, as receipts are; rename it, or set"
                    " LC_ALL=C.UTF-8 if it is"
                ) from None
        self.path.unlink(missing_ok=True)
        self.started, self.clock = time.time(), time.perf_counter()
        self.before, self.environment = digests(self.inputs), environment()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        after = digests(self.inputs)
        for name, files in self.before.items():
            for path, digest in files.items():
                if after[name].get(path) != digest:
                    raise UserError(f"{path}: changed while {self.stage} ran; run it again")
        outputs = digests(self.outputs)
        tables = [
            path for path in (*files_in(self.before), *files_in(outputs)) if path.endswith(".jsonl")
        ]
        write_json(
            self.path,
            {
                "stage": self.stage,
                "recipe": self.recipe,
                "code": self.code,
                "inputs": self.before,
                "outputs": outputs,
                "rows": {path: row_digests(path) for path in tables},
                "facts": self.facts,
                "command": recorded_command(),
                "environment": self.environment,
                "git_commit": git("rev-parse", "HEAD"),
                "git_dirty": bool(git("status", "--porcelain")),
                "python": platform.python_version(),
                "versions": _versions(),
                "hardware": _hardware(),
                "started_unix_s": round(self.started, 3),
                "wall_s": round(time.perf_counter() - self.clock, 3),
                "peak_memory_bytes": _peak_memory(),
            },
        )
