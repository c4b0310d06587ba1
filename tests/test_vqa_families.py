"""Families that answer questions about one picture in a decoder beside the question, or with a label: one property, every family."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import checkpoints
import inline_checkpoints
import pytest
import reference_checkpoints
import torch
from beside_checkpoints import LABELS, MAKERS
from kills import require_cut_ends_as
from PIL import Image
from test_families import CLOSE, move, picture
from tokenized_alike import require_alike

from lab import lora, model
from lab import run as running
from lab.artifacts import export
from lab.bounds import WORDS
from lab.config import DType, Experiment, LoraDial, PromptDial, Quantisation
from lab.costs import planning
from lab.data.faults import BadRecord
from lab.data.images import decode
from lab.data.splits import Records
from lab.errors import ConfigError, DataError, ModelError
from lab.evaluation import generation
from lab.export import export_run
from lab.model import Vlm
from lab.model.answers import Readout
from lab.model.batching import IGNORED
from lab.model.encoding import Encoder
from lab.records import AnswerSpace, Batch, Sample, Text
from lab.run.assembly import check
from lab.training import capacity, loss_scaling
from lab.training.datamodule import Examples
from lab.training.learner import Learner
from lab.training.losses import LOSSES
from lab.training.objective import require_votes

pytestmark = pytest.mark.usefixtures("nominal_costs")

PROMPT = PromptDial(name="bare", template="{question}")
QUESTIONS = ("is it red?", "what colour is the circle in the picture?", "there is a dark blue circle", "no?")
ANSWERS = ("red", "dark blue", "no", "green")
HEAD_TOO = r".*(\.query|\.q|\.dense|predictions\.decoder|lm_head|classifier\.3)"


def sample(index: int, **changes) -> Sample:
    """A question about one picture; sizes, lengths and answers differ between samples."""
    shown = (picture(index, 64 + 16 * (index % 3)),)
    one = Sample(f"s{index}", QUESTIONS[index % 4], shown, Text((ANSWERS[index % 4],)), f"set{index}", f"q{index}")
    return dataclasses.replace(one, **changes)


SAMPLES = [sample(i) for i in range(4)]


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vqa") / request.param
    checkpoints.save(request.param, path)
    return path


def load(folder: Path, **values) -> Vlm:
    return model.load(checkpoints.ModelDial(name=folder.name, family=folder.name, path=str(folder), **values))


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Vlm:
    return load(folder)


def batch_of(vlm: Vlm, samples: list[Sample], answered: bool = True) -> Batch:
    encoder = Encoder(vlm, PROMPT, answers=AnswerSpace("text", ()))
    return encoder.collate([encoder.example(one) for one in samples], with_answers=answered)


def predict(vlm: Vlm, samples: list[Sample]) -> torch.Tensor:
    """Logits of all labels that count, one after another."""
    batch = batch_of(vlm, samples)
    vlm.model.eval()
    with torch.inference_mode():
        return vlm.predict(batch)[labels_of(batch) != IGNORED]


@pytest.mark.parametrize("family", [*checkpoints.FAMILIES, "vit_gpt2", *MAKERS, *inline_checkpoints.MAKERS, *reference_checkpoints.MAKERS])
def test_whole_parts_of_a_base_in_16_bits_leave_it_what_it_computes_in(family: str, tmp_path: Path) -> None:
    """They are kept in float32; what stands for no image is of the base's dtype, and the loss is scaled."""
    checkpoints.save(family, tmp_path / family)
    arm = load(tmp_path / family, dtype=DType.float16)
    lora.attach(arm, LoraDial(r=0, where=[], full=list(arm.family.trainable_parts)))
    assert arm.dtype == torch.float16 and loss_scaling.needed(arm)
    if family in ("vit_gpt2", "git", "blip_vqa", "blip2_opt", "llava"):
        logits = predict(arm, [sample(0, images=()), sample(1)])
        assert logits.dtype == torch.float16 and logits.isfinite().all()
    lora.detach(arm)
    assert arm.dtype == torch.float16


def labels_of(batch: Batch) -> torch.Tensor:
    assert batch.target.labels is not None
    return batch.target.labels


