"""The equivalence gate: one trained arm, computed six ways on a probe set, must give the same answers.

    reloaded        the adapter from its files on a base loaded anew
    batch of one    every example alone
    right padding   padded on the other side, read at each row's last real position
    plain folder    merged, exported, and run by Transformers alone with the processor's own call
    generate        what free generation reads first, over a cache; and the words it goes on to write

Each is held against the logits of the model in memory: the largest gap and the number of flipped answers, against a stated
tolerance. The probe's logits are kept in `probe.safetensors`, so that `python -m lab.verify RUN` can do it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lab.artifacts.export import exportable
from lab.config import ModelDial, Quantisation
from lab.data.images import decode
from lab.errors import ContractError, ModelError
from lab.evaluation.generation import texts, write
from lab.evaluation.scoring import answer_logits
from lab.model import Vlm, family
from lab.model.answers import Readout
from lab.model.encoding import Encoder, Example, to_device
from lab.prompt import to_chat
from lab.records import Batch, Sample

TOLERANCE = {
    torch.float32: {
        "reloaded": 0.0, "batch of one": 1e-5, "right padding": 1e-4, "plain folder": 1e-3, "generate": 1e-4, "stored": 1e-4,
    },
    torch.bfloat16: {
        "reloaded": 0.0, "batch of one": 0.25, "right padding": 0.25, "plain folder": 0.5, "generate": 0.25, "stored": 0.25,
    },
}  # fmt: skip
"""Largest legal gap between two logits, by dtype of the base; float16 is held to bfloat16's."""
INT8 = TOLERANCE[torch.bfloat16] | {"batch of one": 1.0}
"""That of an int8 base, whose activations are rounded to as many bits as bfloat16 keeps. Its outlier columns are chosen from the
whole batch, so a batch of one is another rounding: at most 0.45 was measured over the dials of the tiny base, whose logits reach 16."""


@dataclass(frozen=True)
class Check:
    """One way of computing the probe against the model in memory.

    max_gap: largest absolute difference of a logit at the answer position. flips: answers that changed.
    passed: no flip and no gap above the tolerance; None: not applicable, for the reason in `note`.
    """

    name: str
    max_gap: float | None
    flips: int | None
    num_examples: int
    tolerance: float | None
    passed: bool | None
    note: str = ""


def probe_logits(vlm: Vlm, encoder: Encoder, examples: Sequence[Example], padding_side: str = "left") -> torch.Tensor:
    """Logits of what follows the prompt, float32 [n, vocabulary], in one batch from pixels, computed as in scoring."""
    batch = encoder.collate(examples, with_answers=False, padding_side=padding_side)
    vlm.model.eval()
    with torch.inference_mode():
        return answer_logits(vlm, to_device(batch, vlm.device)).float().cpu()


def plain_logits(folder: Path, samples: Sequence[Sample], dial: ModelDial, encoder: Encoder) -> torch.Tensor:
    """The same logits from an exported folder through Transformers alone: no code of this laboratory but the prompt.

    Pixel budget, chat template and padding side are the folder's own, so that a wrong one shows.
    """
    from transformers import AutoProcessor

    dtype = getattr(torch, dial.dtype.value)
    model = family(dial.family).auto_class().from_pretrained(folder, dtype=dtype, attn_implementation=dial.attn_implementation)
    processor = AutoProcessor.from_pretrained(folder)
    chats = [to_chat(sample, encoder.prompt, encoder.seed) for sample in samples]
    texts = [
        processor.apply_chat_template(
            list(chat.messages), add_generation_prompt=True, tokenize=False, add_vision_id=encoder.prompt.numbered
        )
        for chat in chats
    ]
    images = [decode(sample.images[i]) for sample, chat in zip(samples, chats, strict=True) for i in chat.image_order]
    inputs = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model.eval()(**inputs, logits_to_keep=1).logits[:, -1].float()


