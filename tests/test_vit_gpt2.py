"""ViT + GPT-2: the contract of every family on a random checkpoint, and what is its own: cross-attention that it was built with."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
import torch
from test_families import (  # noqa: F401  the same contract, over this module's checkpoint
    CLOSE,
    PROMPT,
    load,
    logits,
    move,
    picture,
    sample,
    test_adapters_of_each_part_act_save_and_reload,
    test_batch_size_changes_no_score,
    test_features_stand_for_an_image_only_where_they_are_all_of_it,
    test_gradients_reach_every_adapter,
    test_left_padding_changes_no_score,
    test_parts_cover_every_parameter,
)
from test_generation import reread

from lab import lora, model
from lab import run as running
from lab.config import Experiment, LoraDial, identity
from lab.data.images import decode
from lab.errors import ModelError
from lab.model import Vlm
from lab.model.encoding import Encoder

pytestmark = pytest.mark.usefixtures("nominal_costs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("families") / "vit_gpt2"
    checkpoints.save("vit_gpt2", path)
    return path


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Vlm:
    return load(folder)


def test_one_image_answers_as_transformers_own_call_does(vlm: Vlm) -> None:
    """Its image processor, its tokenizer, its forward; nothing of this laboratory."""
    one = sample(1, ragged=True)
    one = dataclasses.replace(one, images=one.images[:1])
    text = f"Statement: {one.text}\nAnswer 'True' or 'False'.\n"
    ids = vlm.processor.tokenizer(text, return_tensors="pt").input_ids
    pixels = vlm.processor.image_processor(decode(one.images[0]), return_tensors="pt").pixel_values
    with torch.inference_mode():
        plain = vlm.model(pixel_values=pixels, decoder_input_ids=ids).logits[:, -1]
    assert torch.allclose(logits(vlm, [one]), plain, **CLOSE)


def test_two_images_are_encoded_apart_and_joined(vlm: Vlm) -> None:
    from transformers.modeling_outputs import BaseModelOutput

    one = sample(2, ragged=True)
    pixels = vlm.processor.image_processor([decode(image) for image in one.images], return_tensors="pt").pixel_values
    ids = torch.from_numpy(Encoder(vlm, PROMPT).text(one).prompt_ids)[None]
    with torch.inference_mode():
        states = torch.cat([vlm.base_model.encoder(image[None]).last_hidden_state[0] for image in pixels])[None]
        plain = vlm.model(encoder_outputs=BaseModelOutput(states), decoder_input_ids=ids).logits[:, -1]
    assert torch.allclose(logits(vlm, [one]), plain, **CLOSE)


def test_each_image_counts_and_their_order_does_not(vlm: Vlm) -> None:
    """Joined states do not say which image they are of: Hugging Face's path is blind to left and right."""
    one = sample(0, ragged=False)
    first = logits(vlm, [one])
    for images in ((picture(90), one.images[1]), (one.images[0], picture(91))):
        assert (logits(vlm, [dataclasses.replace(one, images=images)]) - first).abs().max() > 1e-3
    assert torch.allclose(logits(vlm, [dataclasses.replace(one, images=one.images[::-1])]), first, **CLOSE)


def test_stages_compute_the_same(vlm: Vlm) -> None:
    """Tower, prompt with its cache, one further token over it: the logits of the whole sequence in one call."""
    from lab.evaluation import stages

    encoder, samples = Encoder(vlm, PROMPT), [sample(i, ragged=True) for i in range(3)]
    batch = encoder.collate([encoder.example(one) for one in samples], with_answers=False)
    with torch.inference_mode():
        seen = stages.encode_images(vlm, batch)
        read = stages.prefill(vlm, batch, seen)
        token = read.logits.argmax(1)
        further = stages.decode_step(vlm, stages.next_inputs(vlm, batch, seen, token), read.cache)
        second = reread(vlm, batch, 2)[:, 1]
    assert torch.allclose(read.logits, logits(vlm, samples), **CLOSE)
    assert torch.equal(further.argmax(1), second)


