"""Records that a checkpoint cannot take: named, counted, left out or refused before anything trains."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from PIL import Image

from lab import data, model, vision_tokens
from lab import run as running
from lab.config import DataDial, Experiment, OnBad, PromptDial
from lab.data.faults import BadRecord
from lab.data.images import size_of
from lab.data.splits import Records
from lab.errors import ConfigError, DataError
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.records import Choice, Picture, Sample, Splits
from lab.training.screening import screen

PROMPT = PromptDial(
    name="declarative", version=1, system=None, template="Statement: {statement}\nAnswer.", template_file=None, separator="\n",
    answer_true="True", answer_false="False", numbered=False,
)  # fmt: skip


def png(width: int = 64, height: int = 48) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 90)).save(out, "PNG")
    return out.getvalue()


def sample(text: str, number: int = 2, name: str = "s", size: tuple[int, int] = (64, 48)) -> Sample:
    pictures = tuple(Picture(f"{name}-{k}", png(*size)) for k in range(number))
    return Sample(name, text, pictures, Choice.truth(True), name, name)


@pytest.fixture(scope="module", params=[*checkpoints.FAMILIES, "vit_gpt2"])
def vlm(request, tmp_path_factory) -> Vlm:
    return model.load(checkpoints.save(request.param, tmp_path_factory.mktemp(request.param)))


def test_text_never_becomes_a_special_token(vlm: Vlm) -> None:
    """Every added token at every place is refused by name; what only looks like one is text, and tokenised as before."""
    encoder, tokenizer = Encoder(vlm, PROMPT), vlm.processor.tokenizer
    added = {str(each) for each in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    assert added
    for token in sorted(added):
        for text in (token, f"{token} one", f"a{token}b", f"one {token}", f"\n{token}\t{token}", f"<{token}>"):
            for number in (0, 2):
                with pytest.raises(BadRecord, match=r"^sample s: its text .* must not hold special tokens: ") as caught:
                    encoder.text(sample(text, number))
                assert repr(token) in str(caught.value)
        for text in (token.upper(), token[:-1], token[1:], token.replace("|", " |"), f"{token[:3]} {token[3:]}"):
            assert text not in added
            chat, _, prompt, _ = encoder.framed(sample(text))
            assert encoder.text(sample(text)).prompt_ids.tolist() == prompt
            assert encoder.special(prompt) == encoder.special(encoder.framed(sample("one")).prompt)


def test_text_forms_no_special_token_with_what_stands_beside_it(vlm: Vlm) -> None:
    token = vlm.processor.tokenizer.eos_token
    halved = Encoder(vlm, dataclasses.replace(PROMPT, template=token[:3] + "{statement}"))
    with pytest.raises(BadRecord, match="must not hold special tokens"):
        halved.text(sample(token[3:]))
    assert len(halved.text(sample("one")).prompt_ids)


@pytest.mark.parametrize("key", ["system", "separator", "template", "template_file", "answer_true", "answer_false"])
def test_the_prompt_itself_writes_no_special_token(vlm: Vlm, key: str, tmp_path: Path) -> None:
    token = vlm.processor.tokenizer.eos_token
    text = f"{{statement}}{token}" if key.startswith("template") else token
    if key == "template_file":
        (tmp_path / "frame.txt").write_text(text)
        text = str(tmp_path / "frame.txt")
    with pytest.raises(ConfigError, match=f"^prompt.{key}=.*special token") as caught:
        Encoder(vlm, dataclasses.replace(PROMPT, **{key: text}))
    assert repr(token) in str(caught.value)


def test_a_text_longer_than_the_model_has_positions_is_refused_and_one_that_just_fits_is_not(vlm: Vlm) -> None:
    encoder = Encoder(vlm, PROMPT)
    most = encoder.positions_of_text
    _, _, prompt, answer = encoder.framed(sample("!"))
    words = sum(each != encoder.image_id for each in prompt) + len(answer)
    assert len(encoder.ids("!" + " A" * 10)) == 1 + 10 * (per := len(encoder.ids(" A")))
    fits = (most - words) // per
    encoder.text(sample("!" + " A" * fits))
    with pytest.raises(BadRecord, match=rf"^sample s: .* tokens of text, and the model has {most} positions"):
        encoder.text(sample("!" + " A" * (fits + 1)))


def test_a_sample_longer_than_max_length_is_bad_and_nothing_is_cut(vlm: Vlm) -> None:
    """Of train alone: images, prompt and answer count together, the limit itself fits, and what is left is tokenised as without it."""
    encoder = Encoder(vlm, PROMPT)
    short, long = sample("one", name="short"), sample("one" + " two" * 40, name="long")
    splits = Splits(*(Records([short, long]) for _ in range(3)))
    lengths = {one.sample_id: encoder.size(encoder.example(one), answered=True).length for one in (short, long)}
    lengths |= {} if encoder.inline else {one.sample_id: lengths[one.sample_id] + len(encoder.text(one).answer_ids) for one in (short, long)}
    dial = DataDial(name="pairs", max_length=lengths["long"] - 1)
    sentence = rf"sample long: its prompt and answer are {lengths['long']} tokens, .*data.max_length={dial.max_length} cuts none"
    with pytest.raises(DataError, match=sentence):
        screen(splits, ("train", "dev"), encoder, dial)
    left, made = screen(splits, ("train", "dev"), encoder, dataclasses.replace(dial, on_bad=OnBad.skip))
    assert left.train.sample_ids == ("short",) and len(left.dev) == 2 and len(left.skipped) == 1
    assert made["train"].text(0).prompt_ids.tolist() == encoder.text(short).prompt_ids.tolist()
    assert len(screen(splits, ("train",), encoder, dataclasses.replace(dial, max_length=lengths["long"]))[0].train) == 2


def test_the_grid_foreseen_is_the_grid_made(vlm: Vlm) -> None:
    encoder = Encoder(vlm, PROMPT)
    for width, height in [(64, 48), (1, 1), (1, 150), (300, 7), (33, 95), (500, 400), (640, 8)]:
        pixels, (grid,) = encoder.pixels([Image.new("RGB", (width, height))])
        assert tuple(grid) == encoder.architecture.grid(encoder.processor, encoder.config, (width, height))
        if vlm.family.architecture.in_prompt:  # else the tower takes the image, not its patches
            assert len(pixels[0]) == np.prod(grid)


def test_an_image_too_thin_is_a_bad_record_before_its_pixels_are_made(vlm: Vlm) -> None:
    encoder, thin = Encoder(vlm, PROMPT), Picture("thin", png(3, 603))
    if not vlm.family.architecture.in_prompt:
        encoder.check(thin)  # every image is brought to one size
        return
    for look in (encoder.check, encoder.picture):
        with pytest.raises(BadRecord, match=r"^thin: the checkpoint's image processor does not take its 3 x 603 pixels"):
            look(thin)
        look(Picture("not so thin", png(3, 600)))


def test_sizes_are_known_without_decoding() -> None:
    assert size_of(Picture("nowhere", size=(40, 30))) == (40, 30)
    assert size_of(Picture("nowhere", crop=(1, 2, 11, 22), size=(40, 30))) == (10, 20)
    assert size_of(Picture("here", png(40, 30), crop=(1, 2, 11, 22))) == (10, 20)
    with pytest.raises(BadRecord, match="does not lie inside"):
        size_of(Picture("here", png(40, 30), crop=(0, 0, 41, 1), size=(40, 30)))


# ---- through the doors -----------------------------------------------------------------------------------------


def lay_out(root: Path, texts: dict[str, str] | None = None, images: dict[str, tuple[int, int]] | None = None) -> Path:
    """NLVR2's official layout: eight sets of two statements in train, four in dev; some texts and image sizes other."""
    (root / "images").mkdir(parents=True)
    for split, sets in (("train", 8), ("dev", 4)):
        rows = []
        for s in range(sets):
            for p in (0, 1):
                name = f"{split}-{s}-{p}"
                row = {"identifier": f"{name}-0", "sentence": (texts or {}).get(name, f"Two circles in set {s}."), "label": str((s + p) % 2 == 0)}
                rows.append(row | ({"directory": s} if split == "train" else {}))
                for k in (0, 1):
                    (root / "images" / f"{name}-img{k}.png").write_bytes(png(*(images or {}).get(f"{name}-{k}", (64, 48))))
        (root / f"{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


BAD = {
    "texts": {"train-3-0": "The <|image_pad|> one", "dev-1-1": "Done.<|im_end|>", "train-5-1": " x" * 5000},
    "images": {"train-4-1-0": (3, 900), "dev-2-0-1": (900, 3)},
}
LEFT_OUT = {"train": ["train-3-0-0", "train-4-1-0", "train-5-1-0"], "dev": ["dev-1-1-0", "dev-2-0-0"]}


@pytest.fixture
def official(small, tmp_path: Path):
    lay_out(tmp_path / "data", **BAD)

    def make(*overrides: str) -> Experiment:
        return small("data=nlvr2", f"data.root={tmp_path}/data", *overrides, "data.num_train=null", "data.num_minival=null", "data.num_dev=null")

    return make


def test_bad_records_met_in_preparation_end_the_run_in_one_sentence(official) -> None:
    with pytest.raises(DataError, match="^data.on_bad=fail: bad records and images: 5") as caught:
        running.prepare(official())
    for named in ("sample train-3-0-0: ", "sample dev-1-1-0: ", "sample train-5-1-0: ", "train-4-1-img0.png: ", "dev-2-0-img1.png: "):
        assert named in str(caught.value)


def test_bad_records_met_in_preparation_are_skipped_counted_and_listed(official) -> None:
    x = official("data.on_bad=skip")
    prepared = running.prepare(x)
    encoded, raw = prepared.encoded(x), data.load(x.data, Path(x.tracking.cache_dir))
    facts = running.data_facts(x, prepared, encoded)
    assert facts["skipped"] == len(facts["skipped_records"]) == 5
    for part in ("train", "minival", "dev"):
        kept = list(encoded[part].split.sample_ids)
        assert kept == [name for name in getattr(raw, part).sample_ids if name not in LEFT_OUT.get(part, [])]
        assert facts["counts"][part] == len(encoded[part]) == len(kept)
        assert facts["samples"][part] == data.fingerprint(encoded[part].split)
        assert [encoded[part][i].sample_id for i in range(len(kept))] == kept
    told = "\n".join(": ".join(record) for record in facts["skipped_records"])
    for name in (*LEFT_OUT["train"], *LEFT_OUT["dev"]):
        assert f"sample {name} is left out" in told


def test_arms_that_lose_different_records_are_told_apart(official, caplog) -> None:
    """An image 40 times as long as wide breaks a budget of 2 tokens, and no other; each arm is what it is alone."""
    root = Path(official().data.root)
    (root / "images" / "train-0-0-img0.png").write_bytes(png(16, 640))
    whole, resized = (official("data.on_bad=skip", *dial) for dial in ((), ("vision_tokens=resize", "vision_tokens.budget=2")))
    prepared = running.prepare(whole)
    assert "different samples" not in caplog.text
    assert len(prepared.encoded(resized)["train"]) == len(prepared.encoded(whole)["train"]) - 1
    assert "leaves these arms different samples in train" in caplog.text
    facts = [running.data_facts(x, prepared, prepared.encoded(x)) for x in (whole, resized)]
    assert facts[0]["samples"]["train"] != facts[1]["samples"]["train"] and facts[0]["samples"]["dev"] == facts[1]["samples"]["dev"]
    alone = running.prepare(resized)
    assert running.data_facts(resized, alone, alone.encoded(resized)) == facts[1]
    with pytest.raises(DataError, match=r"train-0-0-img0.png: vision_tokens.budget=2: "):
        running.prepare(dataclasses.replace(resized, data=dataclasses.replace(resized.data, on_bad=OnBad.fail)))


def split_of(*samples: Sample):
    from lab.data.splits import Records

    return Records(samples)


def test_an_image_set_goes_as_a_whole_where_a_score_is_of_all_of_it_and_no_split_is_left_empty(tmp_path: Path) -> None:
    encoder = Encoder(model.load(checkpoints.save("qwen2_vl", tmp_path)), PROMPT)
    dial = DataDial(name="winoground", on_bad=OnBad.skip)
    bad, good = sample("a<|im_end|>", name="1"), sample("fine", name="1b")
    dev = split_of(bad, dataclasses.replace(good, image_set="1"), sample("other", name="2"))
    splits = Splits(split_of(), split_of(), dev, together=True)
    found, made = screen(splits, ("minival", "dev"), encoder, dial)
    assert list(found.dev.sample_ids) == list(made["dev"].split.sample_ids) == ["2"] and len(found.skipped) == 2
    assert [(one.sample_id, one.text) for one in map(found.dev.index, range(len(found.dev)))] == [("2", "other")]
    apart, _ = screen(dataclasses.replace(splits, together=False), ("dev",), encoder, dial)
    assert list(apart.dev.sample_ids) == ["1b", "2"] and len(apart.skipped) == 1
    with pytest.raises(DataError, match="data=winoground: nothing is left to report on in the dev split; bad records: 1, the first: sample 1: "):
        screen(Splits(split_of(), split_of(), split_of(bad)), ("dev",), encoder, dial)
    assert screen(Splits(split_of(), split_of(), split_of(good)), ("dev",), encoder, dial)[0].skipped == ()


def test_the_plan_leaves_out_what_the_run_would(official, capsys) -> None:
    from lab.plan import data_of, visible

    splits = data_of(official("data.on_bad=skip"))
    assert splits is not None and len(splits.dev) == 6
    assert "left out under data.on_bad=skip: 5" in visible(splits)
    assert data_of(official()) is None
    assert "bad records and images: 5" in capsys.readouterr().err


def test_budgets_are_met_by_what_is_not_thin(vlm: Vlm) -> None:
    if not vlm.family.architecture.in_prompt:
        return
    own = vlm.share()
    vision_tokens.resize(own, 2)
    own.budget = 2
    encoder = Encoder(own, PROMPT)
    encoder.check(Picture("square", size=(500, 500)))
    with pytest.raises(BadRecord, match="^strip: vision_tokens.budget=2: .* ask for at least so many"):
        encoder.check(Picture("strip", size=(16, 640)))
