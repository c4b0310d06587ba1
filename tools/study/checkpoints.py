"""Checkpoints of the study: the shipped base, which has learned, and small ones of other families with random weights, which say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.data import scenes
from lab.model.identity import mark_random
from tests import beside_checkpoints, checkpoints

SHIPPED = "tiny"
LABELS = (*scenes.RGB, *scenes.SHAPES, "one", "two", "three", "four", "solid", "striped", "yes", "no")
"""Every answer that the drawn catalogue has."""


def vilt_vqa() -> tuple[Any, Any]:
    """With labels of its own."""
    import torch

    model, processor = beside_checkpoints.vilt_vqa()
    model.config.id2label, model.config.label2id = dict(enumerate(LABELS)), {label: i for i, label in enumerate(LABELS)}
    torch.manual_seed(0)
    return type(model)(model.config), processor


RANDOM: dict[str, Callable[[], tuple[Any, Any]]] = {
    "blip_vqa": beside_checkpoints.blip_vqa,
    "qwen2_5_vl_7b": lambda: checkpoints.make("qwen2_5_vl"),
    "vilt_vqa": vilt_vqa,
}
"""What makes a small model and its processor, by the option of the dial model whose checkpoint it replaces."""
TRAINED = {"vilt_vqa": "lora.full=[head]"}
"""What trains beside its adapters."""


def make(folder: Path) -> Mapping[str, str]:
    """`model.path` of every option of the study, by its name; checkpoints are made where they are not there yet."""
    paths = {SHIPPED: "tiny_base"}
    for option, maker in RANDOM.items():
        place = folder / option
        if not (place / "config.json").is_file():
            for part in maker():
                part.save_pretrained(place)
            mark_random(place)
        paths[option] = str(place)
    return paths


def make_bart(folder: Path) -> Path:
    """A BART of random weights with the words of the tiny base, for the path of BARTScore."""
    import torch
    import transformers as hf

    from tools.pretraining.tokenizer import make_processor

    if (folder / "config.json").is_file():
        return folder
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=make_processor().tokenizer.backend_tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    ends |= {"decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None}
    config = hf.BartConfig(vocab_size=len(tokenizer), encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128, **sizes, **ends)
    torch.manual_seed(0)
    hf.BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mark_random(folder)
    return folder
