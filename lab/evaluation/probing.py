"""A probe: the same few questions, computed by a model as it is in memory, padded otherwise, or as Transformers alone has it.

Of answers to choose from, the numbers are the logits of what follows the prompt; of answers in words, log p of each token of the
reference, and the answers are the likeliest tokens at these places. Beside each answer stands its margin: a rounding of its dtype may
turn an answer that is hardly likelier than the next, and no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lab.config import ModelDial
from lab.data.images import decode
from lab.evaluation import shared_prefix
from lab.evaluation.scoring import answer_logits
from lab.model import Vlm, family
from lab.model.answers import Readout
from lab.model.batching import to_device
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.model.precision import one_layout
from lab.records import Sample
from lab.training.losses import of_labels


@dataclass(frozen=True)
class Probe:
    """numbers: float32 [n, d]. answers: int64 [n, k]. margins: by how much log p of each answer is above the next likeliest's, float32 [n, k].

    Those of references of several lengths end together, behind zeros.
    """

    numbers: torch.Tensor
    answers: torch.Tensor
    margins: torch.Tensor


def probe(vlm: Vlm, encoder: Encoder, examples: Sequence[Example], padding_side: str | None = None) -> Probe:
    """Of examples in one batch from pixels, computed as in evaluation."""
    vlm.model.eval()
    with at_rest(vlm.model), torch.inference_mode():
        if isinstance(encoder.readout, Readout):
            batch = encoder.collate(examples, with_answers=False, padding_side=padding_side)
            return of_logits(answer_logits(vlm, to_device(batch, vlm.device)), encoder.readout)
        if padding_side == "right" and encoder.inline:
            return right_padded(vlm, encoder, examples)
        batch = to_device(encoder.collate(examples, with_answers=True, padding_side=padding_side), vlm.device)
        assert batch.target.labels is not None
        return of_words(vlm.predict(batch), batch.target.labels)


def shared_probe(vlm: Vlm, encoder: Encoder, examples: Sequence[Example]) -> Probe:
    """Of examples in one batch, those with the same images over one reading of them (`evaluation.shared_prefix`)."""
    vlm.model.eval()
    with at_rest(vlm.model), torch.inference_mode():
        read = shared_prefix.prefixes(vlm, encoder, examples)
        if isinstance(encoder.readout, Readout):
            return of_logits(read.begin(encoder.collate(examples, with_answers=False))[1].logits, encoder.readout)
        batch = to_device(encoder.collate(examples, with_answers=True), vlm.device)
        assert batch.target.labels is not None
        return of_words(read.predict(batch), batch.target.labels)


@contextlib.contextmanager
def at_rest(model: torch.nn.Module) -> Iterator[None]:
    """Within, no weight asks for a gradient: PyTorch multiplies several rows by one that does in another way, with other rounding."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def of_logits(logits: torch.Tensor, readout: Readout) -> Probe:
    """Of what follows the prompt, [n, vocabulary]."""
    logits = logits.float().cpu()
    return Probe(logits, readout.answers(logits)[:, None], margins(readout.log_p(logits))[:, None])


def of_words(logits: torch.Tensor, labels: torch.Tensor) -> Probe:
    """Of references, int64 [n, k], under the logits at their places, [n, k, vocabulary]."""
    log_p, likeliest = of_labels(logits, labels)
    return Probe(log_p.cpu(), likeliest.clamp(min=0).cpu(), margins(logits).cpu())


def margins(logits: torch.Tensor) -> torch.Tensor:
    """By how much the largest number of the last dimension is above the next, float32; infinite where there is but one."""
    first, *others = logits.float().topk(min(2, logits.shape[-1])).values.unbind(-1)
    return first - others[0] if others else torch.full_like(first, torch.inf)


def right_padded(vlm: Vlm, encoder: Encoder, examples: Sequence[Example]) -> Probe:
    """Of references that stand in right-padded rows."""
    texts = [replace(example.text, prompt_ids=np.concatenate([example.text.prompt_ids, example.text.answer_ids])) for example in examples]
    rows = [replace(example, text=text) for example, text in zip(examples, texts, strict=True)]
    batch = to_device(encoder.collate(rows, with_answers=False, padding_side="right"), vlm.device)
    mask = batch.prompt.mask
    assert mask is not None
    ends = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(dim=1).tolist()
    return of_rows(vlm.logits(batch, mask.shape[1]), ends, examples)


def of_rows(logits: torch.Tensor, ends: Sequence[int], examples: Sequence[Example]) -> Probe:
    """Of references whose last token stands before the place `ends` of its row, from all logits [n, T, vocabulary]."""
    parts = []
    for row, end, example in zip(logits.float().cpu(), ends, examples, strict=True):
        labels = torch.from_numpy(example.text.answer_ids)[None]
        parts.append(of_words(row[None, end - labels.shape[1] - 1 : end - 1], labels))
    return joined(parts)


