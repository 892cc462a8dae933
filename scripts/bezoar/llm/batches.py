"""The batch APIs of OpenAI (files of requests) and Anthropic (message batches): submit,
poll, collect, cancel; both at a share of the price.

Each request carries its key as `custom_id` (64 hex characters, the longest that both allow).
Results are read leniently: lines end at line feeds alone and may come in any order; a line that
cannot be read, or that belongs to none of our requests, is skipped; if a request has several lines,
a success wins.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from bezoar.llm.faults import Fault, error_of, message_of, one_line
from bezoar.llm.protocol import ENDPOINTS, arguments
from bezoar.llm.settings import ModelSpec, Request, model_of
from bezoar.llm.transport import Response, Transport
from bezoar.readers import parse_response

MOST_REQUESTS = 10_000  # a batch; OpenAI allows 50,000 and 200 MB, Anthropic 100,000 and 256 MB
MOST_BYTES = 100_000_000
DOWNLOADS = 2  # of a file with lines that cannot be read
SLACK_S = 86_400  # how far a provider's clock may be from ours
# Statuses of both providers and of servers that speak OpenAI's, in lower case; `failed` is apart.
ENDED = frozenset("completed expired cancelled canceled ended".split())
FAILED = "failed"
UNDER_WAY = frozenset(
    "validating queued pending running in_progress finalizing cancelling canceling".split()
)
ROOM = re.compile(r"limit|too (many|large)|quota_exceeded|queue", re.IGNORECASE)


@dataclass(frozen=True)
class Result:
    """What became of one request: the response's JSON text, or why there is none."""

    text: str = ""
    fault: Fault | None = None


@dataclass
class Results:
    """What became of the requests in a batch, by `custom_id`; `damaged` says whether lines could
    not be read, which may have been anybody's.
    """

    by_key: dict[str, Result] = field(default_factory=dict)
    damaged: bool = False

    def add(self, row: dict[str, Any], read: Callable[[dict[str, Any]], Result]) -> None:
        """Add a line; a success is never replaced, a fault only by a success."""
        key = row.get("custom_id")
        if not isinstance(key, str) or (key in self.by_key and self.by_key[key].text):
            return
        try:
            result = read(row)
        except (AttributeError, KeyError, TypeError, ValueError):
            result = Result(fault=Fault("a line of the batch's results is not as expected"))
        if result.text or key not in self.by_key:
            self.by_key[key] = result


@dataclass(frozen=True)
class BatchFailure:
    """Why a batch failed as a whole: `lines` are the numbers (from 1) of the requests that were at
    fault, if it names any, and `room` says whether a smaller or later batch may fit.
    """

    reason: str
    lines: tuple[int, ...] = ()
    room: bool = False


@dataclass(frozen=True)
class BatchState:
    """The state of a batch."""

    ended: bool
    progress: str
    failed: BatchFailure | None = None


class BatchAPI(Protocol):
    """One provider's batch API; every call raises `Fault`. `marks`: whether it keeps our mark, so
    that a batch which `find` returns is certainly ours.
    """

    marks: bool

    async def submit(self, requests: dict[str, Request], mark: str) -> str:
        """Submit requests under a mark by which `find` may recognise them; return the batch's
        id.
        """
        ...

    async def find(self, mark: str, since: float, count: int, known: set[str]) -> str | None:
        """Return the id of a batch that was submitted under a mark since then (Unix seconds) with
        that many requests, or None; `known` are ids of others.
        """
        ...

    async def state(self, name: str) -> BatchState:
        """Return the state of a batch."""
        ...

    async def collect(self, name: str) -> Results:
        """Return the results of an ended batch; expired or cancelled requests may be missing."""
        ...

    async def cancel(self, name: str) -> None:
        """Ask for a batch to be cancelled; what was answered before is charged and can be
        collected.
        """
        ...


def batch_api(api: str, transport: Transport) -> BatchAPI:
    """Return the batch API that goes with a model's `api`."""
    return AnthropicBatches(transport) if api == "messages" else OpenAIBatches(transport)


def other_model(
    requests: Mapping[str, Request], settings: ModelSpec
) -> tuple[str, str, str] | None:
    """Return the model that a batch asks, if it is not that of the settings; one batch asks one."""
    asked = next(map(model_of, requests.values()), None)
    return None if asked == model_of(vars(settings)) else asked


