"""Requests and replies of the OpenAI protocol, and how a request becomes the question that a run was trained to be asked.

What a run's contract fixes cannot be asked otherwise: its prompt, how its pictures are processed, that it answers greedily. A field that
would change one of them is refused by its name, never ignored.
"""

from __future__ import annotations

import base64
import binascii
import math
import time
import uuid
from itertools import zip_longest
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lab.records import Scored
from lab.serving.batching import Answered, Wrote
from lab.serving.pieces import UNFINISHED
from lab.serving.served import Question, Served

LEAST = -9999.0
"""What the protocol writes for log 0, which JSON has no number for."""


class Refused(Exception):
    """A request that cannot be served. field: of it, or None."""

    def __init__(self, status: int, field: str | None, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.status, self.field, self.reason, self.code = status, field, reason, code


class Strict(BaseModel):
    """A field that is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class ImageUrl(Strict):
    """A picture as `data:image/png;base64,...`."""

    url: str
    detail: Literal["auto"] = "auto"


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Strict):
    role: Literal["system", "developer", "user"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str | None = None


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Strict):
    """`POST /v1/chat/completions`: one question about as many pictures as the run was trained on. Answers are greedy, and one."""

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    temperature: float | None = Field(None, ge=0, le=0)
    top_p: float | None = Field(None, ge=1, le=1)
    n: int | None = Field(None, ge=1, le=1)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    seed: int | None = None
    user: str | None = None


def question_of(body: ChatRequest, served: Served) -> Question:
    """The question that messages ask. Raises `Refused`."""
    *before, (place, last) = enumerate(body.messages)
    for i, message in before:
        system = served.rebuilt.contract["prompt"]["system"]
        if message.role == "user":
            raise Refused(400, f"messages.{i}", "this run answers one question at a time. Send one message of the user.")
        if parts_of(message) != [TextPart(type="text", text=system or "")]:
            raise Refused(400, f"messages.{i}.content", "the run's own system text stands in every prompt, by its contract. Leave it out.")
    if last.role != "user":
        raise Refused(400, f"messages.{place}.role", "the last message must be the user's question.")
    field, separator = f"messages.{place}.content", served.x.prompt.separator.strip()
    pictures, texts = [], []
    for i, part in enumerate(parts_of(last)):
        if isinstance(part, ImagePart):
            name = f"{field}.{i}.image_url.url"
            pictures.append((name, data_of(part.image_url.url, name)))
        elif isinstance(last.content, str) or part.text.strip() != separator:
            texts.append((field if isinstance(last.content, str) else f"{field}.{i}.text", part.text))
    if len(texts) != 1:
        raise Refused(400, field, f"it has {len(texts)} texts, and a question is one. Send the question as one part.")
    return checked(Question(served.encoder.frame.inside(texts[0][1]), texts[0][0], tuple(pictures)), served, field)


def parts_of(message: Message) -> list[TextPart | ImagePart]:
    """The content of a message, a plain text as one part."""
    return [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content


def data_of(url: str, field: str) -> bytes:
    """The bytes of a data URL. Raises `Refused` for another, which this server would have to fetch."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:"):
        raise Refused(400, field, "this server fetches nothing. Send the picture itself, as data:image/png;base64,...")
    if not comma or not head.endswith(";base64"):
        raise Refused(400, field, "it is no data URL in base64. Write data:image/png;base64, and then the picture.")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, field, "what stands behind base64, is not base64.") from None


def checked(question: Question, served: Served, field: str) -> Question:
    """A question that the run can be asked. Raises `Refused`."""
    if len(question.pictures) not in served.numbers:
        wanted = " or ".join(map(str, served.numbers))
        reason = f"it has {len(question.pictures)} pictures, and this run answers questions about {wanted}."
        raise Refused(400, field, reason)
    if not question.text.strip():
        raise Refused(400, question.text_field, "the question is empty.")
    try:
        question.text.encode()
    except UnicodeEncodeError:
        raise Refused(400, question.text_field, "it holds half of a surrogate pair, which is no character.") from None
    return question


def most_tokens(body: ChatRequest, served: Served, limit: int) -> int:
    """How many tokens may be written: as the run says, or as is asked for. Raises `Refused` above the server's limit."""
    names = [name for name in ("max_tokens", "max_completion_tokens") if getattr(body, name) is not None]
    most = min((getattr(body, name) for name in names), default=min(served.most_tokens, limit))
    if most > limit:
        raise Refused(400, names[0], f"this server writes {limit} tokens at most (--max-tokens).")
    return most


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
