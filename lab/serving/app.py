"""The routes."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from lab import __version__
from lab.data.faults import BadRecord
from lab.host.files import script_source
from lab.serving.batching import Answered, Batching, Ended, Full, Job
from lab.serving.fetching import Fetching, NotFetched
from lab.serving.guard import Limits, error_body
from lab.serving.metrics import Metrics
from lab.serving.pieces import Pieces
from lab.serving.protocol import Reply, answer_of, prediction_of
from lab.serving.requests import ChatRequest, Fetch, Refused, checked, lone, most_tokens, question_of, with_pictures
from lab.serving.served import Question, Served, Upload

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")
OPEN, OPEN_FILES = ("/", "/health", "/docs", "/openapi.json"), "/static-offline-docs/"
"""Paths that need no token: they say nothing of runs."""
NAME = re.compile(r"\w{1,40}", re.ASCII)
"""What of a request may be repeated as the name of a field."""
FORM = ("image", "video", "question", "model")
T = TypeVar("T")


class Serving:
    """What the routes share: the models by their names, the queue, limits and counts."""

    def __init__(self, served: Mapping[str, Served], limits: Limits) -> None:
        self.served, self.limits, self.started = served, limits, int(time.time())
        self.batching = Batching(limits.queue, lambda model, number: self.metrics.batches.labels(model.identity).observe(number))
        self.fetching = Fetching(limits.media, limits.body)
        self.routes: set[str] = set()
        self.metrics = Metrics(self.routes, served, lambda: len(self.batching.waiting))

    def model(self, name: str | None, request: Request) -> Served:
        """The model of a name; the only one without a name. Raises `Refused`."""
        if name is None and len(self.served) == 1:
            name = next(iter(self.served))
        if name is None or name not in self.served:
            raise Refused(404, "model", f"there is no such model. Legal: {', '.join(self.served)}.", "model_not_found")
        request.state.model = name
        return self.served[name]

    def fetcher(self, request: Request) -> Fetch:
        """What gives the bytes at an address, counted among those of a request. Raises `Refused`."""

        async def fetch(url: str, field: str) -> bytes:
            try:
                return await self.until(self.fetching.fetch(url, request.state.held), request)
            except NotFetched as error:
                raise Refused(error.status, field, error.reason) from None

        return fetch

    def add(self, job: Job) -> Job:
        """Put a question in the queue. Raises `Refused`."""
        try:
            self.batching.add(job)
        except Full:
            raise Refused(429, None, f"{self.limits.queue} questions wait already (--queue). Try again.") from None
        return job

    async def answer(self, job: Job, request: Request) -> Answered:
        """The answer to a question. Raises `Refused`."""
        try:
            return self.counted(await self.until(asyncio.wrap_future(self.add(job).result), request), job)
        except (BadRecord, Ended) as error:
            raise refused(error, job.question) from None
        finally:
            job.left = True

    async def until(self, awaited: Awaitable[T], request: Request) -> T:
        """What is waited for, unless the client leaves or time is up. Raises `Refused`."""
        wanted, gone = asyncio.ensure_future(awaited), asyncio.create_task(left(request))
        try:
            await asyncio.wait((wanted, gone), timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return wanted.result()
            wanted.cancel()
            raise Refused(499, None, "the client left.") if gone.done() else self.late
        finally:
            gone.cancel()

    @property
    def late(self) -> Refused:
        return Refused(504, None, f"there is no answer after {self.limits.seconds:g} seconds (--timeout).")

    def counted(self, answered: Answered, job: Job) -> Answered:
        """The answer, its tokens counted."""
        self.metrics.tokens.labels(job.served.identity).inc(answered.written)
        return answered

    async def streamed(self, question: Question, most: int, reply: Reply, request: Request) -> Response:
        """A reply in pieces, begun once there is one, so that what is wrong with the question is an error of HTTP. Raises `Refused`."""
        loop, texts = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        job = Job(reply.served, question, most, lambda text: loop.call_soon_threadsafe(texts.put_nowait, text))
        job.result.add_done_callback(lambda _: loop.call_soon_threadsafe(texts.put_nowait, None))
        try:
            first = await self.until(texts.get(), self.added(job, request))
            if first is None and (error := job.result.exception()) is not None:
                raise refused(error, question) if isinstance(error, BadRecord | Ended) else error
        except BaseException:
            job.left = True
            raise
        return StreamingResponse(self.stream(job, reply, texts, first), media_type="text/event-stream")

    def added(self, job: Job, request: Request) -> Request:
        self.add(job)
        return request

    async def stream(self, job: Job, reply: Reply, texts: asyncio.Queue[str | None], text: str | None) -> AsyncIterator[str]:
        """Events of a completion: pieces of the answer, why it ends, [DONE]. text: the first that was written; None: it is whole."""
        pieces = Pieces(bool(getattr(job.served.encoder.tokenizer, "clean_up_tokenization_spaces", False)))
        yield event(reply.chunk({"role": "assistant", "content": ""}))
        try:
            async with asyncio.timeout(self.limits.seconds):
                while text is not None:
                    if piece := pieces.of(text):
                        yield event(reply.chunk({"content": piece}))
                    text = await texts.get()
                answered = self.counted(await asyncio.wrap_future(job.result), job)
            if piece := pieces.rest(answer_of(answered)):
                yield event(reply.chunk({"content": piece}))
            for part in reply.last(answered):
                yield event(part)
        except Exception as error:  # the head is sent: what is wrong can only be said in the stream
            reason = self.late.reason if isinstance(error, TimeoutError) else internal(error)
            yield f"data: {error_body(None, reason).decode()}\n\n"
        finally:
            job.left = True
        yield "data: [DONE]\n\n"


def is_open(path: str) -> bool:
    """Whether a path needs no token."""
    return path in OPEN or path.startswith(OPEN_FILES)


def internal(error: BaseException) -> str:
    """The sentence for a client about an error that is the server's, which is logged."""
    log.error("an answer failed (%s)", type(error).__name__)
    return "the server could not compute the answer; its log says why."