def joined(probes: Sequence[Probe]) -> Probe:
    """One after another."""
    columns = zip(*[(one.numbers, one.answers, one.margins) for one in probes], strict=True)
    return Probe(*[torch.cat([F.pad(one, (max(o.shape[1] for o in column) - one.shape[1], 0)) for one in column]) for column in columns])


@dataclass(frozen=True)
class Asked:
    """The probe's questions, their encoder, and what the model in memory wrote in at most so many tokens.

    closest: the smallest margin among the tokens of each text, float32 [n].
    """

    samples: Sequence[Sample]
    examples: Sequence[Example]
    encoder: Encoder
    written: Sequence[str]
    closest: torch.Tensor
    most: int


def plain_probe(folder: Path, asked: Asked, dial: ModelDial) -> tuple[Probe, list[str]]:
    """The same from an exported folder through Transformers alone, and what its `generate` writes where answers are in words.

    No code of this laboratory but the prompt and the comparison. Pixel budget, chat template and padding side are the folder's own, so
    that a wrong one shows. 4-bit layers answer from the weights that training read, as anywhere but on a CPU with bfloat16 instructions.
    """
    from transformers import AutoConfig, AutoProcessor

    kind, dtype = family(dial.family), getattr(torch, dial.dtype.value)
    attention = dial.attn_implementation or kind.attention[0]
    model = kind.model_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
    one_layout(model)
    processor = AutoProcessor.from_pretrained(folder)
    encoder = asked.encoder
    if not encoder.inline:
        with torch.inference_mode():
            return (plain_rows if encoder.labels is None else plain_labels)(model, processor, asked)
    chats = [encoder.chat(sample, plain=True) for sample in asked.samples]
    images = [encoder.plain(sample.images[i], processor) for sample, chat in zip(asked.samples, chats, strict=True) for i in chat.image_order]

    framed = [encoder.architecture.frame(processor, chat, encoder.prompt.numbered) for chat in chats]

    def inputs(answered: bool) -> Any:
        return encoder.architecture.plain(processor, [prompt + answer * answered for prompt, answer in framed], chats, images)

    with torch.inference_mode():
        if isinstance(encoder.readout, Readout):
            return of_logits(model(**inputs(False), logits_to_keep=1).logits[:, -1], encoder.readout), []
        logits, prompts = model(**inputs(True)).logits, inputs(False)
        written = model.generate(**prompts, do_sample=False, max_new_tokens=asked.most)[:, prompts["input_ids"].shape[1] :]
    return of_rows(logits, [logits.shape[1]] * len(logits), asked.examples), processor.batch_decode(written, skip_special_tokens=True)


def plain_rows(model: Any, processor: Any, asked: Asked) -> tuple[Probe, list[str]]:
    """The same of a model whose answers stand in a decoder of their own, one question at a time; its forward gives no logits of them."""
    architecture, logits, parts, texts = asked.encoder.architecture, [], [], []
    writer = architecture.writer(model)
    writer.register_forward_hook(lambda module, args, out: logits.append(out.logits))
    for sample, example in zip(asked.samples, asked.examples, strict=True):
        chat, ids = asked.encoder.chat(sample), torch.from_numpy(example.text.answer_ids)[None]
        images = [decode(sample.images[i]) for i in chat.image_order]
        inputs = processor(text=asked.encoder.architecture.question(chat), images=images, return_tensors="pt")
        start = torch.full((1, 1), architecture.start_id(model.config))
        logits.clear()
        if isinstance(asked.encoder.readout, Readout):
            model(**inputs, decoder_input_ids=start)
            parts.append(of_logits(logits[0][:, 0], asked.encoder.readout))
            continue
        model(**inputs, decoder_input_ids=torch.cat([start, ids[:, :-1]], dim=1))
        parts.append(of_words(logits[0], ids))
        written = model.generate(**inputs, do_sample=False, max_new_tokens=asked.most)
        texts += processor.batch_decode(written, skip_special_tokens=True)
    return joined(parts), texts


def plain_labels(model: Any, processor: Any, asked: Asked) -> tuple[Probe, list[str]]:
    """The same of a model that chooses among labels, one question at a time."""
    parts, texts = [], []
    for sample, example in zip(asked.samples, asked.examples, strict=True):
        chat = asked.encoder.chat(sample)
        architecture, images = asked.encoder.architecture, [decode(sample.images[i]) for i in chat.image_order]
        logits = model(**architecture.plain(processor, [architecture.question(chat)], [chat], images)).logits
        if isinstance(asked.encoder.readout, Readout):
            parts.append(of_logits(logits, asked.encoder.readout))
            continue
        parts.append(of_words(logits[:, None], torch.from_numpy(example.text.answer_ids)[None]))
        texts.append(model.config.id2label[int(logits.argmax())])
    return joined(parts), texts

