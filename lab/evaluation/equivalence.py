"""The equivalence gate: one trained arm, computed in several ways on a probe set (`lab.evaluation.probing`), must give the same numbers and answers.

    reloaded        the adapter from its files on a base loaded anew
    batch of one    every example alone
    right padding   padded on the other side, read at each row's last real position
    plain folder    merged, exported, and run by Transformers alone with the processor's own call
    generate        what free generation reads first, over a cache; and the words it goes on to write
    shared prefix   examples of equal images over one reading of them, where `evaluation.shared_prefix` asks so

Each is held against the model in memory: the largest gap and the number of flipped answers, against a stated tolerance. An answer whose
likeliest two lay within the tolerance anyway is no flip: such near ties are counted apart. The probe is kept in `probe.safetensors`,
so that `python -m lab.verify RUN` can do it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lab.artifacts.export import exportable
from lab.config import ModelDial, Quantisation
from lab.errors import ContractError, ModelError
from lab.evaluation.generation import MAX_NEW_TOKENS, Continuation, Step, continuation, likelihood, steps, texts
from lab.evaluation.probing import Asked, Probe, joined, margins, of_logits, plain_probe, probe, shared_probe
from lab.model import Vlm
from lab.model.answers import AnyReadout, Readout
from lab.model.batching import IGNORED, to_device
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.records import Sample

TOLERANCE = {
    torch.float32: {
        "reloaded": 0.0, "batch of one": 1e-5, "right padding": 1e-4, "plain folder": 1e-3, "generate": 1e-4, "stored": 1e-4,
        "shared prefix": 1e-4,
    },
    torch.bfloat16: {
        "reloaded": 0.0, "batch of one": 0.25, "right padding": 0.25, "plain folder": 0.5, "generate": 0.25, "stored": 0.25,
        "shared prefix": 0.25,
    },
}  # fmt: skip
"""Largest legal gap between two numbers, by dtype of the base; float16 is held to bfloat16's."""
INT8 = TOLERANCE[torch.bfloat16] | {"batch of one": 1.0}
"""That of an int8 base, whose activations are rounded to as many bits as bfloat16 keeps. Its outlier columns are chosen from the
whole batch, so a batch of one is another rounding: at most 0.45 was measured over the dials of the tiny base, whose logits reach 16."""


@dataclass(frozen=True)
class Check:
    """One way of computing the probe against the model in memory.

    max_gap: largest absolute difference of a number of the probe. flips: answers that changed.
    A near tie, whose two likeliest answers lie within the tolerance in the model in memory, is no flip, and is told in `note`.
    passed: no flip and no gap above the tolerance; None: not applicable, for the reason in `note`.
    """

    name: str
    max_gap: float | None
    flips: int | None
    num_examples: int
    tolerance: float | None
    passed: bool | None
    note: str = ""


def against(name: str, reference: Probe, other: Probe, tolerance: float) -> Check:
    """Compare two probes of the same examples."""
    if reference.numbers.shape != other.numbers.shape:
        shapes = f"shapes {tuple(reference.numbers.shape)} and {tuple(other.numbers.shape)}"
        return Check(name, float("inf"), None, len(reference.numbers), tolerance, False, shapes)
    gap = (reference.numbers - other.numbers).abs().max().item()
    others = reference.answers != other.answers
    flips = (others & (reference.margins > tolerance)).any(dim=1)
    return verdict(name, gap, int(flips.sum()), int((others.any(dim=1) & ~flips).sum()), len(flips), tolerance)


def verdict(name: str, gap: float, flips: int, ties: int, number: int, tolerance: float) -> Check:
    """The outcome of a comparison. ties: answers that are others, but whose likeliest two lay within the tolerance."""
    note = f"{ties} near ties of two answers within the tolerance went to the other" if ties else ""
    return Check(name, gap, flips, number, tolerance, bool(flips == 0 and gap <= tolerance), note)


