"""A trained arm as a plain Hugging Face folder: adapters merged into the weights, processor with its pixel budget."""

from __future__ import annotations

from pathlib import Path

from lab import lora
from lab.artifacts import contract
from lab.errors import ModelError
from lab.model import Vlm, precision

README = """A checkpoint merged and exported by vlm-lab. Load it with Transformers:

    {name}.from_pretrained(FOLDER); AutoProcessor.from_pretrained(FOLDER)

`contract.json` says with which prompt and pixel budget it was trained.
"""


def exportable(vlm: Vlm) -> str | None:
    """Why plain Transformers could not run this model, or None if it can."""
    if vlm.reducer is not None or vlm.conditioner is not None or vlm.extras.keys() - vlm.family.whole.keys():
        return "vision_tokens or conditioning adds computation that a plain Hugging Face folder cannot hold"
    return vlm.family.why_not("export")


def export(vlm: Vlm, folder: Path, described: dict) -> None:
    """Write merged weights (safetensors), processor, contract and a note. Adapters are merged into the model in memory.

    Raises `ModelError` if the folder holds anything, or if plain Transformers could not run the model.
    """
    why = exportable(vlm)
    if why is not None:
        raise ModelError(f"this arm cannot be exported: {why}.")
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder}: the folder is not empty, and nothing is overwritten. Name another one.")
    folder.mkdir(parents=True, exist_ok=True)
    merged = lora.merge(vlm.model) if hasattr(vlm.model, "merge_and_unload") else vlm.model
    for name, part in vlm.extras.items():
        merged.get_submodule(vlm.family.whole[name]).load_state_dict(part.state_dict())
    with precision.norms_as_stored(merged, vlm.base["dtype"]):
        merged.save_pretrained(str(folder))
    vlm.processor.save_pretrained(str(folder))
    contract.save(folder, described)
    (folder / "README.md").write_text(README.format(name=type(merged).__name__), encoding="utf-8")
