"""Checkpoints: their families, where they lie, and loading them.

`load` has one path for every checkpoint, whatever its size: Transformers' own `from_pretrained` on a folder or a
hub id. Weights are read from safetensors only.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import services
from lab.config import ModelDial, Quantisation, Tracking
from lab.errors import ConfigError, LabError, ModelError, did_you_mean
from lab.host.progress import Report, silent
from lab.model import labels
from lab.model.family import Family
from lab.model.identity import RANDOM, has_random_weights, identify
from lab.model.recognition import recognise, require_head, require_one_origin, require_whole
from lab.model.tying import untie
from lab.model.vlm import Vlm
from lab.paths import absent

SHIPPED = Path(__file__).parent
FAMILIES = tuple(sorted(path.stem for path in (SHIPPED / "families").glob("[!_]*.py")))
"""Every module of `families/`: a new family is that file and its `conf/model/*.yaml`."""
ELSEWHERE = {
    "minigpt": "MiniGPT-4 is no class of Transformers, but a repository whose own code loads its parts. model=qwen2_5_vl_7b is of its size",
    "phi3": "Phi-3-vision is no class of Transformers: code of its own, for version 4, would have to run. model=qwen2_5_vl_3b is of its size",
}
"""Families that are asked for and cannot be had: why, and what to use."""


def family(name: str) -> Family:
    """The family called `name`; a `ModelError` lists the legal ones, or says why one cannot be had."""
    services.require_weights(name)
    if name in ELSEWHERE:
        raise ModelError(f"model.family={name}: {ELSEWHERE[name]}.")
    if name not in FAMILIES:
        raise ModelError(
            f"model.family={name}: there is no such family.{did_you_mean(name, FAMILIES)} Legal: {', '.join(FAMILIES)}."
        )
    return importlib.import_module(f"lab.model.families.{name}").FAMILY


def locate(path: str, key: str = "model.path") -> str:
    """A local folder as it is, the name of a folder shipped beside this file as its path, else a hub id."""
    if Path(path).is_dir():
        return str(Path(path))
    if "/" not in path.rstrip("/") and (SHIPPED / path / "config.json").is_file():
        return str(SHIPPED / path)
    if path.startswith((".", "/", "~")):
        raise ModelError(absent(key, path, "folder"))
    return path


def check(dial: ModelDial) -> Family:
    """The family of the checkpoint that the dial names. Light: what is wrong with the dial itself is said before anything is read.

    Raises `ModelError` for an unknown family or a checkpoint that is not named or not there, `ConfigError` for one that cannot
    be quantised.
    """
    from lab.model import precision

    kind = family(dial.family)
    if missing := [name for name in kind.packages if importlib.util.find_spec(name) is None]:
        names = " ".join(missing)
        raise ModelError(f"model.family={kind.name}: its processor needs {names}, which is not installed. Type pip install {names}.")
    require_one_origin(dial)
    if dial.path is None and dial.llm_from is None:
        raise ModelError(
            f"model.path=null: no checkpoint of {dial.name} is shipped or named. Give the folder of one in Hugging Face layout "
            f"with safetensors weights; conf/model/{dial.name}.yaml says which."
        )
    for key in ("path", "vision_from", "llm_from"):
        if (path := getattr(dial, key)) is not None:
            locate(path, f"model.{key}")
    if dial.attn_implementation not in (None, *kind.attention):
        raise ModelError(
            f"model.attn_implementation={dial.attn_implementation}: model.family={dial.family} does not load with it. Legal here: "
            f"{', '.join(kind.attention)}, or null for {kind.attention[0]}."
        )
    if dial.labels is not None:
        labels.check(dial.labels, kind)
    precision.check(dial, kind)
    if dial.device_map is not None:
        require_gpus(dial)
    return kind


def require_gpus(dial: ModelDial) -> None:
    """Raise a `ConfigError` where there is no GPU to share a model out among."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"model.device_map={dial.device_map}: it shares the model out among the GPUs of this machine, and PyTorch sees none here. "
            "Give model.device_map=null."
        )


