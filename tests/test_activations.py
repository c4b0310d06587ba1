"""What a step is counted to keep for its backward, against what autograd keeps of a real model."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch
from checkpoints import FAMILIES, save
from test_families import PROMPT, sample

from lab import lora, model
from lab.config import PARTS, DType, LoraDial
from lab.costs import activations
from lab.model.encoding import Encoder
from lab.training import capacity
from lab.training.objective import answer_loss

EVERYWHERE = LoraDial("one", r=4, where=list(PARTS), target_modules="all-linear")
DIALS = {
    "everywhere": EVERYWHERE,
    "llm": dataclasses.replace(EVERYWHERE, where=["llm"]),
    "attention": dataclasses.replace(EVERYWHERE, where=["llm"], target_modules="attention"),
    "dropout": dataclasses.replace(EVERYWHERE, where=["llm"], lora_dropout=0.1),
    "last block": dataclasses.replace(EVERYWHERE, where=["llm"], top_k_blocks=1),
    "end of the tower": dataclasses.replace(EVERYWHERE, where=["vision"], top_k_blocks=1),
}

LAST = ("last block",)
"""Nothing is won where one block trains and is computed again."""


def saved_bytes(vlm, batch) -> int:
    """Bytes of all storages that autograd holds after a forward, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in vlm.model.parameters()}
    packed: list[weakref.ref[torch.Tensor]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = answer_loss(vlm.logits(batch, batch.answer_rows), batch.labels)
    assert loss.requires_grad
    storages = [tensor.untyped_storage() for each in packed if (tensor := each()) is not None]
    return sum({each.data_ptr(): each.nbytes() for each in storages if each.data_ptr() not in weights}.values())


def quieted(vlm) -> None:
    """Without GPT-2's own dropout, under which attention on a CPU keeps its weights."""
    for name, module in vlm.bare.named_modules():
        if isinstance(module, torch.nn.Dropout) and "lora_dropout" not in name:
            module.p = 0.0


@pytest.mark.parametrize("dtype", [DType.float32, DType.bfloat16])
@pytest.mark.parametrize("family", [*FAMILIES, "vit_gpt2"])
def test_what_autograd_keeps(family, dtype, tmp_path) -> None:
    saved = dataclasses.replace(save(family, tmp_path), dtype=dtype)
    for name, dial in DIALS.items():
        vlm = model.load(saved)
        encoder = Encoder(vlm, PROMPT)
        examples = [encoder.example(sample(index, ragged=True)) for index in (0, 4)]
        batch = encoder.collate(examples, with_answers=True)
        longest = max((encoder.shape(example) for example in examples), key=lambda shape: shape.length)
        shape = dataclasses.replace(longest, rows=batch.answer_rows)
        foreseen = activations.kept(vlm, shape, dial)
        lora.attach(vlm, dial)
        counted = activations.kept(vlm, shape)
        assert counted == foreseen, name
        vlm.model.train()
        quieted(vlm)
        plain = saved_bytes(vlm, batch)
        assert 0.95 * plain <= len(examples) * counted.plain <= 1.2 * plain, name
        capacity.recompute(vlm, True)
        without_blocks = len(examples) * (counted.entering + counted.outside)
        assert saved_bytes(vlm, batch) <= 1.05 * without_blocks, f"{name}: what is frozen keeps nothing"
        assert counted.largest <= counted.blocks and (counted.checkpointed < counted.plain) == (name not in LAST)
        capacity.recompute(vlm, False)
        assert saved_bytes(vlm, batch) == plain, name


def test_blocks_before_the_first_adapter_keep_nothing(tmp_path) -> None:
    vlm = model.load(save("qwen2_vl", tmp_path))
    encoder = Encoder(vlm, PROMPT)
    shape = encoder.shape(encoder.example(sample(0, ragged=False)))
    whole, last = (activations.kept(vlm, shape, DIALS[name]) for name in ("llm", "last block"))
    assert last.blocks == last.largest == pytest.approx(whole.blocks / 3)
    assert last.outside == whole.outside and last.entering == pytest.approx(whole.entering / 3)
