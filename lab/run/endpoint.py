"""A run's own questions, replayed over the OpenAI protocol: does a server answer as was measured? No weights are loaded here."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from lab import data
from lab.answers import choice, predictions
from lab.answers.agreement import texts
from lab.answers.predictions import PredictionTable
from lab.artifacts import contract
from lab.config import Experiment
from lab.costs.without_weights import encoder_of
from lab.data.images import decode
from lab.errors import ConfigError, ContractError, DataError
from lab.evaluation.equivalence import TOLERANCE, Check
from lab.evaluation.generation import MAX_NEW_TOKENS
from lab.host.redaction import without_secrets
from lab.model import locate, precision
from lab.records import Choice, Regions, Sample
from lab.store import runs
from lab.store.runs import Run

TOP = 20
"""Tokens at one place whose log-probabilities a server of the protocol gives at most."""
OPTIONAL = ("top_logprobs", "logprobs", "chat_template_kwargs", "skip_special_tokens")
"""Fields of a request that are left out once a server has refused them by name."""
MOST_FLIPS = 1 / 16
"""Share of answers that a base of 16 bits or less may give otherwise in other batches; one of float32 none."""
ALIKE = 1e-6
"""Log-probabilities nearer than this are of the same weights."""


@dataclass(frozen=True)
class Reply:
    """What a server said. tokens: log p of each token written; top: of the likeliest first tokens; None, {}: it does not tell."""

    text: str
    tokens: tuple[float, ...] | None
    top: Mapping[str, float]
    prompt_tokens: int | None


class Endpoint:
    """A server at an address that ends in /v1, and one of its models."""

    def __init__(self, url: str, key: str | None, model: str, timeout_s: float = 300.0) -> None:
        """Raises `ContractError` where the server has no such model."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url, self.http, self.optional = url.rstrip("/"), httpx.Client(timeout=timeout_s, headers=headers), OPTIONAL
        try:
            self.models = {entry["id"]: entry for entry in self.send("GET", "models")["data"]}
        except ConfigError:
            self.close()
            raise
        if model not in self.models:
            self.close()
            raise ContractError(
                f"--endpoint {self.shown}: it has no model {model}. It has {', '.join(self.models) or 'none'}; name the one that serves this "
                "run with --model."
            )
        self.model = model

    def close(self) -> None:
        """Close its connections."""
        self.http.close()

    @property
    def shown(self) -> str:
        """The address as it may be printed."""
        return without_secrets(self.url)

    def base(self, path: str | None, named: str | None) -> str | None:
        """The bare base among its models, if it offers it. path: the checkpoint. named: as the user calls it."""
        known = [named, self.models[self.model].get("parent"), path, path and locate(path)]
        return next((name for name in known if name in self.models and name != self.model), None)

    def send(self, method: str, route: str, body: dict[str, Any] | None = None) -> Any:
        """One request. Raises `ConfigError` where there is no answer, or one that is no JSON."""
        try:
            response = self.http.request(method, f"{self.url}/{route}", json=body)
            refused = [key for key in self.optional if body and key in body and key in response.text]
            if response.status_code in (400, 422) and body and refused:
                self.optional = tuple(key for key in self.optional if key not in refused)
                return self.send(method, route, {key: value for key, value in body.items() if key not in refused})
            response.raise_for_status()
            return response.json()
        except httpx.HTTPStatusError as error:
            told = without_secrets(" ".join(error.response.text.split())[:300])
            raise ConfigError(f"--endpoint {self.shown}: /{route} is answered by {error.response.status_code}: {told}") from None
        except (httpx.HTTPError, ValueError) as error:
            raise ConfigError(f"--endpoint {self.shown}: no answer to /{route} ({error or type(error).__name__}).") from None

    def ask(self, model: str, messages: Sequence[dict[str, Any]], most: int, more: Mapping[str, Any]) -> Reply:
        """Ask one question, greedily. more: fields of `OPTIONAL`."""
        body: dict[str, Any] = {"model": model, "messages": list(messages), "max_tokens": most, "temperature": 0}
        body |= {key: value for key, value in more.items() if key in self.optional}
        answer = self.send("POST", "chat/completions", body)
        try:
            (said,) = answer["choices"]
            told = (said.get("logprobs") or {}).get("content") or []
            top = {one["token"]: float(one["logprob"]) for one in told[0].get("top_logprobs") or ()} if told else {}
            tokens = tuple(float(one["logprob"]) for one in told) or None
            return Reply(said["message"]["content"] or "", tokens, top, (answer.get("usage") or {}).get("prompt_tokens"))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"--endpoint {self.shown}: its reply is none of the OpenAI protocol ({type(error).__name__}: {error}).") from None


