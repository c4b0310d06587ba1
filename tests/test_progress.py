"""What a person sees of work that goes on: bars on a terminal, a line now and then into a pipe, no trace in a forked process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.config import Experiment
from lab.host import progress
from lab.host.progress import Row, bars, board
from lab.store import curve_files, runs
from lab.store.runs import Run

ROOT = Path(__file__).parents[1]
WORK = """
import logging, os, sys
from lab.cli import set_up_logging
from lab.host import progress
set_up_logging()
progress.REFRESH_S = 0
report = progress.bars()
report("training (steps)", 0, 40, "loss 1.0")
report("training (steps)", 40, 40, "loss 0.5")
with progress.board() as draw:
    draw([progress.Row("2 arms", 10, 80), progress.Row("prompt=[qa]", 10, 40, "loss 0.75")])
    logging.getLogger("lab").warning("a message in between")
    if os.fork() == 0:
        print("shown in a child:", len(progress.SHOWN), file=sys.stderr)
        os._exit(0)
    os.wait()
print("done")
"""


def test_into_a_pipe_go_messages_and_no_control_characters() -> None:
    run = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "done\n" and run.stderr == "a message in between\nshown in a child: 0\n"


@pytest.mark.parametrize("colour", [True, False])
def test_on_a_terminal_bars_stand_below_messages_and_leave_the_cursor(colour: bool) -> None:
    pexpect = pytest.importorskip("pexpect")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"} | ({} if colour else {"NO_COLOR": "1"})
    environment = {key: value for key, value in environment.items() if not colour or key != "NO_COLOR"}
    out = pexpect.run(f"{sys.executable} -c '{WORK}'", env=environment, encoding="utf-8", cwd=str(ROOT), timeout=60)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    for words in ("training (steps)", "40/40", "loss 0.5", "2 arms", "10/80", "prompt=[qa]", "loss 0.75", "shown in a child: 0"):
        assert words in text, words
    assert re.search(r"a message in between\r\n.*10/80", text.partition("loss 0.75")[2], re.DOTALL), "bars are drawn again below it"
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h") == 2
    assert bool(re.search(r"\x1b\[[39]\dm", out)) == colour
    assert text.endswith("done\r\n")


def test_a_long_stage_says_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    report = bars()
    for done in range(0, 40, 10):
        report("training (steps)", done, 40, f"loss {done}")
    report("training (steps)", 40, 40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training (steps) 10 of 40 loss 10 (40 s)", "training (steps) 30 of 40 loss 30 (80 s)"]
    with board() as draw:
        draw([Row("a", 1, 2), Row("b", 1, None, "starting")])
        draw([Row("a", 1, 2), Row("b", 1, None, "starting")])
    assert capsys.readouterr().err.splitlines() == ["a 1 of 2; b starting (40 s)"]


def test_the_rows_of_a_sweep_are_its_living_arms_and_the_sum(tmp_path: Path) -> None:
    from lab.sweeping.progress_rows import rows

    x = Experiment()
    x.tracking.runs_dir, x.trainer.max_steps, x.lora.r = str(tmp_path), 40, 8
    todo = [(x, Run(identity=name, name=f"arm {name}", config={}, command="")) for name in ("a", "b", "c")]
    for name, step in (("a", 39), ("b", 19)):
        runs.folder(tmp_path, name).mkdir()
        curve_files.append(runs.folder(tmp_path, name), {"step": step, "seconds": 1.0, "train/loss": 0.25})
    living = {record.identity: (None, x, record) for _, record in todo[:2]}
    begun: dict = {}
    assert rows(todo, living, begun) == [
        Row("3 arms", 60, 120, "0 ended"), Row("arm a", 40, 40, "answering"), Row("arm b", 20, 40, "loss 0.250")
    ]  # fmt: skip
    del living["a"]
    living["c"] = (None, x, todo[2][1])
    assert rows(todo, living, begun) == [
        Row("3 arms", 60, 120, "1 ended"), Row("arm b", 20, 40, "loss 0.250"), Row("arm c", 0, 40, "starting")
    ]  # fmt: skip
