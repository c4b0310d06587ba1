"""The published shapes of every shipped `conf/model` option: two blocks, and a sixteenth of every width; of the 2B, all of it.

`python tests/published.py FOLDER` writes that one. The numbers are those of each checkpoint's config.json on the hub;
of words there are as many as the tiny base's tokenizer has.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import checkpoints
from beside_checkpoints import MAKERS as BESIDE
from inline_checkpoints import MAKERS as INLINE

if TYPE_CHECKING:
    import torch

PART = 16
MAKERS = BESIDE | INLINE
DECODERS = {
    "qwen2_vl_2b": {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2, "tied": True},
    "qwen2_vl_7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4, "tied": False},
    "qwen2_5_vl_3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 2, "tied": True},
    "qwen2_5_vl_7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4, "tied": False},
    "qwen3_vl_2b": {"hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16, "num_key_value_heads": 8, "tied": True},
}
"""Of the language model; heads are 128 wide."""
TOWERS = {
    "qwen2_vl": {"embed_dim": 1280, "num_heads": 4, "mlp_ratio": 4, "patch_size": 14},
    "qwen2_5_vl": {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 4, "patch_size": 14, "window_size": 112},
    "qwen3_vl": {"hidden_size": 1024, "intermediate_size": 4096, "num_heads": 4, "patch_size": 16},
}
"""Of the vision tower; published with 16 heads, whose sixteenth of 80 numbers could not be turned in pairs."""


def save(option: str, family: str, folder: Path) -> None:
    """Write a random checkpoint of a shipped option's shape, in the dtype that its publisher keeps it in."""
    import torch

    if family == "vit_gpt2":
        model, processor = vit_gpt2()
    elif family in MAKERS:
        model, processor = MAKERS[family](width=768 // PART, heads=12)
    else:
        model, processor = qwen(option if option in DECODERS else "qwen2_vl_2b", family)
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def qwen(option: str, family: str) -> tuple[Any, Any]:
    """Heads are a sixteenth of 128 wide, and M-RoPE divides what is left of them as before."""
    import torch
    import transformers as hf

    shape, tower = dict(DECODERS[option]), dict(TOWERS[family])
    tied, heads, keyed = shape.pop("tied"), shape.pop("num_attention_heads"), shape.pop("num_key_value_heads")
    processor = checkpoints.processor_of(family)
    text = checkpoints.text_config(processor.tokenizer, tied) | {key: width // PART for key, width in shape.items()}
    text |= {"num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": keyed, "tie_word_embeddings": tied}
    vision = {key: width // PART if key in ("embed_dim", "hidden_size", "intermediate_size") else width for key, width in tower.items()}
    vision |= {"depth": 2, "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.1}
    out = "hidden_size" if family == "qwen2_vl" else "out_hidden_size"
    vision |= {out: text["hidden_size"], "patch_size": checkpoints.FACTOR[family] // 2}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    match family:
        case "qwen2_vl":
            names = (hf.Qwen2VLConfig, hf.Qwen2VLForConditionalGeneration)
        case "qwen2_5_vl":
            vision |= {"fullatt_block_indexes": [1], "window_size": 32}
            names = (hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration)
        case _:
            vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
            text["head_dim"], rope["mrope_interleaved"] = 128 // PART, True
            names = (hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration)
    ids = {**checkpoints.special_ids(processor.tokenizer), "tie_word_embeddings": tied, "dtype": "bfloat16"}
    config = names[0](text_config={**text, "rope_parameters": rope}, vision_config=vision, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return names[1](config), processor


def vit_gpt2() -> tuple[Any, Any]:
    """ViT-B/16 and GPT-2, both 768 wide with 12 heads."""
    import torch
    import transformers as hf

    _, pair = checkpoints.make_vit_gpt2()
    shape = {"num_hidden_layers": 2, "num_attention_heads": 12, "initializer_range": 0.2}
    vision = hf.ViTConfig(hidden_size=768 // PART, intermediate_size=3072 // PART, image_size=64, patch_size=16, **shape)
    ends = {"bos_token_id": pair.tokenizer.eos_token_id, "eos_token_id": pair.tokenizer.eos_token_id}
    text = hf.GPT2Config(n_embd=768 // PART, n_layer=2, n_head=12, vocab_size=len(pair.tokenizer), n_positions=1024, **ends)
    text.is_decoder = text.add_cross_attention = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return hf.VisionEncoderDecoderModel(hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)), pair


def save_full_width(folder: Path) -> None:
    """Write Qwen2-VL-2B shrunk only in depth, to two blocks, as a user would keep it: in bfloat16, with its own processor classes."""
    import torch
    from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    made = checkpoints.make_processor()
    size = {"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=made.tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=made.chat_template,
    )
    config = checkpoints.real_config("qwen2_vl", "2b", num_layers=2, depth=2)
    for key, value in checkpoints.special_ids(made.tokenizer).items():
        setattr(config, key, value)
    config.text_config.pad_token_id = made.tokenizer.pad_token_id
    config.text_config.eos_token_id = made.tokenizer.eos_token_id
    config.dtype = torch.bfloat16
    drawn(AutoModelForImageTextToText, config, folder)
    processor.save_pretrained(folder)


def drawn(auto_class: Any, config: Any, folder: Path) -> None:
    """Write a model of a config, in bfloat16, without drawing each of its weights."""
    import torch

    with torch.device("meta"):
        whole = auto_class.from_config(config, dtype=torch.bfloat16)
    whole.to_empty(device="cpu")
    draw(whole)
    whole.tie_weights()
    whole.save_pretrained(folder)


def save_qwen3_pair(vision: Path, llm: Path) -> None:
    """Write Qwen3-VL-2B and Qwen3-0.6B shrunk only in depth, to two blocks each, as their publishers keep them, with the tiny base's words."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Qwen3Config, Qwen3VLConfig

    processor = checkpoints.processor_of("qwen3_vl")
    ids = checkpoints.special_ids(processor.tokenizer)
    text = {"vocab_size": 151936, "num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    text |= {key: value for key, value in checkpoints.text_config(processor.tokenizer).items() if key.endswith("token_id")}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    tower = TOWERS["qwen3_vl"] | {"depth": 2, "num_heads": 16, "out_hidden_size": 2048, "spatial_merge_size": 2, "temporal_patch_size": 2}
    tower |= {"num_position_embeddings": 2304, "deepstack_visual_indexes": [0, 1]}
    wide = text | {"hidden_size": 2048, "intermediate_size": 6144, "rope_parameters": rope, "tie_word_embeddings": True}
    drawn(AutoModelForImageTextToText, Qwen3VLConfig(text_config=wide, vision_config=tower, tie_word_embeddings=True, **ids), vision)
    processor.save_pretrained(vision)
    small = {"hidden_size": 1024, "intermediate_size": 3072, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    drawn(AutoModelForCausalLM, Qwen3Config(**text, **small, tie_word_embeddings=True, max_position_embeddings=40960), llm)
    processor.tokenizer.save_pretrained(llm)


def draw(whole: torch.nn.Module) -> None:
    """Weights from one pool of normal numbers, norms 1, biases 0: seconds instead of a minute for 400 million."""
    import torch

    pool = 0.02 * torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.copy_(pool.repeat(-(-parameter.numel() // len(pool)))[: parameter.numel()].view(parameter.shape))


if __name__ == "__main__":
    save_full_width(Path(sys.argv[1]))
