"""Replies of the OpenAI protocol, and what `/predict` replies."""

from __future__ import annotations

import math
import time
import uuid
from itertools import zip_longest
from typing import Any

from lab.records import Scored
from lab.serving.batching import Answered, Wrote
from lab.serving.pieces import UNFINISHED
from lab.serving.requests import ChatRequest
from lab.serving.served import Served

LEAST = -9999.0
"""What the protocol writes for log 0, which JSON has no number for."""


def answer_of(answered: Answered) -> str:
    """What was answered, in words."""
    said = answered.said
    return answered.options[said.prediction] if isinstance(said, Scored) else said.text


def finish_of(said: Scored | Wrote) -> str:
    """Why the answer ends where it does."""
    return "stop" if isinstance(said, Scored) or said.ended else "length"


def entry(token: str, log_p: float) -> dict[str, Any]:
    """One token. bytes: None where it is a part of a character."""
    return {"token": token, "logprob": max(log_p, LEAST), "bytes": None if UNFINISHED in token else list(token.encode())}


def prediction_of(served: Served, answered: Answered) -> dict[str, Any]:
    """An answer by its kind: options with probabilities, renormalised; a text with that of all its tokens; boxes in pixels of the first frame."""
    said = answered.said
    facts: dict[str, Any] = {"model": served.identity, "kind": served.kind, "answer": answer_of(answered), "frames": list(answered.frames)}
    if isinstance(said, Scored):
        masses = [math.exp(log_p - max(said.log_p)) for log_p in said.log_p]
        shares = {option: mass / sum(masses) for option, mass in zip(answered.options, masses, strict=True)}
        return facts | {"probability": shares[facts["answer"]], "probabilities": shares, "captured_mass": said.captured_mass}
    facts |= {"probability": math.exp(min(0.0, sum(said.log_p))), "tokens": len(said.tokens), "finish_reason": finish_of(said)}
    if said.located is not None:
        pairs = zip_longest(said.located.regions, said.located.scores)
        facts |= {"status": said.located.status, "regions": [region._asdict() | {"score": score} for region, score in pairs]}
    return facts


class Reply:
    """Replies to one request for a completion."""

    def __init__(self, body: ChatRequest, served: Served) -> None:
        self.body, self.served = body, served
        self.common = {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": served.identity,
            "system_fingerprint": served.adapter,
        }  # fmt: skip

    def whole(self, answered: Answered) -> dict[str, Any]:
        """All at once; what `/predict` replies, in a field of its own."""
        message = {"role": "assistant", "content": answer_of(answered), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": finish_of(answered.said), "logprobs": self.logprobs(answered)}
        facts = {"choices": [choice], "usage": usage_of(answered), "prediction": prediction_of(self.served, answered)}
        return {**self.common, "object": "chat.completion", **facts}

    def chunk(self, delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        """A part of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return {**self.common, "object": "chat.completion.chunk", "choices": [choice]}

    def last(self, answered: Answered) -> list[dict[str, Any]]:
        """The end of a stream whose content is sent: why it ends, and the usage where it is asked for."""
        parts = [self.chunk({}, finish_of(answered.said), self.logprobs(answered))]
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            parts.append({**self.common, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(answered)})
        return parts

    def logprobs(self, answered: Answered) -> dict[str, Any] | None:
        """Where asked for: token by token, the end of the turn among them; an option counts as one, with the mass of its spellings."""
        if not self.body.logprobs:
            return None
        said, top = answered.said, self.body.top_logprobs or 0
        if isinstance(said, Scored):
            ranked = sorted(zip(answered.options, said.log_p, strict=True), key=lambda pair: -pair[1])
            chosen = entry(answered.options[said.prediction], said.log_p[said.prediction])
            content = [chosen | {"top_logprobs": [entry(*pair) for pair in ranked[:top]]}]
        else:
            pairs = zip(said.spelled, said.log_p, strict=True)
            content = [entry(*pair) | {"top_logprobs": [entry(*pair)][:top]} for pair in pairs]
        return {"content": content, "refusal": None}


def usage_of(answered: Answered) -> dict[str, int]:
    """Tokens read, those of pictures among them, and written."""
    return {"prompt_tokens": answered.length, "completion_tokens": answered.written, "total_tokens": answered.length + answered.written}
