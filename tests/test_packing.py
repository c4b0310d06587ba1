"""Samples that share a row are learned from as if each had its own: nothing is read across, split, dropped or counted otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import checkpoints
import pytest
import torch
from conversations import conversation
from test_conversations import FAMILIES, encoder_of, under_loss

from lab import lora, model
from lab.config import LoraDial, Optim, TrainerSection
from lab.data.splits import Records
from lab.errors import ConfigError, ModelError
from lab.model import Vlm
from lab.model.batching import IGNORED, pack
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.model.qwen_vl import QwenVL
from lab.records import Batch, Sample, Tokens
from lab.run import assembly
from lab.training.datamodule import DataModule
from lab.training.examples import Examples
from lab.training.learner import Learner
from lab.training.losses import answer_loss
from lab.training.packed_rows import rehearse

SAID = ("Say yes", "yes", "yes?", "What is it? Tell me.", "red")
SAMPLES = [conversation(seed, 1, 3, media=seed > 0, said=SAID) for seed in (0, 3, 4, 7)]
"""The first without a picture, the second and the third with some."""


@pytest.fixture(scope="module", params=itertools.product(FAMILIES, ("sdpa", "eager")), ids="-".join)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    """With adapters that have left their start, as in training."""
    family, attention = request.param
    dial = checkpoints.save(family, tmp_path_factory.mktemp("packing") / family)
    made = model.load(replace(dial, attn_implementation=attention))
    lora.attach(made, LoraDial(name="llm", r=4), seed=0)
    return checkpoints.moved(made)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    made = model.load(checkpoints.save("qwen2_vl", tmp_path_factory.mktemp("packing") / "qwen2_vl"))
    lora.attach(made, LoraDial(name="llm", r=4), seed=0)
    return checkpoints.moved(made)


def learner_of(vlm: Vlm, encoder: Encoder) -> Learner:
    return Learner(vlm, Optim(), encoder.readout, steps=1)


def examples_of(encoder: Encoder, samples: Sequence[Sample] = SAMPLES) -> list[Example]:
    return [encoder.example(one) for one in samples]


def hidden(learner: Learner, batch: Batch) -> list[torch.Tensor]:
    """Of each sample of a row what its blocks have made in training's own call: before the last one, and of what the loss reads, behind it."""
    blocks = learner.vlm.base_model.model.language_model.layers
    found: list[torch.Tensor] = []
    handles = [
        blocks[-1].register_forward_pre_hook(lambda module, args, words: found.append((args or [words["hidden_states"]])[0]), with_kwargs=True),
        learner.vlm.base_model.model.language_model.norm.register_forward_hook(lambda module, args, out: found.append(out)),
    ]
    with torch.no_grad():
        learner.loss(batch)
    for handle in handles:
        handle.remove()
    (before,), (behind,) = found
    places, ends = batch.target.places, torch.tensor(batch.prompt.segments).cumsum(0)
    behind = behind[places] if len(behind) == len(before) else behind
    asked = torch.searchsorted(places, ends).diff(prepend=torch.zeros(1, dtype=torch.int64)).tolist()
    return [torch.cat(each) for each in zip(before.split(batch.prompt.segments), behind.split(asked), strict=True)]


def changed(batch: Batch, segment: int) -> Batch:
    """With another first token of a sample."""
    ids = batch.prompt.ids.clone()
    ids[0, sum(batch.prompt.segments[:segment])] = int(batch.target.labels[0, 0])
    return replace(batch, prompt=replace(batch.prompt, ids=ids))


def test_a_changed_token_leaves_its_neighbours_equal_to_the_bit(vlm: Vlm) -> None:
    """Of every sample in turn; with a mask, as a batch that knows of no samples would have it, they do read each other."""
    encoder = encoder_of(vlm)
    learner, batch = learner_of(vlm, encoder), pack(encoder, examples_of(encoder))
    before = hidden(learner, batch)
    for segment in range(len(SAMPLES)):
        moved = [not torch.equal(*each) for each in zip(hidden(learner, changed(batch, segment)), before, strict=True)]
        assert moved == [number == segment for number in range(len(SAMPLES))]
    leaking = replace(batch, prompt=replace(batch.prompt, mask=torch.ones_like(batch.prompt.ids)))
    assert not torch.equal(hidden(learner, changed(leaking, 0))[1], hidden(learner, leaking)[1])


