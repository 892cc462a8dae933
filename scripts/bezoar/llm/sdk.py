"""The official client of a model's provider, and what to say when it cannot be reached."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from bezoar.errors import UserError

# Where a model without an address of its own is asked, whatever the variables of the client say.
ADDRESSES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
SIMULATOR = Path(__file__).parents[2] / "serve_simulator.py"


def same_model(asked: str, reported: str) -> bool:
    """Say whether a server's model id means the model asked for: itself, or a dated snapshot or a
    commit of it.
    """
    return (
        reported == asked
        or re.fullmatch(re.escape(asked) + r"(-[\d-]+|@\S+)", reported) is not None
    )


def never_connected(fault: BaseException) -> bool:
    """Say whether a fault happened before anything was sent, so that nothing can have been
    charged.
    """
    return type(fault.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


class SDKFactory:
    """Makes clients for one model's settings; the simulator is started as a child that ends with
    this process.
    """

    def __init__(self, settings: dict[str, Any], facts: Path | None) -> None:
        self.settings, self.facts = settings, facts
        self.sdk: Any = None
        self._key = ""
        self._child: subprocess.Popen[str] | None = None
        self._address: str | None = None

    def client(self) -> Any:
        """Return an asynchronous client, without retries of its own; a missing variable is named
        before anything is sent.
        """
        settings = self.settings
        simulated = settings["provider"] == "simulator"
        key = (
            "simulator-needs-no-key" if simulated else self._variable("api_key_env", "the key for")
        )
        self._key = "" if simulated else key
        address: str | None = self._simulator() if simulated else None
        if settings["base_url_env"]:  # without it the key would go to the client's default address
            address = self._variable("base_url_env", "the address of the server of")
        elif not simulated:  # the clients would read OPENAI_BASE_URL or ANTHROPIC_BASE_URL
            address = ADDRESSES.get(settings["provider"])
        options: dict[str, Any] = {
            "api_key": key,
            "timeout": settings["timeout_s"],
            "max_retries": 0,
        }
        if settings["provider"] == "anthropic" or settings["api"] == "messages":
            import anthropic as sdk

            make: Any = sdk.AsyncAnthropic
        else:
            import openai as sdk  # type: ignore[no-redef]

            make = sdk.AsyncOpenAI  # type: ignore[attr-defined]
            address = f"{address}/v1" if simulated else address
        self.sdk = sdk
        if simulated:  # a proxy of the environment cannot reach our own child
            options["http_client"] = sdk.DefaultAsyncHttpxClient(trust_env=False)
        return make(**options, **({"base_url": address} if address else {}))

    def without_key(self, text: str) -> str:
        """Return a text with the key blotted out."""
        return text.replace(self._key, "***") if self._key else text

    def hint(self, status: int | None, what: str) -> str:
        """Return the line for a fault that every request will meet."""
        key, address = (
            self.settings["api_key_env"],
            self.settings["base_url_env"] or "the provider's own address",
        )
        do = {
            401: f"check the key in {key}",
            403: f"check the key in {key}",
            404: f"check `model` and the address in {address}",
            429: f"the account of {key} has no credit left",
        }
        return (
            f"model {self.settings['model']}: {what};"
            f" {do.get(status or 0, f'nobody answers, check the address in {address}')}"
        )

    def close(self) -> None:
        """End the simulator, if one was started."""
        if self._child is not None:
            if self._child.stdin is not None:
                self._child.stdin.close()
            try:
                self._child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._child.kill()

    def _variable(self, setting: str, what: str) -> str:
        name = self.settings[setting]
        value = os.environ.get(name or "", "")
        if not value:
            raise UserError(
                f"{name}: not set; put {what} {self.settings['model']} into this environment"
                " variable"
            )
        return value

    def _simulator(self) -> str:
        """Start the simulator as a child that ends with this process; return its address."""
        if self._address is None:
            if self.facts is None:
                raise UserError(
                    "provider simulator: needs the world's facts; only the rehearsal has them"
                )
            command = [sys.executable, str(SIMULATOR), "--facts", str(self.facts), "--port", "0"]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            line = self._child.stdout.readline() if self._child.stdout else ""
            if not line.startswith("listening "):
                raise UserError(
                    f"the simulator did not start; run `{' '.join(command[1:])}` to see why"
                )
            self._address = f"http://127.0.0.1:{line.split()[1]}"
        return self._address
