"""Every `conf/model` option as it is shipped: in its own dtype and attention, an arm trains, answers, is loaded again and merged."""

from __future__ import annotations

import math
from pathlib import Path

import published
import pytest
import yaml
from grid.dimensions import options
from PIL import Image

from lab import model
from lab import run as running
from lab.cli import process_started
from lab.config import as_dict
from lab.store import runs

ELSEWHERE = ("assembled", "vilt_nlvr2", "paligemma_3b_nlvr2", "paligemma2_3b", "idefics2_8b", "idefics3_8b", "smolvlm") + (
    "smolvlm2_2_2b", "llava_next_mistral_7b",
)  # fmt: skip
"""What is assembled has no checkpoint of its own: tests/test_assembled.py. Those for comparison: tests/test_reference_families.py."""
OPTIONS = [Path(__file__).parents[1] / "conf" / "model" / f"{option}.yaml" for option in options("model") if option not in ELSEWHERE]
NOT_KEPT = ("path", "defaults")
"""`defaults` names the option that this one changes."""
BARS = ("qwen2_vl_7b", "qwen2_5_vl_7b", "blip2_flan_t5_xl", "instructblip_flan_t5_xl", "instructblip_vicuna_7b") + (
    "blip_vqa", "vilt_vqa", "llava_1_5_7b", "tiny",
)  # fmt: skip
"""Architecture, dtype and attention of a smaller option, in other proportions; or arms that tests/test_{vqa,inline}_families.py and
tests/pins train and verify."""


@pytest.mark.parametrize(
    "file", [pytest.param(path, marks=[pytest.mark.bar] * (path.stem in BARS)) for path in OPTIONS], ids=lambda path: path.stem
)
def test_a_shipped_option_trains_and_is_what_was_trained(file: Path, composer, tmp_path) -> None:
    """Nothing of the option is overridden but where its checkpoint lies."""
    shipped = yaml.safe_load(file.read_text())
    given = [f"model={file.stem}", *(["conditioning=add_cross_attention"] if shipped["family"] == "vit_gpt2" else [])]
    if file.stem != "tiny":
        published.save(file.stem, shipped["family"], tmp_path / "checkpoint")
        given += [f"model.path={tmp_path}/checkpoint"]
    family = model.family(shipped["family"])
    pairs = family.answers == "inline" and family.architecture.most_images != 1
    given += ["data.num_train=8", "data.num_minival=4", "data.num_dev=4"] if pairs else one_picture(tmp_path)
    given += ["evaluation.ask=[score,generate]"] if family.offers("generate") else []
    x = composer(
        *given, "trainer.max_steps=3", "trainer.batch_size=2",
        "evaluation.probe_examples=2", "evaluation.latency_examples=1", "evaluation.latency_warmup=0",
        "tracking.enabled=false", f"tracking.runs_dir={tmp_path}/runs", f"tracking.cache_dir={tmp_path}/cache",
    )  # fmt: skip
    values = as_dict(x)["model"]
    assert all(values[key] == value for key, value in shipped.items() if key not in NOT_KEPT)
    record = running.run_alone(x, "test", process_started())
    assert record.status == runs.FINISHED and record.metrics["train/steps"] == 3
    assert math.isfinite(record.metrics["train/loss"]) and 0 < record.metrics["dev/captured_mass"] < 1
    checks = {check["name"]: check["passed"] for check in record.facts["verify"]}
    merged = True if family.offers("export") else None
    padded = True if family.architecture.padding_side == "left" else None
    assert checks == {"reloaded": True, "batch of one": True, "right padding": padded, "plain folder": merged, "generate": True}


def one_picture(folder: Path) -> list[str]:
    """Questions about one picture each, which is what families take that were not made for pairs."""
    rows = ["image,question,answer,split"]
    for i in range(16):
        Image.new("RGB", (56, 56 + i), "red" if i % 3 else "blue").save(folder / f"{i}.png")
        rows.append(f"{i}.png,is it red?,{'yes' if i % 3 else 'no'},{'train' if i < 8 else 'minival' if i < 12 else 'dev'}")
    (folder / "questions.csv").write_text("\n".join(rows) + "\n")
    return ["data=questions", f"data.path={folder}/questions.csv"]
