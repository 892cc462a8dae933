"""Send bytes to a provider and receive them through its official SDK, without the SDK's retries and
parsing. Whatever goes wrong is a `Fault`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from bezoar.llm import limits
from bezoar.llm.faults import Blame, Fault, error_of, message_of, whole_characters
from bezoar.readers import parse_response

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

T = TypeVar("T")
# By which a call may exceed its limit, so that the SDK's own limits say what was slow.
SLACK_S = 1.0
SHORTEST_SECRET = 12  # characters; a shorter one may be a word that an answer happens to hold


@dataclass(frozen=True)
class Response:
    """What a server sent: its bytes, and its headers by any spelling of their names."""

    content: bytes
    headers: Mapping[str, str]
    secrets: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The response as text, as it came, without secrets that the server may have echoed."""
        text = decoded(self.content, self.headers.get("content-type", ""))
        for secret in self.secrets:
            if len(secret) >= SHORTEST_SECRET and secret in text:
                text = text.replace(secret, "***")
        return text

    def json(self) -> dict[str, Any]:
        """The response as a JSON object; raises `Fault` if it is not one."""
        try:
            value = parse_response(self.text)
        except ValueError as error:
            raise Fault(f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise Fault(f"expected a JSON object, found {str(value)[:60]}")
        return value


def decoded(content: bytes, content_type: str = "") -> str:
    """Return bytes as text: UTF-8, as JSON is whatever a header says; otherwise in the character
    set that the header names; otherwise UTF-8 with U+FFFD for what is not a character, since a
    server may cut an answer in the middle of one.
    """
    try:
        return content.decode()
    except UnicodeDecodeError:
        pass
    charset = content_type.partition("charset=")[2].split(";")[0].strip(" \"'") or "utf-8"
    for encoding, errors in ((charset, "strict"), ("utf-8", "surrogatepass")):
        try:
            return whole_characters(content.decode(encoding, errors))
        except (UnicodeError, LookupError):
            continue
    return content.decode(errors="replace")


class Transport:
    """One provider's HTTP interface. `root` goes before every path that begins with /v1;
    `timeout_s` is the limit of a whole call that is no transfer of a file.
    """

    def __init__(
        self,
        sdk_client: "AsyncOpenAI | AsyncAnthropic",
        root: str,
        secrets: tuple[str, ...],
        timeout_s: float,
    ) -> None:
        import httpx2

        self._client, self._root, self._secrets = sdk_client, root, secrets
        self._timeout_s = timeout_s
        self._raw = httpx2.Response

    async def post(self, path: str, body: object, limited: bool = True) -> Response:
        """Send a JSON body; `path` begins with /v1. The SDK's own timeout is one of silence, which
        a server can break for ever; a body that is a whole file is not `limited`.
        """
        place = self._place(path)
        try:
            async with asyncio.timeout(self._timeout_s + SLACK_S if limited else None):
                return await self._received(self._client.post(place, cast_to=self._raw, body=body))
        except TimeoutError:
            line = f"no whole response within {self._timeout_s:g} s (`timeout_s`)"
            raise Fault(line, timeout=True) from None

    async def get(self, path: str, **query: str | int) -> Response:
        """Fetch what is at a path."""
        return await self._received(
            self._client.get(self._place(path), cast_to=self._raw, options={"params": query})
        )

    async def upload(self, name: str, content: bytes) -> Response:
        """Upload a file for OpenAI's Batch API."""
        return await self._received(
            self._client.post(
                self._place("/v1/files"),
                cast_to=self._raw,
                body={"purpose": "batch"},
                files={"file": (name, content)},
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )
        )

    async def _received(self, call: "Awaitable[httpx2.Response]") -> Response:
        try:
            found = await call
        except Exception as error:
            raise self._fault(error) from None
        return Response(found.content, found.headers, self._secrets)

    def _place(self, path: str) -> str:
        return f"{self._root}{path.removeprefix('/v1')}"

    def _fault(self, error: Exception) -> Fault:
        """Return an SDK's exception as a fault, without secrets. Nothing but the SDK runs in a
        call, and a server can make it fail in any way: it reads errors in whatever character set a
        header names, which need not be one of text.
        """
        import anthropic
        import openai

        if isinstance(error, openai.APIStatusError | anthropic.APIStatusError):
            text = Response(error.response.content, error.response.headers).text
            try:
                details = error_of(parse_response(text))
            except ValueError:
                details = text
            message = message_of(details, text) or type(error).__name__
            return Fault(self._masked(message), error.status_code, details, error.response.headers)
        if isinstance(error, openai.APIConnectionError | anthropic.APIConnectionError):
            timeout = isinstance(error, openai.APITimeoutError | anthropic.APITimeoutError)
            cause = error.__cause__
            why = f" ({type(cause).__name__}: {cause})" if cause and str(cause) else ""
            sent = type(cause).__name__ not in ("ConnectError", "ConnectTimeout")
            return Fault(self._masked(f"{error.message}{why}"), sent=sent, timeout=timeout)
        return Fault(self._masked(f"{type(error).__name__}: {error}"))

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            found = re.escape(secret)
            if len(secret) < SHORTEST_SECRET:
                found = rf"(?<!\w){found}(?!\w)"  # a part of another word is not the secret
            text = re.sub(found, "***", text)
        return text


async def patiently(
    call: Callable[[], Awaitable[T]], turns: int | None = None, what: str = ""
) -> T:
    """Return what a call returns; transient errors are retried, up to `turns` calls."""
    turns = turns or limits.RETRIES
    for turn in range(turns):
        try:
            return await call()
        except Fault as fault:
            if fault.blame is not Blame.PASSING or turn == turns - 1:
                raise
            print(f"{what}: {fault}; trying again", flush=True)
            await asyncio.sleep(limits.pause_after(fault.headers, turn))
    raise AssertionError("unreachable")
