"""The files of a trained arm: PEFT's own for the adapter, one safetensors file for whole parts, one for modules that other dials added.

    adapter/adapter_config.json, adapter_model.safetensors     PEFT's format, usable without this laboratory
    adapter/trained.safetensors                                `Vlm.full`, float32 by the names of Transformers' model: parts that trained
                                                               whole, and what the arm began with by `model.start`
    adapter/extras.safetensors                                 `Vlm.extras` (a resampler, gated cross-attention)

Nothing is ever read through pickle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lab import lora
from lab.config import LoraDial
from lab.errors import ModelError
from lab.model import Vlm

if TYPE_CHECKING:
    import torch

PEFT_WEIGHTS = "adapter_model.safetensors"
TRAINED = "trained.safetensors"
EXTRAS = "extras.safetensors"
FILES = (PEFT_WEIGHTS, TRAINED, EXTRAS)


def save(vlm: Vlm, folder: Path) -> None:
    """Write the adapter, the weights of its own and the extra modules of a model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(vlm.model, "peft_config"):
        vlm.model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)  # the base has them
    tensors = {
        f"{extra}.{name}": tensor.detach().contiguous().cpu()
        for extra, module in vlm.extras.items()
        for name, tensor in module.state_dict().items()
    }
    if tensors:
        save_file(tensors, folder / EXTRAS)
    if vlm.full:
        save_file({name: own.master.detach().contiguous().cpu() for name, own in vlm.full.items()}, folder / TRAINED)


def load(vlm: Vlm, folder: Path, dial: LoraDial | None = None) -> None:
    """Put a saved adapter, weights of the arm's own, and those of extra modules that the dials have installed, on the model, frozen.

    dial: whose `full` says which weights there must be. Raises `ModelError` if files are missing, if a saved tensor finds no place in
    the model or a place no tensor, or if the adapter computes nothing: PEFT alone would warn at most, and answer with the bare base.
    """
    place(vlm, folder, dial)
    if (folder / PEFT_WEIGHTS).is_file():
        require_delta(vlm, folder)


def place(vlm: Vlm, folder: Path, dial: LoraDial | None = None) -> None:
    """The same of an adapter that may compute nothing yet."""
    if not any((folder / name).is_file() for name in FILES):
        raise ModelError(f"{folder}: there is no {PEFT_WEIGHTS} in it; an adapter is read from safetensors only.")
    with readable(folder / TRAINED):
        lora.install(vlm, LoraDial(), whole_weights(vlm, folder, dial or LoraDial()))
    if (folder / PEFT_WEIGHTS).is_file():
        with readable(folder / PEFT_WEIGHTS):
            load_peft(vlm, folder)
    with readable(folder / EXTRAS):
        load_extras(vlm, folder)


def whole_weights(vlm: Vlm, folder: Path, dial: LoraDial) -> dict[str, torch.Tensor]:
    """What `TRAINED` holds, by name; nothing where there is none. Raises `ModelError` if it lacks a weight of `dial.full`."""
    from safetensors.torch import load_file

    path = folder / TRAINED
    saved = load_file(path) if path.is_file() else {}
    lacking = [name for name in lora.full_names(vlm, dial) if name not in saved]
    if lacking:
        raise ModelError(
            f"{path}: {len(lacking)} of the weights that trained are not in it (first: {lacking[0]}), and the base's would answer in their "
            "place. Train the run again with trainer.if_finished=again."
        )
    return saved


