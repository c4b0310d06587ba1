"""python -m pins: write down what is true now."""

import json
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir

import pins
from lab.cli import register, shipped
from lab.config import Experiment
from lab.freezing import freeze


def make(*overrides: str) -> Experiment:
    """An experiment of the shipped YAML."""
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        return freeze(compose("train", overrides=list(overrides)))


if __name__ == "__main__":
    register()
    pins.one_thread()
    with tempfile.TemporaryDirectory() as scratch:
        found = {"arithmetic": pins.arithmetic(), "arms": pins.arms(make, Path(scratch) / "arms")}
        pins.ARMS_FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        pins.REPORT_FILE.write_text(pins.report(Path(scratch) / "made up"), encoding="utf-8")
