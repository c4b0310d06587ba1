"""An arm's model over a shared base: assembled, attached, loaded again; the one place that names all six dials."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lab import conditioning, data, lora, model, prompt, vision_tokens
from lab.artifacts import adapter
from lab.config import DataDial, Experiment, Quantisation, adds_modules, trains
from lab.data.video import sampling
from lab.errors import ConfigError, ModelError
from lab.evaluation import asking
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.family import FEATURES, Family
from lab.records import Regions, Sampling
from lab.run import start

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def check(x: Experiment) -> None:
    """Say what the dials cannot do together or with the model's family, before data or a checkpoint is loaded.

    `lab.freezing.check` says what needs no family. Raises `ConfigError` or `ModelError` with the keys.
    """
    from lab.training import devices, optimization, tree_rows

    family = model.check(x.model)
    data.check_dial(x.data, trains(x))
    first, *parts = data.parts_of(x.data) or [data.Option("", x.data.name, x.data)]
    check_data(first.dial, family, x)
    if kind := kind_of(first.dial):
        asking.check(kind, first.dial.name, family, x.evaluation)
    prompt.check(x.prompt, first.dial.name, data.named(first.dial.name).asks)
    others = [*parts, *(data.option(spelled) for spelled in x.evaluation.also)]
    if x.prompt.boxes and not any(kind_of(option.dial) in (None, Regions.kind) for option in (first, *others)):
        raise ConfigError(f"prompt.boxes={x.prompt.boxes}: data={x.data.name} has no boxes that would be written so; leave it out.")
    for option in others:
        check_data(option.dial, family, x)
        if option.prompt:
            prompt.check(prompt.option(option.prompt), option.dial.name, data.named(option.dial.name).asks)
    if twice := [name for name, number in Counter([*{x.data.name, first.name}, *(option.name for option in others)]).items() if number > 1]:
        raise ConfigError(
            f"evaluation.also={x.evaluation.also}: data={twice[0]} would be asked twice, and a run keeps one answer of each. Give one of "
            "them another name, as in 'winoground root=/data/w as=other'."
        )
    check_switches(x, family)
    if x.model.labels is not None and not (trains(x) and "head" in x.lora.full):
        raise ConfigError(
            f"model.labels={list(x.model.labels)}: the head begins with nothing about these labels, so it must train whole. Add "
            "lora.full=[head], and steps in trainer.max_steps or trainer.max_epochs."
        )
    vision_tokens.check(x.vision_tokens, family)
    conditioning.check(x.conditioning, family)
    if trains(x):
        tree_rows.check(x, family)
    if trains(x) and x.trainer.torch_compile:
        from lab.training import compiling  # with Lightning, which is imported beside the features' computation

        compiling.check(x)
    if trains(x) and x.trainer.use_liger_kernel:
        from lab.training import liger  # as above

        liger.check(x)
    lora.check(x.lora, x.model.quantisation.value, family)
    start.check(x)
    optimization.check(x.optim, devices.on_gpu(x.trainer))
    if x.trainer.sharded:
        from lab.training import sharding

        sharding.check(x, kind)
    if trains(x) and x.model.quantisation is Quantisation.int8 and "llm" in lora.reached(family, x.lora):
        check_scales(x)


def kind_of(dial: DataDial) -> str | None:
    """The kind of a data option's answers; None where its file decides."""
    return dial.kind or data.named(dial.name).kind


def check_switches(x: Experiment, family: Family) -> None:
    """Refuse features that are asked for to a family that has none, and packed rows to dials that would mix their samples."""
    switches = {
        "numbered": x.prompt.numbered, "shared_prefix": x.evaluation.shared_prefix, "generate": "generate" in x.evaluation.ask,
        "packing": trains(x) and x.trainer.packing, "soft_targets": trains(x) and x.optim.soft_targets,
    }  # fmt: skip
    for feature in (name for name, on in switches.items() if on):
        family.require(feature)
    if switches["packing"] and x.conditioning.name != "prefix":
        raise ConfigError(
            f"trainer.packing=true, conditioning={x.conditioning.name}: cross-attention reads the images of a row, and a row of several samples "
            "has those of all. Set trainer.packing=false, or conditioning=prefix."
        )
    if switches["packing"] and x.model.quantisation.value == "int8":
        raise ConfigError(
            "trainer.packing=true, model.quantisation=int8: bitsandbytes looks at all of a row for numbers that it does not round, so a token "
            "of one sample moves what is computed of the next. Set trainer.packing=false, or model.quantisation=nf4."
        )


def check_data(dial: DataDial, family: Family, x: Experiment) -> None:
    """Say which of the answers and questions of a data option the family does not know."""
    if kind := kind_of(dial):
        family.require(f"answers={kind}", f"data={dial.name}")
    if kind == Regions.kind:
        check_boxes(x, family)
    if data.named(dial.name).asks == "conversation":
        family.require("conversations")


def check_boxes(x: Experiment, family: Family) -> None:
    """Refuse boxes written in a way that the family cannot learn, and tell of one that its checkpoints have not learned."""
    boxes = x.prompt.boxes or family.boxes
    if f"boxes={boxes}" in FEATURES:
        family.require(f"boxes={boxes}")
    if boxes != family.boxes:
        log.info("prompt.boxes=%s: model.family=%s learned to write boxes as %s, and is taught another way", boxes, family.name, family.boxes)


