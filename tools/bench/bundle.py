"""What a peer needs to train the same arm, as plain files that know nothing of this laboratory.

    spec.json      checkpoint, optimizer, schedule, batch, steps
    adapter/       the fresh adapter in PEFT's format: target modules, rank and first weights
    processor/     the checkpoint's, with the arm's pixel budget
    train/, dev/   Hugging Face data sets of prompt, completion and image files; train in our order, one row for every sample seen

Prompt and completion are text that is tokenised to our own tokens, so that the same rows carry labels: the answer and the end of
the turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import lora, model
from lab import run as running
from lab.artifacts import adapter
from lab.config import Experiment, Schedule
from lab.errors import ConfigError
from lab.records import Picture
from lab.run.assembly import attached
from lab.training import loop
from lab.training.examples import Examples
from lab.training.ordering import SeededOrder

if TYPE_CHECKING:
    from datasets import Dataset


def require_plain(x: Experiment) -> None:
    """Raise a `ConfigError` for what a peer has no equivalent of."""
    refused = {
        f"model.family={x.model.family}": not model.family(x.model.family).architecture.in_prompt,
        f"model={x.model.name}": x.model.llm_from is not None,
        f"vision_tokens={x.vision_tokens.name}": x.vision_tokens.name not in ("native", "resize"),
        f"conditioning={x.conditioning.name}": x.conditioning.name != "prefix",
        "lora=none": x.lora.r == 0,
        f"lora.init_lora_weights={x.lora.init_lora_weights}": lora.init_of(x.lora).changes_base,
        f"model.quantisation={x.model.quantisation.value}": x.model.quantisation.value != "none",
        f"optim.warmup_fraction={x.optim.warmup_fraction}": x.optim.warmup_fraction != 0,
        f"optim.schedule={x.optim.schedule.value}": x.optim.schedule not in (Schedule.cosine, Schedule.linear, Schedule.constant),
        f"optim.optimizer={x.optim.optimizer}": x.optim.optimizer != "AdamW" or bool(x.optim.optimizer_kwargs),
        f"optim.lr_b_ratio={x.optim.lr_b_ratio}": x.optim.lr_b_ratio != 1,
        "optim.lr_vision and optim.lr_projector": (x.optim.lr_vision, x.optim.lr_projector) != (None, None),
    }
    for given, is_refused in refused.items():
        if is_refused:
            raise ConfigError(f"{given}: TRL has no such arm to compare with. Leave it out of a comparison.")


def write(x: Experiment, prepared: running.Prepared, folder: Path) -> Path:
    """Write the bundle of an experiment. Raises `ConfigError` for what a peer cannot do."""
    require_plain(x)
    encoded = prepared.encoded(x)
    steps = loop.num_steps(x.trainer, len(encoded["train"]))
    with attached(x, prepared.vlm) as vlm:
        adapter.save(vlm, folder / "adapter")
        vlm.processor.save_pretrained(folder / "processor")
    seen = steps * x.trainer.batch_size * x.trainer.accumulate_grad_batches
    train = encoded["train"]
    order = list(SeededOrder(len(train), x.seed, -(-seen // len(train)), blocks=train.blocks(x.data)))[:seen]
    rows(train, order).save_to_disk(folder / "train")
    rows(encoded["dev"], range(len(encoded["dev"]))).save_to_disk(folder / "dev")
    (folder / "spec.json").write_text(json.dumps(spec(x, steps), indent=1) + "\n", encoding="utf-8")
    return folder


def spec(x: Experiment, steps: int) -> dict[str, Any]:
    """Everything but data and weights, as plain values."""
    return {
        "checkpoint": model.locate(x.model.path),
        "revision": x.model.revision,
        "dtype": x.model.dtype.value,
        "attn_implementation": x.model.attn_implementation,
        "steps": steps,
        "batch_size": x.trainer.batch_size,
        "accumulate": x.trainer.accumulate_grad_batches,
        "clip": x.trainer.gradient_clip_val,
        "eval_batch_size": x.evaluation.batch_size,
        "lr": x.optim.lr,
        "betas": list(x.optim.betas),
        "weight_decay": x.optim.weight_decay,
        "schedule": x.optim.schedule.value,
        "accelerator": x.trainer.accelerator,
        "seed": x.seed,
    }


def rows(examples: Examples, indices: Sequence[int]) -> Dataset:
    """Samples as rows of text and encoded images, decoded by whoever reads them."""
    from datasets import Dataset, Features, Image, List, Value

    decode = examples.encoder.tokenizer.decode
    columns: dict[str, list[Any]] = {"prompt": [], "completion": [], "images": []}
    for index in indices:
        sample, text = examples.split[index], examples.text(index)
        shown = [sample.images[i] for i in text.image_order]
        if any(picture.crop is not None for picture in shown):
            raise ConfigError("data.image_layout=boxes: TRL cannot be given pictures cut out of larger ones. Choose whole.")
        columns["prompt"].append(decode(text.prompt_ids.tolist()))
        columns["completion"].append(decode(text.answer_ids.tolist()))
        columns["images"].append([encoded(picture) for picture in shown])
    kinds = Features({"prompt": Value("string"), "completion": Value("string"), "images": List(Image())})
    return Dataset.from_dict(columns, features=kinds)


def encoded(picture: Picture) -> dict[str, Any]:
    """A picture as the data set's own kind of value: bytes, or the path of a file."""
    return {"bytes": picture.data, "path": None if picture.data is not None else str(Path(picture.source).resolve())}
