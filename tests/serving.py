"""Tiny runs behind a real server, a process of its own, for the tests of `lab serve`."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from safetensors.torch import load_file, save_file

from lab import run as running
from lab.artifacts.adapter import PEFT_WEIGHTS
from lab.config import Experiment
from lab.finished import changed, find
from lab.host.progress import silent
from lab.run import predicting
from lab.run.predicting import Predicted

COLOURS = ("red", "green", "blue")
SMALL = (
    "trainer.batch_size=4", "evaluation.latency_examples=0", "evaluation.verify=false", "tracking.enabled=false", "trainer.max_steps=4",
    "optim.lr=3e-3", "evaluation.max_new_tokens=8",
)  # fmt: skip


@dataclass
class World:
    """root: of pictures 0.png to 11.png, and of runs. words: the identity of one that writes; other: its sibling; red: one that chooses.

    boxes: one that draws the same box everywhere.
    """

    root: Path
    words: str
    other: str
    red: str
    boxes: str

    @property
    def all(self) -> tuple[str, str, str]:
        return self.words, self.other, self.red

    def picture(self, number: int) -> bytes:
        return (self.root / f"{number}.png").read_bytes()

    def url(self, number: int) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.picture(number)).decode()}"

    def predictor(self, identity: str) -> predicting.Predictor:
        run = find(self.root / "runs", identity)
        return predicting.Predictor(self.root / "runs", run, changed(run, []))

    def predicted(self, identity: str, question: str, numbers: Sequence[int]) -> Predicted:
        """What `lab predict` says about some pictures."""
        predictor = self.predictor(identity)
        return predictor.answer(predictor.questions([self.root / f"{number}.png" for number in numbers], question), silent)


def make_world(composer: Callable[..., Experiment], base: Path, root: Path, *keys: str) -> World:
    """Train two arms: colours in words, and whether a picture is red, as a choice. The sibling has another adapter of the first's names.

    keys: KEY=VALUE of all of them.
    """
    splits = ["train"] * 8 + ["minival"] * 2 + ["dev"] * 2
    for i in range(12):
        Image.new("RGB", (56 + 4 * i, 56), COLOURS[i % 3]).save(root / f"{i}.png")
    words = [f"{i}.png,what colour is {i}?,{COLOURS[i % 3]},{split}" for i, split in enumerate(splits)]
    red = [f"{i}.png,is {i} red?,{'no' if i % 3 else 'yes'},{split}" for i, split in enumerate(splits)]
    places = (f"model.path={base}", f"tracking.runs_dir={root}/runs", f"tracking.cache_dir={root}/cache", *keys)
    identities = []
    for name, rows in (("words", words), ("red", red)):
        (root / f"{name}.csv").write_text("\n".join(["image,question,answer,split", *rows]))
        x = composer("data=questions", f"data.path={root}/{name}.csv", *places, *SMALL)
        identities.append(running.run_alone(x, "python -m lab.train", time.time()).identity)
    boxes = [{"image": f"{i}.png", "boxes": [[0, 0, 28, 28]], "labels": ["it"], "split": split} for i, split in enumerate(splits)]
    (root / "boxes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in boxes))
    longer = ("trainer.max_steps=60", "optim.lr=1e-2", "evaluation.max_new_tokens=32")
    x = composer("data=boxes", f"data.path={root}/boxes.jsonl", *places, *SMALL, *longer)
    identities.append(running.run_alone(x, "python -m lab.train", time.time()).identity)
    return World(root, identities[0], sibling(root / "runs", identities[0]), *identities[1:])


def sibling(runs: Path, identity: str) -> str:
    """A copy of a run under another identity, whose adapter does the opposite."""
    other = identity[::-1]
    shutil.copytree(runs / identity, runs / other)
    record = runs / other / "run.json"
    record.write_text(record.read_text().replace(identity, other))
    path = runs / other / "adapter" / PEFT_WEIGHTS
    save_file({name: -4 * tensor if "lora_B" in name else tensor for name, tensor in load_file(path).items()}, path)
    return other


class Server:
    """`python -m lab.serve` at `url`, until it is ended."""

    def __init__(self, python: Path, world: World, names: Sequence[str], *words: str, **environment: str) -> None:
        runs = [word for name in names for word in ("--run", name)]
        command = [str(python), "-m", "lab.serve", *runs, "--port", "0", "--runs-dir", f"{world.root}/runs", *words]
        self.log = world.root / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | environment)
        assert self.process.stdout is not None
        told = next((line for line in self.process.stdout if line.startswith("serving ")), None)
        assert told is not None, self.log.read_text()
        self.url = told.split()[-1]
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url, timeout=120, limits=httpx.Limits(max_connections=None), verify=False, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def ask(self, model: str, question: str, *urls: str, **more: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=body(model, question, *urls, **more))

    def form(self, model: str, question: str, *pictures: bytes) -> httpx.Response:
        files = [("image", ("a picture.png", data, "image/png")) for data in pictures]
        return self.http.post("/predict", data={"model": model, "question": question}, files=files)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line.split() for line in self.get("/metrics").text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line[-1]) for line in lines)

    def end(self, number: signal.Signals = signal.SIGTERM, within_s: float = 60) -> int:
        """Its exit code."""
        self.http.close()
        self.process.send_signal(number)
        code = self.process.wait(within_s)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def body(model: str, question: str, *urls: str, **more: Any) -> dict[str, Any]:
    """A request for a completion."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"model": model, "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}], **more}