def event(part: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(part)}\n\n"


async def left(request: Request) -> None:
    """Return once the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refused(error: BaseException, question: Question) -> Refused:
    """What is wrong with a question, by its field, without a word of the question itself; or that it was not asked any more."""
    if not isinstance(error, BadRecord):
        return Refused(503, None, "the server ends.")
    field = error.source if error.source in [one.field for one in question.media] else question.text_field
    return Refused(400, field, re.sub(r"its text .* must not", "it must not", error.reason))


def reply_to(error: Refused) -> Response:
    """An error as a reply."""
    headers = {"retry-after": "1"} if error.status in (429, 503) else {}
    return Response(error_body(error.field, error.reason, error.code), error.status, headers, "application/json")


def named(place: tuple[int | str, ...]) -> str | None:
    """A field by the path to it that Pydantic gives, without the names of types in it, and without what is no name."""
    parts = [part if NAME.fullmatch(part) else "?" for part in map(str, place[1:]) if "[" not in part and part != "str"]
    return ".".join(part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]) or None


def add_errors(app: FastAPI) -> None:
    """Every error in one form, of at most 1 KB, with the field's name and without what was sent."""

    @app.exception_handler(Refused)
    async def _(request: Request, error: Refused) -> Response:
        return reply_to(error)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        first = max(error.errors(), key=lambda one: len(one["loc"]))
        if first["type"] == "json_invalid":
            return reply_to(Refused(400, None, "the body is no JSON."))
        expected = first.get("ctx", {}).get("expected_tags")
        return reply_to(Refused(422, named(first["loc"]), f"Its type should be one of {expected}" if expected else first["msg"]))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        return reply_to(Refused(error.status_code, None, str(error.detail)))

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        return reply_to(Refused(500, None, internal(error)))


def add_models(app: FastAPI, serving: Serving) -> None:
    """What is served, and how it fares."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """One model a run."""
        facts = {"object": "model", "created": serving.started, "owned_by": "vlm-lab"}
        return {"object": "list", "data": [{"id": name, **facts, **one.described()} for name, one in serving.served.items()]}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the thread that answers is alive."""
        alive = serving.batching.thread.is_alive()
        return {"status": "ok" if alive else "failed", "models": len(serving.served), "waiting": len(serving.batching.waiting)}

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(serving.metrics.text(), media_type="text/plain; version=0.0.4")


def add_answers(app: FastAPI, serving: Serving) -> None:
    """What is asked."""

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """A question by the OpenAI protocol, pictures as data URLs, or by an address at a host that is listed."""
        served = serving.model(body.model, request)
        most = most_tokens(body, served, serving.limits.tokens)
        question = question_of(await with_pictures(body, served, serving.fetcher(request)), served)
        reply = Reply(body, served)
        if body.stream:
            return await serving.streamed(question, most, reply, request)
        return JSONResponse(reply.whole(await serving.answer(Job(served, question, most), request)))

    @app.post("/predict")
    async def predict(
        request: Request,
        question: Annotated[str, Form()],
        image: Annotated[list[UploadFile] | None, File(description="Pictures, as many as the run was trained on, in their order.")] = None,
        video: Annotated[list[UploadFile] | None, File(description="Clips, of a run that takes them; they follow the pictures.")] = None,
        model: Annotated[str | None, Form(description="May be left out where one model is served.")] = None,
    ) -> dict[str, Any]:
        """A question as a form: the answer with probabilities, or as text. `frames` are the pixels of each picture and clip as shown."""
        served = serving.model(model, request)
        if unknown := [key for key in await request.form() if key not in FORM]:
            raise Refused(422, named(("", unknown[0])), f"there is no such field. Legal: {', '.join(FORM)}.")
        media = [Upload(f"image.{i}", await one.read()) for i, one in enumerate(image or ())]
        media += [Upload(f"video.{i}", await one.read(), True) for i, one in enumerate(video or ())]
        asked = checked(lone(question, "question", media, served), served, "image")
        most = min(served.most_tokens, serving.limits.tokens)
        return prediction_of(served, await serving.answer(Job(served, asked, most), request))


def add_page(app: FastAPI) -> None:
    """A page to drop a picture on. It takes nothing from elsewhere, and runs no script but its own."""
    text = PAGE.read_text(encoding="utf-8")
    script = text.partition("<script>")[2].partition("</script>")[0]
    media = "img-src blob: data:; media-src blob:"
    policy = f"default-src 'none'; connect-src 'self'; {media}; style-src 'unsafe-inline'; script-src {script_source(script)}"

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(text, headers={"content-security-policy": f"{policy}; frame-ancestors 'none'"})


def build(served: Mapping[str, Served], limits: Limits) -> tuple[FastAPI, Serving]:
    """The application without its guard."""
    app = FastAPIOffline(title="vlm-lab", version=__version__, redoc_url=None)
    serving = Serving(served, limits)
    add_errors(app)
    add_models(app, serving)
    add_answers(app, serving)
    add_page(app)
    serving.routes.update(path for route in app.routes if (path := getattr(route, "path", None)))
    return app, serving