def loss(vlm: Vlm, samples: list[Sample]) -> torch.Tensor:
    batch = batch_of(vlm, samples)
    return LOSSES[vlm.family.answers](vlm.predict(batch), labels_of(batch))


def plain_inputs(vlm: Vlm, one: Sample) -> dict:
    return dict(vlm.processor(text=one.text, images=decode(one.images[0]), return_tensors="pt"))


def own_loss(vlm: Vlm, one: Sample) -> torch.Tensor:
    """Transformers' own, with labels as its documentation has them; BLIP's begin where its `generate` does."""
    words = vlm.processor.tokenizer
    if vlm.family.answers == "classes":
        labels = torch.zeros(1, len(LABELS))
        labels[0, LABELS.index(one.answer.text)] = 1
    elif vlm.family.name.endswith("t5"):
        labels = words(one.answer.text, return_tensors="pt").input_ids
    else:
        ids = words(one.answer.text, add_special_tokens=False).input_ids
        labels = torch.tensor([[vlm.base_model.decoder_start_token_id, *ids, words.sep_token_id]])
    return vlm.base_model(**plain_inputs(vlm, one), labels=labels).loss


def test_a_row_alone_is_the_row_in_a_batch(vlm: Vlm) -> None:
    alone = torch.cat([predict(vlm, [one]) for one in SAMPLES])
    assert torch.allclose(predict(vlm, SAMPLES), alone, **CLOSE)
    assert alone.std(dim=0).max() > 1e-2, "the samples must differ for this to mean anything"


def test_the_loss_is_transformers_own(vlm: Vlm) -> None:
    sizes = [batch_of(vlm, [one]).target.tokens for one in SAMPLES]
    with torch.inference_mode():
        own = [float(own_loss(vlm, one)) for one in SAMPLES]
        assert [float(loss(vlm, [one])) for one in SAMPLES] == pytest.approx(own, abs=1e-4)
        mean = sum(each * size for each, size in zip(own, sizes, strict=True)) / sum(sizes)
        assert float(loss(vlm, SAMPLES)) == pytest.approx(mean, abs=1e-4)


def test_loss_is_taken_of_the_answer_and_its_end_and_a_question_changes_no_label(vlm: Vlm) -> None:
    batch = batch_of(vlm, SAMPLES)
    other = batch_of(vlm, [dataclasses.replace(one, text="what is it?") for one in SAMPLES])
    assert torch.equal(labels_of(batch), labels_of(other))
    for row, one in zip(labels_of(batch), SAMPLES, strict=True):
        assert int((row != IGNORED).sum()) == (len(one.answer.text.split()) + 1 if vlm.family.answers == "beside" else 1)
        assert vlm.family.architecture.texts(vlm, [row[row != IGNORED]]) == [one.answer.text]


def test_what_is_answered_is_what_plain_transformers_answers(vlm: Vlm) -> None:
    """Greedy writing of a padded batch against `generate` on each question alone; the likeliest label against the model's own call."""
    with torch.inference_mode():
        written = generation.texts(vlm, generation.write(vlm, batch_of(vlm, SAMPLES, answered=False), 5))
        for one, text in zip(SAMPLES, written, strict=True):
            inputs = plain_inputs(vlm, one)
            if vlm.family.answers == "classes":
                assert text == LABELS[int(vlm.base_model(**inputs).logits.argmax())]
            else:
                told = vlm.base_model.generate(**inputs, do_sample=False, max_new_tokens=5)
                assert text == vlm.processor.batch_decode(told, skip_special_tokens=True)[0]


def test_the_picture_and_the_question_change_the_score(vlm: Vlm) -> None:
    one = SAMPLES[0]
    for changes in ({"images": (picture(90),)}, {"text": "is it green?"}):
        assert (predict(vlm, [dataclasses.replace(one, **changes)]) - predict(vlm, [one])).abs().max() > 1e-3


