"""What is learned of a conversation: every turn of the assistant with its end, whatever stands around it, and nothing else."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import checkpoints
import numpy as np
import pytest
import torch
from conversations import PROMPT, SAID, THOUGHT, conversation, said_by, shown
from tokenized_alike import require_alike

from lab import model
from lab.config import TrainerSection
from lab.data.faults import BadRecord
from lab.data.images import decode
from lab.data.splits import Records
from lab.model import Vlm
from lab.model.batching import IGNORED
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.model.turns import answers_in
from lab.records import AnswerSpace, Batch, Sample, Splits, Text, Turn
from lab.training import devices
from lab.training.datamodule import DataModule
from lab.training.examples import Examples
from lab.training.fast.fused_step import FusedStep
from lab.training.losses import answer_loss
from lab.training.screening import screen

FAMILIES = (*checkpoints.FAMILIES, "llava")
TILED = ("llava_next", "idefics2", "idefics3", "smolvlm")
"""With those, all whose answers follow the prompt, and whose checkpoints have a chat template."""
ENDS = dict.fromkeys(("llava", "llava_next"), "</s>") | dict.fromkeys(("idefics2", "idefics3", "smolvlm"), "<end_of_utterance>")
"""What ends a turn, where it is not `<|im_end|>`. LLaVA's templates write none, so that it is learned in place of what stands there."""
APART = ("idefics3", "smolvlm")
"""Those whose generation prompt leaves the blank before an answer to the answer; Idefics2's tokenizer writes none."""
THINKING = (
    "{%- set ns = namespace(last=0) %}{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}"
    "{%- endif %}{%- endfor %}{%- for message in messages %}{%- set past = loop.index0 < ns.last and message.role == 'assistant' %}"
    "{{- '<|im_start|>' + message.role + '\n' }}{%- for part in message.content %}{%- if part.type == 'image' %}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{%- elif past %}{{- part.text.split('</think>')[-1].lstrip('\n') }}"
    "{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""Qwen3's way: what was thought in turns before the user's last is left out."""


@pytest.fixture(scope="module", params=(*FAMILIES, *TILED))
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return model.load(checkpoints.save(request.param, tmp_path_factory.mktemp("conversations") / request.param))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return model.load(checkpoints.save("qwen2_vl", tmp_path_factory.mktemp("conversations") / "qwen2_vl"))


def encoder_of(vlm: Vlm) -> Encoder:
    return Encoder(vlm, PROMPT, answers=AnswerSpace("text", ()))


def sized(encoder: Encoder, sample: Sample) -> Example:
    """An example without pixels."""
    text = encoder.text(sample)
    return Example(sample.sample_id, text, tuple(encoder.check(sample.images[i]) for i in text.image_order))


def runs_of(labels: torch.Tensor) -> list[list[int]]:
    """Labels that count, in runs."""
    return [[value for value in run] for counts, run in itertools.groupby(labels.tolist(), key=lambda label: label != IGNORED) if counts]


def under_loss(encoder: Encoder, batch: Batch) -> list[list[str]]:
    """Of each row what is under loss, decoded."""
    assert batch.target.labels is not None
    return [[encoder.tokenizer.decode(run) for run in runs_of(row)] for row in batch.target.labels]


def ended(vlm: Vlm, sample: Sample) -> list[str]:
    """What must be under loss."""
    end, before = ENDS.get(vlm.family.name, "<|im_end|>"), " " * (vlm.family.name in APART)
    return [before + said + end for said in said_by(sample)]


@pytest.mark.parametrize("number", [50, pytest.param(500, marks=pytest.mark.bar)])
def test_tokens_under_loss_decode_to_the_assistants_turns_and_their_ends_and_nothing_else(vlm: Vlm, number: int) -> None:
    encoder = encoder_of(vlm)
    clean = [said for said in SAID if said == said.strip()] + [THOUGHT]
    trims = vlm.family.name in ENDS  # as their templates or their tokenizers do
    samples = [conversation(seed, said=clean if trims else [*SAID, THOUGHT]) for seed in range(number)]
    for start in range(0, number, 50):
        part = samples[start : start + 50]
        batch = encoder.collate([sized(encoder, one) for one in part], with_answers=True, learned=True)
        assert under_loss(encoder, batch) == [ended(vlm, one) for one in part]
        labels, ids = batch.target.labels, batch.prompt.ids[:, -batch.target.labels.shape[1] :]
        counted = labels != IGNORED
        assert batch.target.tokens == int(counted.sum()) and batch.target.rows == labels.shape[1] + 1
        if ENDS.get(vlm.family.name) != "</s>":
            assert torch.equal(ids[counted], labels[counted])


def test_the_loss_is_transformers_own_on_the_same_rows(vlm: Vlm) -> None:
    """By the processor's own call of each whole text, pictures between turns included."""
    encoder, samples = encoder_of(vlm), [conversation(seed, 2, 4, said=("Say yes", "yes", "yes?", "What is it?")) for seed in range(8)]
    batch = encoder.collate([encoder.example(one) for one in samples], with_answers=True, learned=True)
    chats = [encoder.chat(one, plain=True) for one in samples]
    texts = ["".join(encoder.frame_of(one, chat)) for one, chat in zip(samples, chats, strict=True)]
    images = [decode(one.images[i]) for one, chat in zip(samples, chats, strict=True) for i in chat.image_order]
    inputs = dict(encoder.architecture.plain(vlm.processor, texts, chats, images))
    assert torch.equal(inputs["input_ids"], batch.prompt.ids)
    width = batch.target.labels.shape[1]
    labels = torch.nn.functional.pad(batch.target.labels, (batch.prompt.ids.shape[1] - width, 0), value=IGNORED)
    with torch.inference_mode():
        ours, plain = answer_loss(vlm.predict(batch), batch.target.labels), vlm.model(**inputs, labels=labels).loss
        fused = answer_loss(FusedStep(vlm).predict(batch), batch.target.labels)
    most = 1e-6 * max(1.0, plain.item())  # near 7 two float32 lie 5e-7 apart
    assert abs(ours.item() - plain.item()) < most and abs(fused.item() - plain.item()) < most
    print(f"{vlm.family.name}: {abs(ours.item() - plain.item()):.1e}, fused {abs(fused.item() - plain.item()):.1e}")


def test_the_end_of_a_turn_is_learned_where_it_pads_too(qwen: Vlm) -> None:
    encoder = encoder_of(qwen)
    encoder.pad_id = encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    samples = [conversation(seed) for seed in range(20)]
    batch = encoder.collate([sized(encoder, one) for one in samples], with_answers=True, learned=True)
    assert under_loss(encoder, batch) == [ended(qwen, one) for one in samples]
    assert len(set(batch.prompt.mask.sum(dim=1).tolist())) > 1, "nothing was padded"


def test_the_last_answer_alone_is_learned_where_no_turn_says_otherwise_and_in_evaluation(qwen: Vlm) -> None:
    encoder, one = encoder_of(qwen), conversation(3, 3, 4)
    last = dataclasses.replace(one, turns=tuple(dataclasses.replace(turn, learned=False) for turn in one.turns))
    answer = [ended(qwen, one)[-1:]]
    assert under_loss(encoder, encoder.collate([sized(encoder, last)], with_answers=True, learned=True)) == answer
    assert under_loss(encoder, encoder.collate([sized(encoder, one)], with_answers=True)) == answer


def test_a_template_that_strips_thinking_from_earlier_turns_is_refused_with_the_reason(qwen: Vlm) -> None:
    """Two answers with think blocks: the first is not in the prompt as it was asked for, so half of a mask would be all there is.

    As with any template that writes earlier turns otherwise, be it by one token.
    """
    encoder = encoder_of(qwen)
    one = conversation(0, 2, 2, media=False, said=("Why?",))
    thought = dataclasses.replace(
        one, answer=Text((THOUGHT,)), turns=tuple(dataclasses.replace(turn, parts=(THOUGHT,)) if turn.learned else turn for turn in one.turns)
    )
    assert under_loss(encoder, encoder.collate([sized(encoder, thought)], with_answers=True, learned=True)) == [ended(qwen, thought)]
    one_token_more = THINKING.replace("part.text.split('</think>')[-1].lstrip('\n')", "'so ' + part.text")
    for template in (one_token_more, THINKING):
        changing = copy.deepcopy(qwen.processor)
        changing.chat_template = template
        encoder = encoder_of(dataclasses.replace(qwen, processor=changing))
        with pytest.raises(BadRecord, match=r"sample s0: the chat template does not write the assistant's turn .*think.*data.loss_on=last"):
            encoder.text(thought)
    first = dataclasses.replace(thought, answer=Text((THOUGHT,)), turns=thought.turns[:-2])  # as data.loss_on=each makes it
    assert encoder.tokenizer.decode(encoder.text(first).answer_ids) == f"{THOUGHT}<|im_end|>"
    last = dataclasses.replace(thought, turns=tuple(dataclasses.replace(turn, learned=False) for turn in thought.turns))
    found = encoder.text(last)
    assert encoder.tokenizer.decode(found.answer_ids) == f"{THOUGHT}<|im_end|>" and "think" not in encoder.tokenizer.decode(found.prompt_ids)
    encoder.text(one)


def test_places_are_kept_where_the_template_puts_pictures_first(tmp_path) -> None:
    """LLaVA's: "Is <image> left of <image>?" is read as it was written, and other pictures at these places are another prompt."""
    vlm = model.load(checkpoints.save("llava", tmp_path / "llava"))
    encoder = encoder_of(vlm)
    turns = Turn("user", (0, "\nWhat is it?")), Turn("assistant", ("red",), learned=True), Turn("user", ("is ", 1, " left of ", 2, "?"))
    one = Sample("s", "is  left of ?", tuple(shown(i) for i in range(3)), Text(("yes",)), "set", "q", turns=turns)
    text = encoder.framed(one).texts[0]
    assert text == "USER: <image>\nWhat is it? ASSISTANT: red USER: is <image> left of <image>? ASSISTANT:"
    swapped = dataclasses.replace(one, turns=(*turns[:2], Turn("user", ("is ", 2, " left of ", 1, "?"))))
    assert encoder.text(one).image_order == (0, 1, 2) and encoder.text(swapped).image_order == (0, 2, 1)
    with torch.inference_mode():
        logits = [vlm.predict(encoder.collate([encoder.example(each)], with_answers=True)) for each in (one, swapped)]
    assert not torch.allclose(*logits)


def test_a_mean_over_learned_tokens_is_the_same_however_a_step_is_cut(qwen: Vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 x 8 = 8 x 1 = 2 processes x 4, loss and gradient, answers of 1 and 200 tokens, in the weights that training gives its forwards."""
    said = ("yes", " ".join(["yes"] * 200))
    examples = Examples(Records([conversation(seed, 1, 2, media=False, said=said) for seed in range(8)]), encoder_of(qwen))
    examples.prepare(None, qwen)
    weight = qwen.model.model.language_model.layers[0].self_attn.q_proj.weight
    weight.requires_grad_(True)

    def step(size: int, forwards: int, world: int = 1) -> tuple[float, torch.Tensor]:
        loss, gradient = 0.0, torch.zeros_like(weight)
        for rank in range(world):
            monkeypatch.setattr(devices, "world", lambda: world)
            monkeypatch.setattr(devices, "rank", lambda rank=rank: rank)
            data = DataModule(examples, examples, TrainerSection(), (size, forwards), seed=0, steps=1)
            for batch in itertools.islice(data.train_dataloader(), forwards):
                each = answer_loss(qwen.predict(batch), batch.target.labels) * data.weight(batch, 0) / (forwards * world)
                (found,) = torch.autograd.grad(each, weight)
                loss, gradient = loss + each.item(), gradient + found
        return loss, gradient

    whole = step(8, 1)
    for other in (step(1, 8), step(8, 1, world=2), step(4, 2, world=2)):
        assert abs(other[0] - whole[0]) < 1e-6
        assert (other[1] - whole[1]).abs().max() < 1e-6
    weight.requires_grad_(False)
    lengths = np.array([examples.targets(i) for i in range(8)])
    assert lengths.max() > 200 and lengths.min() < 10


def test_a_conversation_that_is_too_long_loses_whole_turns_from_its_end(qwen: Vlm) -> None:
    """At every length: what remains begins as before, ends with an answer, fits, and would not with one more; else it is a bad record."""
    encoder = encoder_of(qwen)
    for sample in (conversation(seed, 2, 5) for seed in range(6)):
        whole = encoder.length(*lengths(encoder, sample))
        for most in range(1, whole + 2, 17):
            kept = encoder.shortened(sample, most)
            said = said_by(sample)[: len(said_by(kept))]
            assert said_by(kept) == said and sample.turns[: len(kept.turns)] == kept.turns and kept.turns[-1].role == "user"
            assert kept.text == "".join(part for part in kept.turns[-1].parts if isinstance(part, str))
            text, grids = lengths(encoder, kept)
            if encoder.length(text, grids) > most:
                assert len(said) == 1
                with pytest.raises(BadRecord, match=f"data.max_length={most} cuts none of them off"):
                    encoder.check_length(kept.sample_id, text, grids, most)
            elif len(said) < len(said_by(sample)):
                longer = dataclasses.replace(
                    sample, turns=sample.turns[: len(kept.turns) + 2], answer=Text((said_by(sample)[len(said)],))
                )
                assert encoder.length(*lengths(encoder, longer)) > most
        assert encoder.shortened(sample, whole) is sample


def lengths(encoder: Encoder, sample: Sample) -> tuple:
    """The tokens and the grids of what a sample shows."""
    example = sized(encoder, sample)
    return example.text, example.grids


def test_what_is_cut_is_told_with_counts_and_what_does_not_fit_is_left_out(qwen: Vlm, composer) -> None:
    encoder = encoder_of(qwen)
    samples = [conversation(seed, 2, 3, said=("yes", "no?")) for seed in range(6)]
    whole = [encoder.length(*lengths(encoder, sample)) for sample in samples]
    most = sorted(whole)[2]
    dial = composer("data=pairs", f"data.max_length={most}", "data.on_bad=skip").data
    splits, made = screen(Splits(*(Records(samples) for _ in range(3)), answers=AnswerSpace("text", ())), ("train", "dev"), encoder, dial)
    train, rows = made["train"], range(len(made["train"]))
    cut = [number for i in rows if (number := answers_in(train.split.index(i)) - answers_in(train.sample(i)))]
    bad = len(samples) - len(train)
    assert bad == sum(encoder.length(*lengths(encoder, encoder.shortened(sample, most))) > most for sample in samples)
    assert cut and any(f"data.max_length={most}: " in note and "conversations lose their last turns" in note for note in splits.notes)
    assert len(made["dev"]) == len(samples), "what is asked is never cut"
    train.prepare(None, qwen)
    for i in rows:
        example = train[i]
        assert encoder.length(example.text, example.grids) <= most
        assert under_loss(encoder, encoder.collate([example], with_answers=True, learned=True)) == [ended(qwen, train.sample(i))]
        assert train.targets(i) == example.text.targets


def test_prompts_and_pictures_of_many_are_those_of_each(vlm: Vlm) -> None:
    require_alike(encoder_of(vlm), [conversation(seed, 2, 4) for seed in range(6)])
