"""Made-up answers of the kind `regions`, for the tests of what measures and shows them."""

import numpy as np

from lab.answers import predictions
from lab.records import Located, Prediction, Region, Regions

SIZE = (640, 480)


def prediction(name, right=(), said=(), scores=None, *, size=SIZE, status=None, boxes="qwen2_5", cluster=None, text="", subset=None):
    """One row: boxes as `Region`s, or four numbers of class `table`."""
    right, said = (tuple(Region(*box) if isinstance(box[0], str) else Region("table", *map(float, box)) for box in one) for one in (right, said))
    scores = tuple(scores) if scores is not None else tuple(0.5 for _ in said)
    located = Located(text or str(said), boxes, status or ("ok" if said else "empty"), said, scores, 12 * len(said) + 2, True, -1.5)
    return Prediction(name, cluster or name, name, subset, Regions(right, size), located, (0,), (64,))


def drawn(number, skill, seed=0, classes=("table", "barcode"), boxes="qwen2_5"):
    """Answers that find more and lie closer with more skill; every picture of a cluster of two."""
    world, generator = np.random.default_rng(number), np.random.default_rng([seed, number])
    rows = []
    for i in range(number):
        corners = world.uniform((0, 0), (300, 220), (world.integers(0, 4), 2))
        right = [(classes[world.integers(len(classes))], *low, *(low + world.uniform(20, 240, 2))) for low in corners]
        status, said, scores = "", [], []
        for label, *box in right:
            if generator.random() < 0.3 + 0.65 * skill:
                far = generator.normal(0, 4 + 40 * (1 - skill), 4)
                other = classes[0] if generator.random() < 0.06 else label
                said.append((other, *(np.clip(np.array(box) + far, 0, (640, 480, 640, 480)))))
                scores.append(float(1 / (1 + np.exp(np.abs(far).mean() / 12 - 2 + generator.normal(0, 0.5)))))
        if generator.random() < 0.25 * (1 - skill) + 0.03:
            low = generator.uniform((0, 0), (500, 380))
            said.append(("tabel" if generator.random() < 0.2 else classes[0], *low, *(low + generator.uniform(20, 90, 2))))
            scores.append(float(generator.uniform(0.05, 0.6)))
        if said and generator.random() < 0.04:
            said, scores = said + said[-1:] * 3, [*scores, *(scores[-1] * share for share in (0.9, 0.8, 0.7))]
        if generator.random() < 0.03:
            status, said, scores = "failed", [], []
        if boxes == "click":
            said = [(label, (x0 + x1) / 2, (y0 + y1) / 2) * 2 for label, x0, y0, x1, y1 in said]
            said = [(label, x, y, x, y) for label, x, y, *_ in said]
        more = {"status": status or None, "boxes": boxes, "cluster": f"set-{i // 2}", "subset": ("page", "photo")[i % 2]}
        rows.append(prediction(f"dev-{i}", right, said, scores, **more))
    return rows


def table(rows):
    return predictions.table(rows)
