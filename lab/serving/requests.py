"""Requests of the OpenAI protocol, and how one becomes the question that a run was trained to be asked.

What a run's contract fixes cannot be asked otherwise: its prompt, how its pictures are processed, that it answers greedily. A field that
would change one of them is refused by its name, never ignored.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lab.errors import LabError
from lab.records import Clip, Picture, Turn
from lab.serving.served import Question, Served, Upload

Fetch = Callable[[str, str], Awaitable[bytes]]
"""The bytes at an address, that stands in a field."""


class Refused(Exception):
    """A request that cannot be served. field: of it, or None."""

    def __init__(self, status: int, field: str | None, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.status, self.field, self.reason, self.code = status, field, reason, code


class Strict(BaseModel):
    """A field that is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class ImageUrl(Strict):
    """A picture as `data:image/png;base64,...`, or where a host is listed for it, as its http or https address."""

    url: str
    detail: Literal["auto"] = "auto"


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(Strict):
    """A clip as `data:video/mp4;base64,...`."""

    url: str


class VideoUrlPart(Strict):
    """A clip as vLLM and SGLang take it."""

    type: Literal["video_url"]
    video_url: VideoUrl


class VideoPart(Strict):
    """The same as Transformers' messages have it."""

    type: Literal["video"]
    video: str


Part = TextPart | ImagePart | VideoUrlPart | VideoPart


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[Part, Field(discriminator="type")]]
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


async def with_pictures(body: ChatRequest, served: Served, fetch: Fetch) -> ChatRequest:
    """A request with the pictures that it names by an address in it, as data URLs. Raises `Refused`, of too many before any is fetched."""
    named = [
        (part.image_url, f"messages.{i}.content.{j}.image_url.url") for i, message in enumerate(body.messages)
        for j, part in enumerate(parts_of(message)) if isinstance(part, ImagePart) and not part.image_url.url.startswith("data:")
    ]  # fmt: skip
    if len(named) > (most := max(served.numbers)):
        raise Refused(400, named[most][1], f"it names {len(named)} pictures, and this run answers questions about {most} at most.")
    for image, field in named:
        image.url = f"data:image/png;base64,{base64.b64encode(await fetch(image.url, field)).decode()}"
    return body


def question_of(body: ChatRequest, served: Served) -> Question:
    """The question that messages ask, or the conversation that they are. Raises `Refused`."""
    if served.converses:
        return conversation_of(body, served)
    *before, (place, last) = enumerate(body.messages)
    for i, message in before:
        system = served.rebuilt.contract["prompt"]["system"]
        if message.role in ("user", "assistant"):
            raise Refused(400, f"messages.{i}", "this run answers one question at a time. Send one message of the user.")
        if parts_of(message) != [TextPart(type="text", text=system or "")]:
            raise Refused(400, f"messages.{i}.content", "the run's own system text stands in every prompt, by its contract. Leave it out.")
    if last.role != "user":
        raise Refused(400, f"messages.{place}.role", "the last message must be the user's question.")
    field, separator = f"messages.{place}.content", served.x.prompt.separator.strip()
    media, texts = [], []
    for i, part in enumerate(parts_of(last)):
        if not isinstance(part, TextPart):
            media.append(upload_of(part, f"{field}.{i}"))
        elif isinstance(last.content, str) or part.text.strip() != separator:
            texts.append((field if isinstance(last.content, str) else f"{field}.{i}.text", part.text))
    if len(texts) != 1:
        raise Refused(400, field, f"it has {len(texts)} texts, and a question is one. Send the question as one part.")
    return checked(lone(texts[0][1], texts[0][0], media, served), served, field)