def generated(
    written: Continuation, texts: Sequence[str], examples: Sequence[Example], reference: Probe, readout: AnyReadout, tolerance: float
) -> Check:
    """Free generation sees the model that scoring sees."""
    if isinstance(readout, Readout):
        return chosen(texts, of_logits(written.logits, readout), reference, readout, tolerance)
    sizes = [len(example.text.answer_ids) for example in examples]
    labels = [torch.from_numpy(example.text.answer_ids) for example in examples]
    first = torch.stack([ids[0] for ids in labels]).to(written.logits.device)
    places = torch.tensor([reference.numbers.shape[1] - size for size in sizes])
    rows = torch.arange(len(sizes))
    scored = torch.where(first == IGNORED, 0.0, likelihood(written.logits, first.clamp(min=0))).cpu()
    gap = (scored - reference.numbers[rows, places]).abs().max().item()
    first_others = [first_other(written.tokens[b].cpu(), reference, b, place, labels[b]) for b, place in enumerate(places.tolist())]
    flips = sum(margin > tolerance for margin in first_others if margin is not None)
    ties = sum(margin is not None for margin in first_others) - flips
    return verdict("generate", gap, flips, ties, len(sizes), tolerance)


def first_other(tokens: torch.Tensor, reference: Probe, row: int, start: int, labels: torch.Tensor) -> float | None:
    """The margin of the first answer of a row of the probe that generation does not write though it has read what scoring has.

    None where it writes each, up to the first that is not the label: behind it the two read other words.
    """
    for place, label in enumerate(labels.tolist()):
        if label == IGNORED:
            return None
        if tokens[place] != reference.answers[row, start + place]:
            return reference.margins[row, start + place].item()
        if tokens[place] != label:
            return None
    return None


def chosen(written: Sequence[str], first: Probe, reference: Probe, readout: Readout, tolerance: float) -> Check:
    """Logits of the first token, and what is written after it.

    Texts that read otherwise than the scored answer are told; they are no failure where the logits agree, since scoring sums over
    spellings and generation writes one.
    """
    check = against("generate", reference, first, tolerance)
    read = [readout.read(text) for text in written]
    neither = [text for text, said in zip(written, read, strict=True) if said is None]
    other = sum(said is not None and said != scored for said, scored in zip(read, reference.answers[:, 0].tolist(), strict=True))
    notes = [f"{len(neither)} texts are neither answer word, such as {neither[0]!r}"] if neither else []
    notes += [f"{other} texts are the other word, which one spelling wins and the sum of all loses"] if other else []
    return replace(check, note="; ".join([check.note, *notes] if check.note else notes))


def verify(
    dial: ModelDial,
    vlm: Vlm,
    samples: Sequence[Sample],
    encoder: Encoder,
    reload: Callable[[], Vlm],
    plain: Callable[[Vlm], Path],
    stored: Probe | None = None,
    shared: bool = False,
) -> tuple[list[Check], Probe]:
    """Compute the probe every way; return the checks and the probe of the model in memory.

    reload: loads base, dials and adapter anew. plain: exports what was loaded, which it may change, to a folder.
    stored: the probe as training left it. shared: evaluation shares the reading of images.
    """
    int8 = dial.quantisation is Quantisation.int8
    tolerance = INT8 if int8 else TOLERANCE.get(getattr(torch, dial.dtype.value), TOLERANCE[torch.bfloat16])
    examples = [encoder.example(sample) for sample in samples]
    reference = probe(vlm, encoder, examples)
    with torch.inference_mode():
        most = max(MAX_NEW_TOKENS, *(len(example.text.answer_ids) for example in examples))
        taken = list(steps(vlm, to_device(encoder.collate(examples, with_answers=False), vlm.device), most))
    written, closest = continuation(taken), smallest_margins(taken)
    replies = texts(vlm, written)
    checks = [] if stored is None else [against("stored", stored, reference, tolerance["stored"])]
    again = reload()
    reloaded = probe(again, Encoder(again, encoder.prompt, encoder.seed, encoder.answers), examples)
    checks.append(against("reloaded", reference, reloaded, tolerance["reloaded"]))
    alone = joined([probe(vlm, encoder, [example]) for example in examples])
    checks.append(against("batch of one", reference, alone, tolerance["batch of one"]))
    checks.append(padded_right(vlm, encoder, examples, reference, tolerance["right padding"]))
    asked = Asked(samples, examples, encoder, replies, closest, most)
    checks.append(exported(again, asked, reference, lambda: plain_probe(plain(again), asked, dial), tolerance["plain folder"]))
    checks.append(generated(written, replies, examples, reference, encoder.readout, tolerance["generate"]))
    if shared:
        checks.append(against("shared prefix", reference, shared_probe(vlm, encoder, examples), tolerance["shared prefix"]))
    return checks, reference


