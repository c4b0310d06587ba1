"""Whether a checkpoint is what it is taken for: its config of the family, its tensors all there, its head the one in its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lab.config import ModelDial
from lab.errors import ModelError
from lab.model.family import Family
from lab.model.identity import weight_files
from lab.model.tying import torn

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def require_one_origin(dial: ModelDial) -> None:
    """Raise a `ModelError` unless a model comes from one checkpoint, or from a tower and a language model."""
    sources = {"model.vision_from": dial.vision_from, "model.llm_from": dial.llm_from}
    missing = [key for key, value in sources.items() if value is None]
    if len(missing) == 1:
        raise ModelError(f"{missing[0]}=null: a model is assembled from a tower and a language model. Give both, or neither.")
    for key in ("path", "revision"):
        if not missing and getattr(dial, key) is not None:
            why = "beside model.vision_from and model.llm_from there is no other checkpoint"
            raise ModelError(f"model.{key}={getattr(dial, key)}: {why}. Set it to null.")
    if missing and (dial.projector_init, dial.vision_feature_layer) != (ModelDial.projector_init, ModelDial.vision_feature_layer):
        raise ModelError("model.projector_init, model.vision_feature_layer: only model=assembled reads them. Leave them out.")


def require_whole(dial: ModelDial, kind: Family, info: Mapping[str, Any]) -> None:
    """Raise a `ModelError` for weights that are not the model's, each and no other. info: Transformers' of loading them."""
    missing = sorted(name for name in info["missing_keys"] if not re.fullmatch(kind.unused, name))
    surplus = sorted(name for name in info["unexpected_keys"] if not re.fullmatch(kind.surplus, name))
    resized = [f"{name}, {list(there)} in the file and {list(needed)} in the model" for name, there, needed in sorted(info["mismatched_keys"])]
    faults = (
        (missing, "the checkpoint lacks {} of the model's tensors (first: {}), which Transformers would fill with random numbers. It is "
         "incomplete, or its names are of another version."),
        (resized, "{} of the checkpoint's tensors have another shape than in the model (first: {}). Its config.json is that of another "
         "checkpoint; take both from one."),
        (surplus, "{} of the checkpoint's tensors have no place in the model (first: {}), so it is not what its config.json says. Take "
         "both from one checkpoint, or choose the model whose family fits."),
    )  # fmt: skip
    for names, sentence in faults:
        if names:
            raise ModelError(f"model.path={dial.path}: {sentence.format(len(names), names[0])}")


def require_head(dial: ModelDial, where: str, model: Any) -> None:
    """Raise a `ModelError` where the checkpoint's files hold a head of its own that loading has put aside, since a flag says it is tied."""
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and words is not None and head.weight is words.weight and (why := torn(weight_files(where, dial.revision), tied=True)):
        raise ModelError(f"model.path={dial.path}: {why}")


def recognise(dial: ModelDial, kind: Family, config: PretrainedConfig) -> None:
    """Raise a `ModelError` if a checkpoint's config is not of the family that it is taken for."""
    wanted = {"": (kind.model_type,), **kind.components}
    for name, types in wanted.items():
        found = getattr(config, name).model_type if name else config.model_type
        if found not in types:
            raise ModelError(
                f"model.family={dial.family}: the checkpoint {dial.path} is of type {found!r}, not {' or '.join(map(repr, types))}"
                f"{f' ({name})' if name else ''}. Choose the model whose family fits."
            )
