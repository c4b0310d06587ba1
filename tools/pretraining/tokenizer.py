"""Make the tiny base's processor: a byte-level BPE with Qwen2-VL's special tokens, template and image steps."""

from __future__ import annotations

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from lab.errors import ModelError
from tools.pretraining.vocabulary import ANSWERS, corpus

VOCABULARY = 768
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PATCH, MERGE = 8, 2
MIN_PIXELS, MAX_PIXELS = 32 * 32, 128 * 128  # 4 to 64 visual tokens an image; 64 x 64 stays as it is: 16 tokens

# The template of Qwen/Qwen2-VL-2B-Instruct (Apache-2.0), character for character.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def fit_tokenizer() -> Qwen2Tokenizer:
    """Fit a BPE of 754 entries and add the 14 special tokens; deterministic.

    Raises `ModelError` unless every answer word, with and without a space, is one token.
    """
    fitted = Tokenizer(models.BPE())
    fitted.normalizer = normalizers.NFC()
    fitted.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fitted.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fitted.train_from_iterator(corpus(), trainer)
    tables = json.loads(fitted.to_str())["model"]  # the only door to what was fitted
    tokenizer = Qwen2Tokenizer(
        vocab=tables["vocab"],
        merges=[tuple(pair) for pair in tables["merges"]],
        model_max_length=2048,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token=None,
        padding_side="left",
        extra_special_tokens=list(SPECIAL[1:]),
    )
    tokenizer.add_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    split = [word for word in ANSWERS if len(tokenizer.encode(word)) != 1]
    if split:
        raise ModelError(f"tokenizer: {split} are not single tokens; give them more weight in vocabulary.corpus().")
    return tokenizer


def make_processor() -> Qwen2VLProcessor:
    """Build the whole processor: tokenizer, image steps, video steps, chat template."""
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    steps = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2, "size": size}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**steps),
        tokenizer=fit_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**steps),
        chat_template=CHAT_TEMPLATE,
    )
