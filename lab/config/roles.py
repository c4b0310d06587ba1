"""What each key says of a run: what made its weights, what was measured of them, or neither."""

from __future__ import annotations

import dataclasses

from lab.config.data import Augment, VideoSampling
from lab.config.prompt import PromptDial

TRAINED, ASKED, NEITHER = "trained", "asked", "neither"
ROLES: dict[str, str] = {
    **dict.fromkeys(("model", "lora", "vision_tokens", "conditioning", "optim", "seed"), TRAINED),
    **dict.fromkeys((
        *(f"prompt.{key.name}" for key in dataclasses.fields(PromptDial) if key.name != "post"),
        "data.name", "data.root", "data.source", "data.seed", "data.num_train", "data.num_minival", "data.on_bad", "data.difficulty",
        "data.image_layout", "data.permutations", "data.path", "data.sha256", "data.columns", "data.kind", "data.answer_format",
        "data.allow_shared_images", "data.subset", "data.split", "data.question", "data.exif", "data.empty", "data.aliases", "data.max_length",
        "data.sources", "data.parts", "data.loss_on", "data.order", "data.questions_per_image",
        *(f"data.augment.{key.name}" for key in dataclasses.fields(Augment)),
        *(f"data.video.{key.name}" for key in dataclasses.fields(VideoSampling)),
        "trainer.max_steps", "trainer.max_epochs", "trainer.batch_size", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val",
        "trainer.val_every", "trainer.patience",
        "trainer.gradient_checkpointing", "trainer.packing", "trainer.torch_compile", "trainer.use_liger_kernel", "trainer.restore_best",
        "endpoint.base_url", "endpoint.model",
    ), TRAINED),
    **dict.fromkeys((
        "prompt.post", "data.num_dev", "data.rule", "evaluation.ask", "evaluation.max_new_tokens", "evaluation.repair",
        "evaluation.splits", "evaluation.also", "evaluation.controls", "evaluation.swap",
        "evaluation.shared_prefix", "evaluation.zero_shot",
    ), ASKED),
    **dict.fromkeys((
        "model.device_map", "data.profile",
        "trainer.layout", "trainer.token_budget", "trainer.strategy",
        "trainer.num_workers", "trainer.threads", "trainer.accelerator", "trainer.devices", "trainer.feature_cache", "trainer.if_finished",
        "trainer.if_unfinished", "trainer.log_every", "trainer.save_every", "trainer.keep_checkpoints", "trainer.max_time", "evaluation.batch_size",
        "evaluation.also_root", "evaluation.max_samples",
        "evaluation.bootstrap", "evaluation.latency_warmup", "evaluation.latency_examples", "evaluation.verify",
        "evaluation.probe_examples", "evaluation.judge", "endpoint", "sweep", "race", "tracking", "plugins",
    ), NEITHER),
}  # fmt: skip
"""What each key, or each key of a section, says of a run: what made its weights, what was measured of them, or neither."""


def role(key: str) -> str:
    """The role of a dotted key; a key that is none of this schema, of an earlier version's record, has none."""
    while key not in ROLES and "." in key:
        key = key.rpartition(".")[0]
    return ROLES.get(key, NEITHER)


ONLY_WHEN_SET = (
    *(f"data.augment.{key.name}" for key in dataclasses.fields(Augment)),
    *(f"data.video.{key.name}" for key in dataclasses.fields(VideoSampling)),
    "data.path", "data.sha256", "data.kind", "data.answer_format", "data.allow_shared_images", "data.question", "data.exif",
    "data.subset", "data.split", "data.empty", "data.max_length", "data.sources", "data.parts", "data.loss_on", "data.order",
    "data.questions_per_image", "optim.milestones",
    "optim.gamma", "optim.optimizer", "optim.warmup_steps", "optim.soft_targets", "model.untied_head", "model.labels", "model.start",
    "lora.full", "optim.lr_llm", "prompt.boxes",
    "trainer.packing", "trainer.torch_compile", "trainer.use_liger_kernel",
    "model.vision_from", "model.llm_from", "model.projector_init", "model.vision_feature_layer", "endpoint.base_url", "endpoint.model",
)  # fmt: skip
"""Keys that count in a run's name only when they are set: they are younger than runs of the others, which keep their names."""
