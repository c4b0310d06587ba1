"""Checkpoints with random weights of the families whose answers stand beside the question, or are labels."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

WORDS = "true false yes no red green blue dark what colour is the picture it there a circle in statement answer or with short phrase"
SPREAD = 0.2
"""Of initial weights: large, so that what a random model says depends on what it is asked."""


def bert_tokenizer(**special: Any) -> Any:
    """A lower-case WordPiece tokenizer that has some words whole and spells all others."""
    import transformers as hf

    signs = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs), *WORDS.split()]
    tokenizer = hf.BertTokenizer(vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))}, model_max_length=512)
    tokenizer.add_special_tokens(special)
    return tokenizer


def drawn(model_class: Any, config: Any, seed: int) -> Any:
    """A model of random weights, biases and queries that begin at zero among them."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
    return model.eval()


def blip_vqa(seed: int = 0, width: int = 32, heads: int = 4) -> tuple[Any, Any]:
    """The decoder begins at [DEC], and the generation config's end is another than its own."""
    import transformers as hf

    tokenizer = bert_tokenizer(bos_token="[DEC]")
    processor = hf.BlipProcessor(hf.BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    blocks = {"num_hidden_layers": 2, "num_attention_heads": heads, "initializer_range": SPREAD, "projection_dim": 16}
    ids = {"bos_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = hf.BlipTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, encoder_hidden_size=width, intermediate_size=64, max_position_embeddings=128,
        **ids, **blocks,
    )  # fmt: skip
    vision = hf.BlipVisionConfig(hidden_size=width, intermediate_size=48, image_size=32, patch_size=8, **blocks)
    config = hf.BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    return drawn(hf.BlipForQuestionAnswering, config, seed), processor


LABELS = ("yes", "no", "red", "green", "dark blue", "2", "true", "false")


def vilt_vqa(seed: int = 0, width: int = 32, heads: int = 4) -> tuple[Any, Any]:
    """Images of several sizes, 40 tokens of text at most, and a few labels."""
    import transformers as hf

    tokenizer = bert_tokenizer()
    steps: dict[str, Any] = {"size": {"shortest_edge": 48}, "size_divisor": 16}
    processor = hf.ViltProcessor(hf.ViltImageProcessor(**steps), tokenizer)
    blocks: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": heads, "initializer_range": SPREAD}
    blocks |= {"hidden_size": width, "intermediate_size": 48}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    config = hf.ViltConfig(vocab_size=len(tokenizer), image_size=64, patch_size=16, max_position_embeddings=40, **names, **blocks)
    return drawn(hf.ViltForQuestionAnswering, config, seed), processor


def t5_tokenizer() -> Any:
    """Some words whole, all others by their letters."""
    import transformers as hf

    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words += [(f"▁{word}", -3.0) for word in dict.fromkeys(WORDS.split())]
    words += [(sign, -6.0) for sign in string.ascii_letters + string.digits + string.punctuation]
    return hf.T5Tokenizer(vocab=words, extra_ids=0)


def qformer_t5(instruct: bool, seed: int, width: int, heads: int) -> tuple[Any, Any]:
    """A Q-Former of four queries before an untied T5; instruct: its queries read the question."""
    import transformers as hf

    tokenizer, images = t5_tokenizer(), hf.BlipImageProcessor(size={"height": 32, "width": 32})
    family = "InstructBlip" if instruct else "Blip2"
    processor: Any = hf.InstructBlipProcessor(images, tokenizer, bert_tokenizer(), 4) if instruct else hf.Blip2Processor(images, tokenizer, 4)
    shape: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": heads, "initializer_range": SPREAD}
    shape |= {"hidden_size": width, "intermediate_size": 48}
    vision = getattr(hf, f"{family}VisionConfig")(image_size=32, patch_size=8, **shape)
    words = {"vocab_size": len(processor.qformer_tokenizer)} if instruct else {"vocab_size": 100}
    queries = getattr(hf, f"{family}QFormerConfig")(encoder_hidden_size=width, cross_attention_frequency=2, **words, **shape)
    ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False}
    depth = {"num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "d_model": 64, "d_kv": 16, "d_ff": 96}
    text = hf.T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", initializer_factor=0.25, **depth, **ends)
    ids = {"num_query_tokens": 4, "image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    config = getattr(hf, f"{family}Config")(text_config=text, vision_config=vision, qformer_config=queries, **ids)
    return drawn(getattr(hf, f"{family}ForConditionalGeneration"), config, seed), processor


def blip2_t5(seed: int = 0, width: int = 32, heads: int = 4) -> tuple[Any, Any]:
    """Its images are asked without a question."""
    return qformer_t5(False, seed, width, heads)


def instructblip_t5(seed: int = 0, width: int = 32, heads: int = 4) -> tuple[Any, Any]:
    """Its images are asked with the question."""
    return qformer_t5(True, seed, width, heads)


MAKERS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "blip_vqa": blip_vqa, "vilt_vqa": vilt_vqa, "blip2_t5": blip2_t5, "instructblip_t5": instructblip_t5,
}  # fmt: skip