def load(dial: ModelDial, cache_dir: Path | None = None, report: Report = silent) -> Vlm:
    """Load a checkpoint, frozen and in evaluation mode, on the CPU; a quantised one where bitsandbytes puts it.

    cache_dir: where hashes of weight files are kept (`tracking.cache_dir`); without, each process hashes them once.
    Raises `ModelError` when the checkpoint is missing, is no safetensors checkpoint, is of another family or lacks weights,
    and `ConfigError` when its weights cannot be quantised here.
    """
    from lab.model import precision

    kind = check(dial)
    where, assembly = whereabouts(dial, kind, cache_dir, report)
    dial = replace(dial, path=where if assembly else dial.path)
    model, info, processor = from_pretrained(dial, kind, where)
    if dial.labels is not None:
        info = labels.emptied(model, kind, info)
    require_whole(dial, kind, info)
    require_head(dial, where, model)
    precision.require_scales(dial, model)
    precision.one_layout(model)
    kind.architecture.repair(model)
    if dial.untied_head:
        untie(model, kind.architecture.head(model))
    model.requires_grad_(False)
    model.eval()
    if dial.fp32_layernorms:
        precision.norms_in_float32(model)
    if not precision.exact(dial):
        precision.read_in_one_piece(kind.architecture.head(model))
    processor.tokenizer.padding_side = kind.architecture.padding_side
    processor.tokenizer.init_kwargs["padding_side"] = kind.architecture.padding_side  # which an exported folder then says too
    base = {"path": dial.path, "revision": dial.revision, "dtype": dial.dtype.value}
    base |= identify(where, dial.revision, cache_dir, report)
    base |= {RANDOM: True} if has_random_weights(where, dial.revision) else {}
    twice = dial.quantisation is Quantisation.nf4 and dial.double_quantisation
    base |= {"quantisation": dial.quantisation.value, "double_quantisation": twice, "fp32_layernorms": dial.fp32_layernorms}
    base |= {} if dial.labels is None else {"labels": list(dial.labels)}
    base |= {"assembled": assembly} if assembly else {}
    return Vlm(model, processor, kind, base)


def whereabouts(dial: ModelDial, kind: Family, cache_dir: Path | None, report: Report) -> tuple[str, dict[str, Any]]:
    """The folder or hub id of a dial's checkpoint, and of one that is assembled what it was assembled of."""
    if dial.llm_from is None:
        assert dial.path is not None  # by `check`
        return locate(dial.path), {}
    from lab.model.assembled import folder

    made = folder.folder_of(dial, kind, cache_dir or Path(Tracking.cache_dir), report)
    return str(made), json.loads((made / folder.FACTS).read_text(encoding="utf-8"))


def from_pretrained(dial: ModelDial, kind: Family, where: str) -> tuple[Any, dict[str, Any], Any]:
    """Transformers' model, what it says of the weights that it read, and the processor. Raises `ModelError` for what cannot be read."""
    try:
        return read(dial, kind, where)
    except LabError:
        raise
    except Exception as error:  # a broken folder raises whatever its JSON or safetensors reader raises
        first = str(error).strip().split("\n")[0]
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model.path={dial.path}: the checkpoint wants to run code of its own. Read it, and say "
                "model.trust_remote_code=true if you trust it."
            ) from None
        raise ModelError(
            f"model.path={dial.path}: the checkpoint cannot be loaded ({first}). Give a folder in Hugging Face layout "
            "with safetensors weights, or a hub id that this machine can reach."
        ) from None


def read(dial: ModelDial, kind: Family, where: str) -> tuple[Any, dict[str, Any], Any]:
    """`from_pretrained`, with the errors of Transformers as they come."""
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    from lab.model import precision

    transformers_logging.disable_progress_bar()  # "Loading weights"; downloads show their own
    options: dict[str, Any] = {"revision": dial.revision, "trust_remote_code": dial.trust_remote_code}
    config = labels.relabelled(AutoConfig.from_pretrained(where, **options), dial.labels)
    recognise(dial, kind, config)
    model, info = kind.model_class(config).from_pretrained(
        where,
        dtype=getattr(torch, dial.dtype.value),
        attn_implementation=dial.attn_implementation or kind.attention[0],
        device_map=dial.device_map,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `require_whole` names them
        **({} if dial.labels is None else {"config": config}),
        **precision.quantised(dial, kind, config, where),
        **options,
    )
    return model, info, kind.architecture.processor(where, config, options)
