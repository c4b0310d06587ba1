"""What a race decides, on arrays: a valid test of the arm that leads, and decisions that no order of rows can change."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.statistics import race
from lab.statistics.race import Decision, Rule, decide
from lab.statistics.resampling import swaps
from tools.race import __main__ as door
from tools.race.simulation import simulate
from tools.race.worlds import BEST, START, WORLDS, answers, world

RULE = Rule()
SWAPS = 999


def answered(accuracy, num_questions: int = 160, per_cluster: int = 4, seed: int = 0, ties: bool = False):
    """Answers of arms of these accuracies to shared questions: right, score [A, n], cluster [n]."""
    generator = np.random.default_rng(seed)
    hardness = generator.normal(size=num_questions)
    margin = 2.0 * np.asarray(accuracy)[:, None] - 1.0 - 0.5 * hardness + 0.5 * generator.normal(size=(len(accuracy), num_questions))
    if ties:
        margin = np.round(margin)
    return margin > 0, -np.logaddexp(0.0, -2.0 * margin), np.arange(num_questions) // per_cluster


def decided(right, score, cluster, rung: int = 0, num_arms: int | None = None, rule: Rule = RULE) -> Decision:
    return decide(right, score, cluster, rung=rung, num_arms=num_arms or len(right), rule=rule, num_swaps=SWAPS)


def p_value_as_written(values, cluster, lead: float, arm: int, num_swaps: int) -> float:
    """The definition, pair by pair and swap by swap."""
    num_clusters = cluster.max() + 1
    signs = np.concatenate(list(swaps(num_clusters, 1, num_swaps, 0)))

    def peak(flips) -> float:
        best = -math.inf
        for other in range(len(values)):
            if other != arm:
                gaps = np.array([(values[other] - values[arm] + lead)[cluster == c].sum() for c in range(num_clusters)])
                norm = math.sqrt((gaps**2).sum())
                best = max(best, float(flips @ gaps) / norm if norm else 0.0)
        return best

    seen = peak(np.ones(num_clusters))
    return (1 + sum(peak(row) >= seen - 1e-9 for row in signs)) / (1 + num_swaps)


def test_the_p_value_is_that_of_the_definition() -> None:
    right, score, cluster = answered([0.6, 0.7, 0.7, 0.75], num_questions=84)
    made = decide(right, score, cluster, rung=0, num_arms=4, rule=RULE, num_swaps=60)
    for arm in range(4):
        assert made.p_accuracy[arm] == p_value_as_written(right.astype(float), cluster, 0.01, arm, 60)
        assert made.p_score[arm] == p_value_as_written(score, cluster, 0.0, arm, 60)


@settings(max_examples=30)
@given(
    accuracy=st.lists(st.sampled_from([0.3, 0.5, 0.55, 0.6, 0.9]), min_size=3, max_size=7), seed=st.integers(0, 10**6),
    ties=st.booleans(), rung=st.integers(0, 1),
)  # fmt: skip
def test_no_order_changes_a_decision_and_the_leader_goes_on(accuracy, seed, ties, rung) -> None:
    right, score, cluster = answered(accuracy, seed=seed, ties=ties)
    made = decided(right, score, cluster, rung)
    generator = np.random.default_rng(seed)
    arms, questions = generator.permutation(len(accuracy)), generator.permutation(len(cluster))
    again = decided(right[arms][:, questions], score[arms][:, questions], cluster[questions], rung)
    for name in ("p_accuracy", "p_score", "stops"):
        assert np.array_equal(getattr(made, name)[arms], getattr(again, name)), name
    best = right.mean(axis=1) == right.mean(axis=1).max()
    assert not made.stops[best].any()
    assert (~made.stops | (made.out_by_accuracy & made.out_by_score)).all()
    assert (~made.stops).sum() >= math.ceil(RULE.pace[rung] * len(accuracy))


def test_identical_arms_share_their_fate_and_are_both_kept_in_front() -> None:
    right, score, cluster = answered([0.9, 0.5, 0.4, 0.3, 0.2], num_questions=400)
    twins = [0, 0, 1, 1, 2, 3, 4]
    made = decided(right[twins], score[twins], cluster, rung=1)
    assert np.array_equal(made.stops[[0, 2]], made.stops[[1, 3]]) and not made.stops[:2].any() and made.stops[2:].all()
    same = decided(right[[0] * 5], score[[0] * 5], cluster, rung=1)
    assert not same.stops.any() and (same.p_score == 1).all()


def test_an_arm_far_behind_stops_at_the_pace_and_one_alone_never() -> None:
    right, score, cluster = answered([0.9, 0.5, 0.4, 0.3, 0.2, 0.1], num_questions=400)
    first, second = decided(right, score, cluster, rung=0), decided(right, score, cluster, rung=1)
    assert first.out_by_accuracy[1:].all() and first.stops.tolist() == [False] * 4 + [True] * 2
    assert second.stops.tolist() == [False] * 2 + [True] * 4
    alone = decided(right[:1], score[:1], cluster, num_arms=6)
    assert not alone.stops.any() and alone.p_accuracy == 1


def test_p_values_of_exchangeable_arms_are_no_smaller_than_uniform_ones() -> None:
    """P(p <= u) is at most u, and near it."""
    p_values = np.array([decided(*answered([0.6] * 4, seed=seed)).p_score[0] for seed in range(300)])
    for level in (0.025, 0.1, 0.3):
        assert (p_values <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 300)
    assert (p_values <= 0.5).mean() > 0.3, "it is a test"


def test_a_race_of_full_size_takes_less_than_two_seconds() -> None:
    right, score, cluster = answered(np.linspace(0.6, 0.7, 24), num_questions=2000)
    start = time.perf_counter()
    decide(right, score, cluster, rung=0, num_arms=24, rule=RULE)
    assert time.perf_counter() - start < 2.0


def test_what_cannot_be_decided_is_refused() -> None:
    right, score, cluster = answered([0.5, 0.6, 0.7], num_questions=76)
    with pytest.raises(LabError, match="minival has 19 clusters.*20 or more. Ask more with data.num_minival"):
        decided(right, score, cluster)
    right, score, cluster = answered([0.5, 0.6, 0.7])
    with pytest.raises(LabError, match="2 arms; a race needs 3 or more"):
        decided(right[:2], score[:2], cluster)
    assert not decided(right[:2], score[:2], cluster, num_arms=3).stops.any()
    with pytest.raises(LabError, match="no finite number"):
        decided(right, np.where(right, np.nan, score), cluster)
    with pytest.raises(LabError, match=r"score \(2, 160\)"):
        decided(right, score[:2], cluster)


def test_a_budget_keeps_by_rank_alone_and_is_kept_to() -> None:
    assert race.kept_in_budget(0.5, [0.25, 0.5], 12) == (6, 3)
    for budget in (0.35, 0.5, 0.8, 1.0):
        kept = race.kept_in_budget(budget, [0.25, 0.5], 12)
        assert 0.25 + 0.25 * kept[0] / 12 + 0.5 * kept[1] / 12 <= budget + 1e-9
    with pytest.raises(LabError, match=r"race.budget=0.3: 12 arms .* take 0.312 of all steps; give more"):
        race.kept_in_budget(0.3, [0.25, 0.5], 12)
    right, score, cluster = answered(np.linspace(0.61, 0.6, 12))
    rule = replace(RULE, kept=(6, 3))
    assert [decided(right, score, cluster, rung, rule=rule).stops.sum() for rung in (0, 1)] == [6, 9]


# --- races of simulated arms (tools/race) --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kept", "saved"), [("equal", 0.9, 0.0), ("one+10", 1.0, 0.3)])
def test_a_small_cell(name, kept, saved) -> None:
    raced = simulate(name, 30, 8, 200, (0.25, 0.5), Rule(), 499)
    assert np.mean([one.kept for one in raced]) >= kept and np.median([one.saved for one in raced]) >= saved
    assert not any(one.leading for one in raced)


@pytest.mark.parametrize("name", WORLDS)
def test_arms_end_where_their_world_says(name) -> None:
    arms = WORLDS[name](12, np.random.default_rng(0))
    assert np.allclose(arms.accuracy(1.0), arms.final) and (arms.accuracy(0.0) == START).all()
    paths = np.diff([arms.accuracy(t) for t in np.linspace(0, 1, 21)], axis=0)
    assert (paths * np.sign(arms.final - START) >= 0).all(), "nobody turns back"


def test_answers_are_as_right_as_arms_are_and_as_correlated_as_stated() -> None:
    right, score, cluster = answers(world(np.array([0.0, 5.0])), (0.25, 1.0), 200_000, np.random.default_rng(0))
    assert right.shape == score.shape == (2, 2, 200_000) and np.bincount(cluster).tolist() == [4] * 50_000
    assert abs(right[1, 0].mean() - BEST) < 0.005 and abs(right[1, 1].mean() - BEST + 0.05) < 0.005
    assert abs(np.corrcoef(right[1])[0, 1] - 0.55) < 0.02
    assert (score[right].min() > np.log(0.5)) and (score[~right].max() <= np.log(0.5))


def test_the_command_prints_a_line_a_world(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["tools.race", "equal", "cross", "--races", "2", "--arms", "3", "--n", "80", "--swaps", "99"])
    with pytest.raises(SystemExit) as ended:
        door.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "2 races a world, 3 arms, 80 questions" in out and "\nequal " in out and "\ncross " in out
