"""Questions of concurrent requests, asked in batches: one queue, and one thread that owns the bases.

It takes the model of the oldest question and as many of its questions as one evaluation of the run takes at once, puts the adapter on the
base, asks, and takes it off: no adapter is ever active beside another, and nothing is kept from one question for the next. Pictures are
decoded and texts tokenised by other threads, for two batches at most, so that pixels of a long queue take no memory, and one fewer than
there are processors, so that the thread that takes requests and says /health has its turn.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from lab.data.box_file.frames import other_frame
from lab.data.images import orientation
from lab.errors import LabError
from lab.evaluation import generation, scoring
from lab.evaluation.locating import located, texts
from lab.evaluation.stages import require_finite
from lab.model import Vlm
from lab.model.answers import Readout, RegionsReadout
from lab.model.batching import to_device
from lab.model.encoded import Example
from lab.records import Batch, Choice, Clip, Located, Picture, Regions, Sample, Scored
from lab.serving.served import Question, Served

log = logging.getLogger(__name__)


class Full(Exception):
    """The queue is full."""


class Ended(Exception):
    """The server ends, and this question was not asked."""


@dataclass
class Wrote:
    """What was written: all of it, its tokens, log p of each and how each reads, and whether the end came before the limit.

    located: what it reads as, where it is boxes.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)
    spelled: list[str] = field(default_factory=list)
    ended: bool = False
    located: Located | None = None


@dataclass(frozen=True)
class Encoded:
    """A question as a record and as an example. length: of its prompt in tokens, those of pictures among them."""

    sample: Sample
    example: Example
    length: int
    frames: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Answered:
    """said: of the question that was asked, with its options, the length of its prompt and the frames of its pictures."""

    said: Scored | Wrote
    options: tuple[str, ...]
    length: int
    frames: tuple[dict[str, Any], ...]

    @property
    def written(self) -> int:
        """Tokens of the answer; an option counts as one."""
        return len(self.said.tokens) if isinstance(self.said, Wrote) else 1


@dataclass(eq=False)
class Job:
    """A question on its way. most: tokens that may be written. written: called with the text so far, until it is whole.

    result: the answer, or the error instead. left: whoever asked is gone.
    """

    served: Served
    question: Question
    most: int
    written: Callable[[str], object] | None = None
    result: Future[Answered] = field(default_factory=Future)
    left: bool = False
    encoded: Future[Encoded] | None = None

    def __post_init__(self) -> None:
        self.result.set_running_or_notify_cancel()  # it cannot be cancelled: `left` says that nobody waits

    def end(self, outcome: Answered | BaseException) -> None:
        """Give the answer, or the error, unless there is one."""
        if self.result.done():
            return
        if isinstance(outcome, BaseException):
            self.result.set_exception(outcome)
        else:
            self.result.set_result(outcome)


class Batching:
    """The queue, of `most` questions that wait at most, and its thread. batched: called with the size of each batch."""

    def __init__(self, most: int, batched: Callable[[Served, int], object] = lambda served, number: None) -> None:
        self.most, self.batched = most, batched
        self.waiting: deque[Job] = deque()
        self.changed = threading.Condition()
        self.ending = False
        self.pool = ThreadPoolExecutor(max(1, min(8, len(os.sched_getaffinity(0)) - 1)), "lab-encode")
        self.thread = threading.Thread(target=self.work, name="lab-ask", daemon=True)
        self.thread.start()

    def add(self, job: Job) -> None:
        """Put a question at the end. Raises `Full`."""
        with self.changed:
            if len(self.waiting) >= self.most:
                raise Full
            self.waiting.append(job)
            self.changed.notify()

    def end(self) -> None:
        """Stop; what waits is not asked."""
        with self.changed:
            self.ending = True
            self.changed.notify()
        self.thread.join()
        self.pool.shutdown(cancel_futures=True)
        for job in self.waiting:
            job.end(Ended())

    def work(self) -> None:
        """Ask batch after batch, until the end."""
        with torch.inference_mode():
            while jobs := self.next_batch():
                try:
                    self.ask(jobs)
                except Exception as error:  # a batch that fails takes neither the server nor another batch along
                    known = isinstance(error, LabError)
                    log.error("a batch of %d questions failed (%s)", len(jobs), error if known else type(error).__name__, exc_info=not known)
                    for job in jobs:
                        job.end(error)

    def next_batch(self) -> list[Job]:
        """The oldest question and others of its model, taken out of the queue; none at the end."""
        with self.changed:
            while True:
                self.waiting = deque(job for job in self.waiting if not job.left)
                if self.ending or self.waiting:
                    break
                self.changed.wait()
            if self.ending:
                return []
            served = self.waiting[0].served
            mine = [job for job in self.waiting if job.served is served]
            size = size_of(served)
            jobs = mine[:size]
            taken = set(map(id, jobs))
            self.waiting = deque(job for job in self.waiting if id(job) not in taken)
            for job in [*jobs, *list(self.waiting)[:size]]:
                job.encoded = job.encoded or self.pool.submit(encode, job)
            return jobs

    def ask(self, jobs: Sequence[Job]) -> None:
        """Answer questions of one model together."""
        ready: dict[Job, Encoded] = {}
        for job in jobs:
            assert job.encoded is not None
            try:
                ready[job] = job.encoded.result()
            except Exception as error:  # what is wrong with one question is no other's
                job.end(error)
        if not ready:
            return
        served = jobs[0].served
        self.batched(served, len(ready))
        batch = served.encoder.collate([one.example for one in ready.values()], with_answers=False)
        with served.on_base() as vlm:
            for job, said in answers(served, vlm, to_device(batch, vlm.device), ready):
                answer = ready[job].sample.answer
                options = answer.options if isinstance(answer, Choice) else ()
                job.end(Answered(said, options, ready[job].length, ready[job].frames))


