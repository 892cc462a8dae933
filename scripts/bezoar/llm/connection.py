"""Where a model's provider is, with which key it is asked, and the official client for it."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bezoar import network
from bezoar.errors import UserError
from bezoar.llm.faults import Blame, Fault
from bezoar.llm.settings import ModelSpec
from bezoar.llm.transport import Transport
from bezoar.surroundings import CUSTOM_HEADERS

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

SIMULATOR = Path(__file__).parents[2] / "serve_simulator.py"
# Where a model without an address of its own is asked, whatever the variables of the client say.
ADDRESSES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
OPENAI_ACCOUNT = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")  # which account pays OpenAI
NO_KEY = "none"  # to a server that needs none; the clients want one


def speaks_messages(provider: str, api: str) -> bool:
    """Whether a model is asked in Anthropic's protocol."""
    return provider == "anthropic" or api == "messages"


def root_of(address: str, messages: bool) -> str:
    """Return an address as its client takes it: Anthropic's adds /v1 itself, OpenAI's has it in the
    address; either may be given with or without a slash at its end.
    """
    root = address.rstrip("/")
    return root.removesuffix("/v1").rstrip("/") if messages else root


@contextmanager
def unset(names: Iterable[str]) -> Iterator[None]:
    """Take variables out of the environment while a client is made, which sends what they hold to
    whatever address it is given.
    """
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


class SimulatorProcess:
    """The rehearsal's simulator as a child process that ends with this one."""

    def __init__(self, facts: Path | None) -> None:
        self.facts = facts
        self._child: subprocess.Popen[str] | None = None
        self._address = ""

    def address(self) -> str:
        """Return its address; start it at the first call."""
        if self._child is None:
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

    def close(self) -> None:
        """Stop it, if it was started."""
        if self._child is None:
            return
        if self._child.stdin is not None:
            self._child.stdin.close()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()


class Connection:
    """Makes the official client of one model's provider, from variables of the environment."""

    def __init__(self, settings: ModelSpec, facts: Path | None) -> None:
        self.settings = settings
        self.simulator = SimulatorProcess(facts)
        self._secrets: tuple[str, ...] = ()
        self._asked = ""  # the address, once there is a client

    def client(self) -> "AsyncOpenAI | AsyncAnthropic":
        """Return an asynchronous client, without retries of its own; a variable that is missing or
        wrong is named before anything is sent.
        """
        settings, address = self.settings, None
        simulated = settings.provider == "simulator"
        key = NO_KEY if simulated else self._key()
        if simulated:
            address = self.simulator.address()
        if settings.base_url_env:  # without it the key would go to the client's default address
            address = self._address(settings.base_url_env)
        elif not simulated:  # the clients would read OPENAI_BASE_URL or ANTHROPIC_BASE_URL
            address = ADDRESSES.get(settings.provider)
        self._asked = address or ""
        password = urlsplit(address).password if address else None
        self._secrets = tuple(filter(None, (None if key == NO_KEY else key, password)))
        if not simulated:
            network.require_network()
        of_provider = not simulated and not settings.base_url_env
        with unset((*CUSTOM_HEADERS, *(() if of_provider else OPENAI_ACCOUNT))):
            if speaks_messages(settings.provider, settings.api):
                return self._anthropic(key, address, simulated)
            return self._openai(key, f"{address}/v1" if simulated else address, simulated)

    def transport(self, sdk_client: "AsyncOpenAI | AsyncAnthropic") -> Transport:
        """Return the transport of a client that was made here."""
        messages = speaks_messages(self.settings.provider, self.settings.api)
        root = "/v1" if messages else ""
        return Transport(sdk_client, root, self._secrets, self.settings.timeout_s)

    def hint(self, fault: Fault, unheard: bool = False) -> str:
        """Return the line for a fault that every request will meet; `unheard`: nothing ever came
        from the address.
        """
        settings = self.settings
        key = settings.api_key_env or "`api_key_env`"
        place = settings.base_url_env or "the provider's own address"
        if unheard:
            advice = network.advice(self._asked, str(fault))
            advice = advice or f"nothing answers there, check the address in {place}"
        elif fault.blame is Blame.ADDRESS:
            advice = f"check `model` and the address in {place}"
        elif fault.blame is Blame.ACCOUNT and fault.status in (401, 403):
            advice = f"check the key in {key}"
        elif fault.blame is Blame.ACCOUNT:
            advice = f"the account of {key} has no credit left; add some and run again"
        elif fault.blame is Blame.PASSING:
            advice = "run again later; answers are kept"
        else:
            setting = fault.parameter or "the model's settings"
            advice = (
                f"no request with these settings was accepted: change {setting}, or look at the"
                f" account of {key}; refused requests are not stored, and the next run asks again"
            )
        return f"model {settings.model}: {fault}; {advice}"

    def close(self) -> None:
        """Stop the simulator, if it was started."""
        self.simulator.close()

    def _openai(self, key: str, address: str | None, simulated: bool) -> "AsyncOpenAI":
        import openai

        version = self.settings.api_version
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=address,
            timeout=self.settings.timeout_s,
            max_retries=0,
            default_query={"api-version": version} if version else None,
            # a proxy from the environment cannot reach our own child process
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if simulated else None,
        )

    def _anthropic(self, key: str, address: str | None, simulated: bool) -> "AsyncAnthropic":
        import anthropic

        version = self.settings.api_version
        return anthropic.AsyncAnthropic(
            api_key=key,
            base_url=address,
            timeout=self.settings.timeout_s,
            max_retries=0,
            default_headers={"anthropic-version": version} if version else None,
            http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False) if simulated else None,
        )

    def _key(self) -> str:
        if self.settings.api_key_env is None:
            if self.settings.base_url_env:
                return NO_KEY
            raise UserError(
                f"`api_key_env` of {self.settings.model}: expected the name of a variable, found"
                " null; only a server of one's own needs no key"
            )
        key = self._variable(self.settings.api_key_env, "the key for").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(
                f"{self.settings.api_key_env}: holds characters that no key has; copy the key again"
            )
        return key

    def _address(self, name: str) -> str:
        address = self._variable(name, "the address of the server of").strip()
        if not network.is_address(address):
            raise UserError(
                f"{name}: expected an address such as https://example.org/v1 for"
                f" {self.settings.model}, found something else"
            )
        return root_of(address, speaks_messages(self.settings.provider, self.settings.api))

    def _variable(self, name: str, what: str) -> str:
        value = os.environ.get(name, "")
        if not value.strip():
            raise UserError(
                f"{name}: not set; put {what} {self.settings.model} into this environment variable"
            )
        return value