def parts_of(requests: dict[str, Request], most: int) -> Iterator[dict[str, Request]]:
    """Yield requests in parts of at most `most` and at most `MOST_BYTES`."""
    part: dict[str, Request] = {}
    size = 0
    for key, request in requests.items():
        added = len(json.dumps(arguments(request))) + 200
        if part and (len(part) == most or size + added > MOST_BYTES):
            yield part
            part, size = {}, 0
        part[key] = request
        size += added
    if part:
        yield part


class OpenAIBatches:
    """OpenAI's Batch API."""

    marks = True

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def submit(self, requests: dict[str, Request], mark: str) -> str:
        endpoint = ENDPOINTS[next(iter(requests.values()))["api"]]
        lines = [
            {"custom_id": key, "method": "POST", "url": endpoint, "body": arguments(request)}
            for key, request in requests.items()
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = (await self.transport.upload(f"{mark}.jsonl", content)).json()
        body = {
            "input_file_id": _id_of(file),
            "endpoint": endpoint,
            "completion_window": "24h",
            "metadata": {"bezoar": mark},
        }
        return _id_of((await self.transport.post("/v1/batches", body)).json())

    async def find(self, mark: str, since: float, count: int, known: set[str]) -> str | None:
        after: dict[str, str | int] = {}
        while True:
            page = (await self.transport.get("/v1/batches", limit=100, **after)).json()
            batches = _records(page)
            for batch in batches:
                metadata = batch.get("metadata")
                if isinstance(metadata, dict) and metadata.get("bezoar") == mark:
                    return _id_of(batch)
            oldest = min((_number(batch.get("created_at")) for batch in batches), default=0.0)
            if oldest < since - SLACK_S or not (last := _last(page, after)):
                return None
            after = {"after": last}

    async def state(self, name: str) -> BatchState:
        batch = (await self.transport.get(f"/v1/batches/{name}")).json()
        status, counts = _status(batch, "status"), batch.get("request_counts")
        if status == FAILED:
            return BatchState(True, "failed", _why_failed(batch.get("errors")))
        done = "?"
        if isinstance(counts, dict):
            finished = _number(counts.get("completed")) + _number(counts.get("failed"))
            done = f"{finished:.0f}/{_number(counts.get('total')):.0f}"
        return BatchState(status in ENDED, f"{status} {done}")

    async def collect(self, name: str) -> Results:
        batch = (await self.transport.get(f"/v1/batches/{name}")).json()
        counts, results = batch.get("request_counts"), Results()
        answered = _number(counts.get("completed")) if isinstance(counts, dict) else 0.0
        if answered and not batch.get("output_file_id"):  # it can come later than the state
            raise Fault(f"{answered:.0f} answers, and no file of them yet")
        for kind in ("output_file_id", "error_file_id"):
            if batch.get(kind):
                path = f"/v1/files/{_id_of(batch, kind)}/content"
                await _read_file(self.transport, path, results, _openai_result)
        return results

    async def cancel(self, name: str) -> None:
        await self.transport.post(f"/v1/batches/{name}/cancel", {})


class AnthropicBatches:
    """Anthropic's Message Batches. There is no place for a mark in them."""

    marks = False

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def submit(self, requests: dict[str, Request], mark: str) -> str:
        rows = [
            {"custom_id": key, "params": arguments(request)} for key, request in requests.items()
        ]
        body = {"requests": rows}
        made = await self.transport.post("/v1/messages/batches", body, limited=False)
        return _id_of(made.json())

    async def find(self, mark: str, since: float, count: int, known: set[str]) -> str | None:
        """Return the youngest batch of that many requests; the results tell whether it is ours."""
        after: dict[str, str | int] = {}
        while True:
            page = (await self.transport.get("/v1/messages/batches", limit=100, **after)).json()
            for batch in _records(page):
                if _unix(batch.get("created_at")) < since - SLACK_S:
                    return None
                counts = batch.get("request_counts")
                numbers = counts.values() if isinstance(counts, dict) else ()
                same = sum(map(_number, numbers)) == count
                if same and (name := _id_of(batch)) not in known:
                    return name
            if not (last := _last(page, after)):
                return None
            after = {"after_id": last}

    async def state(self, name: str) -> BatchState:
        batch = (await self.transport.get(f"/v1/messages/batches/{name}")).json()
        status, counts = _status(batch, "processing_status"), batch.get("request_counts")
        done = "?"
        if isinstance(counts, dict):
            done = f"{counts.get('succeeded')} answered, {counts.get('processing')} open"
        return BatchState(status in ENDED, f"{status} {done}")

    async def collect(self, name: str) -> Results:
        results = Results()
        path = f"/v1/messages/batches/{name}/results"
        await _read_file(self.transport, path, results, _anthropic_result)
        return results

    async def cancel(self, name: str) -> None:
        await self.transport.post(f"/v1/messages/batches/{name}/cancel", {})


async def _read_file(
    transport: Transport, path: str, results: Results, read: Callable[[dict[str, Any]], Result]
) -> None:
    """Add the lines of a file; one that is damaged is fetched once more."""
    for turn in range(DOWNLOADS):
        response = await transport.get(path)
        rows, damaged = rows_of(response)
        if damaged and turn < DOWNLOADS - 1:
            continue
        if response.content.strip() and b'"custom_id"' not in response.content:
            raise Fault("something else came in place of the batch's results")  # such as a page
        results.damaged |= damaged
        for row in rows:
            results.add(row, read)
        return


def rows_of(response: Response) -> tuple[list[dict[str, Any]], bool]:
    """Return the JSON objects in a file of lines, and whether other lines were among them. Lines
    end at line feeds alone, since JSON texts may hold U+2028 and its like.
    """
    rows, damaged = [], False
    for line in response.content.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = parse_response(Response(line, response.headers, response.secrets).text)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged = True
    return rows, damaged


def _openai_result(row: dict[str, Any]) -> Result:
    response = row.get("response") or {}
    status, body = response.get("status_code"), response.get("body")
    status = int(status) if status is not None else None
    if status == 200 and body:
        return Result(body if isinstance(body, str) else json.dumps(body))
    details = error_of(body) or row.get("error")
    message = message_of(details, "neither a response nor an error")
    return Result(fault=Fault(message, status if status != 200 else None, details))


def _anthropic_result(row: dict[str, Any]) -> Result:
    result = row["result"]
    kind = result["type"]
    if kind == "succeeded":
        return Result(json.dumps(result["message"]))
    if kind != "errored":
        return Result(fault=Fault(str(kind)))
    details = error_of(error_of(result))
    name = details.get("type") if isinstance(details, Mapping) else None
    status = STATUS_OF.get(str(name), 500)
    return Result(fault=Fault(f"{name}: {message_of(details)}", status, details))


# The status that Anthropic gives an error of each type; others may pass.
STATUS_OF = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
}