def clip_rule(x: Experiment) -> Sampling:
    """How the contract of a finished run samples a clip that it is asked about. Raises `ModelError` or `ConfigError` for one that takes none."""
    own = data.lead(x.data)
    check_clips(x, "a clip")
    if not data.named(own.name).clips:
        raise ConfigError(
            f"a clip: the run learned from data={own.name}, which has none, so its contract has no rule by which frames are chosen. Give pictures, "
            "or ask a run over data=conversations."
        )
    return sampling(own.video)


def check_clips(x: Experiment, source: str) -> None:
    """Refuse clips to a family that takes none, and to dials that make something of a picture's tokens where a clip has frames.

    source: where they come from, as `data=conversations`. Raises `ModelError` and `ConfigError`.
    """
    family = model.family(x.model.family)
    family.require("clips", source)
    if x.vision_tokens.name not in ("native", "resize"):
        raise ConfigError(
            f"vision_tokens={x.vision_tokens.name}: {source}: it makes fewer tokens of pictures alone, and not of clips. Choose "
            "vision_tokens=native, and fewer frames or pixels by data.video.num_frames, data.video.fps or data.video.max_pixels."
        )
    if x.conditioning.name == "cross_attention":
        raise ConfigError(
            f"conditioning=cross_attention: {source}: it tells places of a picture apart, and not times of a clip. Choose conditioning=prefix."
        )


def check_scales(x: Experiment) -> None:
    """Refuse DoRA over int8 layers on a CPU: PEFT moves their weights to where they are, and bitsandbytes loses the scales so."""
    from lab.training import devices

    if x.lora.r and x.lora.use_dora and not devices.on_gpu(x.trainer):
        raise ConfigError(
            "lora.use_dora=true, model.quantisation=int8: on a CPU PEFT's DoRA and bitsandbytes lose the scales of int8 weights in "
            "the first step. Choose model.quantisation=nf4 or none, lora.use_dora=false, or a GPU."
        )


def load_base(x: Experiment, report: Report = silent) -> Vlm:
    """The checkpoint, where it will run; this process computes with as many threads as `trainer.threads` says."""
    import torch

    from lab.training import devices

    torch.set_num_threads(x.trainer.threads)
    base = model.load(x.model, Path(x.tracking.cache_dir), report)
    if devices.on_gpu(x.trainer) and not base.spread:
        base.model.to("cuda")
    return base


def assemble(x: Experiment, base: Vlm) -> Vlm:
    """An arm's own model over a shared base, as the paper's figure has it; `lora.attach` comes last (`run_arm`)."""
    vlm = base.share()
    vision_tokens.install(vlm, x.vision_tokens, x.seed)
    conditioning.install(vlm, x.conditioning, x.seed)
    return vlm


def sized(x: Experiment, base: Vlm) -> Experiment:
    """The experiment with the rank that `lora.trainable_parameters` comes to over this base; its identity is the same."""
    if x.lora.trainable_parameters is None:
        return x
    return replace(x, lora=lora.sized(assemble(x, base), x.lora))


@contextlib.contextmanager
def attached(x: Experiment, base: Vlm) -> Iterator[Vlm]:
    """An arm's model as it begins: with adapters, and what `model.start` brings, if it trains; the shared base is left as it was."""
    vlm = assemble(x, base)
    try:
        if trains(x):
            keeps = start.goes_on(x, vlm)
            lora.attach(vlm, x.lora, x.seed, start.weights(x, vlm, keeps))
            start.go_on(x, vlm, keeps)
        yield vlm
    finally:
        lora.detach(vlm)
        base.model = vlm.model


def rehearse(x: Experiment, base: Vlm) -> None:
    """Save an arm's fresh adapters and extra modules and load them again over the base, which is left as it was.

    Whole parts are as large as the base and go by its own names: they are left out.
    Raises `ModelError` for what could be trained and then not be loaded.
    """
    x = replace(x, lora=replace(x.lora, full=[]), model=replace(x.model, start=None))
    if not x.lora.r and not adds_modules(x):
        return
    with tempfile.TemporaryDirectory(prefix="lab-adapter-") as scratch:
        with attached(x, base) as vlm:
            lora.finalize_adapter(vlm, fresh=True)
            adapter.save(vlm, Path(scratch))
            saved = {name: parameter.detach().clone() for name, parameter in lora.trainable(vlm).items()}
        vlm = assemble(x, base)
        try:
            adapter.place(vlm, Path(scratch))
            placed = lora.parameters(vlm)
            wrong = [name for name, value in saved.items() if name not in placed or not placed[name].equal(value)]
        finally:
            lora.detach(vlm)
            base.model = vlm.model
    if wrong:
        raise ModelError(
            f"lora.target_modules={x.lora.target_modules!r}: {len(wrong)} of {len(saved)} tensors that would train are others when "
            f"they are saved and loaded again (first: {wrong[0]}). Leave that module out."
        )


@contextlib.contextmanager
def trained(x: Experiment, base: Vlm, run_dir: Path) -> Iterator[Vlm]:
    """A finished arm's model over the shared base, which is left as it was."""
    vlm = assemble(x, base)
    try:
        if trains(x):
            adapter.load(vlm, run_dir / "adapter", x.lora)
        yield vlm
    finally:
        lora.detach(vlm)
        base.model = vlm.model


def reload(x: Experiment, run_dir: Path, device: torch.device | str = "cpu") -> Vlm:
    """The trained model of a run folder, from its files alone."""
    vlm = assemble(x, model.load(x.model, Path(x.tracking.cache_dir)))
    if trains(x):
        adapter.load(vlm, run_dir / "adapter", x.lora)
    for module in (*(() if vlm.spread else (vlm.model,)), *vlm.extras.values()):
        module.to(device)
    return vlm