def test_samples_of_any_number_of_images_share_a_batch(vlm: Vlm) -> None:
    """None, one, two and three: each answers as it does alone."""
    samples = [sample(i, ragged=True) for i in range(4)]
    samples[0] = dataclasses.replace(samples[0], images=())
    samples[1] = dataclasses.replace(samples[1], images=samples[1].images[:1])
    samples[3] = dataclasses.replace(samples[3], images=(*samples[3].images, samples[2].images[0]))
    alone = torch.cat([logits(vlm, [one]) for one in samples])
    assert torch.allclose(logits(vlm, samples), alone, **CLOSE)
    other = dataclasses.replace(samples[0], text=samples[1].text)
    assert (logits(vlm, [other]) - alone[1]).abs().max() > 1e-3, "images are not ignored"


def test_right_padding_changes_no_score(vlm: Vlm) -> None:
    from lab.evaluation.probing import probe

    encoder, samples = Encoder(vlm, PROMPT), [sample(i, ragged=True) for i in range(4)]
    examples = [encoder.example(s) for s in samples]
    assert torch.allclose(probe(vlm, encoder, examples, padding_side="right").numbers, logits(vlm, samples), **CLOSE)


def test_the_prompt_is_the_plain_framed_statement(vlm: Vlm) -> None:
    encoder, one = Encoder(vlm, PROMPT), sample(1, ragged=True)
    text, tokenizer = encoder.text(one), vlm.processor.tokenizer
    assert tokenizer.decode(text.prompt_ids) == f"Statement: {one.text}\nAnswer 'True' or 'False'.\n"
    assert tokenizer.decode(text.answer_ids) == "False<|endoftext|>"
    system = Encoder(vlm, dataclasses.replace(PROMPT, system="Be brief."))
    assert tokenizer.decode(system.text(one).prompt_ids).startswith("Be brief.\nStatement:")
    batch = encoder.collate([encoder.example(one)], with_answers=True)
    assert batch.media.tokens == (17, 17) and not batch.prompt.types.any()


def test_every_linear_layer_but_head_and_pooler_is_a_target(vlm: Vlm) -> None:
    linears = {name for name, module in vlm.base_model.named_modules() if lora.is_linear(module)}
    targets = set(lora.target_names(vlm, LoraDial(where=["vision", "projector", "llm"])))
    assert linears - targets == {"decoder.lm_head", "encoder.pooler.dense"} and targets < linears
    crossing = lora.target_names(vlm, LoraDial(target_modules=r".*\.crossattention\.(q_attn|c_attn|c_proj)"))
    assert len(crossing) == 3 * 3, "seed 000's LoRA on cross-attention has modules to go on"


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"init_lora_weights": "mica"}, {"init_lora_weights": "pissa"}], ids=str)
def test_adapters_on_conv1d_of_every_kind(folder: Path, changes: dict, tmp_path: Path) -> None:
    """GPT-2 keeps weights as [in, out]: counted, started, moved, saved and reloaded like any other."""
    from lab.artifacts import adapter

    samples = [sample(i, ragged=True) for i in range(2)]
    arm = load(folder)
    bare = logits(arm, samples)
    dial = LoraDial(r=2, where=["vision", "llm"], **changes)
    wanted = lora.adapter_parameters(arm, dial)
    lora.attach(arm, dial)
    assert sum(row.trainable for row in lora.ledger(arm)) == wanted
    assert torch.allclose(logits(arm, samples), bare, **CLOSE)
    move(arm)
    moved = logits(arm, samples)
    lora.finalize_adapter(arm)
    adapter.save(arm, tmp_path)
    again = load(folder)
    adapter.load(again, tmp_path)
    assert torch.allclose(logits(again, samples), moved, rtol=0, atol=2e-4) and (moved - bare).abs().max() > 1e-2


def test_what_is_not_legal_is_refused(vlm: Vlm, folder: Path, composer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="of type 'vision-encoder-decoder', not 'qwen2_vl'"):
        model.load(checkpoints.ModelDial(name="x", family="qwen2_vl", path=str(folder)))
    with pytest.raises(ModelError, match=r"model.path=null: .* conf/model/vit_gpt2.yaml"):
        model.load(composer("model=vit_gpt2").model)


