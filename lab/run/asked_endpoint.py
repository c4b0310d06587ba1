"""`model=endpoint`: a model behind the OpenAI protocol asked benchmarks, whose record is one like any arm's. No weights are loaded.

    runs_dir/endpoint/<model>/replies.sqlite    every reply as it came, and every attempt, of all runs that ask this model of this server
    RUN/answers/<set>.jsonl, RUN/evaluations/<set>.json, RUN/predictions/<set>.dev.parquet    as of any arm, once a set is answered whole

A reply is kept under server, model, words, pictures and parameters, and never paid for twice; what a limit, a fault or a kill has left out is
asked by the same command. Every set is answered in words, a multiple choice too, since a server need not tell probabilities: where it does,
they stand in `scores`, and results say how sure it was (`confidence`).
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab import data, prompt
from lab.answers import predictions
from lab.benchmark_specs import SPECS
from lab.config import ENDPOINT, DataDial, Experiment, PromptDial, also_asked, as_dict, identity
from lab.curation.request import encoded
from lab.data.benchmarks import confidence, marks
from lab.data.images import decode
from lab.errors import ConfigError
from lab.evaluation import answers_file
from lab.host.files import text_hash, values_hash, write_atomically
from lab.host.progress import Report, silent
from lab.host.redaction import without_secrets
from lab.llm import config, log_probabilities, store
from lab.llm.asking import Asker, ask_all
from lab.llm.client import Client
from lab.llm.config import Service
from lab.llm.limits import Meter, exit_code
from lab.llm.request import Encoded, Request
from lab.llm.store import Answer, State, Store
from lab.records import Medium, Prediction, Replied, Sample, Splits, Text
from lab.run import benchmarks, judging
from lab.run.arm import fail, new_run
from lab.run.facts import versions
from lab.statistics import summary
from lab.store import runs
from lab.store.runs import Run
from lab.tracking.background import BackgroundSync, Trackers

log = logging.getLogger(__name__)

HIDDEN = "***"
"""In an address, where a record has left out a password."""


@dataclass(frozen=True)
class Asked:
    """One set that is asked. name: of its files. spelled: in `evaluation.also`; None: it is the run's own. shown: of a question's pictures, as
    they are sent, a digest by its place."""

    name: str
    dial: DataDial
    prompt: PromptDial
    splits: Splits
    spelled: str | None
    shown: dict[int, str] = field(default_factory=dict)

    def samples(self) -> list[Sample]:
        """Its questions, their pictures not yet read."""
        return [self.splits.dev.index(place) for place in range(len(self.splits.dev))]


def run_delivered(x: Experiment, command: str, started: float, report: Report) -> int:
    """`run`, then its judge if one is asked for, delivered to the trackers meanwhile; return the exit code. started: as of `judging.judge`."""
    with BackgroundSync(Trackers(x.tracking), [identity(x)]):
        return run(x, command, report)[1] or judging.judge(x, report, started)


def run(x: Experiment, command: str, report: Report = silent) -> tuple[Run, int]:
    """Ask what has no reply yet, and write what is answered whole; return the record and the command's exit code.

    Raises `ConfigError` or `DataError` before anything is asked, and what else stops the asking before its end.
    """
    service = service_of(x)
    asked = sets_of(x)
    runs_dir, record = Path(x.tracking.runs_dir), new_run(x, command)
    run_dir = runs.folder(runs_dir, record.identity)
    with runs.held(run_dir):
        begin(x, record)
        try:
            with store.opened(runs_dir / ENDPOINT / store_name(x) / "replies.sqlite") as kept:
                lacking, ended = ask_sets(x, asked, service, kept, record, run_dir, report)
        except BaseException as error:
            fail(x, record, error)
            raise
        return finish(x, record, lacking, ended)


def service_of(x: Experiment) -> Service:
    """The server. Raises `ConfigError` for keys that cannot be, or a secret that is not there."""
    if x.endpoint.base_url is None:
        raise ConfigError("endpoint.base_url: model=endpoint asks a server, and none is named. Give endpoint.base_url=URL endpoint.model=NAME.")
    if HIDDEN in x.endpoint.base_url:
        raise ConfigError("endpoint.base_url: a record does not hold the password in it. Give the whole command again, model=endpoint and all.")
    service = config.of_endpoint(x.endpoint, ENDPOINT, x.evaluation.most_tokens(Text.kind))
    config.check(service)
    return service


def store_name(x: Experiment) -> str:
    """The folder of the replies of one model of one server."""
    return text_hash(without_secrets(x.endpoint.base_url or "").rstrip("/"), x.endpoint.model or "", digits=10)


def sets_of(x: Experiment) -> list[Asked]:
    """All sets, read. Raises `ConfigError` for one that is no benchmark or stands twice, `DataError` for one that is not there."""
    others = [(data.option(spelled), spelled) for spelled in x.evaluation.also]
    named = [(x.data.name, x.data), *((option.name, option.dial) for option, _ in others)]
    if wrong := [dial.name for _, dial in named if dial.name not in SPECS]:
        raise ConfigError(f"data={wrong[0]}: model=endpoint is asked benchmarks: {', '.join(SPECS)}. Leave {wrong[0]} out.")
    if twice := [name for name, number in Counter(name for name, _ in named).items() if number > 1]:
        raise ConfigError(f"evaluation.also={x.evaluation.also}: {twice[0]} would be asked twice. Give one another name, as '{twice[0]} as=other'.")
    prompt.check(x.prompt, x.data.name, data.named(x.data.name).asks)
    found: list[tuple[str, DataDial, PromptDial, str | None]] = [(x.data.name, x.data, x.prompt, None)]
    for option, spelled in others:
        found.append((option.name, option.dial, prompt.of_data(option.dial, Text.kind, option.prompt, x.prompt, Text.kind), spelled))
    return [Asked(name, dial, put, data.load(replace(dial, kind=Text.kind), Path(x.tracking.cache_dir)), also) for name, dial, put, also in found]


def begin(x: Experiment, record: Run) -> None:
    """Make the record one of a run at work, with what an earlier command has measured of it."""
    runs_dir = Path(x.tracking.runs_dir)
    earlier = runs.load(runs_dir, record.identity)
    record.started = runs.now()
    if earlier is not None:
        record.started, record.metrics, record.facts = earlier.started or record.started, earlier.metrics, earlier.facts
        record.config = as_dict(also_asked(x, earlier.config))
    record.facts["versions"] = dict(versions())
    runs.save(runs_dir, record)


def finish(x: Experiment, record: Run, lacking: int, ended: Exception | None) -> tuple[Run, int]:
    """Write how it ended. Raises what stopped it, where that was no limit."""
    whole = ended is None and not lacking
    record.status, record.ended = runs.FINISHED if whole else runs.FAILED, runs.now()
    why = f"{lacking} questions have no reply yet; the same command asks them" if ended is None else f"{type(ended).__name__}: {ended}"
    record.error = None if whole else why
    runs.save(Path(x.tracking.runs_dir), record)
    if whole:
        return record, 0
    if ended is None:
        print(f"stopped: {why}", file=sys.stderr)
    return record, exit_code(ended, lacking)


def ask_sets(
    x: Experiment, asked: Sequence[Asked], service: Service, kept: Store, record: Run, run_dir: Path, report: Report
) -> tuple[int, Exception | None]:
    """Ask set after set; return how many questions have no reply, and what ended the asking early."""
    stop, client = threading.Event(), Client(service)
    lacking, ended = 0, None
    try:
        asker = Asker(service, kept, client, Meter(service, kept, stop), stop)
        for one in asked:
            samples = one.samples()
            makers = [maker(x, one, place, service) for place in range(len(samples))]
            answers, ended = ask_all(makers, asker, report, one.name)
            replied = [answers.get(place) for place in range(len(samples))]
            lacking += sum(not given(answer) for answer in replied)
            keep(x, one, samples, [answer for answer in replied if answer is not None and given(answer)], record, run_dir)
            if ended is not None:
                break
    finally:
        client.close()
    totals = kept.totals()
    facts = {"base_url": without_secrets(service.llm.base_url), "model": service.llm.model}
    record.facts[ENDPOINT] = {**facts, "attempts": totals.attempts, "tokens": totals.tokens, "cost": totals.cost}
    return lacking, ended


def given(answer: Answer | None) -> bool:
    """Whether a question has a reply, be it an empty one."""
    return answer is not None and answer.state is not State.failed


def maker(x: Experiment, one: Asked, place: int, service: Service) -> Callable[[], Request]:
    """What makes a question's request when its turn comes: its pictures are read then."""

    def make() -> Request:
        made = request(one.splits.dev[place], one.prompt, x.seed, service)
        one.shown[place] = text_hash(*(picture.digest for picture in made.pictures), digits=16) if made.pictures else ""
        return made

    return make


