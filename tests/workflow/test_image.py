"""The Dockerfile builds, with buildah, on a Debian base made here in place of NVIDIA's, and its
environment works as an ordinary user.

Needs root, buildah, podman and debootstrap; minutes and gigabytes, so only with
BEZOAR_TEST_IMAGE=1.
BEZOAR_IMAGE_OPTIONS: more options for `buildah bud`, such as the volumes and variables by which pip
and apt find a mirror. Debian comes from where this machine's apt has it, else from debootstrap's
own default.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "podman", "debootstrap")
able = all(shutil.which(tool) for tool in TOOLS) and os.geteuid() == 0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("BEZOAR_TEST_IMAGE") != "1" or not able,
        reason=f"set BEZOAR_TEST_IMAGE=1, as root, with {', '.join(TOOLS)}",
    ),
]


def do(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def debian() -> list[str]:
    """The address from which apt is configured to take Debian bookworm here, if it is."""
    if not shutil.which("apt-get"):
        return []
    facts = ("Created-By: Packages", "Codename: bookworm", "Label: Debian")
    return do("apt-get", "indextargets", "--format", "$(REPO_URI)", *facts).split()[:1]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("image")
    do("debootstrap", "--variant=minbase", "bookworm", folder / "root", *debian())
    do("tar", "-C", folder / "root", "-cf", folder / "base.tar", ".")
    shutil.rmtree(folder / "root")
    do("podman", "import", folder / "base.tar", "localhost/openbezoar-test-base")
    do(
        "buildah",
        "bud",
        "--isolation",
        "chroot",
        "--build-arg",
        "BASE=localhost/openbezoar-test-base",
        "--build-arg",
        "TORCH=cpu",
        *shlex.split(os.environ.get("BEZOAR_IMAGE_OPTIONS", "")),
        "-t",
        "localhost/openbezoar-test",
        ROOT,
    )
    return "localhost/openbezoar-test"


def test_the_image_runs_the_workflow_as_an_ordinary_user(image: str) -> None:
    container = do("buildah", "from", image).strip()
    try:

        def inside(*command: str) -> str:
            return do(
                "buildah",
                "run",
                "--isolation",
                "chroot",
                "--volume",
                f"{ROOT}:/work:ro",
                container,
                "--",
                *command,
            )

        assert inside("id", "-un").strip() == "bezoar"
        versions = inside(
            "python",
            "-c",
            "import torch, transformers, peft, bitsandbytes, trl, lm_eval;"
            " print(torch.__version__)",
        )
        assert versions.startswith("2.13")
        assert "make rehearsal" in inside("make", "ENV=/opt/openbezoar", "help")
        assert inside(
            "/bin/sh", "-c", "ls -A /opt/build; ls -A /root 2>/dev/null | grep -c cache || true"
        ).split() in (["0"], [])
    finally:
        do("buildah", "rm", container)