def test_losses_logits_and_gradients_are_those_of_rows(vlm: Vlm) -> None:
    """Pictures in the second and the third sample."""
    encoder = encoder_of(vlm)
    learner, examples = learner_of(vlm, encoder), examples_of(encoder)
    rows, packed = encoder.collate(examples, with_answers=True, learned=True), pack(encoder, examples)
    counted = rows.target.labels != IGNORED
    assert packed.target.labels[0].tolist() == rows.target.labels[counted].tolist()
    assert torch.allclose(vlm.predict(packed)[0], vlm.predict(rows)[counted], atol=1e-5)
    parameters = [value for value in vlm.model.parameters() if value.requires_grad]
    losses = [learner.loss(batch) for batch in (rows, packed)]
    learner.fused.of_trees = []
    losses.append(learner.loss(packed))  # by Transformers' own attention
    gradients = [torch.autograd.grad(loss, parameters) for loss in losses]
    scale = max(each.abs().max().item() for each in gradients[0])
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        largest = max((one - other).abs().max().item() for one, other in zip(gradients[0], gradient, strict=True))
        print(f"loss {abs(losses[0].item() - loss.item()):.1e}, gradient {largest:.1e} of {scale:.1e}")
        assert abs(losses[0].item() - loss.item()) < 1e-6 and largest < 1e-6 * max(scale, 1.0)


def test_nothing_is_split_or_dropped_and_no_seam_is_learned(qwen: Vlm) -> None:
    encoder = encoder_of(qwen)
    samples = [conversation(seed, 1, 3) for seed in range(6)]
    examples = examples_of(encoder, samples)
    packed = pack(encoder, examples)
    alone = [encoder.collate([example], with_answers=True, learned=True) for example in examples]
    assert packed.prompt.segments == tuple(one.prompt.ids.shape[1] for one in alone)
    assert packed.prompt.ids[0].tolist() == [token for one in alone for token in one.prompt.ids[0].tolist()]
    assert packed.target.tokens == sum(one.target.tokens for one in alone)
    predicted = packed.target.places + 1
    assert packed.prompt.ids[0, predicted].tolist() == packed.target.labels[0].tolist()
    assert not set(predicted.tolist()) & set(itertools.accumulate(packed.prompt.segments, initial=0))
    texts = ["".join(under_loss(encoder, one)[0]) for one in alone]
    assert encoder.tokenizer.decode(packed.target.labels[0]) == "".join(texts)


def test_training_gives_packed_rows_the_weights_of_unpacked_ones(qwen: Vlm) -> None:
    """Two forwards a step: the same samples in the same order, and the same loss of the step."""
    encoder = encoder_of(qwen)
    examples = Examples(Records([conversation(seed, 1, 3) for seed in range(8)]), encoder)
    examples.prepare(None, qwen)
    steps = []
    for packing in (False, True):
        data = DataModule(examples, examples, TrainerSection(packing=packing), (4, 2), seed=0, steps=1)
        batches = list(itertools.islice(data.train_dataloader(), 2))
        assert all(bool(batch.prompt.segments) == packing for batch in batches)
        with torch.no_grad():
            losses = [answer_loss(qwen.predict(batch), batch.target.labels) * data.weight(batch, 0) / 2 for batch in batches]
        steps.append((sum(map(float, losses)), [batch.sample_ids for batch in batches]))
        assert not any(batch.prompt.segments for batch in data.val_dataloader()[0]), "looks at minival are as in evaluation"
    assert steps[0][1] == steps[1][1] and abs(steps[0][0] - steps[1][0]) < 1e-6


@pytest.fixture
def leaking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Transformers that takes three rows of positions for one sample."""

    def words(self: QwenVL, tokens: Tokens) -> dict:
        return {"input_ids": tokens.ids, "attention_mask": tokens.mask, "position_ids": tokens.positions}

    monkeypatch.setattr(QwenVL, "words", words)
    yield


def test_a_training_looks_first_whether_samples_read_each_other(qwen: Vlm, leaking: None) -> None:
    encoder = encoder_of(qwen)
    learner = learner_of(qwen, encoder)
    rehearse(learner, encoder, examples_of(encoder), 2)  # by blocks of the laboratory's own, which need no positions to tell samples apart
    learner.fused.of_trees = []
    with pytest.raises(ModelError, match=r"trainer.packing=true: with model.attn_implementation=sdpa .*read|trainer.packing=true: .*apart"):
        rehearse(learner, encoder, examples_of(encoder), 2)


def test_a_rehearsal_says_what_packing_saves_and_changes_nothing(qwen: Vlm) -> None:
    encoder = encoder_of(qwen)
    examples, before = examples_of(encoder), torch.get_rng_state()
    found = rehearse(learner_of(qwen, encoder), encoder, examples, 2)
    lengths = [encoder.size(example, answered=True).length for example in examples]
    assert found["train/slots_used_unpacked"] == pytest.approx(sum(lengths) / (2 * max(lengths[:2]) + 2 * max(lengths[2:])))
    assert found["train/slots_used"] == 1.0 and found["train/packing_speedup"] > 0
    assert torch.get_rng_state().equal(before) and not any(value.grad is not None for value in qwen.model.parameters())


def test_what_reads_the_images_of_a_row_is_refused(composer) -> None:
    with pytest.raises(ConfigError, match="trainer.packing=true, conditioning=cross_attention"):
        assembly.check(composer("trainer.packing=true", "conditioning=cross_attention"))
