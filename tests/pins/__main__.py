"""python -m pins: write down what is true now."""

import json
import tempfile
from pathlib import Path

import pins
from lab.cli import compose
from lab.sweeping.launcher import register

if __name__ == "__main__":
    register()
    pins.one_thread()
    with tempfile.TemporaryDirectory() as scratch:
        found = {"arithmetic": pins.arithmetic(), "arms": pins.arms(lambda *overrides: compose(overrides), Path(scratch) / "arms")}
        pins.ARMS_FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        pins.REPORT_FILE.write_text(pins.report(Path(scratch) / "made up"), encoding="utf-8")