def _why_failed(errors: object) -> BatchFailure:
    """Return why OpenAI refused a batch as a whole."""
    rows = errors.get("data") if isinstance(errors, Mapping) else errors
    found = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    texts = [f"{row.get('code') or ''} {row.get('message') or ''}".strip() for row in found]
    lines = [row.get("line") for row in found]
    reason = one_line(next(filter(None, texts), "no reason given"))
    numbered = [line for line in lines if type(line) is int and line >= 1]
    whole = len(numbered) < len(found) or not found
    known = () if whole else tuple(dict.fromkeys(numbered))
    return BatchFailure(reason, known, bool(ROOM.search(reason)))


def _id_of(record: dict[str, Any], key: str = "id") -> str:
    name = record.get(key)
    if not isinstance(name, str) or not re.fullmatch(r"[\w.:-]+", name):
        raise Fault(f"expected a record with {key}, found {str(record)[:80]}")
    return name


def _records(page: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the batches that a page lists."""
    rows = page.get("data")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _last(page: dict[str, Any], after: dict[str, str | int]) -> str | None:
    """Return the id behind which the next page begins, or None if there is none; a server that
    gives the same page again has no other.
    """
    batches = _records(page)
    if not page.get("has_more") or not batches:
        return None
    last = _id_of(batches[-1])
    return None if last in after.values() else last


def _status(batch: dict[str, Any], name: str) -> str:
    """Return the status of a batch; one that nobody knows would be waited for without an end."""
    status = batch.get(name)
    word = status.lower() if isinstance(status, str) else ""
    if word not in (*UNDER_WAY, *ENDED, FAILED):
        raise Fault(f"expected a batch with a known {name}, found {str(status)[:40]!r}")
    return word


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _unix(value: object) -> float:
    """Return an RFC 3339 time in Unix seconds; anything else is later than every time."""
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError, OSError):  # a year that the system's clock does not reach
        return float("inf")
