"""What OpenAI's and Anthropic's servers send: answers, errors, batches and their results."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

STOP = {  # how an answer ended -> each protocol's word for it
    "anthropic": {"refusal": "refusal", "length": "max_tokens", "stop": "end_turn"},
    "openai": {"refusal": "content_filter", "length": "length", "stop": "stop"},
}


@dataclass(frozen=True)
class Completion:
    """One answer: `end` is stop, length or refusal; tokens are counted as words."""

    id: str
    model: str
    text: str
    end: str
    tokens_in: int
    tokens_out: int


def anthropic_answer(found: Completion) -> dict[str, Any]:
    """Return an answer as Anthropic's Messages API sends it."""
    return {
        "id": f"msg_{found.id}",
        "type": "message",
        "role": "assistant",
        "model": found.model,
        "stop_sequence": None,
        "content": [{"type": "text", "text": found.text}],
        "stop_reason": STOP["anthropic"][found.end],
        "usage": {"input_tokens": found.tokens_in, "output_tokens": found.tokens_out},
    }


def openai_answer(found: Completion, chat: bool) -> dict[str, Any]:
    """Return an answer as OpenAI's chat or completions API sends it."""
    message = {
        "role": "assistant",
        "content": found.text,
        "refusal": "I will not say that." if found.end == "refusal" else None,
    }
    choice = {"message": message} if chat else {"text": found.text}
    stop = STOP["openai"][found.end]
    return {
        "id": f"cmpl-{found.id}",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": found.model,
        "choices": [{"index": 0, **choice, "finish_reason": stop, "logprobs": None}],
        "usage": {
            "prompt_tokens": found.tokens_in,
            "completion_tokens": found.tokens_out,
            "total_tokens": found.tokens_in + found.tokens_out,
        },
    }


def error(message: str, kind: str) -> dict[str, Any]:
    """Return an error in a form that both protocols' clients read."""
    return {"type": "error", "error": {"message": message, "type": kind}}


def openai_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch's record as OpenAI shows it."""
    ended, kinds = batch["results"] is not None, [kind for _, kind, _ in batch["results"] or []]
    status = (
        "in_progress"
        if not ended
        else "cancelled"
        if batch["cancelled"]
        else "expired"
        if "expired" in kinds
        else "completed"
    )
    good = kinds.count("succeeded")
    return {
        "id": batch["id"],
        "object": "batch",
        "endpoint": batch["path"],
        "input_file_id": "file",
        "completion_window": "24h",
        "status": status,
        "created_at": int(batch["created"]),
        "metadata": batch["metadata"],
        "request_counts": {
            "total": len(batch["rows"]),
            "completed": good,
            "failed": kinds.count("errored") + kinds.count("invalid"),
        },
        "output_file_id": f"{batch['id']}.output" if good else None,
        "error_file_id": f"{batch['id']}.error" if good < len(kinds) else None,
    }


def openai_results(batch: dict[str, Any], good: bool) -> str:
    """Return a batch's output file or its error file, JSONL."""
    lines = []
    for key, kind, answer in batch["results"]:
        status = {"succeeded": 200, "errored": 500, "invalid": 400}.get(kind)
        response = (
            {
                "status_code": status,
                "request_id": key,
                "body": answer if kind == "succeeded" else error(answer, kind),
            }
            if status
            else None
        )
        failed = (
            None if status else {"code": f"batch_{kind}", "message": f"this request was {kind}"}
        )
        if (kind == "succeeded") == good:
            lines.append(
                json.dumps({"id": key, "custom_id": key, "response": response, "error": failed})
            )
    return "\n".join(lines)


def anthropic_batch(batch: dict[str, Any], address: str) -> dict[str, Any]:
    """Return a batch's record as Anthropic shows it."""
    ended, kinds = batch["results"] is not None, [kind for _, kind, _ in batch["results"] or []]
    made = datetime.fromtimestamp(batch["created"], UTC).isoformat()
    counts = {
        "succeeded": kinds.count("succeeded"),
        "errored": kinds.count("errored") + kinds.count("invalid"),
        "expired": kinds.count("expired"),
        "canceled": kinds.count("canceled"),
        "processing": 0 if ended else len(batch["rows"]),
    }
    return {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": counts,
        "created_at": made,
        "expires_at": made,
        "ended_at": made if ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{address}/v1/messages/batches/{batch['id']}/results" if ended else None,
    }


def anthropic_results(batch: dict[str, Any]) -> str:
    """Return a batch's results, JSONL."""
    lines = []
    for key, kind, answer in batch["results"]:
        result: dict[str, Any] = {"type": {"invalid": "errored"}.get(kind, kind)}
        if kind == "succeeded":
            result["message"] = answer
        elif kind in ("errored", "invalid"):
            result["error"] = error(
                answer, "invalid_request_error" if kind == "invalid" else "api_error"
            )
        lines.append(json.dumps({"custom_id": key, "result": result}))
    return "\n".join(lines)
