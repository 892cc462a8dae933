"""Pack what a GPU machine without a network lacks, as wheels in one file: it has torch with CUDA,
and some of the rest.

Usage: pack_for_gpu.py --installed freeze.txt --pack wheels.tar.xz [--python 3.12] [--cuda 13.0]
           [--limit 64]

`freeze.txt` is what `pip freeze` prints there; a line may be a name alone. What it has is left out,
but for the libraries that decide a number: those are packed unless their version is the locked one.
Of packages with binaries for several systems or CUDA versions only the one in use is kept, and the
wheels are compressed together, which halves them. Hashes are checked against the locks.
`run_on_gpu.sh` installs the wheels there. --limit is in MiB.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from bezoar import program
from bezoar.errors import UserError
from bezoar.files import whole_file
from bezoar.provenance.receipt import LIBRARIES

LOCK = Path(__file__).parents[2] / "envs/main.lock"
DECISIVE = {*LIBRARIES, "tokenizers", "huggingface-hub", "accelerate"} - {"torch"}
GLIBC = range(17, 40)  # of manylinux tags; pip takes each as it is written
# Binaries of other systems, and of accelerators that are none of NVIDIA's.
FOREIGN = re.compile(r"_rocm\d+\.so$|_xpu\d+\.so$|/solverdir/cbc/(win|osx|linux/(?!i64))")


def canonical(name: str) -> str:
    """Return the name of a package as locks write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path) -> dict[str, str]:
    """Return name -> the lines of a requirement in a lock, with its hashes."""
    entries = re.split(r"\n(?=[a-z0-9])", path.read_text(encoding="utf-8"))
    found = {re.split(r"[=\[]", entry)[0]: entry.split("\n#")[0] for entry in entries}
    return {name: entry for name, entry in found.items() if "==" in entry}


def installed(path: Path) -> dict[str, str]:
    """Return name -> version of a `pip freeze`, the version empty where it says none."""
    words = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (re.split(r"==| @ ", word, maxsplit=1) for word in words if word)
    return {canonical(name): (version or [""])[0] for name, *version in pairs}


def lacking(lock: dict[str, str], there: dict[str, str]) -> Iterator[str]:
    """Yield the names of a lock that are to be packed."""
    for name, entry in lock.items():
        version = entry.split("==")[1].split()[0]
        if name not in there or (name in DECISIVE and there[name] != version):
            yield name


def pip(*arguments: str) -> None:
    """Run pip; raise `UserError` with its last line if it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"pip {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}"
        )


def download(entries: list[str], built: list[str], python: str, wheels: Path) -> None:
    """Fetch wheels for another Python, and build those that have none: they are plain Python."""
    with tempfile.TemporaryDirectory() as name:
        few, source = Path(name) / "wheels.txt", Path(name) / "source.txt"
        few.write_text("\n".join(entries) + "\n", encoding="utf-8")
        source.write_text("\n".join(built) + "\n", encoding="utf-8")
        tags = [f"--platform=manylinux_2_{minor}_x86_64" for minor in reversed(GLIBC)]
        tags += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
        pip(
            *("download", "--no-deps", "--require-hashes", "--only-binary=:all:", *tags),
            *("--platform=any", f"--python-version={python}", "--implementation=cp"),
            *("--dest", str(wheels), "--requirement", str(few)),
        )
        if built:
            pip(
                *("wheel", "--no-deps", "--require-hashes", "--no-build-isolation"),
                *("--wheel-dir", str(wheels), "--requirement", str(source)),
            )


def other_cuda(name: str, cuda: str) -> bool:
    """Whether a file of a wheel is for another version of CUDA than `cuda`, such as `13.0`."""
    found = re.search(r"_cuda(\d+)\.so$", name)
    return found is not None and found[1] != cuda.replace(".", "")


def slim(wheel: Path, cuda: str) -> None:
    """Write a wheel again, uncompressed, without what its machine does not load."""
    with (
        zipfile.ZipFile(wheel) as whole,
        zipfile.ZipFile(wheel.with_suffix(".part"), "w", zipfile.ZIP_STORED) as part,
    ):
        for member in whole.infolist():
            if not (FOREIGN.search(member.filename) or other_cuda(member.filename, cuda)):
                part.writestr(member, whole.read(member), zipfile.ZIP_STORED)
    wheel.with_suffix(".part").replace(wheel)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12", help="its Python")
    parser.add_argument("--cuda", default="13.0", help="the CUDA of its torch")
    parser.add_argument(
        "--installed", type=Path, required=True, help="what pip freeze prints there"
    )
    parser.add_argument("--pack", type=Path, required=True, help="file to write, .tar.xz")
    parser.add_argument("--limit", type=float, default=64.0, help="MiB that may travel")
    args = parser.parse_args(argv)

    binary, _, source = LOCK.read_text(encoding="utf-8").partition("# No wheels")
    lock = locked(LOCK)
    names = list(lacking(lock, installed(args.installed)))
    built = [lock[name] for name in names if f"\n{name}==" in source]
    taken = [lock[name] for name in names if f"\n{name}==" in binary]
    with tempfile.TemporaryDirectory() as name, whole_file(args.pack, "wb") as stream:
        wheels = Path(name)
        download(taken, built, args.python, wheels)
        with tarfile.open(fileobj=stream, mode="w:xz", preset=4) as pack:
            for wheel in sorted(wheels.glob("*.whl")):
                slim(wheel, args.cuda)
                pack.add(wheel, wheel.name)
    size = args.pack.stat().st_size / 2**20
    print(f"{args.pack}: {len(names)} wheels, {size:.1f} MiB")
    if size > args.limit:
        raise UserError(
            f"{args.pack}: {size:.1f} MiB, expected at most {args.limit:g}; see --limit"
        )


if __name__ == "__main__":
    program.run(main)
