"""Checkpoints with random weights of the families that others are compared with, each of the class that is published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beside_checkpoints import SPREAD, bert_tokenizer, drawn
from inline_checkpoints import merges

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": SPREAD}
DECODER = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
DECODER |= {"initializer_range": SPREAD}


def vilt_nlvr2(seed: int = 0) -> tuple[Any, Any]:
    """Two pictures and the two labels of NLVR2."""
    import transformers as hf

    tokenizer, names = bert_tokenizer(), ("False", "True")
    processor = hf.ViltProcessor(hf.ViltImageProcessor(size={"shortest_edge": 48}, size_divisor=16), tokenizer)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    shape = {"image_size": 64, "patch_size": 16, "max_position_embeddings": 40, "num_images": 2, "modality_type_vocab_size": 3}
    config = hf.ViltConfig(vocab_size=len(tokenizer), **labels, **shape, **TOWER)
    return drawn(hf.ViltForImagesAndTextClassification, config, seed), processor


def paligemma(seed: int = 0) -> tuple[Any, Any]:
    """A SigLIP tower of 4 x 4 patches before a Gemma."""
    import string

    import transformers as hf
    from tokenizers import pre_tokenizers

    signs = ["▁", "\n", *string.printable[:94]]
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    pieces = merges(pre_tokenizers.Metaspace(prepend_scheme="never"), specials, signs, sentencepiece=True)
    images = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor: Any = hf.PaliGemmaProcessor(images, hf.GemmaTokenizer(**pieces, add_bos_token=True))
    tokenizer = processor.tokenizer
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = hf.GemmaConfig(vocab_size=len(tokenizer), head_dim=16, **ids, **DECODER)
    tower = hf.SiglipVisionConfig(image_size=32, patch_size=8, projection_dim=64, vision_use_head=False, **TOWER)
    image = {"image_token_index": processor.image_token_id, "projection_dim": 64, "hidden_size": 64}
    return drawn(hf.PaliGemmaForConditionalGeneration, hf.PaliGemmaConfig(vision_config=tower, text_config=text, **image), seed), processor


MAKERS: dict[str, Callable[..., tuple[Any, Any]]] = {"vilt_nlvr2": vilt_nlvr2, "paligemma": paligemma}
