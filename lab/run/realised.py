"""What an arm's config comes to: the base, inputs, adapters and steps that are realised, each as a digest.

Arms of equal digests are one experiment under several names: their keys differ, and nothing that these act on does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab import lora
from lab.config import NEITHER, DataDial, Experiment, adds_modules, as_dict, role, trains
from lab.host.files import values_hash
from lab.model import Vlm
from lab.model.answers import Readout
from lab.run.assembly import assemble
from lab.run.sharing import Prepared, needed_splits
from lab.training import optimization, ordering
from lab.training.steps import epoch_steps, num_steps


def realised(x: Experiment, prepared: Prepared) -> dict[str, Any]:
    """What `run.json` keeps of it: `parts`, a digest by name; and, where features are cached, `image_tokens`, the most of any
    image before a dial makes fewer, and `untouched`, whether none does.

    Never equal for arms that compute something else. Adapters must not be attached yet. Raises `ConfigError` as `lora.verify`.
    """
    vlm = assemble(x, prepared.vlm)
    examples = [prepared.encoded(x)[name] for name in needed_splits(x)]
    shown = [split.shown for split in examples]
    known = [one for one in shown if one is not None]
    values = as_dict(x)
    reads = prepared.encoded(x)["dev"].encoder.readout
    resampled = x.vision_tokens.name == "resampler"
    unknown = {"vision_tokens": values["vision_tokens"], "processor": prepared.encoded(x)["dev"].encoder.settings()}
    base = {key: value for key, value in vlm.base.items() if key not in ("path", "revision")}
    drawn = trains(x) or adds_modules(x) or adapters(x, vlm) is not None or bool(x.evaluation.controls)
    parts = {
        "base": [base, vlm.base_model.config._attn_implementation, *([] if x.model.start is None else [Path(x.model.start).name])],
        "prompts": [split.asked for split in examples],
        "answers": [*reads.ids, *reads.words] if isinstance(reads, Readout) else [reads.kind],
        "images": [one.digest for one in known] if len(known) == len(shown) else unknown,
        "modules": [values["conditioning"], values["vision_tokens"] if resampled else None, *x.lora.full],
        "adapters": adapters(x, vlm),
        "steps": steps(x, vlm, prepared) if trains(x) else None,
        "seed": x.seed if drawn else None,
    }
    found: dict[str, Any] = {"parts": {name: values_hash(part) for name, part in parts.items()}}
    if len(known) == len(shown):
        found |= {"image_tokens": max(one.most for one in known), "untouched": all(one.untouched for one in known)}
    return found


def adapters(x: Experiment, vlm: Vlm) -> dict[str, Any] | None:
    """Which layers get what; None where there are no adapters, or only fresh ones that compute nothing."""
    dial = lora.verify(vlm, x.lora)
    if not dial.r or (lora.init_of(dial).starts_at_zero and not trains(x)):
        return None
    alpha = 2 * dial.r if dial.lora_alpha is None else dial.lora_alpha
    return {
        "layers": lora.target_names(vlm, dial),
        "rank": dial.r,
        "scaling": alpha / (dial.r**0.5 if dial.use_rslora else dial.r),
        "dropout": dial.lora_dropout,
        "dora": dial.use_dora,
        "init": dial.init_lora_weights,
    }


def steps(x: Experiment, vlm: Vlm, prepared: Prepared) -> dict[str, Any]:
    """The optimizer's steps: how many, over what, and every parameter's rate at each."""
    train = prepared.encoded(x)["train"]
    epoch = train.epoch_length
    number = num_steps(x.trainer, epoch)
    layers = lora.target_names(vlm, x.lora) if x.lora.r else []
    names = [f"base_model.model.{layer}.{matrix}.{lora.ADAPTER}.weight" for layer in layers for matrix in ("lora_A", "lora_B")]
    names += lora.full_names(vlm, x.lora)
    names += [f"{extra}.{name}" for extra, module in vlm.extras.items() for name, _ in module.named_parameters()]
    factor = optimization.factor(x.optim, number, epoch_steps(x.trainer, epoch))
    return {
        **({"order": [x.data.order, x.data.questions_per_image]} if x.data.order != DataDial.order else {}),
        **({"mixture": ordering.places(train.sources)} if train.sources else {}),
        "rates": [lora.learning_rate(vlm, name, x.optim) for name in names],
        "schedule": [factor(step) for step in range(number)],
        "optimizer": [list(x.optim.betas), x.optim.weight_decay, x.optim.optimizer, x.optim.optimizer_kwargs],
        "trainer": {
            key: value for key, value in as_dict(x)["trainer"].items()
            if key not in ("max_steps", "max_epochs") and role(f"trainer.{key}") != NEITHER
        },
    }
