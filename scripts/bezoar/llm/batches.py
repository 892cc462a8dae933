"""The batch APIs of OpenAI (files of requests) and Anthropic (message batches): hand in, look,
collect, cancel; both at a share of the price.

Each request goes by its key as `custom_id` (64 hex characters, the longest that both allow). A
result is (key, text, error, final): the response's JSON text if it was answered; else why not, and
whether it would be refused again.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from bezoar.errors import UserError
from bezoar.llm.protocol import ENDPOINTS, arguments

Result = tuple[str, str, str, bool]
MOST_REQUESTS = 10_000  # a batch; OpenAI allows 50,000 and 200 MB, Anthropic 100,000 and 256 MB
REFUSED = ("invalid_request_error", "invalid_request")
SLACK_S = 300  # how far a provider's clock may be from ours


class OpenAIBatches:
    """OpenAI's Batch API; `client` is an `AsyncOpenAI`."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def submit(self, requests: dict[str, dict[str, Any]], mark: str) -> str:
        """Hand in requests under a mark by which `find` knows them again; return the batch's id."""
        endpoint = ENDPOINTS[next(iter(requests.values()))["api"]]
        lines = [
            {"custom_id": key, "method": "POST", "url": endpoint, "body": arguments(request)}
            for key, request in requests.items()
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = await self.client.files.create(file=(f"{mark}.jsonl", content), purpose="batch")
        made = await self.client.batches.create(
            input_file_id=file.id,
            endpoint=endpoint,
            completion_window="24h",
            metadata={"bezoar": mark},
        )
        return made.id

    async def find(self, mark: str, since: float, count: int) -> str | None:
        """Return the id of a batch that was handed in under a mark, or None."""
        async for batch in self.client.batches.list(limit=100):
            if (batch.metadata or {}).get("bezoar") == mark:
                return batch.id
            if batch.created_at < since - SLACK_S:
                break
        return None

    async def look(self, name: str) -> tuple[bool, str]:
        """Return whether a batch has ended, and how far it is; one that was refused as a whole is a
        `UserError`.
        """
        batch = await self.client.batches.retrieve(name)
        if batch.status == "failed":
            why = (
                batch.errors.data[0].message
                if batch.errors and batch.errors.data
                else "no reason given"
            )
            raise UserError(
                f"batch {name} was refused: {why}; mend the stage's settings, or run with"
                " MODE=online"
            )
        counts = batch.request_counts
        done = f"{counts.completed + counts.failed}/{counts.total}" if counts else "?"
        return batch.status in ("completed", "expired", "cancelled"), f"{batch.status} {done}"

    async def collect(self, name: str) -> AsyncIterator[Result]:
        """Yield what there is of an ended batch; requests that expired or were cancelled may be
        missing from it.
        """
        batch = await self.client.batches.retrieve(name)
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in (await self.client.files.content(file)).text.splitlines():
                row = json.loads(line)
                response = row.get("response") or {}
                if response.get("status_code") == 200:
                    yield (
                        row["custom_id"],
                        json.dumps(response["body"], ensure_ascii=False),
                        "",
                        True,
                    )
                else:
                    error = row.get("error") or (response.get("body") or {}).get("error") or {}
                    final = response.get("status_code") in (400, 413, 422)
                    yield (
                        row["custom_id"],
                        "",
                        f"{response.get('status_code', '')}"
                        f" {error.get('message') or error.get('code')}".strip(),
                        final,
                    )

    async def cancel(self, name: str) -> None:
        """Ask that a batch be ended; what was answered until then is charged and can be
        collected.
        """
        await self.client.batches.cancel(name)


class AnthropicBatches:
    """Anthropic's Message Batches; `client` is an `AsyncAnthropic`."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def submit(self, requests: dict[str, dict[str, Any]], mark: str) -> str:
        """Hand in requests; return the batch's id. There is no place for a mark."""
        made = await self.client.messages.batches.create(
            requests=[
                {"custom_id": key, "params": arguments(request)}
                for key, request in requests.items()
            ]
        )
        return made.id

    async def find(self, mark: str, since: float, count: int) -> str | None:
        """Return the id of the youngest batch of that many requests since then, or None; results
        that are not ours are passed over.
        """
        async for batch in self.client.messages.batches.list(limit=100):
            if batch.created_at.timestamp() < since - SLACK_S:
                break
            numbers = batch.request_counts
            if (
                numbers.processing
                + numbers.succeeded
                + numbers.errored
                + numbers.canceled
                + numbers.expired
                == count
            ):
                return batch.id
        return None

    async def look(self, name: str) -> tuple[bool, str]:
        """Return whether a batch has ended, and how far it is."""
        batch = await self.client.messages.batches.retrieve(name)
        counts = batch.request_counts
        return (
            batch.processing_status == "ended",
            f"{batch.processing_status} {counts.succeeded} answered, {counts.processing} open",
        )

    async def collect(self, name: str) -> AsyncIterator[Result]:
        """Yield the results of an ended batch: succeeded, errored, canceled or expired."""
        async for row in await self.client.messages.batches.results(name):
            if row.result.type == "succeeded":
                yield row.custom_id, row.result.message.to_json(indent=None), "", True
            elif row.result.type == "errored":
                error = row.result.error.error
                yield row.custom_id, "", f"{error.type}: {error.message}", error.type in REFUSED
            else:
                yield row.custom_id, "", row.result.type, False

    async def cancel(self, name: str) -> None:
        """Ask that a batch be ended; what was answered until then is charged and can be
        collected.
        """
        await self.client.messages.batches.cancel(name)


def batch_api(settings: dict[str, Any], client: Any) -> OpenAIBatches | AnthropicBatches:
    """Return the batch API that goes with a model's settings."""
    return AnthropicBatches(client) if settings["api"] == "messages" else OpenAIBatches(client)