def answers(served: Served, vlm: Vlm, batch: Batch, ready: Mapping[Job, Encoded]) -> Iterator[tuple[Job, Scored | Wrote]]:
    """What the model says of each question, as soon as it has."""
    if not isinstance(served.readout, Readout):
        yield from write(served, vlm, batch, ready)
        return
    logits = scoring.answer_logits(vlm, batch)
    require_finite(logits, batch.sample_ids)
    yield from zip(ready, scoring.read(served.readout, logits, [one.sample for one in ready.values()]), strict=True)


def write(served: Served, vlm: Vlm, batch: Batch, ready: Mapping[Job, Encoded]) -> Iterator[tuple[Job, Wrote]]:
    """The answers of a batch, each when it is whole: written token by token until it is ended, long enough, or wanted by nobody."""
    open_ones = {b: (job, Wrote()) for b, job in enumerate(ready)}
    for step in generation.steps(vlm, batch, max(job.most for job in ready)):
        tokens, log_p, ended = step.token.tolist(), step.log_p.tolist(), step.ended.tolist()
        for b, (job, wrote) in list(open_ones.items()):
            wrote.tokens.append(tokens[b])
            wrote.log_p.append(log_p[b])
            wrote.ended = ended[b]
            whole = wrote.ended or len(wrote.tokens) == job.most
            if whole:
                finish(served, vlm, ready[job].sample, wrote)
                yield job, wrote
            elif job.written is not None:
                job.written(text_of(served, vlm, wrote.tokens))
            if whole or job.left:
                del open_ones[b]
        if not open_ones:
            return


def finish(served: Served, vlm: Vlm, sample: Sample, wrote: Wrote) -> None:
    """Read what is whole."""
    each = zip(wrote.tokens, vlm.family.architecture.texts(vlm, [[token] for token in wrote.tokens]), strict=True)
    wrote.spelled = [text or str(vlm.processor.tokenizer.convert_ids_to_tokens(token)) for token, text in each]
    if isinstance(served.readout, RegionsReadout):
        repair = served.x.evaluation.repair
        wrote.located = located(served.encoder, sample, served.readout.boxes, wrote.tokens, wrote.log_p, wrote.ended, repair)
    wrote.text = text_of(served, vlm, wrote.tokens) if wrote.located is None else wrote.located.text


def text_of(served: Served, vlm: Vlm, tokens: list[int]) -> str:
    """Tokens as text."""
    if isinstance(served.readout, RegionsReadout):
        return texts(served.encoder.tokenizer, [tokens])[0]
    return vlm.family.architecture.texts(vlm, [tokens])[0]


def size_of(served: Served) -> int:
    """How many of its questions are asked together: as many as in its evaluation."""
    size = served.x.evaluation.batch_size
    return scoring.part_of(size, served.vlm.device) if isinstance(served.readout, Readout) else size


def encode(job: Job) -> Encoded:
    """A question as the model takes it. Raises `BadRecord`."""
    sample = job.served.sample(job.question)
    example, length = job.served.example(sample)
    frames = tuple(frame_of(one) if isinstance(one, Picture) else shown_of(one, job.served) for one in sample.images)
    if isinstance(sample.answer, Regions):
        sample = replace(sample, answer=replace(sample.answer, size=(frames[0]["width"], frames[0]["height"])))
    return Encoded(sample, example, length, frames)


def shown_of(clip: Clip, served: Served) -> dict[str, Any]:
    """What is shown of a clip: pixels of its upright frames, how many it has and at what rate, and the places of those that are shown."""
    shown = served.encoder.sampled(clip)
    held = shown.footage
    return {"width": held.size[0], "height": held.size[1], "frames": held.frames, "fps": held.fps, "shown": list(shown.indices)}


def frame_of(picture: Picture) -> dict[str, Any]:
    """The pixels of a good picture as it is shown, from its top left: turned by its EXIF orientation, as in training."""
    assert picture.data is not None
    turn = orientation(picture)
    with Image.open(io.BytesIO(picture.data)) as image:
        width, height = other_frame(image.size, turn)
    return {"width": width, "height": height, "exif_orientation": turn, "exif_applied": True}
