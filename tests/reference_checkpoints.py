"""Checkpoints with random weights of the families that others are compared with, each of the class that is published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beside_checkpoints import SPREAD, bert_tokenizer, drawn
from inline_checkpoints import LLAVA_TEMPLATE, llama_config, llama_tokenizer, merges

TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": SPREAD}
DECODER: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
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


def paligemma(seed: int = 0, kind: str = "Gemma", **text_only: Any) -> tuple[Any, Any]:
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
    text = getattr(hf, f"{kind}Config")(vocab_size=len(tokenizer), head_dim=16, **ids, **DECODER, **text_only)
    tower = hf.SiglipVisionConfig(image_size=32, patch_size=8, projection_dim=64, vision_use_head=False, **TOWER)
    image = {"image_token_index": processor.image_token_id, "projection_dim": 64, "hidden_size": 64}
    return drawn(hf.PaliGemmaForConditionalGeneration, hf.PaliGemmaConfig(vision_config=tower, text_config=text, **image), seed), processor


def paligemma2(seed: int = 0) -> tuple[Any, Any]:
    """The same before a Gemma 2, whose every second block sees the last eight tokens alone."""
    return paligemma(seed, "Gemma2", sliding_window=8, query_pre_attn_scalar=16)


IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}{{ ':' }}"
    "{% else %}{{ ': ' }}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""As HuggingFaceM4/Idefics3-8B-Llama3 and HuggingFaceTB/SmolVLM-Instruct have it."""


def idefics2(seed: int = 0) -> tuple[Any, Any]:
    """Pictures of 24 to 48 pixels a side and their quarters, each of four tokens, before a Mistral."""
    import transformers as hf

    tokenizer = llama_tokenizer()
    images = hf.Idefics2ImageProcessor(size={"shortest_edge": 24, "longest_edge": 48}, do_image_splitting=True)
    template = IDEFICS_TEMPLATE.removeprefix("<|im_start|>")
    processor: Any = hf.Idefics2Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = hf.MistralConfig(vocab_size=len(tokenizer), sliding_window=None, **ids, **DECODER)
    latents = {"resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 16, "num_key_value_heads": 2}
    parts: dict[str, Any] = {"vision_config": {"image_size": 56, "patch_size": 8, **TOWER}, "text_config": text}
    parts |= {"perceiver_config": {"hidden_size": 64, **latents}, "image_token_id": processor.image_token_id}
    model = drawn(hf.Idefics2ForConditionalGeneration, hf.Idefics2Config(**parts), seed)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_utterance>")]
    return model, processor


def idefics3(seed: int = 0, kind: str = "Idefics3") -> tuple[Any, Any]:
    """Tiles of 32 pixels, up to 64 of the longest edge, each of four tokens, before a Llama."""
    import transformers as hf
    from tokenizers import pre_tokenizers

    specials = ["<unk>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>"]
    pieces = merges(pre_tokenizers.ByteLevel(add_prefix_space=False), specials, pre_tokenizers.ByteLevel.alphabet(), sentencepiece=False)
    ends = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "unk_token": "<unk>", "pad_token": "<|im_end|>"}
    tokenizer = hf.GPT2Tokenizer(**pieces, **ends)
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<fake_token_around_image>", "<image>", "<global-img>", *places]})
    steps = {"max_image_size": {"longest_edge": 32}, "size": {"longest_edge": 64}}
    parts = [getattr(hf, f"{kind}ImageProcessor")(**steps), tokenizer]
    if kind == "SmolVLM":
        parts.append(hf.SmolVLMVideoProcessor(max_image_size={"longest_edge": 32}, size={"longest_edge": 32}))
    processor = getattr(hf, f"{kind}Processor")(*parts, image_seq_len=4, chat_template=IDEFICS_TEMPLATE)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = hf.LlamaConfig(vocab_size=len(tokenizer), **ids, **DECODER)
    shape = {"scale_factor": 2, "image_token_id": tokenizer.convert_tokens_to_ids("<image>")}
    config = getattr(hf, f"{kind}Config")(vision_config={"image_size": 32, "patch_size": 8, **TOWER}, text_config=text, **shape)
    return drawn(getattr(hf, f"{kind}ForConditionalGeneration"), config, seed), processor


def smolvlm(seed: int = 0) -> tuple[Any, Any]:
    """The same by SmolVLM2's classes."""
    return idefics3(seed, "SmolVLM")


def llava_next(seed: int = 0) -> tuple[Any, Any]:
    """Tiles of 32 pixels, two or three of a picture, beside the whole; the tower's last block but one is read."""
    import transformers as hf

    tokenizer = llama_tokenizer()
    canvases = [[32, 64], [64, 32], [64, 64], [96, 32]]
    images = hf.LlavaNextImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=canvases)
    kept = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = hf.LlavaNextProcessor(images, tokenizer, chat_template=LLAVA_TEMPLATE, **kept)
    vision = hf.CLIPVisionConfig(image_size=32, patch_size=8, **TOWER | {"num_hidden_layers": 3})
    ids = {"image_token_index": tokenizer.convert_tokens_to_ids("<image>"), "image_grid_pinpoints": canvases}
    config = hf.LlavaNextConfig(vision_config=vision, text_config=llama_config(tokenizer), **ids)
    return drawn(hf.LlavaNextForConditionalGeneration, config, seed), processor


MAKERS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "vilt_nlvr2": vilt_nlvr2, "paligemma": paligemma, "paligemma2": paligemma2, "idefics2": idefics2, "idefics3": idefics3, "smolvlm": smolvlm,
    "llava_next": llava_next,
}  # fmt: skip