def tensors(folder: Path) -> frozenset[tuple[str, str, tuple[int, ...], str]]:
    """File, name, shape and dtype of every tensor of an adapter, by the files' headers. Raises `ModelError` for a broken file."""
    from safetensors import safe_open

    found = set()
    for path in (folder / name for name in FILES):
        if path.is_file():
            with readable(path), safe_open(str(path), framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
                found |= {(path.name, name, tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
    return frozenset(found)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a reader says of a broken file into a `ModelError` that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except ModelError:
        raise
    except RuntimeError as error:  # PyTorch's, of a state dict whose shapes are others
        lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        beside = " of what adapter_config.json beside it says" if path.name == PEFT_WEIGHTS else ""
        raise ModelError(
            f"{path}: its tensors have other shapes than those{beside} ({len(lines)} of them, the first: {lines[0] if lines else error}). "
            "One of the two was changed; restore it, or train the run again with trainer.if_finished=again."
        ) from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: the adapter cannot be read ({type(error).__name__}: {error}).") from None


def load_peft(vlm: Vlm, folder: Path) -> None:
    """Load PEFT's files and check that every saved tensor has found its place."""
    from peft import PeftConfig, PeftModel
    from safetensors import safe_open

    vlm.model = PeftModel(vlm.model, PeftConfig.from_pretrained(str(folder)))
    outcome = vlm.model.load_adapter(str(folder), "default", is_trainable=False, use_safetensors=True)
    vlm.model.requires_grad_(False)
    vlm.model.eval()
    missing = [key for key in outcome.missing_keys if "lora_" in key]
    with safe_open(str(folder / PEFT_WEIGHTS), framework="pt") as file:
        saved = len(file.keys())
    placed = sum("lora_" in name for name, _ in vlm.model.named_parameters())
    if missing or outcome.unexpected_keys or placed != saved:
        example = [*outcome.unexpected_keys, *missing, "none"][0]
        raise ModelError(
            f"{folder}: the adapter does not fit this model: it holds {saved} tensors for {placed} places, "
            f"{len(outcome.unexpected_keys)} tensors have no place and {len(missing)} places no tensor (first: {example}). "
            "Its base or its key names are others."
        )


def require_delta(vlm: Vlm, folder: Path) -> None:
    """Raise a `ModelError` if every pair of an adapter has a matrix of zeros, so that all products B A vanish."""
    matrices = {name: parameter for name, parameter in vlm.model.named_parameters() if "lora_" in name}
    for name, a in matrices.items():
        b = matrices.get(name.replace(".lora_A.", ".lora_B."))
        if ".lora_A." in name and b is not None and a.any() and b.any():
            return
    raise ModelError(f"{folder}: the adapter is untrained or emptied: B A = 0 in every layer, so the bare base would answer.")


def load_extras(vlm: Vlm, folder: Path) -> None:
    """Load the extra modules' weights; their names and shapes must be exactly those that the dials installed."""
    from safetensors.torch import load_file

    path = folder / EXTRAS
    saved = load_file(path) if path.is_file() else {}
    wanted = {f"{extra}.{name}" for extra, module in vlm.extras.items() for name in module.state_dict()}
    if saved.keys() != wanted:
        odd = sorted(saved.keys() ^ wanted)
        raise ModelError(f"{path}: its tensors are not those of the installed modules (first: {odd[0]}).")
    fill_extras(vlm, saved)
    for module in vlm.extras.values():
        module.requires_grad_(False)
        module.eval()


def fill_extras(vlm: Vlm, saved: dict[str, torch.Tensor]) -> None:
    """Give the extra modules that dials have installed saved weights, which go on training if they do."""
    for extra, module in vlm.extras.items():
        prefix = f"{extra}."
        module.load_state_dict({key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)})


def fill(vlm: Vlm, folder: Path) -> None:
    """Give an attached adapter saved matrices, which go on training. Raises `ModelError` if they are not all there."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    with readable(folder / PEFT_WEIGHTS):
        outcome = set_peft_model_state_dict(vlm.model, load_file(folder / PEFT_WEIGHTS))
    odd = [*outcome.unexpected_keys, *(key for key in outcome.missing_keys if "lora_" in key)]
    if odd:
        raise ModelError(f"{folder}: the adapter does not fit this arm's ({len(odd)} tensors, first: {odd[0]}).")
