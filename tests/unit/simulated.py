"""The rehearsal's simulator as a server of its own, with faults, limits and a meter, and a client's
settings for it.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peer import SETTINGS as OF_A_PEER

from bezoar.rehearsal.world import World

SCRIPTS = Path(__file__).parents[2] / "scripts"
KEY = "canary-5b1f0c2e9d"
# USD a million tokens: a cent for five words
PRICES = "models: {m: {input: 1000.0, output: 2000.0, batch_share: 0.5}}\n"
SETTINGS: dict[str, Any] = {
    **OF_A_PEER,
    "max_tokens": 40,
    "timeout_s": 1.0,
    "reported_as": None,
    "json_schema": False,
    "use_batch_api": True,
}
MESSAGES = {**SETTINGS, "provider": "anthropic", "api": "messages", "base_url_env": "PEER_ROOT"}


class Simulated:
    """A running simulator."""

    def __init__(self, url: str) -> None:
        self.url = url

    def meter(self) -> dict[str, Any]:
        return json.load(urllib.request.urlopen(f"{self.url}/meter"))

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables by which a client finds it, and its prices."""
        (folder / "prices.yaml").write_text(PRICES)
        return {
            "PEER_URL": f"{self.url}/v1",
            "PEER_ROOT": self.url,
            "PEER_KEY": KEY,
            "BEZOAR_PRICES": str(folder / "prices.yaml"),
        }


@contextmanager
def simulated(folder: Path, *flags: str, **settings: Any) -> Iterator[Simulated]:
    """Serve a small world; keyword arguments are flags with JSON values."""
    facts, prices = folder / "facts.json", folder / "prices.yaml"
    facts.write_text(json.dumps(World(3, 60, 0.3, 0.5).as_json()))
    prices.write_text(PRICES)
    command = [
        sys.executable,
        str(SCRIPTS / "serve_simulator.py"),
        "--facts",
        str(facts),
        "--port",
        "0",
        "--prices",
        str(prices),
        *flags,
    ]
    for name, value in settings.items():
        command += [
            f"--{name.replace('_', '-')}",
            value if isinstance(value, str) else json.dumps(value),
        ]
    environment = os.environ | {"BEZOAR_SIMULATOR_KEY": KEY, "PYTHONPATH": str(SCRIPTS)}
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdin and child.stdout
    try:
        yield Simulated(f"http://127.0.0.1:{child.stdout.readline().split()[1]}")
    finally:
        child.stdin.close()
        child.wait(timeout=10)


def questions(count: int) -> list[list[dict[str, str]]]:
    """Distinct prompts that the simulator answers with some words."""
    return [
        [{"role": "user", "content": f"Say something about number {i}, please."}]
        for i in range(count)
    ]


def names(count: int) -> list[str]:
    return [f"row {i}" for i in range(count)]
