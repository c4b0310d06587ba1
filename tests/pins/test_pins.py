"""True/False arms and their report give what they gave, to the last bit."""

from __future__ import annotations

import json

import pytest

import pins


@pytest.mark.usefixtures("nominal_costs")
def test_small_arms_give_the_pinned_bits(composer, tmp_path) -> None:
    kept = json.loads(pins.ARMS_FILE.read_text(encoding="utf-8"))
    if pins.arithmetic() != kept["arithmetic"]:
        pytest.skip("this processor rounds sums or functions otherwise than the one on which the bits were pinned")
    assert json.loads(json.dumps(pins.arms(composer, tmp_path))) == kept["arms"]


@pytest.mark.usefixtures("blank_figures")
def test_the_report_over_made_up_runs_gives_the_pinned_text(tmp_path) -> None:
    assert pins.report(tmp_path) == pins.REPORT_FILE.read_text(encoding="utf-8")
