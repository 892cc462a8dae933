"""Resolve envs/*.in into locks with every hash: main.lock without torch, torch-cpu.lock and
torch-cuda.lock with it.

Usage: lock_environments.py [--check]        (needs uv, which `make lock` installs)

One universal resolution for Python 3.11 and 3.12 decides every version. What torch's CUDA build
alone drags in (nvidia-*, cuda-*, triton) goes to torch-cuda.lock, so a machine without a GPU
downloads none of it. The CPU build of torch is not on the main package index; its hash is kept by
hand below, from the wheel of CPython 3.11 on x86-64. That of 3.12 is not known to us: there, the
CUDA build is installed.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import whole_file

ENVS = Path("envs")
TORCH_CPU = (
    "torch==2.13.0+cpu ; python_full_version < '3.12' and platform_machine == 'x86_64' and"
    " sys_platform == 'linux'"
)
TORCH_CPU_SHA256 = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
CUDA_ONLY = re.compile(r"(nvidia-|cuda-|triton|torch==)")
MEDIA = re.compile(
    r"torch(audio|vision)=="
)  # built for CUDA alone on the index, and then broken beside the CPU's torch; texts need neither
HEAD = "# Written by `make lock` from {source}; do not edit.\n"


def resolve(source: Path) -> list[str]:
    """Return the blocks of a universal resolution, one package each, hashes included."""
    command = [
        "uv",
        "pip",
        "compile",
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"{source}: does not resolve:"
            f" {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'uv failed'}"
        )
    return [block for block in re.split(r"\n(?=[a-zA-Z0-9])", done.stdout.strip()) if block]


def locks() -> dict[Path, str]:
    """Return the text of every lock."""
    blocks = resolve(ENVS / "main.in")
    factory = [
        block
        for block in resolve(ENVS / "bench-training.in")
        if not (CUDA_ONLY.match(block) or MEDIA.match(block))
    ]
    common = [block for block in blocks if not CUDA_ONLY.match(block)]
    cuda = [block for block in blocks if CUDA_ONLY.match(block)]
    head = HEAD.format(source="envs/main.in")
    return {
        ENVS / "main.lock": head + "\n".join(common) + "\n",
        ENVS / "bench-training.lock": (
            HEAD.format(source="envs/bench-training.in") + "\n".join(factory) + "\n"
        ),
        ENVS / "torch-cuda.lock": head + "\n".join(cuda) + "\n",
        ENVS / "torch-cpu.lock": head + f"{TORCH_CPU} \\\n    --hash=sha256:{TORCH_CPU_SHA256}\n",
        **{
            ENVS / f"{name}.lock": (
                HEAD.format(source=f"envs/{name}.in")
                + "\n".join(resolve(ENVS / f"{name}.in"))
                + "\n"
            )
            for name in ("bench", "serve", "curator", "crate")
        },
    }


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and lock."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a lock would change"
    )
    args = parser.parse_args(argv)
    for path, text in locks().items():
        if args.check and (not path.is_file() or path.read_text() != text):
            raise UserError(f"{path}: is not what its .in resolves to; run `make lock`")
        if not args.check:
            with whole_file(path) as stream:
                stream.write(text)
            print(f"{path}: {text.count('==')} packages", file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
