"""Finished runs over as few bases as they need, each ready to be asked."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from lab import lora
from lab.artifacts.adapter import FILES
from lab.config import as_dict
from lab.data import video
from lab.data.faults import BadRecord
from lab.data.question_file.unanswered import clip_of, unknown
from lab.data.splits import Records
from lab.errors import ConfigError
from lab.evaluation import fast_inference
from lab.finished import changed, find
from lab.host.files import file_hash, text_hash, values_hash
from lab.host.progress import Report
from lab.model import Vlm
from lab.model.batching import ROWS
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.records import Choice, Clip, Picture, Sample, Sampling, Turn
from lab.run.assembly import assemble
from lab.run.measuring import require_effect
from lab.run.predicting import Predictor
from lab.run.rebuilt import Rebuilt, rebuild
from lab.training.examples import Examples
from lab.training.fast.fused_step import Forward, instead

log = logging.getLogger(__name__)

PROBE = (224, 224)
"""Pixels of the grey picture about which every adapter is asked once at the start."""


MOST_PIXELS = 512 * 1024 * 1024
"""Of all frames of a clip that are shown, decoded at once: 1.5 GB."""
DECODING_S = 20.0
"""Seconds after which decoding a clip is given up: less than its own user's clips have (`lab.data.video.LIMIT_S`)."""


class Upload(NamedTuple):
    """An encoded picture or clip, and the field that it came in."""

    field: str
    data: bytes
    is_clip: bool = False


@dataclass(frozen=True)
class Question:
    """What a request asks: encoded pictures and clips, a text, and the field that it came in. turns: of a conversation, as of `Sample`."""

    text: str
    text_field: str
    media: tuple[Upload, ...]
    turns: tuple[Turn, ...] = ()


class Served:
    """A finished run that answers under its identity.

    What it computes with is used by one thread at a time (`lab.serving.batching`); `example` may be called by any.
    Raises `ModelError` for an adapter that moves no logit.
    """

    def __init__(self, predictor: Predictor, rebuilt: Rebuilt) -> None:
        self.run, self.x, self.numbers = predictor.run, predictor.x, sorted(predictor.numbers)
        self.rule, self.turns, self.converses = predictor.rule, predictor.turns, predictor.converses
        self.answers, self.rebuilt, self.vlm = predictor.answers, rebuilt, rebuilt.vlm
        self.encoder, self.readout = rebuilt.encoder, rebuilt.encoder.readout
        self.adapter = adapter_hash(predictor.run_dir / "adapter")
        self.encoders = threading.local()
        grey = io.BytesIO()
        Image.new("RGB", PROBE, (128, 128, 128)).save(grey, "PNG")
        probe = tuple(Upload("", grey.getvalue()) for _ in range(self.numbers[0]))
        examples = Examples(Records([self.sample(Question("x", "", probe))]), self.encoder)
        if rebuilt.adapted:
            require_effect(self.vlm, assemble(self.x, rebuilt.base), examples)
        self.vlm.model.eval()
        rows = ROWS if self.kind == Choice.kind else None
        self.forwards: list[Forward] = fast_inference.forwards(self.vlm, rows)
        self.layers = lora.AdapterLayers(self.vlm)
        self.layers.take_off()

    @property
    def identity(self) -> str:
        return self.run.identity

    @property
    def kind(self) -> str:
        """Of its answers."""
        return self.readout.kind

    @property
    def most_tokens(self) -> int:
        """Of an answer, as in its evaluation."""
        return self.x.evaluation.most_tokens(self.kind)

    def sample(self, question: Question) -> Sample:
        """A question as a record, whose answer nobody knows. Raises `BadRecord` for a clip that is not whole, or too large."""
        media = tuple(self.clip(one) if one.is_clip else Picture(one.field, one.data) for one in question.media)
        name = text_hash(question.text, repr(question.turns), *(values_hash(one.data.hex()) for one in question.media), digits=16)
        return Sample(name, question.text, media, unknown(self.answers, (), PROBE), name, name, turns=question.turns)

    def clip(self, upload: Upload) -> Clip:
        """A clip, looked at once. Raises `BadRecord`."""
        clip = clip_of(upload.field, self.rule)
        clip = replace(clip, data=upload.data)
        held = video.footage(clip, DECODING_S)
        clip, (width, height) = replace(clip, footage=held), held.size
        shown = self.encoder.sampled(clip)
        if len(shown.indices) * width * height > MOST_PIXELS:
            reason = f"{len(shown.indices)} frames of {width} x {height} pixels would be shown, more than this server holds. Send a smaller clip"
            raise BadRecord(upload.field, reason)
        return clip

    def example(self, sample: Sample) -> tuple[Example, int]:
        """Encode a question with a tokenizer of this thread's own; the tokens of its prompt. Raises `BadRecord`."""
        if not hasattr(self.encoders, "own"):
            self.encoders.own = self.encoder.copy()
        own: Encoder = self.encoders.own
        example = own.example(sample)
        return example, own.size(example).length

    @contextlib.contextmanager
    def on_base(self) -> Iterator[Vlm]:
        """Within, its adapter is on the base, and modules compute as when it is evaluated."""
        self.layers.put_on()
        try:
            with instead(self.forwards):
                yield self.vlm
        finally:
            self.layers.take_off()

    def described(self) -> dict[str, Any]:
        """What a client may know of it."""
        prompt = self.rebuilt.contract["prompt"]
        return {
            "kind": self.kind, "options": list(self.answers.options), "pictures": self.numbers,
            "clips": isinstance(self.rule, Sampling), "adapter": self.adapter,
            "asks": self.encoder.frame.asks, "template": prompt["template"], "system": prompt["system"],
            "max_tokens": self.most_tokens,
        }  # fmt: skip


def adapter_hash(folder: Path) -> str | None:
    """One name for what an adapter's files hold; None without an adapter."""
    files = [folder / name for name in FILES if (folder / name).is_file()]
    return text_hash(*map(file_hash, files), digits=16) if files else None


def load(runs_dir: Path, names: Sequence[str], overrides: Sequence[str], report: Report, tell: Callable[[str], object]) -> dict[str, Served]:
    """Runs by their identities; those of one checkpoint share it.

    overrides: KEY=VALUE of how they run. tell: called with a line about each that is ready.
    Raises `DataError` for a run that is not there, `ContractError` for one that would not be asked as it was trained.
    """
    bases: dict[str, Vlm] = {}
    served: dict[str, Served] = {}
    for name in names:
        run = find(runs_dir, name)
        if run.identity in served:
            raise ConfigError(f"--run {name}: it is named twice. Name each run once.")
        x = changed(run, overrides)
        predictor, key = Predictor(runs_dir, run, x), values_hash(as_dict(x)["model"])
        rebuilt = rebuild(run, predictor.run_dir, x, predictor.answers, "serving it", report, base=bases.get(key))
        bases[key] = rebuilt.base
        one = served[run.identity] = Served(predictor, rebuilt)
        tell(f"{run.identity}: {run.name}, answers by {one.kind}, pictures {' or '.join(map(str, one.numbers))}")
    return served
