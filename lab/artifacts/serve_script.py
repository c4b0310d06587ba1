"""Ready commands for servers of others, over an exported folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.model import Vlm, locate

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank (vllm/config/lora.py)."""
TOWER = "--enable-tower-connector-lora"
"""The flag without which vLLM ignores adapters in the vision tower and in the connector."""


def text(vlm: Vlm, described: Mapping[str, Any], folder: Path, name: str, images: int) -> str:
    """A shell script of which one line is meant to run. described: the contract. images: of a question at most.

    vlm: the model as it lies in the folder, which is an adapter alone where it has one.
    """
    where = shlex.quote(str(folder.resolve()))
    lines = ["#!/bin/sh", f"# Servers for {name}; then: lab verify {name} --endpoint http://localhost:8000/v1", ""]
    options = f"--dtype {vlm.base['dtype']} --generation-config vllm --limit-mm-per-prompt {shlex.quote(json.dumps({'image': images}))}"
    if hasattr(vlm.model, "merge_and_unload"):
        lines += [adapter(vlm, described, where, name, options), ""]
        in_bits = {"nf4": " --quantization bnb-4bit", "int8": " --quantization bnb-8bit"}.get(described["base"]["quantisation"], "")
    else:
        lines += [f"vllm serve {where} --served-model-name {name} {options}", ""]
        in_bits = ""
    return "\n".join([*lines, f"# transformers serve {where} --port 8000{in_bits}"]) + "\n"


def adapter(vlm: Vlm, described: Mapping[str, Any], where: str, name: str, options: str) -> str:
    """vLLM over the base, with the base's processor unless it is told otherwise."""
    config = vlm.model.peft_config["default"]
    rank = next((each for each in RANKS if each >= config.r), None)
    if config.use_dora or rank is None:
        return f"# vLLM takes no adapter {'with DoRA' if config.use_dora else f'of rank {config.r}'}: export with --merge, and serve that folder."
    words = ["vllm serve", shlex.quote(locate(vlm.base["path"])), "--enable-lora", f"--max-lora-rank {rank}"]
    words += [TOWER] if beyond_llm(vlm) else []
    words += [f"--lora-modules {name}={where}", options]
    size = described.get("processor", {}).get("size")
    if isinstance(size, dict):
        limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        words.append(f"--mm-processor-kwargs {shlex.quote(json.dumps(limits))}")
    words += ["--quantization bitsandbytes"] if described["base"]["quantisation"] == "nf4" else []
    return " ".join(words)


def beyond_llm(vlm: Vlm) -> bool:
    """Whether an adapter sits in the vision tower or in what connects it."""
    names = {name.removeprefix("base_model.model.") for name, _ in vlm.model.named_parameters() if ".lora_" in name}
    return any(vlm.family.part_of(name) in ("vision", "projector") for name in names)