def smallest_margins(taken: Sequence[Step]) -> torch.Tensor:
    """The smallest margin among the tokens that each row of a batch was continued by, float32 [B]."""
    ended_before = [torch.zeros_like(taken[0].ended), *[step.ended for step in taken[:-1]]]
    each = [margins(step.logits).masked_fill(ended, torch.inf) for ended, step in zip(ended_before, taken, strict=True)]
    return torch.stack(each).amin(dim=0).cpu()


def padded_right(vlm: Vlm, encoder: Encoder, examples: Sequence[Example], reference: Probe, tolerance: float) -> Check:
    """The probe padded on the side where evaluation does not pad."""
    if encoder.architecture.padding_side == "right":
        return Check("right padding", None, None, len(examples), None, None, "its prompts are padded on the right anyway")
    if not encoder.architecture.causal and not isinstance(encoder.readout, Readout):
        note = "its answers are not read as its prompts are"
        return Check("right padding", None, None, len(examples), None, None, note)
    return against("right padding", reference, probe(vlm, encoder, examples, padding_side="right"), tolerance)


def exported(vlm: Vlm, asked: Asked, reference: Probe, plain: Callable[[], tuple[Probe, list[str]]], tolerance: float) -> Check:
    """Merge, export, run by Transformers alone, and compare; an answer in words also with what Transformers' `generate` writes."""
    number = len(asked.samples)
    why = exportable(vlm)
    if not asked.encoder.inline and asked.encoder.labels is None and any(len(sample.images) != 1 for sample in asked.samples):
        why = why or "plain Transformers shows such a model one image a prompt"
    if why is not None:
        return Check("plain folder", None, None, number, None, None, why)
    try:
        answered, written = plain()
    except (ModelError, ContractError) as error:
        return Check("plain folder", None, None, number, tolerance, False, str(error))
    check = against("plain folder", reference, answered, tolerance)
    others = [row for row, pair in enumerate(zip(asked.written, written, strict=False)) if pair[0] != pair[1]]
    if not others:
        return check
    flips = sum(asked.closest[row].item() > tolerance for row in others)
    ties = f"; {len(others) - flips} of them past a near tie" if flips < len(others) else ""
    note = f"{len(others)} texts are others, such as {written[others[0]]!r} for {asked.written[others[0]]!r}{ties}"
    return replace(check, flips=(check.flips or 0) + flips, passed=bool(check.passed) and flips == 0, note=note)


def passed(checks: Sequence[Check]) -> bool:
    """Whether no check failed."""
    return all(check.passed is not False for check in checks)


def summary(checks: Sequence[Check]) -> dict[str, float]:
    """The verdict as numbers for the run: passed (1 or 0), largest gap, flipped answers; the last two of every check too."""
    gaps = [check.max_gap for check in checks if check.max_gap is not None]
    each: dict[str, float] = {}
    for check in checks:
        name = f"verify/{check.name.replace(' ', '_')}"
        each |= {} if check.max_gap is None else {f"{name}/max_gap": check.max_gap}
        each |= {} if check.flips is None else {f"{name}/flips": float(check.flips), f"{name}/num_examples": float(check.num_examples)}
    return each | {
        "verify/passed": float(passed(checks)),
        "verify/max_gap": max(gaps, default=0.0),
        "verify/flips": float(sum(check.flips or 0 for check in checks)),
    }


def table(checks: Sequence[Check]) -> str:
    """The checks as a plain table."""
    lines = [f"{'check':<16} {'largest gap':>12} {'tolerance':>10} {'flips':>6} {'of':>4}  verdict"]
    for check in checks:
        gap = "" if check.max_gap is None else f"{check.max_gap:.3g}"
        limit = "" if check.tolerance is None else f"{check.tolerance:g}"
        flips = "" if check.flips is None else str(check.flips)
        verdict = {True: "pass", False: "FAIL", None: "not applicable"}[check.passed]
        note = f" ({check.note})" if check.note else ""
        lines.append(f"{check.name:<16} {gap:>12} {limit:>10} {flips:>6} {check.num_examples:>4}  {verdict}{note}")
    return "\n".join(lines)


def facts(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as plain values for `run.json`."""
    return [asdict(check) for check in checks]
