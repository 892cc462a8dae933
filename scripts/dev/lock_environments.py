"""Resolve envs/*.in into locks with every hash.

Usage: lock_environments.py [--check] [--upgrade]

main.lock        what results rest on, without torch; last what has no wheel and is built
dev.lock         what tests and checks need besides main.lock
slurm.lock       what runs on a Slurm cluster need besides main.lock
torch-cuda.lock  torch from the package index, with what its CUDA build alone requires
torch-cpu.lock   torch without CUDA: PyTorch's own build on Linux, the package index's on macOS
others           one `.in`, one lock

Locked versions stay while the `.in` files allow them; `--upgrade` takes the newest. main.lock has
the same version of a package for every Python, so that numbers do not depend on Python through
numpy. Afterwards each package must have, for each Python and platform, a wheel with a locked hash.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import whole_file

ENVS = Path("envs")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
MACOS = "14.0"  # the oldest that torch and bitsandbytes have wheels for
BUILT = {"connection-pool", "rouge-score", "sqlitedict", "wavedrom", "word2number"}  # pure Python
NO_WHEEL = {"3.14": {"immutables"}}  # needs a C compiler there
BUILT_HEAD = "# No wheels exist of what follows: it is built, with the setuptools above."
OTHERS = ("bench", "serve", "curator", "crate", "llama-cpp")
CUDA_ONLY = re.compile(r"(nvidia-|cuda-|triton|torch==)")
# Built for CUDA alone on the index, and then broken beside the CPU's torch; texts need neither.
MEDIA = re.compile(r"torch(audio|vision)==")
PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)
HEAD = "# Written by `make lock` from {source}; do not edit.\n"

# sha256 of torch-2.13.0+cpu-cp3XX-cp3XX-manylinux_2_28_MACHINE.whl on PyTorch's CPU index, kept by
# hand because the index is not the one that everything else comes from.
TORCH_CPU = "2.13.0+cpu"
TORCH_CPU_SHA256 = {
    "cp311 x86_64": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "cp312 x86_64": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    "cp313 x86_64": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
    "cp314 x86_64": "d20fa53ee744502fa4c69818a720b05ca0d37abd055d4f6e66cae155114bc691",
    "cp311 aarch64": "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
    "cp312 aarch64": "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
    "cp313 aarch64": "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
    "cp314 aarch64": "ca021f9eb2f8345c83fa03e3a04587308afb8df71bd472670b3ece00df58621c",
}


def uv(*arguments: str | Path) -> str:
    """Run `uv pip`; return what it wrote, or raise UserError with its reason on one line."""
    done = subprocess.run(
        ["uv", "pip", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS},
    )
    if done.returncode:
        raise UserError(f"uv: {' '.join(done.stderr.split()) or 'failed without a message'}")
    return done.stdout


def resolve(*names: str, kept: str, strategy: str = "requires-python") -> list[str]:
    """Return the blocks of a universal resolution of these `.in` files together, one package each,
    hashes included. kept: the text of a lock whose versions stay if they can.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock.txt"
        output.write_text(kept)
        uv(
            *("compile", "--quiet", "--universal", "--generate-hashes"),
            *("--python-version", PYTHONS[0], "--fork-strategy", strategy),
            *("--no-header", "--no-annotate", "--output-file", output),
            *(ENVS / f"{name}.in" for name in names),
        )
        text = output.read_text().strip()
    return [block for block in re.split(r"\n(?=[a-zA-Z0-9])", text) if block]


def name_of(block: str) -> str:
    """Return the name of a block's package."""
    return block.split("==")[0]


def torch_cpu(cuda: list[str]) -> list[str]:
    """Return the two blocks of torch-cpu.lock; macOS takes the index's own torch, with all its
    hashes.
    """
    hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in TORCH_CPU_SHA256.values())
    (torch,) = (block for block in cuda if name_of(block) == "torch")
    return [
        f"torch=={TORCH_CPU} ; sys_platform == 'linux'{hashes}",
        torch.replace(" \\", " ; sys_platform == 'darwin' \\", 1),
    ]


def locks(upgrade: bool) -> dict[Path, str]:
    """Return the text of every lock."""

    def kept(*names: str) -> str:
        present = [path for name in names if (path := ENVS / f"{name}.lock").is_file()]
        return "" if upgrade else "".join(path.read_text() for path in present)

    every = resolve("main", "dev", kept=kept("main", "dev", "torch-cuda"), strategy="fewest")
    slurm = resolve(
        "main", "slurm", kept=kept("main", "dev", "torch-cuda", "slurm"), strategy="fewest"
    )
    blocks = resolve("main", kept="\n".join(every), strategy="fewest")
    cuda = [block for block in blocks if CUDA_ONLY.match(block)]
    wheels = [block for block in blocks if not (CUDA_ONLY.match(block) or name_of(block) in BUILT)]
    built = [block for block in blocks if name_of(block) in BUILT]
    factory = [
        block
        for block in resolve("bench-training", kept=kept("bench-training"))
        if not (CUDA_ONLY.match(block) or MEDIA.match(block))
    ]
    written = {
        "main": ("main", [*wheels, BUILT_HEAD, *built]),
        "dev": ("dev", [block for block in every if block not in blocks]),
        "slurm": ("slurm", [block for block in slurm if block not in blocks]),
        "torch-cuda": ("main", cuda),
        "torch-cpu": ("main", torch_cpu(cuda)),
        "bench-training": ("bench-training", factory),
        **{name: (name, resolve(name, kept=kept(name))) for name in OTHERS},
    }
    return {
        ENVS / f"{name}.lock": HEAD.format(source=f"envs/{source}.in") + "\n".join(parts) + "\n"
        for name, (source, parts) in written.items()
    }


def require_wheels() -> None:
    """Raise UserError unless each package of main.lock, dev.lock and torch-cuda.lock has a wheel
    with a locked hash for each Python and platform, BUILT and NO_WHEEL aside. Downloads none.
    """
    with tempfile.TemporaryDirectory() as folder:
        for python, platform in product(PYTHONS, PLATFORMS):
            built = sorted(BUILT | NO_WHEEL.get(python, set()))
            try:
                uv(
                    *("install", "--dry-run", "--target", folder, "--no-deps", "--require-hashes"),
                    *("--python-version", python, "--python-platform", platform),
                    *("--only-binary", ":all:"),
                    *(argument for name in built for argument in ("--no-binary", name)),
                    *("-r", ENVS / "main.lock", "-r", ENVS / "dev.lock"),
                    *("-r", ENVS / "torch-cuda.lock"),
                )
            except UserError as error:
                raise UserError(f"Python {python} on {platform}: {error}") from None


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and lock."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a lock would change"
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    args = parser.parse_args(argv)
    for path, text in locks(args.upgrade).items():
        if args.check and (not path.is_file() or path.read_text() != text):
            raise UserError(f"{path}: not what its .in resolves to; run `make lock`")
        if not args.check:
            with whole_file(path) as stream:
                stream.write(text)
            print(f"{path}: {text.count('==')} packages", file=sys.stderr)
    require_wheels()


if __name__ == "__main__":
    program.run(main)
