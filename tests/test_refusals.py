"""What each family offers and refuses: every cell of (kind of answer, family, feature), and that it is said before anything loads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab import data, model
from lab import run as running
from lab.errors import ModelError
from lab.model.families import qwen2_vl
from lab.model.family import FEATURES, OPTIONS
from lab.records import Choice, Text

TOKENS = {f"vision_tokens={method}" for method in ("pool", "resampler", "prune", "merge")}
REFUSED = {
    "qwen2_vl": {"conditioning=add_cross_attention"},
    "qwen2_5_vl": {"conditioning=add_cross_attention"},
    "qwen3_vl": {"feature_cache", "fast_step", "conditioning=cross_attention", "conditioning=add_cross_attention", *TOKENS},
    "vit_gpt2": {
        "fast_step", "shared_prefix", "quantisation", "numbered", "olora", "export", "conditioning=prefix", "conditioning=cross_attention",
        "vision_tokens=resize", *TOKENS,
    },
}  # fmt: skip
ASKED = {
    "quantisation": ["model.quantisation=nf4"],
    "numbered": ["prompt.numbered=true"],
    "olora": ["lora.init_lora_weights=olora"],
    **{feature: [feature, "vision_tokens.budget=4"] for feature in (*TOKENS, "vision_tokens=resize")},
    **{f"conditioning={way}": [f"conditioning={way}"] for way in OPTIONS["conditioning"]},
}
"""What asks for a feature on the command line, beside the options that the family takes."""


def test_the_table_is_whole() -> None:
    assert REFUSED.keys() == set(model.FAMILIES)
    assert {f"answers={kind}" for kind in (Choice.kind, Text.kind)} == {feature for feature in FEATURES if feature.startswith("answers=")}
    assert set(data.KINDS.values()) <= {Choice.kind, Text.kind}


@pytest.mark.parametrize("name", REFUSED)
def test_every_feature_is_offered_or_refused_with_key_reason_and_remedy(name: str) -> None:
    family = model.family(name)
    assert family.refuses.keys() <= FEATURES.keys()
    for feature, facts in FEATURES.items():
        assert family.offers(feature) == (feature not in REFUSED[name]), feature
        if family.offers(feature):
            family.require(feature)
            continue
        with pytest.raises(ModelError) as refused:
            family.require(feature)
        start, end = f"{facts.key}: model.family={name} does not take it: ", f". {facts.instead or 'Legal here: '}"
        assert str(refused.value).startswith(start) and end in str(refused.value)
        assert all(f"{dial}=" in str(refused.value).partition("Legal here: ")[2] for dial in OPTIONS if feature.startswith(dial))


@pytest.mark.parametrize(("feature", "name"), sorted({each: name for name in REFUSED for each in REFUSED[name] & ASKED.keys()}.items()))
def test_a_refused_feature_ends_the_command_before_anything_loads(composer, tmp_path, feature: str, name: str) -> None:
    """The checkpoint is an empty folder."""
    own = ["conditioning=add_cross_attention"] if name == "vit_gpt2" else []
    x = composer(f"model.family={name}", f"model.path={tmp_path}", *own, *ASKED[feature])
    with pytest.raises(ModelError, match=f"model.family={name} does not take it"):
        running.check(x)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"answers": "beside"}, {"fast_step", "shared_prefix"}),
        ({"answers": "classes", "abilities": ("classify",)}, {"fast_step", "shared_prefix", "generate"}),
        ({"abilities": ("score",)}, {"answers=text", "generate"}),
    ],
)
def test_what_a_family_cannot_be_asked_follows_from_how_it_answers(changes: dict, refused: set, composer, tiny_folder, monkeypatch) -> None:
    family = replace(qwen2_vl.FAMILY, refuses={}, **changes)
    assert {feature for feature in FEATURES if not family.offers(feature)} == refused
    monkeypatch.setattr(qwen2_vl, "FAMILY", family)
    asked = {"shared_prefix": "evaluation.shared_prefix=true", "generate": "evaluation.ask=[score,generate]", "answers=text": "data=easy_vqa"}
    for feature in refused & asked.keys():
        with pytest.raises(ModelError, match=f"^{asked[feature].partition('=')[0]}=.* model.family=qwen2_vl does not take it: it"):
            running.check(composer(f"model.path={tiny_folder}", "prompt=qa", asked[feature]))


def test_a_kind_that_only_the_data_say_is_refused_before_the_checkpoint_loads(small, monkeypatch) -> None:
    monkeypatch.setattr(data, "KINDS", {})
    monkeypatch.setattr(qwen2_vl, "FAMILY", replace(qwen2_vl.FAMILY, abilities=("generate",)))
    monkeypatch.setattr(model, "load", None)
    with pytest.raises(ModelError, match="^data=pairs: model.family=qwen2_vl does not take it: it writes text, and does nothing else"):
        running.prepare(small())
