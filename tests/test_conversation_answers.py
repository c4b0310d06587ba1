"""Conversations that are answered: text metrics of the last turn, perplexity of every turn, and a gallery that shows them as they were."""

from __future__ import annotations

import math
from dataclasses import replace

import checkpoints
import numpy as np
import pytest
import torch
from conversations import conversation
from test_conversations import encoder_of

from lab import model
from lab.answers import predictions
from lab.config import EvaluationSection
from lab.data.splits import Records
from lab.evaluation import writing
from lab.model import Vlm
from lab.model.batching import IGNORED
from lab.records import Prediction, Text, Written
from lab.report.document import Case, Gallery
from lab.report.gallery import answers_gallery
from lab.report.webpage import to_html
from lab.statistics.metrics import KINDS, summarise
from lab.training.examples import Examples

SAID = ("yes", "no?", "It is red.")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return model.load(checkpoints.save("qwen2_vl", tmp_path_factory.mktemp("answers") / "qwen2_vl"))


@pytest.fixture(scope="module")
def answered(vlm: Vlm) -> tuple[Examples, list[Prediction]]:
    examples = Examples(Records([conversation(seed, 1, 5, said=SAID) for seed in range(8)]), encoder_of(vlm))
    return examples, writing.answer(vlm, examples, examples.encoder.readout, EvaluationSection(batch_size=3, max_new_tokens=2), "dev")


def test_turns_have_the_likelihood_that_one_forward_gives_them(vlm: Vlm, answered) -> None:
    """Of all learned tokens by Transformers' own loss; the last answer's stand apart, as of any text."""
    examples, rows = answered
    for place, row in enumerate(rows):
        batch = examples.encoder.collate([examples[place]], with_answers=True, learned=True)
        with torch.inference_mode():
            labels = torch.nn.functional.pad(batch.target.labels, (batch.prompt.ids.shape[1] - batch.target.labels.shape[1], 0), value=IGNORED)
            loss = vlm.model(input_ids=batch.prompt.ids, mm_token_type_ids=batch.prompt.types, labels=labels, **(batch.media.pixels or {})).loss
        said = row.said
        assert len(said.turns_log_p) == len(said.turns_tokens) == sum(turn.learned for turn in examples.split.index(place).turns)
        tokens = sum(said.turns_tokens) + said.reference_tokens
        assert tokens == batch.target.tokens
        assert -(sum(said.turns_log_p) + said.log_p_reference) / tokens == pytest.approx(loss.item(), abs=1e-5)


def test_a_file_gives_back_what_was_written(answered, tmp_path) -> None:
    _, rows = answered
    predictions.write(tmp_path / "dev.parquet", rows)
    assert predictions.rows(tmp_path / "dev.parquet") == rows
    table = predictions.read(tmp_path / "dev.parquet")
    assert table.kind == "conversation" and [len(turns) - 1 for turns in table.turns] == [len(row.said.turns_tokens) for row in rows]


def said(turns: list[tuple[float, int]]) -> Written:
    before, (log_p, tokens) = turns[:-1], turns[-1]
    return Written("yes", "none", tokens, True, log_p, log_p, tokens, tuple(p for p, _ in before), tuple(n for _, n in before))


def test_perplexity_is_by_token_of_all_turns_and_by_place() -> None:
    turns = [[(-2.0, 2)], [(-1.0, 1), (-6.0, 3)], [(-3.0, 1), (-1.0, 1), (-2.0, 4), (-8.0, 2), (-4.0, 4)]]
    rows = [Prediction(f"s{i}", f"s{i}", "q", None, Text(("yes",)), said(each), (), ()) for i, each in enumerate(turns)]
    found = summarise(predictions.table(rows))
    by_place = {"perplexity_turn_1": 6 / 4, "perplexity_turn_2": 7 / 4, "perplexity_turn_3": 2 / 4, "perplexity_later_turns": 12 / 6}
    expected = {name: math.exp(value) for name, value in {"perplexity": 27 / 18, **by_place}.items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["token_nll"] == pytest.approx((2 + 6 + 4) / (2 + 3 + 4)), "text metrics are those of the last answer"
    short = predictions.table(rows[:2])
    assert math.isnan(summarise(short)["perplexity_turn_3"]), "no turn, no number"
    metric = KINDS["conversation"].metrics["perplexity"]
    sums = metric.cluster_sums(short, np.array([0, 1])).sum(axis=0)
    assert metric.value(sums) == pytest.approx(metric.of(short))


def test_a_conversation_without_turns_before_its_answer_is_a_text_as_before() -> None:
    rows = [Prediction("s", "s", "q", None, Text(("yes",)), said([(-1.0, 1)]), (), ())]
    assert predictions.table(rows).kind == "text"


def test_a_gallery_shows_a_conversation_as_one(answered) -> None:
    examples, rows = answered
    blocks = answers_gallery(predictions.table(rows), examples.split, 3)
    cases = next(block for block in blocks if isinstance(block, Gallery)).cases
    assert all([role for role, _ in case.turns][-1] == "user" for case in cases)
    assert any("[image 1]" in text for case in cases for _, text in case.turns)
    case = Case((), "q", "", (), (("user", "a < b"), ("assistant", "yes"), ("user", "so?")))
    page = to_html([Gallery((case,))], "t")
    assert page.count('class="turn user"') == 2 and 'class="turn assistant"' in page and "a &lt; b" in page
    assert 'class="turn' not in to_html([Gallery((replace(case, turns=()),))], "t").partition("<body>")[2]
