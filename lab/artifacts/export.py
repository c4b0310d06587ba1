"""A trained arm as a plain Hugging Face folder: adapters merged into the weights or alone, processor with its pixel budget, contract.

`lab.artifacts.card` writes what it is and how it is loaded; `lab.run.exporting` asks it as its user would.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lab import lora, model
from lab.artifacts import adapter, contract
from lab.errors import ContractError, ModelError
from lab.model import Vlm, precision
from lab.model.identity import located

NOTE = """A checkpoint merged and exported by vlm-lab. Load it with Transformers:

    {name}.from_pretrained(FOLDER); AutoProcessor.from_pretrained(FOLDER)

`contract.json` says with which prompt and pixel budget it was trained.
"""


def exportable(vlm: Vlm) -> str | None:
    """Why plain Transformers could not run this model, or None if it can."""
    if vlm.reducer is not None or vlm.conditioner is not None or vlm.extras:
        return "vision_tokens or conditioning adds computation that a plain Hugging Face folder cannot hold"
    return vlm.family.why_not("export")


def needs_merging(vlm: Vlm) -> str | None:
    """Why an adapter alone would not be the arm, so that its folder holds the whole model; None where it would."""
    if vlm.full:
        return f"{', '.join(lora.parts_of(vlm))} trained whole"
    if not hasattr(vlm.model, "merge_and_unload"):
        return "it has no adapter"
    if vlm.base.get("labels") is not None:
        return "model.labels gave its head other labels than its checkpoint's"
    return None


def require_room(folder: Path) -> None:
    """Raise a `ModelError` for a folder that holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "the folder is not empty" if folder.is_dir() else "it is a file"
        raise ModelError(f"{folder}: {what}, and nothing is overwritten. Name another one.")


def merge(vlm: Vlm) -> None:
    """Put adapters and parts that trained whole into the weights of the model, which holds nothing else afterwards."""
    if hasattr(vlm.model, "merge_and_unload"):
        vlm.model = lora.merge(vlm.model)
    lora.keep(vlm)


def export(vlm: Vlm, folder: Path, described: dict[str, Any], merged: bool = True) -> None:
    """Write a model's weights (safetensors), processor, contract, a greedy generation config and a note.

    merged: adapters are merged into the model in memory first, else they are written alone, for PEFT over their base.
    Raises `ModelError` if the folder holds anything, or if plain Transformers could not run the model, `ContractError` if its processor
    is not that of the contract any more.
    """
    why = exportable(vlm)
    if why is not None:
        raise ModelError(f"this arm cannot be exported: {why}.")
    require_room(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if merged:
        merge(vlm)
        with precision.norms_as_stored(vlm.model, vlm.base["dtype"]):
            vlm.model.save_pretrained(str(folder))
    else:
        adapter.save(vlm, folder)
        config = located(model.locate(vlm.base["path"]), "config.json", vlm.base["revision"])
        assert config is not None, "a checkpoint that was loaded has one"
        shutil.copyfile(config, folder / "config.json")  # by which `transformers serve` knows the class
    vlm.processor.save_pretrained(str(folder))
    greedy(vlm).save_pretrained(str(folder))
    require_processor(vlm, folder, described)
    contract.save(folder, described)
    (folder / "README.md").write_text(NOTE.format(name=type(vlm.base_model).__name__), encoding="utf-8")


def greedy(vlm: Vlm) -> Any:
    """A generation config by which the model writes as it was measured: without the sampling and penalties of its base."""
    from transformers import GenerationConfig

    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    named = vlm.base_model.generation_config if getattr(vlm.base_model, "generation_config", None) is not None else vlm.base_model.config
    return GenerationConfig(do_sample=False, **{key: value for key in kept if (value := getattr(named, key, None)) is not None})


def require_processor(vlm: Vlm, folder: Path, described: dict[str, Any]) -> None:
    """Raise a `ContractError` if the folder's processor would not make of pictures and words what the arm was trained with.

    A call with other arguments, such as `do_resize=False`, may stay in a processor and be saved with it.
    """
    if "processor" not in described:
        return
    saved = vlm.family.architecture.processor(str(folder), vlm.base_model.config, {})
    now = {"processor": vlm.family.architecture.settings(saved), "chat_template": saved.chat_template}
    trained = {key: described[key] for key in now}
    if differing := contract.differences(json.loads(json.dumps(trained)), now):
        raise ContractError(
            f"{folder}: the exported processor is not that of the training:\n  " + "\n  ".join(differing) + "\nStart the command again."
        )