@dataclass
class Questions:
    """The first questions of a run's dev split with what it has stored of them. spellings: of each option; most: tokens of an answer."""

    x: Experiment
    samples: list[Sample]
    stored: PredictionTable
    spellings: dict[str, list[str]]
    most: int

    @cached_property
    def encoder(self) -> Any:
        """Of prompts and pictures, without weights. Raises `ConfigError` where the checkpoint's processor is not here."""
        made = encoder_of(self.x)
        if made is None:
            raise ConfigError(f"model.path={self.x.model.path}: its processor is not on this machine, and nothing can be asked without it.")
        return made

    def messages(self, sample: Sample) -> list[dict[str, Any]]:
        """As it was trained, pictures as data URLs."""
        chat = self.encoder.chat(sample)
        images = iter([picture_url(sample, i) for i in chat.image_order])
        said = self.encoder.architecture.messages(chat)
        if said is None:
            text = {"type": "text", "text": self.encoder.architecture.question(chat)}
            said = [{"role": "user", "content": [*({"type": "image"} for _ in chat.image_order), text]}]
        return [
            {**one, "content": [{"type": "image_url", "image_url": {"url": next(images)}} if part["type"] == "image" else part
                                for part in one["content"]]} for one in said
        ]  # fmt: skip

    def ask(self, endpoint: Endpoint, model: str) -> list[Reply]:
        """What a model of a server says to all."""
        more: dict[str, Any] = {"logprobs": True, "top_logprobs": TOP}
        more |= {"chat_template_kwargs": {"add_vision_id": True}} if self.x.prompt.numbered else {}
        more |= {"skip_special_tokens": False} if self.stored.kind == Regions.kind else {}  # by which boxes are written
        return [endpoint.ask(model, self.messages(sample), self.most, more) for sample in self.samples]

    def read(self, replies: Sequence[Reply]) -> tuple[list[str], np.ndarray]:
        """Each reply as an answer, and its log-probability, NaN where it is not told."""
        if self.spellings:
            rows = [self.choice(one, sample) for one, sample in zip(replies, self.samples, strict=True)]
        else:
            rows = [written(one, tokens) for one, tokens in zip(replies, self.stored.tokens.tolist(), strict=True)]
        return [answer for answer, _ in rows], np.array([log_p for _, log_p in rows])

    def choice(self, reply: Reply, sample: Sample) -> tuple[str, float]:
        """The likeliest of a question's options, by the first token where its alternatives are told, else by the text."""
        assert isinstance(sample.answer, Choice)
        named = {option: dict.fromkeys((option, *self.spellings[option])) for option in sample.answer.options}
        found = {option: [reply.top[each] for each in names if each in reply.top] for option, names in named.items()}
        mass = {option: float(np.logaddexp.reduce(values)) for option, values in found.items() if values}
        if mass:
            return max(mass.items(), key=lambda pair: pair[1])
        place = choice.read(reply.text, [self.spellings[option][0] for option in sample.answer.options])
        return (reply.text if place is None else sample.answer.options[place]), math.nan

    def against_stored(self, replies: Sequence[Reply]) -> Check:
        """The run's own answers and log-probabilities against the server's."""
        told, log_p = self.read(replies)
        flips = sum(one.strip() != other.strip() for one, other in zip(told, texts(self.stored).tolist(), strict=True))
        gap = float(np.nanmax(np.abs(log_p - self.stored_log_p(told)), initial=0.0)) if np.isfinite(log_p).any() else None
        limit = tolerance(self.x)
        passed = flips <= (0 if precision.exact(self.x.model) else MOST_FLIPS * len(told)) and (gap is None or gap <= limit)
        return Check("stored answers", gap, flips, len(told), limit, passed, "" if gap is not None else "log-probabilities are not told")

    def stored_log_p(self, told: Sequence[str]) -> np.ndarray:
        """What the run has stored of the server's answers, NaN where the run gave another."""
        if not self.spellings:
            return np.where([one.strip() == other.strip() for one, other in zip(told, self.stored.text, strict=True)], self.stored.log_p, np.nan)
        rows = zip(told, self.stored.answered, self.stored.log_p, self.stored.prediction.tolist(), strict=True)
        return np.array([log_p[place] if one == answer else np.nan for one, answer, log_p, place in rows])

    def grids(self, replies: Sequence[Reply]) -> Check:
        """Tokens of each prompt as the server counts them against the run's: other pixel limits, or another chat template, show here."""
        sizes = [self.encoder.size(self.encoder.example(sample)) for sample in self.samples]
        counted = [reply.prompt_tokens for reply in replies]
        if all(number is None or number <= size.length - sum(size.tokens) + len(size.tokens) for number, size in zip(counted, sizes, strict=True)):
            return Check("prompt tokens", None, None, len(sizes), None, None, "the endpoint does not count tokens of pictures")
        wrong = [(number, size.length) for number, size in zip(counted, sizes, strict=True) if number != size.length]
        note = f"{wrong[0][0]} tokens there, {wrong[0][1]} in the run: other pixel limits, or another chat template" if wrong else ""
        return Check("prompt tokens", None, len(wrong), len(sizes), None, not wrong, note)

    def against_base(self, replies: Sequence[Reply], bare: Sequence[Reply], base: str) -> Check:
        """The server's adapter against its bare base: an adapter that fits no module answers as the base."""
        (told, log_p), (other, other_p) = self.read(replies), self.read(bare)
        gaps = np.abs(log_p - other_p)
        alike = told == other and not (gaps > ALIKE).any()
        gap = float(np.nanmax(gaps, initial=0.0)) if np.isfinite(gaps).any() else None
        differing = sum(one != another for one, another in zip(told, other, strict=True))
        note = f"{base} answers the same: the adapter is not applied" if alike else f"{differing} answers are others than {base}'s"
        return Check("bare base", gap, None, len(told), None, not alike, note)


