"""Free generation and scoring see one model: under every dial that acts on images, in every family and dtype."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from checkpoints import FAMILIES, moved, save
from test_families import PROMPT, sample
from test_latency import longer

from lab import conditioning, lora, model, vision_tokens
from lab.config import ConditioningDial, DType, LoraDial, VisionTokensDial
from lab.errors import LabError
from lab.evaluation import equivalence, generation, scoring
from lab.model.encoding import Encoder
from lab.model.family import OPTIONS

TOKENS = [VisionTokensDial(name="native"), *(VisionTokensDial(name=m, budget=3) for m in OPTIONS["vision_tokens"] if m != "native")]
CROSSING = ConditioningDial(name="cross_attention")
WAYS = [ConditioningDial(name="prefix"), CROSSING, dataclasses.replace(CROSSING, parallel=True)]
WAYS += [dataclasses.replace(CROSSING, keep_prefix=False), ConditioningDial(name="add_cross_attention")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of each family in each dtype, loaded once."""
    saved, loaded = {}, {}

    def get(family: str, dtype: str = "float32"):
        if family not in saved:
            saved[family] = save(family, tmp_path_factory.mktemp("checkpoint") / family)
        if (family, dtype) not in loaded:
            loaded[family, dtype] = model.load(dataclasses.replace(saved[family], dtype=DType(dtype)))
        return loaded[family, dtype]

    return get


def arm(vlm, tokens: VisionTokensDial, way: ConditioningDial):
    """An arm over a base, its adapters and extra modules moved from their start."""
    made = vlm.share()
    vision_tokens.install(made, tokens, 0)
    conditioning.install(made, way, 0)
    lora.attach(made, LoraDial(name="llm", r=4), seed=0)
    return moved(made)


def asked(vlm):
    """A batch of prompts of several lengths with images of several sizes, as pixels."""
    encoder = Encoder(vlm, PROMPT)
    return encoder.collate([encoder.example(sample(i, ragged=True)) for i in range(4)], with_answers=False)


def reread(vlm, batch, number: int) -> torch.Tensor:
    """Greedy continuation without a cache: every token by a reading of the whole row, int64 [B, number]."""
    tokens = []
    for _ in range(number):
        tokens.append(scoring.answer_logits(vlm, batch).argmax(dim=1))
        batch = longer(batch, tokens[-1])
    return torch.stack(tokens, dim=1)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *((family, "float32") for family in (*FAMILIES, "vit_gpt2")),
        ("qwen2_vl", "bfloat16"), pytest.param("qwen2_vl", "float16", marks=pytest.mark.bar),
    ],
)
def test_generation_reads_what_scoring_reads(base, family, dtype) -> None:
    """In one family of those that have them all, every method of tokens also beside cross-attention; in the others, and in 16 bits,
    each option alone.

    What it writes in float32 is what reading each token anew would write.
    """
    acted, whole = 0, base(family, dtype)
    exact, pairs = dtype == "float32", (family, dtype) == ("qwen2_vl", "float32")
    limit = equivalence.TOLERANCE[torch.float32 if exact else torch.bfloat16]["generate"]
    for tokens, way in itertools.product(TOKENS, WAYS):
        if tokens != TOKENS[0] and way not in WAYS[: 1 + pairs]:
            continue
        try:
            vlm = arm(whole, tokens, way)
        except LabError as error:
            assert any(name in str(error) for name in ("vision_tokens", "conditioning")), error
            continue
        acted, batch = acted + 1, asked(vlm)
        with torch.inference_mode():
            scored, written = scoring.answer_logits(vlm, batch), generation.write(vlm, batch, 3)
            assert (written.logits - scored).abs().max() <= limit * scored.abs().max(), (tokens, way)
            if exact:
                after_end = torch.isin(written.tokens, torch.tensor(generation.end_ids(vlm))).cumsum(1).bool()[:, :-1]
                again = reread(vlm, batch, written.tokens.shape[1])
                agree = (again == written.tokens)[:, 1:] | after_end
                assert agree.all() and torch.equal(again[:, 0], written.tokens[:, 0]), (tokens, way)
        lora.detach(vlm)
        whole.model = vlm.model
    legal = len(WAYS) - 1
    assert acted == {"qwen3_vl": 2, "vit_gpt2": 1}.get(family, (1 + pairs) * (len(TOKENS) - 1) + legal)


def test_every_way_is_walked() -> None:
    assert {way.name for way in WAYS} == set(OPTIONS["conditioning"])
    assert {tokens.name for tokens in TOKENS} == set(OPTIONS["vision_tokens"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_arm_writes_what_transformers_writes(base, family) -> None:
    whole = base(family)
    vlm = arm(whole, TOKENS[0], WAYS[0])
    batch = asked(vlm)
    given = {"input_ids": batch.prompt.ids, "attention_mask": batch.prompt.mask, "mm_token_type_ids": batch.prompt.types}
    given |= batch.media.pixels
    ends = {"eos_token_id": generation.end_ids(vlm), "pad_token_id": vlm.processor.tokenizer.pad_token_id}
    with torch.inference_mode():
        theirs = vlm.model.generate(**given, do_sample=False, max_new_tokens=8, **ends)[:, batch.prompt.ids.shape[1] :]
        ours = generation.write(vlm, batch, 8).tokens
    lora.detach(vlm)
    whole.model = vlm.model
    assert torch.equal(ours, theirs) and len(set(ours.flatten().tolist())) > 3
