"""What keys are called in PEFT, Transformers, Lightning and TRL, and here before, for the sentence about a key that does not exist. Light."""

from __future__ import annotations

from collections.abc import Collection

from lab.errors import did_you_mean

KEYS = {
    "optim.lr": ("learning_rate",),
    "optim.schedule": ("lr_scheduler_type", "lr_scheduler", "scheduler"),
    "optim.warmup_fraction": ("warmup_ratio", "warmup"),
    "optim.optimizer": ("optim", "adam", "adamw"),
    "lora.r": ("rank", "lora_r", "lora_rank"),
    "lora.lora_alpha": ("alpha",),
    "lora.lora_dropout": ("dropout",),
    "lora.target_modules": ("lora_target", "targets"),
    "lora.full": ("modules_to_save", "trainable_modules"),
    "lora.top_k_blocks": ("layers_to_transform",),
    "lora.use_dora": ("dora",),
    "lora.use_rslora": ("rslora",),
    "lora.init_lora_weights": ("init_weights",),
    "model.path": ("model_name_or_path", "pretrained_model_name_or_path", "model_name", "checkpoint", "model_id"),
    "model.dtype": ("torch_dtype", "precision", "bf16", "fp16", "tf32"),
    "model.quantisation": ("quantization", "quantization_config", "load_in_4bit", "load_in_8bit", "quant"),
    "trainer.batch_size": ("per_device_train_batch_size", "train_batch_size", "micro_batch_size"),
    "trainer.accumulate_grad_batches": ("gradient_accumulation_steps", "grad_accum"),
    "trainer.max_epochs": ("num_train_epochs", "num_epochs", "epochs"),
    "trainer.max_steps": ("steps", "num_steps", "fast_dev_run"),
    "trainer.gradient_clip_val": ("max_grad_norm", "clip_grad_norm"),
    "trainer.val_every": ("eval_steps", "val_check_interval", "check_val_every_n_epoch"),
    "trainer.log_every": ("logging_steps", "log_every_n_steps"),
    "trainer.save_every": ("save_steps", "every_n_train_steps"),
    "trainer.keep_checkpoints": ("save_total_limit", "save_top_k"),
    "trainer.restore_best": ("load_best_model_at_end",),
    "trainer.patience": ("early_stopping_patience", "early_stopping"),
    "trainer.num_workers": ("dataloader_num_workers",),
    "trainer.if_unfinished": ("resume_from_checkpoint", "ckpt_path", "resume"),
    "trainer.if_finished": ("overwrite_output_dir", "overwrite"),
    "evaluation.batch_size": ("per_device_eval_batch_size", "eval_batch_size"),
    "evaluation.ask": ("generate", "predict_with_generate"),
    "evaluation.max_new_tokens": ("generation_max_length",),
    "evaluation.max_samples": ("limit", "max_samples_per_benchmark"),
    "evaluation.also": ("benchmarks", "tasks"),
    "data.num_train": ("max_train_samples", "limit_train_batches", "train_samples"),
    "data.num_minival": ("max_eval_samples", "limit_val_batches"),
    "data.max_length": ("max_seq_length", "cutoff_len", "model_max_length"),
    "data.root": ("data_dir", "image_dir", "image_folder", "media_dir"),
    "data.path": ("dataset", "dataset_name", "train_file", "data_path"),
    "tracking.runs_dir": ("output_dir", "default_root_dir", "save_dir"),
    "tracking.also": ("report_to", "logger", "loggers"),
    "tracking.uri": ("mlflow_uri", "tracking_uri"),
    "vision_tokens.budget": ("max_pixels", "image_max_pixels", "max_image_tokens"),
    "sweep.replicates": ("num_seeds", "seeds"),
    "seed": ("random_state", "data_seed"),
}
"""Keys with their names elsewhere, as the last part of what was typed."""
OTHER_NAMES = {name: key for key, names in KEYS.items() for name in names}


def meant(given: str, legal: Collection[str]) -> str:
    """The nearest legal key as ` Did you mean 'x'?`: of this name in another section or elsewhere, else of a like spelling; or ""."""
    name = given.rpartition(".")[2].replace("-", "_").lower()
    keys = [OTHER_NAMES.get(name), *(key for key in legal if key.rpartition(".")[2] == name)]
    found = next((key for key in keys if key in legal), None)
    return did_you_mean(given, legal) if found is None else f" Did you mean {found!r}?"