def test_an_incomplete_checkpoint_another_size_or_a_tensor_too_many_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    tensors = load_file(cut / "model.safetensors")
    lost = next(name for name in tensors if "crossattention.q_attn.weight" in name)
    kept = {name: tensor for name, tensor in tensors.items() if name != lost and "pooler" not in name}
    save_file(kept, cut / "model.safetensors", {"format": "pt"})
    dial = checkpoints.ModelDial(name="x", family="vit_gpt2", path=str(cut))
    with pytest.raises(ModelError, match=f"lacks 1 of the model's tensors .first: {lost}"):
        model.load(dial)
    save_file(kept | {lost: tensors[lost]}, cut / "model.safetensors", {"format": "pt"})
    assert model.load(dial).family.name == "vit_gpt2", "a pooler that nothing reads may be missing"
    mask = lost.replace("crossattention.q_attn.weight", "attn.bias")
    save_file(tensors | {mask: torch.ones(1, 1, 4, 4)}, cut / "model.safetensors", {"format": "pt"})
    assert model.load(dial).family.name == "vit_gpt2", "a mask of an early version says nothing"
    save_file(tensors | {lost.replace("h.0.", "h.99."): tensors[lost].clone()}, cut / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"1 of the checkpoint's tensors have no place in the model .first: {lost.replace('h.0.', 'h.99.')}"):
        model.load(dial)
    save_file(tensors | {lost: tensors[lost][:, :8].clone()}, cut / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"1 of the checkpoint's tensors have another shape than in the model .first: {lost}, \[64, 8\]"):
        model.load(dial)
    save_file(tensors, cut / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="model.attn_implementation=flash_attention_2: .* Legal here: sdpa, eager, or null for sdpa"):
        model.load(dataclasses.replace(dial, attn_implementation="flash_attention_2"))
    config = json.loads((cut / "config.json").read_text())
    (cut / "config.json").write_text(json.dumps(config | {"encoder": config["encoder"] | {"model_type": "deit"}}))
    with pytest.raises(ModelError, match=r"is of type 'deit', not 'vit' \(encoder\)"):
        model.load(dial)
    (cut / "config.json").write_text(json.dumps(config))
    settings = json.loads((cut / "preprocessor_config.json").read_text())
    (cut / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"height": 32, "width": 32}}))
    with pytest.raises(ModelError, match="images of .32, 32. pixels, its encoder takes 64 x 64"):
        model.load(dial)


def test_an_arm_trains_evaluates_and_passes_the_gate(folder: Path, composer: Callable[..., Experiment], tmp_path: Path) -> None:
    """Features cached, LoRA on cross-attention and the rest, controls without images, reload and batch size in the gate."""
    x = composer(
        "model=vit_gpt2", f"model.path={folder}", "conditioning=add_cross_attention", "trainer.max_steps=3", "trainer.batch_size=4",
        "data.num_train=16", "data.num_minival=4", "data.num_dev=8", "evaluation.latency_examples=1", "evaluation.ask=[score,generate]",
        "evaluation.controls=[text_only]", f"tracking.runs_dir={tmp_path}/runs", f"tracking.cache_dir={tmp_path}/cache",
        "tracking.enabled=false",
    )  # fmt: skip
    run = running.run_alone(x, "test", time.time())
    assert run.metrics["train/steps"] == 3 and run.metrics["visual_tokens/max"] == 17
    assert (tmp_path / "cache" / "features").exists() and "dev_text_only/accuracy" in run.metrics
    checks = {check["name"]: check["passed"] for check in run.facts["verify"]}
    assert checks == {
        "reloaded": True, "batch of one": True, "right padding": True, "plain folder": None, "generate": True,
    }  # fmt: skip
    run_dir = tmp_path / "runs" / identity(x)
    assert json.loads((run_dir / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    assert json.loads((run_dir / "contract.json").read_text())["conditioning"]["name"] == "add_cross_attention"
