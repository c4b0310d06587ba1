"""Made-up prediction tables for the tests of everything that reads them."""

import numpy as np

from lab.answers.choice import ChoiceTable
from lab.records import Choice, Prediction, Scored

LOG_MASS = -0.1


def from_log_odds(z, label, image_set=None, group=None, split="dev", log_mass=LOG_MASS):
    """A table whose renormalised log-odds are z; every example its own image set and sentence unless told."""
    names = np.array([f"{split}-{i}" for i in range(len(z))])
    lists = np.array([(0, 1)] * len(z), dtype=object)
    log_mass = np.broadcast_to(log_mass, len(z))
    return ChoiceTable(
        sample_id=names,
        image_set=names if image_set is None else np.asarray(image_set).astype(str),
        question_group=names if group is None else np.asarray(group).astype(str),
        subset=np.full(len(z), None),
        options=np.array([None] * len(z)),
        right=np.where(np.asarray(label, dtype=bool), 0, 1).astype(np.int16),
        log_p=np.stack([log_mass - np.logaddexp(0, -z), log_mass - np.logaddexp(0, z)], axis=1),
        captured_mass=np.exp(log_mass),
        prediction=np.where(z >= 0, 0, 1).astype(np.int16),
        image_order=lists,
        visual_tokens=lists,
    )


def prediction(name, label, log_p=(-0.1, -3.0), answer=True, mass=0.95, image_set=None, group=None, subset=None, tokens=(4, 4)):
    """One row about a True/False question."""
    said = Scored(tuple(map(float, log_p)), mass, 0 if answer else 1)
    return Prediction(name, image_set or name, group or name, subset, Choice.truth(label), said, (0, 1), tokens)


def guesses(generator, image_set, group):
    """Answers that are right about three times in four."""
    label = generator.uniform(size=len(image_set)) < 0.5
    z = generator.normal(1.0, 1.5, len(image_set)) * np.where(label, 1, -1)
    return from_log_odds(z, label, image_set, group)


def nested(num_sets=40, seed=0):
    """Sets of one or two sentences with one to four pairs each, as in NLVR2."""
    generator = np.random.default_rng(seed)
    sentences = [(s, t) for s in range(num_sets) for t in range(generator.integers(1, 3))]
    names = [sentence for sentence in sentences for _ in range(generator.integers(1, 5))]
    return guesses(generator, [s for s, _ in names], [f"{s}--{t}" for s, t in names])


def rival(table, seed, flips=0.2):
    """Another arm on the same items: some answers changed, some mass lost."""
    generator, n = np.random.default_rng(seed), len(table)
    z = table.log_odds + generator.normal(0, 1, n) + generator.normal(0, 8, n) * (generator.uniform(size=n) < flips)
    log_mass = LOG_MASS - generator.uniform(0, 0.2, n)
    return table.replace(
        log_p=np.stack([log_mass - np.logaddexp(0, -z), log_mass - np.logaddexp(0, z)], axis=1),
        captured_mass=np.exp(log_mass),
        prediction=np.where(z >= 0, 0, 1).astype(np.int16),
    )
