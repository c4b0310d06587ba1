"""A limit on a whole command: it acts as SIGTERM does, answers that were given are kept, and the same command goes on after them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from prediction_tables import prediction
from test_text_answers import row

from lab import cli, score
from lab.answers import predictions
from lab.evaluation import parts
from lab.host.stopping import EXIT_CODE, REQUEST, Stopped, deferred, limited, stoppable


def test_the_limit_ends_the_work_and_names_its_key() -> None:
    began = time.time() - 0.9
    with pytest.raises(Stopped, match="stopped by trainer.max_time=00:00:01"), stoppable(), limited("00:00:01", "trainer.max_time", began):
        time.sleep(5)
    assert not REQUEST.asked and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with stoppable(), limited("01:00:00", "--max-time", time.time()), limited(None, "--max-time", 0.0):
        assert 3590 < signal.getitimer(signal.ITIMER_REAL)[0] <= 3600


def test_a_limit_that_has_passed_waits_for_the_next_step() -> None:
    steps = 0
    with pytest.raises(Stopped, match="stopped by --max-time=00:00:00"), stoppable(), limited("00:00:00", "--max-time", time.time()), deferred():
        while not REQUEST.asked:
            time.sleep(0.01)
        steps += 1
    assert steps == 1


def test_a_command_that_is_stopped_has_its_own_exit_code(capsys) -> None:
    assert cli.run_stoppable(lambda: time.sleep(5), "00:00:00") == EXIT_CODE == 75
    assert "stopped by --max-time=00:00:00" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        score.parser().parse_args(["--metric", "cosine", "--max-time", "5"])
    assert "Give hours, minutes, seconds, as in 11:45:00" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [[row(i, " Red. ", ("red", "blue"), (3, 1)) for i in range(3)], [prediction("a", True), prediction("b", False)]])
def test_predictions_are_read_back_as_they_were(rows, tmp_path: Path) -> None:
    predictions.write(tmp_path / "part", rows)
    assert predictions.rows(tmp_path / "part") == rows


def test_answers_are_kept_at_a_stop_and_forgotten_at_the_end(tmp_path: Path) -> None:
    part, found = tmp_path / ".dev.part", []
    with pytest.raises(Stopped), parts.kept(part, found) as keep:
        found += [row(0, "red", ("red",)), row(1, "blue", ("red",))]
        keep()
        assert not part.exists(), "not so soon again"
        raise Stopped("stopped by SIGTERM")
    assert predictions.rows(part) == found
    with parts.kept(part, found):
        assert part.exists()
    assert not part.exists()
