"""Checkpoints with random weights of the families whose answers follow the prompt and whose images are of one size."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from typing import Any

from beside_checkpoints import SPREAD, WORDS, bert_tokenizer, drawn

LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""As llava-hf/llava-1.5-7b-hf has it: images first, each with a line break, then texts, each with a space behind it."""


def merges(pre_tokenizer: Any, specials: list[str], alphabet: list[str], sentencepiece: bool) -> dict[str, Any]:
    """Vocabulary and merges of byte pairs that have `WORDS`, and True and False, whole."""
    from tokenizers import Tokenizer, models, trainers

    made = Tokenizer(models.BPE(byte_fallback=sentencepiece, unk_token=specials[0] if sentencepiece else None))
    made.pre_tokenizer = pre_tokenizer
    specials = [*specials, *([f"<0x{byte:02X}>" for byte in range(256)] if sentencepiece else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + len(alphabet) + 200, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([f"{WORDS} True False USER: ASSISTANT: Question: Answer: Statement:"] * 2, trainer)
    model = json.loads(made.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def llama_tokenizer() -> Any:
    """Llama's own class: a word begins with its space."""
    import transformers as hf
    from tokenizers import pre_tokenizers

    pieces = merges(pre_tokenizers.Metaspace(), ["<unk>", "<s>", "</s>", "<pad>"], ["▁", *string.printable[:94]], sentencepiece=True)
    tokenizer = hf.LlamaTokenizer(**pieces, pad_token="<pad>", add_bos_token=True, legacy=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def llama_config(tokenizer: Any) -> Any:
    """Two blocks with grouped queries."""
    import transformers as hf

    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return hf.LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, initializer_range=SPREAD, **shape)


def llava(seed: int = 0, width: int = 32, heads: int = 4) -> tuple[Any, Any]:
    """A CLIP tower of 4 x 4 patches, of which the last block but one is read."""
    import transformers as hf

    tokenizer = llama_tokenizer()
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    kept = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = hf.LlavaProcessor(images, tokenizer, chat_template=LLAVA_TEMPLATE, **kept)
    shape = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": heads, "initializer_range": SPREAD}
    vision = hf.CLIPVisionConfig(image_size=32, patch_size=8, **shape)
    ids = {"image_token_index": tokenizer.convert_tokens_to_ids("<image>"), "image_seq_length": 16}
    config = hf.LlavaConfig(vision_config=vision, text_config=llama_config(tokenizer), **ids)
    return drawn(hf.LlavaForConditionalGeneration, config, seed), processor


def qformer(instruct: bool, seed: int, width: int, heads: int) -> tuple[Any, Any]:
    """A Q-Former of four queries before an OPT, or a Llama that is asked by instruction."""
    import transformers as hf
    from tokenizers import pre_tokenizers

    images, family = hf.BlipImageProcessor(size={"height": 32, "width": 32}), "InstructBlip" if instruct else "Blip2"
    if instruct:
        tokenizer = llama_tokenizer()
        processor: Any = hf.InstructBlipProcessor(images, tokenizer, bert_tokenizer(), 4)
        text: Any = llama_config(tokenizer)
    else:
        pieces = merges(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<pad>", "</s>"], pre_tokenizers.ByteLevel.alphabet(), sentencepiece=False)
        ends = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
        tokenizer = hf.GPT2Tokenizer(**pieces, add_bos_token=True, **ends)
        processor = hf.Blip2Processor(images, tokenizer, 4)
        shape = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        text = hf.OPTConfig(vocab_size=len(tokenizer), max_position_embeddings=256, init_std=SPREAD, **shape, **ids)
    shape = {"num_hidden_layers": 2, "num_attention_heads": heads, "initializer_range": SPREAD, "hidden_size": width, "intermediate_size": 48}
    vision = getattr(hf, f"{family}VisionConfig")(image_size=32, patch_size=8, **shape)
    words = {"vocab_size": len(processor.qformer_tokenizer)} if instruct else {"vocab_size": 100}
    queries = getattr(hf, f"{family}QFormerConfig")(encoder_hidden_size=width, cross_attention_frequency=2, **words, **shape)
    ids = {"num_query_tokens": 4, "image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    config = getattr(hf, f"{family}Config")(text_config=text, vision_config=vision, qformer_config=queries, **ids)
    return drawn(getattr(hf, f"{family}ForConditionalGeneration"), config, seed), processor


def blip2_opt(seed: int = 0, width: int = 32, heads: int = 4) -> tuple[Any, Any]:
    """Its images are asked without a question."""
    return qformer(False, seed, width, heads)


def instructblip_vicuna(seed: int = 0, width: int = 32, heads: int = 4) -> tuple[Any, Any]:
    """Its images are asked with the question."""
    return qformer(True, seed, width, heads)


def git(seed: int = 0, width: int = 32, heads: int = 4) -> tuple[Any, Any]:
    """A CLIP tower and a decoder of BERT's kind."""
    import transformers as hf

    tokenizer = bert_tokenizer()
    processor = hf.GitProcessor(hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), tokenizer)
    shape = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": heads, "initializer_range": SPREAD}
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {"image_size": 32, "patch_size": 8, **shape}
    config = hf.GitConfig(vision_config=vision, vocab_size=len(tokenizer), max_position_embeddings=128, **shape, **ids)
    return drawn(hf.GitForCausalLM, config, seed), processor


MAKERS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "llava": llava, "blip2_opt": blip2_opt, "instructblip_vicuna": instructblip_vicuna, "git": git,
}  # fmt: skip
