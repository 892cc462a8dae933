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


def chromium(folder: Path, address: str, *flags: str, marker: str = "", timeout: int = 120) -> str:
    """Return what Chromium prints of a page; its profile lies in `folder`.

    On a busy machine it may print a page before its script has run. So it is started again, up to
    ten times in all and `timeout` seconds each, until the `marker` that the script leaves is there;
    else `RuntimeError` is raised.
    """
    assert CHROMIUM
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, address]
    for _ in range(10):
        seen = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=True
        ).stdout
        if marker in seen:
            return seen
    raise RuntimeError(f"{address}: printed ten times before its script had run")