def against(name: str, reference: torch.Tensor, other: torch.Tensor, readout: Readout, tolerance: float) -> Check:
    """Compare two sets of logits [n, vocabulary]."""
    if reference.shape != other.shape:
        shapes = f"shapes {tuple(reference.shape)} and {tuple(other.shape)}"
        return Check(name, float("inf"), None, len(reference), tolerance, False, shapes)
    gap = (reference - other).abs().max().item()
    flips = int((readout.answers(reference) != readout.answers(other)).sum())
    return Check(name, gap, flips, len(reference), tolerance, bool(flips == 0 and gap <= tolerance))


def generated(
    vlm: Vlm, batch: Batch, reference: torch.Tensor, readout: Readout, tolerance: float
) -> Check:
    """Free generation sees the model that scoring sees: logits of its first token, and what is written after it.

    Texts that read otherwise than the scored answer are told; they are no failure where the logits agree, since scoring sums over
    spellings and generation writes one.
    """
    vlm.model.eval()
    with torch.inference_mode():
        written = write(vlm, to_device(batch, vlm.device))
    check = against("generate", reference, written.logits.float().cpu(), readout, tolerance)
    read = [readout.read(text) for text in texts(vlm, written)]
    neither = [text for text, said in zip(texts(vlm, written), read, strict=True) if said is None]
    other = sum(said is not None and said != scored for said, scored in zip(read, readout.answers(reference).tolist(), strict=True))
    notes = [f"{len(neither)} texts are neither answer word, such as {neither[0]!r}"] if neither else []
    notes += [f"{other} texts are the other word, which one spelling wins and the sum of all loses"] if other else []
    return replace(check, note="; ".join([check.note, *notes] if check.note else notes))


def verify(
    dial: ModelDial,
    vlm: Vlm,
    samples: Sequence[Sample],
    encoder: Encoder,
    readout: Readout,
    reload: Callable[[], Vlm],
    plain: Callable[[Vlm], Path],
    stored: torch.Tensor | None = None,
) -> tuple[list[Check], torch.Tensor]:
    """Compute the probe every way; return the checks and the reference logits.

    reload: loads base, dials and adapter anew. plain: exports what was loaded, which it may change, to a folder.
    stored: logits kept from training.
    """
    int8 = dial.quantisation is Quantisation.int8
    tolerance = INT8 if int8 else TOLERANCE.get(getattr(torch, dial.dtype.value), TOLERANCE[torch.bfloat16])
    examples = [encoder.example(sample) for sample in samples]
    reference = probe_logits(vlm, encoder, examples)
    checks = []
    if stored is not None:
        checks.append(against("stored", stored, reference, readout, tolerance["stored"]))
    again = reload()
    reloaded = probe_logits(again, Encoder(again, encoder.prompt, encoder.seed), examples)
    checks.append(against("reloaded", reference, reloaded, readout, tolerance["reloaded"]))
    alone = torch.cat([probe_logits(vlm, encoder, [example]) for example in examples])
    checks.append(against("batch of one", reference, alone, readout, tolerance["batch of one"]))
    right = probe_logits(vlm, encoder, examples, padding_side="right")
    checks.append(against("right padding", reference, right, readout, tolerance["right padding"]))
    checks.append(exported(again, lambda: plain_logits(plain(again), samples, dial, encoder), reference, readout, tolerance["plain folder"]))
    checks.append(generated(vlm, encoder.collate(examples, with_answers=False), reference, readout, tolerance["generate"]))
    return checks, reference


def exported(vlm: Vlm, plain: Callable[[], torch.Tensor], reference: torch.Tensor, readout: Readout, tolerance: float) -> Check:
    """Merge, export, run by Transformers alone, and compare."""
    why = exportable(vlm)
    if why is not None:
        return Check("plain folder", None, None, len(reference), None, None, why)
    try:
        return against("plain folder", reference, plain(), readout, tolerance)
    except (ModelError, ContractError) as error:
        return Check("plain folder", None, None, len(reference), tolerance, False, str(error))


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