def test_presets_name_every_linear_layer_but_a_tied_head(vlm: Vlm) -> None:
    parts = {vlm.family.part_of(name) for name, _ in vlm.model.named_parameters()}
    assert parts <= {"vision", "projector", "llm"} and {"vision", "llm"} <= parts
    assert sum(row.total for row in lora.ledger(vlm)) == vlm.model.num_parameters()
    linears = {name for name, module in vlm.base_model.named_modules() if isinstance(module, torch.nn.Linear)}
    tied = {"text_decoder.cls.predictions.decoder", "language_model.lm_head"} & linears
    where = [name for name in ("vision", "projector", "llm") if vlm.family.parts[name].targets("all-linear")]
    targets = {preset: set(lora.target_names(vlm, LoraDial(where=where, target_modules=preset))) for preset in lora.PRESETS}
    assert targets["all-linear"] == linears - tied
    assert targets["attention"] | targets["mlp"] == targets["all-linear"] and not targets["attention"] & targets["mlp"]


def test_every_adapter_has_a_gradient_also_when_activations_are_computed_again(folder: Path) -> None:
    grads = []
    for again in (False, True):
        vlm = load(folder)
        lora.attach(vlm, LoraDial(r=2, where=[name for name, part in vlm.family.parts.items() if part.block]))
        move(vlm)
        vlm.model.train()
        capacity.recompute(vlm, again)
        torch.manual_seed(0)  # of dropout
        loss(vlm, SAMPLES).backward()
        grads.append({name: parameter.grad for name, parameter in lora.trainable(vlm).items()})
    dead = [name for name, grad in grads[0].items() if grad is None or not grad.any()]
    assert all(folder.name == "instructblip_t5" and re.search(r"qformer\.encoder\.layer\.1\.(intermediate|output)\.dense", name) for name in dead)
    assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items() if grad is not None)


def test_a_half_precision_base_trains(folder: Path) -> None:
    vlm = load(folder, dtype=checkpoints.DType.bfloat16)
    lora.attach(vlm, LoraDial(r=2))
    value = loss(vlm, SAMPLES)
    value.backward()
    assert value.isfinite() and {p.dtype for p in lora.trainable(vlm).values()} == {torch.float32}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in lora.trainable(vlm).values())


def test_a_base_in_four_bits_trains(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    vlm = load(folder, quantisation=Quantisation.nf4)
    lora.attach(vlm, LoraDial(r=2))
    value = loss(vlm, SAMPLES)
    value.backward()
    assert value.isfinite() and any(type(module).__name__ == "Linear4bit" for module in vlm.base_model.modules())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in lora.trainable(vlm).values())


def require_learned_and_written_back(vlm: Vlm, samples: list[Sample], parameters: Iterable[torch.nn.Parameter], lr: float) -> None:
    """In at most 300 steps every answer is learned, and written with its end."""
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    for _ in range(300):
        value = loss(vlm, samples)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if value < 1e-3:
            break
    with torch.inference_mode():
        written = generation.write(vlm, batch_of(vlm, samples, answered=False), 12)
    words = [one.answer.text for one in samples if isinstance(one.answer, Text)]
    assert [text.strip() for text in generation.texts(vlm, written)] == words and written.ended.all()


@pytest.mark.bar
def test_ten_pairs_are_learned_and_written_back(folder: Path) -> None:
    """By every weight, as little can be learned over a frozen T5 that knows nothing. Of a checkpoint that chooses among labels, as many."""
    vlm = load(folder)
    vlm.base_model.requires_grad_(True)
    words = ("red", "green", "dark blue", "no", "yes", "circle", "picture", "what", "is it", "the colour")
    words = LABELS if vlm.family.answers == "classes" else words
    samples = [sample(i, images=(picture(i),), text=f"what is {i}?", answer=Text((word,))) for i, word in enumerate(words)]
    require_learned_and_written_back(vlm, samples, vlm.base_model.parameters(), 2e-3)


@pytest.mark.parametrize("everything", [False, True], ids=["presets", "tied head too"])
def test_a_merged_folder_answers_as_the_adapter_does(folder: Path, tmp_path: Path, everything: bool) -> None:
    """Also where an adapted head shares its weights with the decoder's words, which plain merging would change."""
    vlm = load(folder)
    lora.attach(vlm, LoraDial(r=2, target_modules=HEAD_TOO if everything else "all-linear"))
    move(vlm)
    before = predict(vlm, SAMPLES)
    export.export(vlm, tmp_path / "merged", {})
    (tmp_path / folder.name).symlink_to(tmp_path / "merged")
    assert torch.allclose(predict(load(tmp_path / folder.name), SAMPLES), before, rtol=0, atol=1e-4)


