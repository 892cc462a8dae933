"""Chromium without a window, where there is one."""

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


def chromium(folder: Path, address: str, *flags: str, timeout: int = 120) -> str:
    """Return what Chromium prints of a page; its profile lies in `folder`."""
    assert CHROMIUM
    profile = f"--user-data-dir={folder / 'profile'}"
    return subprocess.run(
        [CHROMIUM, *FLAGS, profile, *flags, address],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
    ).stdout
