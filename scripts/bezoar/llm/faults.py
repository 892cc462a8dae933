"""What can go wrong with a call, and whom it concerns: nobody (it is transient), the row, the
settings, the model's name or address, or the account.

A status alone does not say whom a refusal such as 400 concerns: a prompt beyond the context, a
parameter that the model does not take, and an account without credit all get one. So a refused
request counts as the row's own only once the server has taken another one with the same settings
that was sent after it was refused (`Refusals`). Only codes that a provider documents are read
directly; no message decides what is stored.
"""

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bezoar.llm.answer_store import Entry

LONGEST = 200  # characters of a message that are kept
MOST_WRAPPED = 5  # levels of a description that are searched for its message
MOST_UNPROVEN = 16  # refusals in a row before we test whether the server accepts anything at all
PASSING = (408, 409, 425, 429)  # and every status from 500 on
ADDRESS = (301, 302, 303, 307, 308, 404, 405, 410, 421)
ACCOUNT = (401, 402, 403)


def plain(code: object) -> str:
    """Return a code or type of an error without what providers spell differently: case, and what
    joins its words.
    """
    return re.sub(r"[\W_]", "", str(code).lower())


# Codes and types of errors, as `plain` returns them.
ACCOUNT_CODES = frozenset(
    plain(code)
    for code in "insufficient_quota billing_hard_limit_reached billing_not_active billing_error"
    " account_deactivated access_terminated exceeded_current_quota_error insufficient_balance"
    " insufficient_user_quota insufficient_credits credit_limit arrearage invalid_api_key"
    " authentication_error".split()
)
ADDRESS_CODES = frozenset(map(plain, ("model_not_found", "deployment_not_found")))
CONTENT_CODES = frozenset(
    plain(code)
    for code in "content_filter content_policy_violation responsible_ai_policy_violation"
    " data_inspection_failed invalid_prompt moderation_blocked".split()
)
# Only to call a row that was refused by itself `refused` and not `provider_error`, and to wait for
# that where the status would blame the account.
CONTENT_WORDS = re.compile(
    r"content (filter|management|policy|exists risk)|usage (polic|guideline)|moderation|flagged",
    re.IGNORECASE,
)
PAGE = re.compile(r"[\s\ufeff]*<(!doctype|html|head|title|body)\b", re.IGNORECASE)
PARAMETERS = {
    "max_tokens": "`max_tokens` (null leaves it out) or `max_tokens_name`",
    "max_completion_tokens": "`max_tokens` (null leaves it out) or `max_tokens_name`",
    "temperature": "`temperature` (null leaves it out)",
    "seed": "`seed` (null leaves it out)",
    "response_format": "`json_schema`",
    "output_config": "`json_schema`",
    "reasoning_effort": "`effort` (null leaves it out)",
    "output_config.effort": "`effort` (null leaves it out)",
    "stop": "`stop`",
    "stop_sequences": "`stop`",
    "anthropic-version": "`api_version`",
    "api-version": "`api_version`",
    "api version": "`api_version`",
}


class Blame(enum.Enum):
    """Whom a fault concerns."""

    PASSING = "nobody: it is transient"
    ROW = "this row alone"
    REQUEST = "this request, or all with these settings, or the account"
    ADDRESS = "the model's name or address"
    ACCOUNT = "the account"


def whole_characters(text: str) -> str:
    """Return a text without half surrogate pairs, which a model can emit in the middle of a
    character and which cannot be written as UTF-8; each becomes U+FFFD.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def one_line(text: str) -> str:
    """Return a text in one line of at most `LONGEST` characters; for an HTML page, its title."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    line = " ".join((title[1] if title else text).split())
    return "".join(c if c.isprintable() else " " for c in whole_characters(line))[:LONGEST]


