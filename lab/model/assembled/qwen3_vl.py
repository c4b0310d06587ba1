"""Route `qwen3_vl`: the tower and the mergers of a Qwen3-VL before a Qwen3 language model; blocks of both language models agree."""

from __future__ import annotations

import copy
from typing import Any

from lab.config import ModelDial, ProjectorInit
from lab.errors import ModelError
from lab.model.assembled import sources
from lab.model.assembled.draft import Draft, text_config_of, with_padding
from lab.model.assembled.sources import Source

MROPE = (24, 20, 20)
"""`mrope_section` of a checkpoint that does not say it (transformers.models.qwen3_vl)."""
MEDIA = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
NORMS = "its blocks have no norm of queries and keys, or biases that Qwen3-VL's have not: choose model.family=llava for it, with another tower."


def draft(dial: ModelDial) -> Draft:
    """Image processor and template are the tower's, everything about words the language model's."""
    assert dial.vision_from is not None and dial.llm_from is not None
    vision = sources.read("model.vision_from", dial.vision_from, ["qwen3_vl"], "Give a whole Qwen3-VL; other towers take model.family=llava.")
    llm = sources.read("model.llm_from", dial.llm_from, ["qwen3"], f"Of another type {NORMS}")
    processor, tokenizer = sources.processor_file(vision, "AutoProcessor"), sources.processor_file(llm, "AutoTokenizer")
    require_fit(dial, vision, llm)
    words = processor.tokenizer.convert_ids_to_tokens([getattr(vision.config, key) for key in MEDIA])
    template = str(processor.chat_template)
    written = [each.content for each in processor.tokenizer.added_tokens_decoder.values() if each.content in template]
    added = with_padding(tokenizer)
    ids, new = sources.special_ids(tokenizer, [*words, *written, processor.tokenizer.eos_token])
    tokenizer.chat_template = None  # which would be saved beside the processor's
    config = copy.deepcopy(vision.config)
    config.text_config, rows = text_config(vision, llm, tokenizer)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings
    config.vision_config.out_hidden_size = llm.config.hidden_size
    for key, number in zip(MEDIA, ids, strict=False):
        setattr(config, key, number)
    made = type(processor)(
        image_processor=processor.image_processor, tokenizer=tokenizer, video_processor=processor.video_processor, chat_template=template
    )  # fmt: skip
    return Draft(
        config, made, "Qwen3VLForConditionalGeneration", vision, llm, "Qwen3VLForConditionalGeneration", ("model.visual.", "model.visual."), rows,
        sources.generation_config(llm, [tokenizer.eos_token_id, ids[-1]]), added + new,
        facts={"rope_theta": config.text_config.rope_parameters["rope_theta"]},
    )  # fmt: skip


def text_config(vision: Source, llm: Source, tokenizer: Any) -> tuple[Any, int]:
    """Every value of the language model's under the names of Qwen3-VL's text; of the latter remains how positions are divided (M-RoPE)."""
    own, rows = text_config_of(llm, tokenizer)
    config = copy.deepcopy(vision.config.text_config)
    for key in config.to_dict():
        if key not in ("model_type", "rope_parameters", "architectures", "transformers_version") and hasattr(own, key):
            setattr(config, key, getattr(own, key))
    for key in ("bos_token_id", "eos_token_id", "tie_word_embeddings"):  # which its own values leave out
        setattr(config, key, getattr(own, key))
    divided = {key: value for key, value in config.rope_parameters.items() if key.startswith("mrope")}
    config.rope_parameters = own.rope_parameters | divided
    return config, rows


def require_fit(dial: ModelDial, vision: Source, llm: Source) -> None:
    """Raise a `ModelError` for a pair that Transformers would join without a word, and compute something else with."""
    levels, blocks = len(vision.config.vision_config.deepstack_visual_indexes), llm.config.num_hidden_layers
    if levels > blocks:
        raise ModelError(
            f"{llm.spelled}: it has {blocks} block{'s' * (blocks > 1)}, and the tower of {vision.where} speaks to {levels} (DeepStack), so that the "
            "last levels would never be added. Give a language model with as many blocks."
        )
    section, width = vision.config.text_config.rope_parameters.get("mrope_section", MROPE), llm.config.head_dim
    if 2 * sum(section) != width:
        raise ModelError(
            f"{llm.spelled}: its heads are {width} wide, and M-RoPE of {vision.where} divides {2 * sum(section)} numbers ({list(section)}). "
            "Give a language model with heads of that width."
        )
    there = vision.config.vision_config.out_hidden_size
    if dial.projector_init is ProjectorInit.crop and llm.config.hidden_size > there:
        raise ModelError(
            f"model.projector_init=crop: {llm.where} is {llm.config.hidden_size} wide and the projector of {vision.where} gives {there} numbers, "
            "of which none can be cut. Give model.projector_init=random."
        )
    sliding = getattr(llm.config, "use_sliding_window", False) and llm.config.sliding_window
    if sliding:
        raise ModelError(
            f"{llm.spelled}: it attends within a window of {sliding} tokens, as Qwen3-VL's blocks cannot. Give a language model without."
        )
