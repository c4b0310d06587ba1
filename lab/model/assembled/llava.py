"""Route `llava`: a CLIP, SigLIP or DINOv2 tower and a language model of Llama's kind, by `LlavaConfig` and a fresh projector."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

from lab.config import ModelDial, ProjectorInit
from lab.errors import ModelError
from lab.model.assembled import sources
from lab.model.assembled.draft import Draft, text_config_of, with_padding
from lab.model.assembled.sources import Source

IMAGE = "<image>"
TEXTS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")
PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}{% else %}{{ message['content'] + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The turns of LLaVA-1.5, of a language model without a chat template."""
FLAT = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}{%- set text = namespace(value='') -%}"
    "{%- if message['content'] is string -%}{%- set text.value = message['content'] -%}{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set text.value = text.value + '<image>\n' -%}"
    "{%- else -%}{%- set text.value = text.value + part['text'] -%}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': text.value}] -%}{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)
"""What makes texts of messages in parts, each picture a placeholder and a line break, before the language model's own template reads them."""


@dataclass(frozen=True)
class Tower:
    """A kind of tower by its `model_type`: Transformers' class of it, tokens beside its patches, what of it the model has no place for."""

    name: str
    beside: int
    left_out: str = ""

    @property
    def strategy(self) -> Literal["default", "full"]:
        """LLaVA's `default` drops the first token, which is a class token or a piece of the picture."""
        return "default" if self.beside else "full"


TOWERS = {
    "clip_vision_model": Tower("CLIPVisionModel", 1),
    "siglip_vision_model": Tower("SiglipVisionModel", 0, r"head\..+"),
    "dinov2": Tower("Dinov2Model", 1),
}
WHOLE = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
"""Checkpoints of pictures and texts, which hold such a tower."""


def draft(dial: ModelDial) -> Draft:
    """Image processor with mean and deviation are the tower's, everything about words the language model's."""
    assert dial.vision_from is not None and dial.llm_from is not None
    if dial.projector_init is not ProjectorInit.random:
        raise ModelError("model.projector_init=crop: a tower of model.family=llava has no projector to cut. Give model.projector_init=random.")
    vision = sources.read("model.vision_from", dial.vision_from, [*TOWERS, *WHOLE, "dinov2_with_registers"])
    llm = sources.read("model.llm_from", dial.llm_from, TEXTS, "Gemma 2 caps its logits, which LLaVA's head would not.")
    tower, config_of_tower = tower_of(dial, vision)
    images = images_of(vision, config_of_tower)
    tokenizer = sources.processor_file(llm, "AutoTokenizer")
    added = with_padding(tokenizer)
    (image_id,), new = sources.special_ids(tokenizer, [IMAGE])
    text, rows = text_config_of(llm, tokenizer)
    processor = processor_of(images, tokenizer, config_of_tower, tower)
    grid = (config_of_tower.image_size // config_of_tower.patch_size) ** 2
    return Draft(
        llava_config(dial, config_of_tower, text, tower, image_id, grid), processor, "LlavaForConditionalGeneration", vision, llm,
        tower.name, ("model.vision_tower.", ""), rows, sources.generation_config(llm, ends_of(processor, llm)), added + new, tower.left_out,
        facts={"vision_feature_layer": dial.vision_feature_layer, "tokens_per_image": grid},
    )  # fmt: skip


def llava_config(dial: ModelDial, tower_config: Any, text: Any, tower: Tower, image_id: int, tokens: int) -> Any:
    """With the flag of a tied head that the language model has, outside and inside."""
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config=tower_config, text_config=text, image_token_index=image_id, image_seq_length=tokens,
        vision_feature_select_strategy=tower.strategy, vision_feature_layer=dial.vision_feature_layer, tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip


def tower_of(dial: ModelDial, vision: Source) -> tuple[Tower, Any]:
    """The kind of a tower and its own config. Raises `ModelError` for one that LLaVA would read wrongly."""
    whole = vision.config.model_type
    if whole == "dinov2_with_registers":
        why = "it has register tokens, which LLaVA would take for pieces of the picture"
        raise ModelError(f"{vision.spelled}: {why}. Give a DINOv2 without registers.")
    config = copy.deepcopy(vision.config.vision_config if whole in WHOLE else vision.config)
    blocks = config.num_hidden_layers
    if -dial.vision_feature_layer > blocks:
        raise ModelError(
            f"model.vision_feature_layer={dial.vision_feature_layer}: the tower of {vision.where} has {blocks} blocks. Give -{blocks} to -1."
        )
    if config.image_size % config.patch_size:
        raise ModelError(
            f"{vision.spelled}: its pictures are {config.image_size} pixels wide and its patches {config.patch_size}, which does not divide that, so "
            "its tokens are not those that the processor counts. Give another tower."
        )
    tower = TOWERS[WHOLE.get(whole, whole)]
    if tower.left_out:
        config.vision_use_head = False
    return tower, config


def images_of(vision: Source, config: Any) -> Any:
    """The tower's image processor, which makes pictures of the size that the tower was made for. Raises `ModelError` where it does not say how."""
    images = sources.processor_file(vision, "AutoImageProcessor")
    side = config.image_size
    if not images.do_normalize or len(images.image_mean) != config.num_channels:
        why = "its preprocessor_config.json gives no mean and deviation of colours, without which the tower sees others"
        raise ModelError(f"{vision.spelled}: {why}. Write image_mean and image_std there.")
    if images.do_center_crop:
        images.size = {"shortest_edge": side}
    else:
        images.size = {"height": side, "width": side}
    images.crop_size = {"height": side, "width": side}  # which LLaVA's processor counts patches of, cut or not
    return images


def processor_of(images: Any, tokenizer: Any, config: Any, tower: Tower) -> Any:
    """LLaVA's, with the language model's own template where it has one. A token that begins every text is written once."""
    from transformers import LlavaProcessor

    own = tokenizer.chat_template or PLAIN
    tokenizer.chat_template = None  # which would be saved beside the processor's
    processor = LlavaProcessor(
        images, tokenizer, patch_size=config.patch_size, vision_feature_select_strategy=tower.strategy, num_additional_image_tokens=tower.beside,
        chat_template=FLAT + own, image_token=IMAGE,
    )  # fmt: skip
    begins = tokenizer.bos_token and spoken(processor)[0].startswith(tokenizer.bos_token)
    if begins and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        processor.chat_template = "{%- set bos_token = '' -%}" + FLAT + own
    return processor


def spoken(processor: Any) -> tuple[str, str]:
    """A prompt by the processor's template, and what follows it where the answer is X."""
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    whole = processor.apply_chat_template([*asked, {"role": "assistant", "content": [{"type": "text", "text": "X"}]}], tokenize=False)
    return prompt, whole.removeprefix(prompt)


def ends_of(processor: Any, llm: Source) -> list[int]:
    """The tokens that end an answer. Raises `ModelError` where the template writes none, or no placeholder."""
    prompt, answer = spoken(processor)
    placeholder = processor.tokenizer(prompt)["input_ids"].count(processor.image_token_id)
    end = answer.partition("X")[2].strip() or processor.tokenizer.eos_token
    ids = processor.tokenizer(end, add_special_tokens=False)["input_ids"]
    if placeholder != 1 or len(ids) != 1:
        raise ModelError(
            f"{llm.spelled}: its chat template writes {placeholder} placeholders of one picture and ends an answer with {end!r}, {len(ids)} tokens; "
            "one of each is needed. Delete its chat template, and LLaVA-1.5's turns take its place."
        )
    return [*ids, processor.tokenizer.eos_token_id]