def lone(text: str, field: str, media: Sequence[Upload], served: Served) -> Question:
    """A question by itself; of a run over conversations `<image>` and `<video>` in it say where its media stand. Raises `Refused`."""
    turns = served.turns(text, [Clip(one.field) if one.is_clip else Picture(one.field) for one in media])
    shown = {part for turn in turns for part in turn.parts if isinstance(part, int)}
    if turns and shown != {*range(len(media))}:
        raise Refused(400, field, "<image> and <video> in it stand for other files than are sent; each stands for one, of its kind.")
    said = "".join(part for turn in turns for part in turn.parts if isinstance(part, str)).strip()
    return Question(said if turns else served.encoder.frame.inside(text), field, tuple(media), turns)


def conversation_of(body: ChatRequest, served: Served) -> Question:
    """Messages as the turns of a conversation, whose next one is asked for. Raises `Refused`."""
    turns, media = [], []
    first = 1 if body.messages[0].role in ("system", "developer") else 0
    for place, message in enumerate(body.messages):
        field = f"messages.{place}"
        wanted = "system" if place < first else ("user", "assistant")[(place - first) % 2]
        role = "system" if message.role == "developer" else message.role
        if role != wanted:
            raise Refused(400, f"{field}.role", f"a message of the {wanted} belongs there: a system text first, then user and assistant in turn.")
        parts: list[str | int] = []
        for i, part in enumerate(parts_of(message)):
            if isinstance(part, TextPart):
                parts.append(part.text)
            elif role == "user":
                parts.append(len(media))
                media.append(upload_of(part, f"{field}.content.{i}"))
            else:
                raise Refused(400, f"{field}.content.{i}", "only the user shows pictures and clips.")
        if role != "user" and not "".join(map(str, parts)).strip():
            raise Refused(400, f"{field}.content", "it says nothing.")
        turns.append(Turn(role, tuple(parts)))
    if turns[-1].role != "user":
        raise Refused(400, f"messages.{len(turns) - 1}.role", "the last message must be the user's question.")
    text, field = "".join(part for part in turns[-1].parts if isinstance(part, str)).strip(), f"messages.{len(turns) - 1}.content"
    return checked(Question(text, field, tuple(media), tuple(turns)), served, field)


def parts_of(message: Message) -> Sequence[Part]:
    """The content of a message, a plain text as one part."""
    return [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content


def upload_of(part: ImagePart | VideoUrlPart | VideoPart, field: str) -> Upload:
    """The picture or clip of a part. Raises `Refused`."""
    if isinstance(part, ImagePart):
        return Upload(f"{field}.image_url.url", data_of(part.image_url.url, f"{field}.image_url.url", "image/png"))
    name, url = (f"{field}.video", part.video) if isinstance(part, VideoPart) else (f"{field}.video_url.url", part.video_url.url)
    return Upload(name, data_of(url, name, "video/mp4"), True)


def data_of(url: str, field: str, kind: str) -> bytes:
    """The bytes of a data URL. kind: what it would be of. Raises `Refused` for another, which this server would have to fetch."""
    name = "picture" if kind.startswith("image") else "clip"
    head, comma, data = url.partition(",")
    if not head.startswith("data:"):
        raise Refused(400, field, f"this server fetches no {name} from there. Send the {name} itself, as data:{kind};base64,...")
    if not comma or not head.endswith(";base64"):
        raise Refused(400, field, f"it is no data URL in base64. Write data:{kind};base64, and then the {name}.")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, field, "what stands behind base64, is not base64.") from None


def checked(question: Question, served: Served, field: str) -> Question:
    """A question that the run can be asked. Raises `Refused`."""
    clip = next((one for one in question.media if one.is_clip), None)
    if clip is not None and isinstance(served.rule, LabError):
        raise Refused(400, clip.field, str(served.rule))
    if len(question.media) not in served.numbers:
        wanted = " or ".join(map(str, served.numbers))
        reason = f"it has {len(question.media)} pictures, and this run answers questions about {wanted}."
        raise Refused(400, field, reason)
    if not question.text.strip():
        raise Refused(400, question.text_field, "the question is empty.")
    try:
        "".join((question.text, *(part for turn in question.turns for part in turn.parts if isinstance(part, str)))).encode()
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
