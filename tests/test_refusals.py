"""What each family offers and refuses: every cell of (kind of answer, family, feature), and that it is said before anything loads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab import data, model
from lab import run as running
from lab.config import DataDial
from lab.data.sets import pairs
from lab.errors import ConfigError, ModelError
from lab.model.families import qwen2_vl
from lab.model.family import FEATURES, OPTIONS
from lab.prompt import ASKS
from lab.records import Choice, Regions, Text

TOKENS = {f"vision_tokens={method}" for method in ("pool", "resampler", "prune", "merge")}
SHIPPED = {
    "qwen2_vl": {"labels", "soft_targets", "conditioning=add_cross_attention"},
    "qwen2_5_vl": {"labels", "soft_targets", "conditioning=add_cross_attention"},
    "qwen3_vl": {
        "labels", "soft_targets", "feature_cache", "fast_step", "conditioning=cross_attention", "conditioning=add_cross_attention", *TOKENS,
    },
    "vit_gpt2": {
        "clips", "conversations", "packing", "trees", "labels", "soft_targets", "boxes=qwen2_5", "fast_step", "shared_prefix", "quantisation",
        "numbered", "olora", "export", "conditioning=prefix", "conditioning=cross_attention", "vision_tokens=resize", *TOKENS,
    },
    "blip_vqa": {
        "clips", "conversations", "packing", "trees", "labels", "soft_targets", "boxes=qwen2_5", "fast_step", "shared_prefix", "numbered",
        "conditioning=prefix", "conditioning=cross_attention", "vision_tokens=resize", *TOKENS,
    },
    "vilt_vqa": {
        "clips", "conversations", "packing", "trees", "answers=regions", "boxes=qwen2_5", "generate", "fast_step", "shared_prefix", "numbered",
        "conditioning=cross_attention", "conditioning=add_cross_attention", "vision_tokens=resize", *TOKENS,
    },
}  # fmt: skip
"""What those refuse that are shipped today: one that came to refuse more, or less, is seen here. A new one needs no row."""
REFUSED = {name: {feature for feature in FEATURES if not model.family(name).offers(feature)} for name in model.FAMILIES}
ASKED = {
    "quantisation": ["model.quantisation=nf4"],
    "numbered": ["prompt.numbered=true"],
    "packing": ["trainer.packing=true"],
    "trees": ["trainer.layout=trees"],
    "olora": ["lora.init_lora_weights=olora"],
    "labels": ["model.labels=[yes,no]"],
    **{feature: [feature, "vision_tokens.budget=4"] for feature in (*TOKENS, "vision_tokens=resize")},
    **{f"conditioning={way}": [f"conditioning={way}"] for way in OPTIONS["conditioning"]},
}
"""What asks for a feature on the command line, beside the options that the family takes."""


def test_the_shipped_families_refuse_what_they_did() -> None:
    assert SHIPPED.items() <= REFUSED.items()


def test_every_kind_of_answer_is_a_feature_and_every_data_set_says_what_it_knows() -> None:
    kinds = (Choice.kind, Text.kind, Regions.kind)
    assert {f"answers={kind}" for kind in kinds} == {feature for feature in FEATURES if feature.startswith("answers=")}
    for data_set in map(data.named, data.NAMES):
        assert data_set.kind in (*kinds, None) and data_set.asks in (*ASKS, None)


@pytest.mark.parametrize("name", sorted(set(data.NAMES) - {"nlvr", "mixture"}))
def test_a_key_that_a_data_set_does_not_read_is_refused(name: str, tmp_path) -> None:
    dial = DataDial(name=name, image_layout="whole", path=__file__ if name in ("abo_vqa", "boxes", "questions") else None)
    with pytest.raises(ConfigError, match=f"data.image_layout=whole: data={name} does not read it. Leave it out"):
        data.named(name).load(dial, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_every_feature_is_offered_or_refused_with_key_reason_and_remedy(name: str) -> None:
    family = model.family(name)
    assert family.refuses.keys() <= FEATURES.keys()
    for feature, facts in FEATURES.items():
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
    own = next(f"conditioning={way}" for way in OPTIONS["conditioning"] if model.family(name).offers(f"conditioning={way}"))
    x = composer(f"model.family={name}", f"model.path={tmp_path}", "model.attn_implementation=null", own, *ASKED[feature])
    with pytest.raises(ModelError, match=f"model.family={name} does not take it"):
        running.check(x)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"answers": "beside"}, {"labels", "soft_targets", "fast_step", "shared_prefix", "packing", "trees"}),
        (
            {"answers": "classes", "abilities": ("classify",), "whole": {"head": "classifier"}, "last": "classifier"},
            {"fast_step", "shared_prefix", "packing", "trees", "generate", "answers=regions"},
        ),
        ({"abilities": ("score",)}, {"labels", "soft_targets", "answers=text", "answers=regions", "generate"}),
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
    monkeypatch.setattr(pairs, "DATA_SET", replace(pairs.DATA_SET, kind=None))
    monkeypatch.setattr(qwen2_vl, "FAMILY", replace(qwen2_vl.FAMILY, abilities=("generate",)))
    monkeypatch.setattr(model, "load", None)
    with pytest.raises(ModelError, match="^data=pairs: model.family=qwen2_vl does not take it: it writes text, and does nothing else"):
        running.prepare(small())