def request(sample: Sample, dial: PromptDial, seed: int, service: Service) -> Request:
    """A question as it is put to any model, its pictures in their places."""
    chat = prompt.to_chat(sample, dial, seed)
    shown = iter([shown_whole(sample.images[place]) for place in chat.image_order])
    system: list[str] = []
    parts: list[str | Encoded] = []
    for message in chat.messages:
        for part in message["content"]:
            if message["role"] == "system":
                system.append(part["text"])
            elif part["type"] == "image":
                parts.append(next(shown))
            elif parts and isinstance(parts[-1], str):
                parts[-1] += part["text"]
            else:
                parts.append(part["text"])
    worded = [part.strip() if isinstance(part, str) else part for part in parts]  # separators alone are no text that every server takes
    return Request(sample.sample_id, tuple(part for part in worded if part), service.llm, "\n".join(system) or None, beside=log_probabilities.ASKED)


def shown_whole(picture: Medium) -> Encoded:
    """A picture as it is sent, in full size. Raises `BadRecord` for one that does not decode."""
    decode(picture)
    return encoded(picture, None)


def keep(x: Experiment, one: Asked, samples: Sequence[Sample], replies: Sequence[Answer], record: Run, run_dir: Path) -> None:
    """Write a set that is answered whole, and what it comes to; of another nothing, its replies being in the store."""
    if len(replies) < len(samples):
        return
    rows = [row_of(sample, reply, one.prompt, x.seed) for sample, reply in zip(samples, replies, strict=True)]
    opened = marks.opened(one.dial)
    options = {question.name: len(question.asked.options) for question in opened.questions}
    scores = [
        {"ended": reply.state is not State.cut, **log_probabilities.told(reply.body, options[sample.sample_id])}
        for sample, reply in zip(samples, replies, strict=True)
    ]
    known = enumerate(zip(samples, replies, scores, strict=True))
    lines = [answers_file.written(sample.sample_id, reply.text, ended, one.shown[place]) for place, (sample, reply, ended) in known]
    write_atomically(run_dir / "answers" / f"{one.name}.jsonl", "".join(lines))
    path = runs.predictions_file(run_dir, one.name, "dev")
    predictions.write(path, rows)
    found = marks.result(one.dial, {sample.sample_id: reply.text for sample, reply in zip(samples, replies, strict=True)}, found=opened)
    sure = confidence.of({sample.sample_id: each for sample, each in zip(samples, scores, strict=True)}, found.pop("rows"))
    found |= {"confidence": sure} if sure else {"remarks": [*found["remarks"], confidence.UNTOLD]}
    states = Counter(reply.state.name for reply in replies)
    described, first = prompt.describe(one.prompt), prompt.to_chat(samples[0], one.prompt, x.seed)
    found |= {"cut": states[State.cut.name] / len(replies), "states": dict(states)}
    found |= {"prompt": {"hash": values_hash([described]), "first": list(first.messages)}}
    record.metrics |= benchmarks.keep(found, run_dir, one.name)
    name = "dev" if one.spelled is None else f"{one.name}/dev"
    record.metrics |= summary.of_split(name, predictions.read(path), x.evaluation.bootstrap)
    facts = {"examples": len(samples), "notes": list(one.splits.notes), "skipped": len(one.splits.skipped), "baselines": {}}
    if one.spelled is None:
        record.facts["data"] = {**facts, "counts": {"dev": len(samples)}, "samples": {"dev": data.fingerprint(one.splits.dev)}}
    else:
        more = {"option": one.spelled, "data": one.dial.name, "samples": data.fingerprint(one.splits.dev), "prompt": described, "rule": None}
        record.facts["also"] = record.facts.get("also", {}) | {one.name: facts | more}
    runs.save(Path(x.tracking.runs_dir), record)


def row_of(sample: Sample, reply: Answer, dial: PromptDial, seed: int) -> Prediction:
    """A reply as a row of predictions; how many tokens a picture cost, a server does not say."""
    said = Replied(reply.text, dial.post, reply.state is not State.cut)
    order = prompt.image_order(sample, dial, seed)
    return Prediction(sample.sample_id, sample.image_set, sample.question_group, sample.subset, sample.answer, said, order, ())
