"""What an arm begins with where it goes on from another run (`model.start`): that run's weights in place of the base's.

An adapter that the arm has too, layer for layer, goes on as its own; any other is merged, in float32, into the weights it sits beside.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from lab import lora
from lab.artifacts import adapter, contract
from lab.config import Experiment, LoraDial, as_dict, trains
from lab.errors import ConfigError, ContractError, DataError
from lab.freezing import from_dict
from lab.model import Vlm
from lab.store import runs
from lab.store.runs import Run

if TYPE_CHECKING:
    import torch

FREE = ("name", "full", "trainable_parameters", "lora_dropout")
"""Keys of `lora` in which an arm may differ from the run whose adapter it goes on with."""


def check(x: Experiment) -> None:
    """Refuse a start that nothing could come of. Raises `ConfigError`."""
    start = x.model.start
    if start is None:
        return
    if start.startswith("arm:"):
        raise ConfigError(f"model.start={start}: it names an arm of a sweep's file, and this is one experiment. Give the name of a run.")
    if not trains(x):
        raise ConfigError(f"model.start={start}: nothing trains here. Ask that run itself: lab evaluate {start}.")


def folder_of(x: Experiment) -> Path:
    """The folder of the run that the arm starts from."""
    assert x.model.start is not None
    return Path(x.tracking.runs_dir) / x.model.start  # which an absolute path is by itself


def run_of(x: Experiment) -> Run:
    """Its record. Raises `DataError` unless it is there and has finished with something trained."""
    folder = folder_of(x)
    run = runs.load(folder.parent, folder.name)
    if run is None or run.status != runs.FINISHED:
        what = "there is no such run" if run is None else f"that run is {run.status.lower()}"
        raise DataError(f"model.start={x.model.start}: {what}, and only a finished one can be gone on from ({folder}).")
    if not any((folder / "adapter" / name).is_file() for name in adapter.FILES):
        raise DataError(f"model.start={x.model.start}: that run has trained nothing; leave model.start out.")
    return run


def require(x: Experiment, base: Vlm) -> None:
    """Raise where the arm cannot start from that run over this base: `DataError`, `ContractError` for another base, `ConfigError`."""
    if x.model.start is None:
        return
    run, folder = run_of(x), folder_of(x)
    theirs = contract.load(folder)
    apart = ("path", "revision")  # a checkpoint may move, its weights may not
    then, now = ({key: value for key, value in one.items() if key not in apart} for one in (theirs["base"], base.base))
    if reasons := contract.differences({"version": theirs["version"], "base": then}, {"version": contract.VERSION, "base": now}):
        lines = "\n  ".join(reasons)
        raise ContractError(f"model.start={x.model.start}: that run is over another base:\n  {lines}\nGive its model, or another run.")
    earlier, own = run.config, as_dict(x)
    if (folder / "adapter" / adapter.EXTRAS).is_file():
        for dial in ("vision_tokens", "conditioning"):
            if earlier[dial] != own[dial]:
                raise ConfigError(f"{dial}={own[dial]['name']}, model.start={x.model.start}: that run trained modules of {dial}="
                                  f"{earlier[dial]['name']}, which would be lost. Give its {dial}.")  # fmt: skip
    merges = (folder / "adapter" / adapter.PEFT_WEIGHTS).is_file() and not goes_on(x, base)
    if merges and x.model.quantisation.value != "none":
        raise ConfigError(
            f"model.start={x.model.start}, model.quantisation={x.model.quantisation.value}: another adapter than that run's would need it merged "
            "into weights of few bits. Give the lora of that run, or model.quantisation=none."
        )


def lora_of(x: Experiment) -> LoraDial:
    """What that run trained."""
    return from_dict(run_of(x).config, f"{folder_of(x) / 'run.json'}").lora


def goes_on(x: Experiment, vlm: Vlm) -> bool:
    """Whether the adapter of that run goes on as the arm's own, which is not attached yet."""
    if x.model.start is None or not x.lora.r or not (folder_of(x) / "adapter" / adapter.PEFT_WEIGHTS).is_file():
        return False
    theirs = lora_of(x)
    then, now = ({key: value for key, value in dataclasses.asdict(dial).items() if key not in FREE} for dial in (theirs, x.lora))
    return then == now and lora.init_of(theirs).starts_at_zero and lora.target_names(vlm, theirs) == lora.target_names(vlm, x.lora)


def weights(x: Experiment, vlm: Vlm, keeps: bool) -> dict[str, torch.Tensor]:
    """Float32 weights of that run which are not the base's, by full name; none without a start.

    keeps: its adapter goes on; else it is merged in.
    """
    if x.model.start is None:
        return {}
    folder = folder_of(x) / "adapter"
    values = adapter.whole_weights(vlm, folder, lora_of(x))
    if (folder / adapter.PEFT_WEIGHTS).is_file() and not keeps:
        try:
            lora.install(vlm, LoraDial(), values)
            adapter.load_peft(vlm, folder)
            values = values | lora.merged_weights(vlm)
        finally:
            lora.detach(vlm)
    return values


def go_on(x: Experiment, vlm: Vlm, keeps: bool) -> None:
    """Give the arm's adapter (keeps: it goes on) and added modules, which are attached, what that run has learned."""
    if x.model.start is None:
        return
    from safetensors.torch import load_file

    folder = folder_of(x) / "adapter"
    if keeps:
        adapter.fill(vlm, folder)
    if (folder / adapter.EXTRAS).is_file():
        adapter.fill_extras(vlm, load_file(folder / adapter.EXTRAS))