class Fault(Exception):
    """A call that brought no answer. `status` is None if none came; `sent` says whether the server
    may have seen the request, and so charged it.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        details: object = None,
        headers: Mapping[str, str] | None = None,
        sent: bool = True,
        timeout: bool = False,
    ) -> None:
        line = one_line(message)
        said = not status or line.startswith(str(status))  # by the title of a page
        super().__init__(line if said else f"{status} {line}".strip())
        self.status, self.sent, self.timeout = status, sent, timeout
        self.headers = {**wait_of(details), **(headers or {})}
        self.codes = codes_of(details)
        self.parameter = _parameter(details, message)
        self.described = isinstance(details, Mapping)  # by the server's own kind of error
        self.is_page = isinstance(details, str) and bool(PAGE.match(details))
        self.by_content = bool(self.codes & CONTENT_CODES or CONTENT_WORDS.search(message))

    @property
    def blame(self) -> Blame:
        """Whom this fault concerns, as far as status and codes say."""
        status = self.status
        if self.codes & CONTENT_CODES or (status == 413 and not self.described):
            return Blame.ROW  # the latter is a proxy's limit on the size of what it passes on
        if status == 403 and self.by_content and not self.codes & ACCOUNT_CODES:
            return Blame.REQUEST  # xAI refuses keys and contents with the same status and code
        if status == 403 and self.is_page:
            return Blame.REQUEST  # a firewall's, which can dislike one text or all of us
        if self.codes & ACCOUNT_CODES or status in ACCOUNT:
            return Blame.ACCOUNT
        if self.codes & ADDRESS_CODES or status in ADDRESS:
            return Blame.ADDRESS
        if status is None or status in PASSING or status >= 500:
            return Blame.PASSING
        return Blame.REQUEST

    @property
    def may_be_charged(self) -> bool:
        """Whether the call may have cost what an answer does, though none came."""
        return self.status is None and self.sent and self.blame is Blame.PASSING


def error_of(body: object) -> object:
    """Return the part of an error response that describes the error, whatever its form: Gemini
    sends a list of one, FastAPI a list of what is wrong with the request, xAI a text beside a code.
    """
    if isinstance(body, list) and body:
        return error_of(body[0])
    if isinstance(body, Mapping):
        for name in ("error", "detail"):
            if inner := body.get(name):
                if isinstance(inner, str) and ("code" in body or "type" in body):
                    return body
                return error_of(inner) if isinstance(inner, list) else inner
    return body


def message_of(details: object, otherwise: str = "") -> str:
    """Return the message in the description of an error, or `otherwise`."""
    if isinstance(details, Mapping):
        return _first_text(details) or otherwise or json.dumps(details, default=str)
    return details if isinstance(details, str) else otherwise


def _first_text(details: object, depth: int = 0) -> str:
    """Return the first message in a description, which gateways wrap into others; or ""."""
    if isinstance(details, str) or depth > MOST_WRAPPED:
        return details if isinstance(details, str) else ""
    if isinstance(details, list):
        return _first_text(details[0], depth + 1) if details else ""
    if not isinstance(details, Mapping):
        return ""
    names = ("message", "msg", "detail", "error", "code")
    return next(filter(None, (_first_text(details.get(name), depth + 1) for name in names)), "")


def codes_of(details: object) -> frozenset[str]:
    """Return the codes and types in the description of an error, as `plain` returns them."""
    found: set[str] = set()
    if isinstance(details, Mapping):
        found |= {plain(details.get(name)) for name in ("code", "type")}
        inner = details.get("innererror") or details.get("inner_error")
        if isinstance(inner, Mapping):
            found.add(plain(inner.get("code")))
        more = details.get("metadata")
        if isinstance(more, Mapping) and ("flagged_input" in more or "flagged" in more):
            found.add(plain("moderation_blocked"))  # OpenRouter's form
        if isinstance(details.get("error"), Mapping):
            found |= codes_of(details["error"])
    return frozenset(found)


def wait_of(details: object) -> dict[str, str]:
    """Return as a header how long to wait, where the description of an error alone says it: in
    Google's form, a list of details of which one has a `retryDelay` such as 34.07s.
    """
    more = details.get("details") if isinstance(details, Mapping) else None
    for detail in more if isinstance(more, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(delay, str):
            return {"retry-after": delay}
    return {}


def _parameter(details: object, message: str) -> str:
    """Return the setting that an error names, or an empty string."""
    named = details.get("param") if isinstance(details, Mapping) else None
    if isinstance(named, str) and named in PARAMETERS:
        return PARAMETERS[named]
    for name in sorted(PARAMETERS, key=len, reverse=True):
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", message, re.IGNORECASE):
            return PARAMETERS[name]
    return ""


def failure(error: str, state: str = "provider_error") -> dict[str, Any]:
    """Return the answer of a request that got none."""
    return {"state": state, "text": "", "usage": {}, "model": "", "error": error}


@dataclass
class Refused:
    """A request that the server refused, and when (monotonic seconds)."""

    entry: Entry
    fault: Fault
    at: float


@dataclass
class Refusals:
    """Holds refusals back until it is clear whom they concern.

    `taken_at` is when the youngest request that the server took was sent, in monotonic seconds.
    """

    taken_at: float = float("-inf")
    held: list[Refused] = field(default_factory=list)

    def taken(self, sent_at: float) -> list[Refused]:
        """Note that a request was taken; return the refusals that this attributes to their rows."""
        self.taken_at = max(self.taken_at, sent_at)
        if not self.held:
            return []
        proven = [refused for refused in self.held if refused.at <= self.taken_at]
        self.held = [refused for refused in self.held if refused.at > self.taken_at]
        return proven

    def hold(self, entry: Entry, fault: Fault, at: float) -> None:
        """Hold a refusal back until `taken` or `give_up` decides it."""
        self.held.append(Refused(entry, fault, at))

    def give_up(self) -> Fault | None:
        """Drop the refusals that are still held back; return one of their faults, or None."""
        held, self.held = self.held, []
        return held[0].fault if held else None


def refusal(fault: Fault) -> dict[str, Any]:
    """Return the final answer of a row that was refused by itself."""
    return failure(str(fault), "refused" if fault.by_content else "provider_error")