def test_what_a_family_cannot_take_is_named(vlm: Vlm, folder: Path) -> None:
    encoder = Encoder(vlm, PROMPT, answers=AnswerSpace("text", ()))
    room = getattr(vlm.base_model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if room is not None:
        with pytest.raises(BadRecord, match=f"sample s0: its prompt is {room + 3} tokens of text, and the model has {room} positions"):
            encoder.text(sample(0, text="red " * (room + 1)))
    other = next(way for way in WORDS["model.attn_implementation"].legal if way not in vlm.family.attention)
    with pytest.raises(ModelError, match=f"model.attn_implementation={other}: .* does not load with it. Legal here: {vlm.family.attention[0]}"):
        load(folder, attn_implementation=other)
    if vlm.family.architecture.most_images == 1:
        with pytest.raises(BadRecord, match="sample s0: it shows 2 images, and the model takes 1 at once"):
            encoder.text(sample(0, images=(picture(0), picture(1))))


@pytest.mark.parametrize("name", ["minigpt", "phi3"])
def test_what_cannot_be_had_says_why_and_what_instead(name: str) -> None:
    with pytest.raises(ModelError, match=f"model.family={name}: .* is no class of Transformers.* model=qwen2_5_vl_"):
        model.family(name)


def test_blip_sees_every_picture_of_a_question_and_a_question_without() -> None:
    """States of several are joined: each counts, their order does not."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "blip_vqa"
        checkpoints.save("blip_vqa", folder)
        vlm = load(folder)
    pair = sample(0, images=(picture(0), picture(1)))
    first, alone = predict(vlm, [pair]), predict(vlm, [sample(0)])
    assert torch.allclose(predict(vlm, [dataclasses.replace(pair, images=pair.images[::-1])]), first, **CLOSE)
    assert (first - alone).abs().max() > 1e-3
    both = predict(vlm, [pair, sample(0, images=())])
    assert torch.allclose(both[: len(first)], first, **CLOSE) and (both[len(first) :] - alone).abs().max() > 1e-3


@pytest.fixture(scope="module")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vilt") / "vilt_vqa"
    checkpoints.save("vilt_vqa", folder)
    return folder


def test_vilt_draws_nothing_from_the_global_generator(vilt: Path) -> None:
    vlm = load(vilt)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = predict(vlm, SAMPLES)
    assert torch.equal(torch.rand(1), expected) and torch.equal(predict(vlm, SAMPLES), first)


def test_vilts_grid_is_what_its_processor_makes(vilt: Path) -> None:
    encoder = Encoder(load(vilt), PROMPT, answers=AnswerSpace("text", ()))
    for size in ((40, 30), (33, 50), (64, 64), (999, 400), (17, 23)):
        assert encoder.architecture.grid(encoder.processor, encoder.config, size) == encoder.pixels([Image.new("RGB", size)])[1][0]
    with pytest.raises(BadRecord, match="does not take its 300 x 20 pixels"):
        encoder.check(picture(0, 300, 20))


def test_coverage_is_told_of_answers_that_are_known(vilt: Path) -> None:
    encoder = Encoder(load(vilt), PROMPT, answers=AnswerSpace("text", ()))
    told = encoder.coverage([sample(0), sample(1, answer=Text(("maroon", "Dark Blue"))), sample(2, answer=Text(("maroon",)))])
    assert told and "2 of 3 dev questions" in told
    assert encoder.coverage([sample(0, answer=Text(("",)))]) is None, "pictures of one's own, asked by lab.predict"


def test_a_choice_is_among_the_labels(vilt: Path) -> None:
    vlm = load(vilt)
    readout = Encoder(vlm, PROMPT, answers=AnswerSpace("choice", ("Yes", "no"))).readout
    assert isinstance(readout, Readout) and readout.ids == ((LABELS.index("yes"),), (LABELS.index("no"),))
    logits = torch.randn(2, len(LABELS))
    assert torch.allclose(readout.log_p(logits), logits.log_softmax(dim=1)[:, :2])
    with pytest.raises(ConfigError, match="the option maroon='maroon': it is none of the 8 labels that this checkpoint chooses among, such as 'yes'"):
        Encoder(vlm, PROMPT, answers=AnswerSpace("choice", ("yes", "maroon"))).readout  # noqa: B018


def published_config(option: str):
    """The shapes of a published checkpoint, from its config.json on the hub."""
    import transformers as hf

    base: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    eva: dict[str, Any] = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16}
    eva |= {"image_size": 224, "patch_size": 14}
    queries = {**base, "vocab_size": 30523, "encoder_hidden_size": 1408, "cross_attention_frequency": 2}
    xl: dict[str, Any] = {"vocab_size": 32128, "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 32}
    parts: dict[str, Any] = {"text_config": hf.T5Config(feed_forward_proj="gated-gelu", **xl), "num_query_tokens": 32, "image_token_index": 32100}
    match option:
        case "blip_vqa":
            text = {**base, "vocab_size": 30524, "encoder_hidden_size": 768}
            return hf.BlipConfig(text_config=text, vision_config={**base, "image_size": 384, "patch_size": 16})
        case "vilt_vqa":
            return hf.ViltConfig(id2label={i: str(i) for i in range(3129)})
        case "blip2_flan_t5_xl":
            return hf.Blip2Config(vision_config=hf.Blip2VisionConfig(**eva), qformer_config=hf.Blip2QFormerConfig(**queries), **parts)
    return hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**eva), qformer_config=hf.InstructBlipQFormerConfig(**queries), **parts
    )


@pytest.mark.parametrize(
    ("option", "counts"),
    [
        pytest.param("blip_vqa", {"vision": 2_359_296, "llm": 10_051_584 - 2_359_296}, marks=pytest.mark.bar),
        ("vilt_vqa", {"llm": 2_790_288}),
        pytest.param("blip2_flan_t5_xl", {"vision": 14_696_448, "projector": 3_411_968, "llm": 35_389_440}, marks=pytest.mark.bar),
        pytest.param("instructblip_flan_t5_xl", {"vision": 14_696_448, "projector": 4_886_528, "llm": 35_389_440}, marks=pytest.mark.bar),
    ],
)
def test_a_plan_counts_the_published_shapes_from_their_config_alone(option: str, counts: dict, composer, tmp_path: Path) -> None:
    """Rank 16 on every linear layer but the output embedding."""
    published_config(option).save_pretrained(tmp_path)
    x = composer(f"model={option}", f"model.path={tmp_path}", f"lora.where=[{','.join(counts)}]", "lora.r=16")
    found = planning.plan(x, 577, images=1, text_tokens=16)
    assert {row.part: row.trainable for row in found.ledger if row.trainable} == counts
    assert found.train_flops > found.eval_flops > 0 and found.activation_bytes > 0


def question_file(root: Path, *others: str) -> Path:
    """Sixteen questions about a picture of one colour each; others: answers of the first of dev."""
    rows = ["image,question,answer,split"]
    for i in range(16):
        colour = ("red", "green", "dark blue")[i % 3]
        Image.new("RGB", (56, 56 + i), colour.split()[-1]).save(root / f"{i}.png")
        answer = others[i - 11] if 0 <= i - 11 < len(others) else colour
        rows.append(f"{i}.png,what colour is picture {i}?,{answer},{'train' if i < 8 else 'minival' if i < 11 else 'dev'}")
    (root / "questions.csv").write_text("\n".join(rows) + "\n")
    return root / "questions.csv"


def arms_of(option: str, composer: Any, root: Path, *answers: str) -> Callable[..., Experiment]:
    """A maker of short arms over a small checkpoint of an option, on the questions of `question_file`."""
    file = question_file(root, *answers)
    checkpoints.save(composer(f"model={option}").model.family, root / "checkpoint")

    def make(*overrides: str, where: str = "shared") -> Experiment:
        return composer(
            f"model={option}", f"model.path={root}/checkpoint", "model.dtype=float32", "data=questions", f"data.path={file}",
            "trainer.max_steps=3", "trainer.batch_size=4", "trainer.save_every=1", "trainer.val_every=3", "evaluation.latency_examples=1",
            "evaluation.latency_warmup=0", "evaluation.probe_examples=3", "tracking.enabled=false",
            f"tracking.runs_dir={root / where}", f"tracking.cache_dir={root / 'cache'}", *overrides,
        )  # fmt: skip

    return make


BARS = {"blip2_flan_t5_xl": pytest.mark.bar, "instructblip_flan_t5_xl": pytest.mark.bar}
"""What trains as others do, whose every computation is compared above."""


@pytest.fixture(scope="module", params=[pytest.param(name, marks=BARS.get(name, ())) for name in ("blip_vqa", "vilt_vqa", *BARS)])
def compose(request: pytest.FixtureRequest, composer, tmp_path_factory: pytest.TempPathFactory):
    return arms_of(request.param, composer, tmp_path_factory.mktemp("arms"), "maroon")


@pytest.fixture(scope="module")
def shared(compose):
    """Two arms over one base; of a family whose head can train whole, one trains it."""
    head = ["lora.full=[head]"] if "head" in model.family(compose().model.family).trainable_parts else []
    arms = [compose("lora.r=2"), compose("lora.r=4", *head)]
    prepared = running.prepare(arms[0])
    return arms, [running.run_arm(x, prepared, running.new_run(x, "command"), time.time()) for x in arms], prepared


def test_arms_train_answer_and_pass_the_gate(shared) -> None:
    arms, records, prepared = shared
    for run in records:
        checks = {check["name"]: check["passed"] for check in run.facts["verify"]}
        assert checks == {"reloaded": True, "batch of one": True, "right padding": None, "plain folder": True, "generate": True}
        assert run.metrics["train/steps"] == 3 and math.isfinite(run.metrics["dev/token_nll"])
    if arms[1].lora.full:
        told = "the checkpoint chooses among 8 labels, and 4 of 5 dev questions have an answer among them; no other can be answered right"
        assert told in records[1].facts["data"]["notes"]
        rows = {row["part"]: row for row in records[1].facts["ledger"]}
        head = {f"classifier.{name}".rpartition(".")[0] for name, _ in prepared.vlm.base_model.classifier.named_parameters()}
        assert head <= set(rows["llm"]["modules"])
        assert "latency/decode_p50_ms" not in records[1].metrics


@pytest.mark.bar
def test_arms_are_exported_and_answer_without_the_laboratory(shared, tmp_path: Path, export_asked_here: None) -> None:
    """An arm whose head trained whole is merged unasked, as PEFT's adapter alone would lack it."""
    for x, run in zip(*shared[:2], strict=True):
        told = export_run(Path(x.tracking.runs_dir), run.identity, tmp_path / run.identity)
        assert "5 of 5 answers equal" in told
        assert ("the folder holds the whole model: head trained whole" in told) == bool(x.lora.full)


@pytest.mark.bar
def test_an_arm_alone_and_cut_off_ends_as_the_shared_one(shared, compose, monkeypatch) -> None:
    x = compose("lora.r=4", *(["lora.full=[head]"] if shared[0][1].lora.full else []), where="alone")
    require_cut_ends_as(shared[0][1], x, monkeypatch, 2)


def test_an_answer_that_is_no_label_is_nothing_to_learn_from(vilt: Path, composer, tmp_path: Path) -> None:
    file = question_file(tmp_path)
    file.write_text(file.read_text().replace("picture 3?,red", "picture 3?,maroon"))
    x = composer("model=vilt_vqa", f"model.path={vilt}", "data=questions", f"data.path={file}", "trainer.max_steps=1",
                 f"tracking.cache_dir={tmp_path}/cache")  # fmt: skip
    with pytest.raises(DataError, match="its answer 'maroon' is none of the checkpoint's 8 labels, so nothing can be learned from it"):
        running.prepare(x)


def test_soft_targets_are_what_annotators_voted_by_vqas_rule(vilt: Path, composer) -> None:
    """As ViLT's authors trained it: .3, .6, .9 and 1 of one, two, three and more of ten; Transformers' loss of such labels."""
    vlm = load(vilt)
    voted = sample(0, answer=Text(("red", "Dark Blue", "maroon", "no", "green"), (4, 3, 1, 1, 1)))
    batch = batch_of(vlm, [voted, sample(1, answer=Text(("no",)))])
    wanted = torch.zeros(2, len(LABELS))
    for name, share in {"red": 1, "dark blue": 0.9, "no": 0.3, "green": 0.3}.items():
        wanted[0, LABELS.index(name)] = share
    wanted[1, LABELS.index("no")] = 1
    assert batch.target.shares is not None and torch.allclose(batch.target.shares, wanted)
    assert batch_of(vlm, SAMPLES).target.shares is None and batch_of(vlm, [voted], answered=False).target.shares is None
    x = composer("optim.soft_targets=true", "trainer.max_steps=1")
    encoder = Encoder(vlm, PROMPT, answers=AnswerSpace("text", ()))
    learner, one = Learner(vlm, x.optim, encoder.readout, 1), batch_of(vlm, [voted])
    vlm.model.eval()
    with torch.no_grad():
        expected = vlm.base_model(**plain_inputs(vlm, voted), labels=wanted[:1]).loss
        assert torch.isclose(learner.loss(one), expected, rtol=1e-4)
        learner.section = dataclasses.replace(x.optim, soft_targets=False)
        assert torch.isclose(learner.loss(one), LOSSES["classes"](vlm.predict(one), labels_of(one))), "without the key the commonest alone"
    with pytest.raises(ModelError, match="optim.soft_targets=true: model.family=qwen2_vl does not take it"):
        check(x)
    with pytest.raises(ConfigError, match="no answer of data.train has votes"):
        require_votes(x.optim, Examples(Records(SAMPLES), encoder))


def test_labels_of_ones_own_begin_with_nothing_and_train(vilt: Path, composer, tmp_path: Path) -> None:
    file = question_file(tmp_path)
    file.write_text(file.read_text().replace(",red,", ",maroon,"))
    keys = [
        "model=vilt_vqa", f"model.path={vilt}", "data=questions", f"data.path={file}", "trainer.max_steps=30", "optim.lr=0.02",
        "evaluation.probe_examples=2", "evaluation.latency_examples=0", "tracking.enabled=false", f"tracking.runs_dir={tmp_path}/runs",
        f"tracking.cache_dir={tmp_path}/cache", "model.labels=[maroon,green,dark blue]",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="model.labels=.* so it must train whole. Add lora.full="):
        running.check(composer(*keys))
    x = composer(*keys, "lora=none", "lora.full=[head]")
    base = model.load(x.model)
    assert not predict(base, [sample(0, answer=Text(("maroon",)))]).any() and base.base_model.config.id2label[0] == "maroon"
    run = running.run_alone(x, "command", time.time())
    assert {check["name"]: check["passed"] for check in run.facts["verify"]}["plain folder"]
    assert run.metrics["train/loss"] < 3 * math.log(2), "that of knowing nothing"
    with pytest.raises(ConfigError, match="give at least two, each once"):
        model.check(dataclasses.replace(x.model, labels=["oak", "Oak"]))


def test_the_head_alone_can_train(vilt: Path, tmp_path: Path) -> None:
    """Its weights are the arm's own, in float32 beside a half-precision base, and the base's stay as they were."""
    from lab.artifacts import adapter

    base = load(vilt, dtype=checkpoints.DType.bfloat16)
    before = predict(base, SAMPLES)
    vlm, dial = base.share(), LoraDial(r=0, full=["head"])
    lora.attach(vlm, dial)
    assert set(vlm.full) == {f"classifier.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")}
    assert {parameter.dtype for parameter in lora.trainable(vlm).values()} == {torch.float32}
    assert torch.equal(predict(vlm, SAMPLES), before)
    move(vlm)
    moved = predict(vlm, SAMPLES)
    assert (moved - before).abs().max() > 0.1
    adapter.save(vlm, tmp_path)
    again = load(vilt, dtype=checkpoints.DType.bfloat16)
    adapter.load(again, tmp_path, dial)
    assert torch.equal(predict(again, SAMPLES), moved)
    lora.detach(vlm)
    assert torch.equal(predict(base, SAMPLES), before)
    assert not any(name.startswith("classifier") for name in lora.target_names(vlm, LoraDial(r=2, full=["head"])))


def test_prompts_and_pictures_of_many_are_those_of_each(vlm: Vlm) -> None:
    require_alike(Encoder(vlm, PROMPT, answers=AnswerSpace("text", ())), SAMPLES)