def written(reply: Reply, tokens: int) -> tuple[str, float]:
    """A text and its log p with the end of the turn, NaN where that cannot be told. tokens: as the run counts those of its own."""
    known = reply.tokens is not None and len(reply.tokens) == tokens
    return reply.text, sum(reply.tokens) if known and reply.tokens is not None else math.nan


def tolerance(x: Experiment) -> float:
    """Largest legal gap of a log-probability, as of the exported folder."""
    import torch

    return TOLERANCE.get(getattr(torch, x.model.dtype.value), TOLERANCE[torch.bfloat16])["plain folder"]


def picture_url(sample: Sample, place: int) -> str:
    """A picture as the run sees it, upright and cropped, as a data URL."""
    file = io.BytesIO()
    decode(sample.images[place]).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def questions(run: Run, run_dir: Path, x: Experiment, number: int) -> Questions:
    """The first questions of dev, and what the run has stored of them. Raises `DataError` where dev is not what was measured."""
    splits = data.load(x.data, Path(x.tracking.cache_dir))
    stored = predictions.read(runs.own_predictions(run, run_dir, "dev"))
    rows = np.arange(min(number, len(stored)))
    places = {name: place for place, name in enumerate(splits.dev.sample_ids)}
    if missing := [name for name in stored.sample_id[rows].tolist() if name not in places]:
        raise DataError(f"data={x.data.name}: its dev split has no sample {missing[0]}, which the run was asked. The data are others now.")
    samples = [splits.dev[places[name]] for name in stored.sample_id[rows].tolist()]
    answers = contract.load(run_dir)["answers"]
    spellings = dict(zip(splits.answers.options, answers["options"], strict=True)) if answers["kind"] == Choice.kind else {}
    return Questions(x, samples, stored.take(rows), spellings, answers.get("max_new_tokens", MAX_NEW_TOKENS))


def replay(asked: Questions, endpoint: Endpoint, base: str | None) -> list[Check]:
    """All checks of a server. base: the bare base's name there, None where it is not offered."""
    replies = asked.ask(endpoint, endpoint.model)
    checks = [asked.against_stored(replies), asked.grids(replies)]
    if base is None:
        why = "the endpoint does not offer the bare base; name it with --base where it does"
        return [*checks, Check("bare base", None, None, len(replies), None, None, why)]
    return [*checks, asked.against_base(replies, asked.ask(endpoint, base), base)]
