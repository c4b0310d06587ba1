"""The parts of a curation: catalogues, which products, near-duplicates, keys, parsing, rules, preview, limits, review."""

from __future__ import annotations

import copy
import dataclasses
import email.utils
import functools
import gzip
import io
import json
import re
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from lab import bounds, curate, keys, manual
from lab.curation import config, likeness, parsing, preview, quality, request, review, selection, sources
from lab.curation.catalogue import Catalogue, Product
from lab.curation.config import NUMBERS, PATHS, WORDS, Curation, Quality, Selection
from lab.curation.manifest import Entry
from lab.errors import BusyError, ConfigError, DataError
from lab.llm import client, limits
from lab.llm.asking import Waits
from lab.llm.client import Client, Passing, retry_after
from lab.llm.request import Usage
from lab.llm.store import State, Store
from lab.records import Picture

ROOT = Path(__file__).parents[1]
SERVER = ("llm.base_url=http://127.0.0.1:9/v1", "llm.model=m", "llm.api_key_env=null")
TEXTS = {
    **dict.fromkeys(("source.name", "prompt.name"), "an option, a file of conf/curation"),
    **dict.fromkeys(("source.image", "source.product", "source.text"), "columns of the user's table"),
    "prompt.text": "words, which must hold {metadata}",
    "llm.base_url": "an address",
    "llm.model": "the server's name",
    "llm.api_key_env": "a variable of the environment",
    "llm.extra_body": "a server's own fields",
    "curation.keep_apart": "files, folders or data options, looked for before anything is asked",
}
"""Keys whose text is free, and why."""


@functools.cache
def frozen(*overrides: str) -> Curation:
    return config.freeze(curate.compose([*SERVER, *overrides]))


def made(*overrides: str) -> Curation:
    """A config as the command freezes it."""
    return copy.deepcopy(frozen(*overrides))


def abo(folder: Path, *listings: dict | str, pictures: tuple[str, ...] = ("a", "b")) -> Path:
    """A folder in ABO's layout with pictures of one colour each; texts begin with a byte-order mark."""
    (folder / "listings/metadata").mkdir(parents=True)
    (folder / "images/metadata").mkdir(parents=True)
    (folder / "images/small/00").mkdir(parents=True)
    index = ["image_id,height,width,path"]
    for at, name in enumerate(pictures):
        Image.new("RGB", (40 + at, 40), (50 * at, 90, 200)).save(folder / f"images/small/00/{name}.png")
        index.append(f"{name},400,400,00/{name}.png")
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in listings)
    (folder / "listings/metadata/listings_0.json.gz").write_bytes(gzip.compress(text.encode("utf-8-sig")))
    (folder / "images/metadata/images.csv.gz").write_bytes(gzip.compress("\n".join(index).encode("utf-8-sig")))
    return folder


def listing(item: str, picture: str | None, tag: str = "en_US", **more) -> dict:
    """A listing with five attributes of the twelve and some others."""
    said = {name: [{"language_tag": tag, "value": f"{name} {item}"}] for name in ("item_name", "color", "material", "style", "pattern")}
    return {"item_id": item, "domain_name": "amazon.com", "main_image_id": picture, "brand": said["style"], "country": "DE", **said, **more}


def test_every_key_has_bounds_words_a_path_or_a_reason() -> None:
    schema = {key for key, _ in keys.leaves(Curation)}
    for table in (NUMBERS, WORDS, PATHS, TEXTS):
        assert set(table) <= schema
    kinds = {key: hint for key, hint in keys.leaves(Curation)}
    booleans = {key for key, hint in kinds.items() if hint is bool}
    assert schema == {*NUMBERS, *WORDS, *PATHS, *TEXTS, *booleans}
    assert len(schema) == len(NUMBERS) + len(WORDS) + len(PATHS) + len(TEXTS) + len(booleans)
    index = keys.reference(ROOT / "conf/curation", None, config.SCHEMA)
    assert [key for key, found in index["keys"].items() if not any(found["comments"].values())] == [], "each has its comment in the YAML"
    assert set(index["groups"]["source"]) == set(sources.NAMES)


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_are_held_to_their_bounds(key: str) -> None:
    bound = NUMBERS[key]
    value = [bound.most * 2 + 1] * 3 if bound.length else bound.most * 2 + 1
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}=.*it must"):
        x = made()
        owner = bounds.value_of(x, key.rpartition(".")[0])
        setattr(owner, key.rpartition(".")[2], value)
        bounds.check(x, numbers=NUMBERS, words=WORDS)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("source=amazon", "Legal: abo, drawn, table"),
        ("limits.budget=1", "limits.budget=1.0: money is counted by prices.*limits.prices.input_per_million=PRICE"),
        ("llm.base_url=localhost:11434", "llm.base_url: it must begin with http"),
        ("llm.api_key_env=sk-1234", "llm.api_key_env: it takes the NAME"),
        ("llm.api_key_env=NOT_SET_HERE", "this variable is not set. Type export NOT_SET_HERE="),
        ("curation.split=[0,50,50]", r"curation.split=\[0.0, 50.0, 50.0\]: train, the first, must have a share"),
        ("preview=perhaps", "preview=perhaps: legal values are true, false, only"),
        ("prompt.text=hello", "prompt.text: it must hold {metadata}"),
        ("limits.budgt=1", "no such key.*Did you mean 'limits.budget'.*lab curate --help"),
        ("source=table", "source.path: no value is given"),
        ("curation.products=many", "it must be a whole number. Legal: 1 or more"),
        ("-m", "-m: lab curate takes KEY=VALUE"),
    ],
)
def test_a_wrong_key_is_a_sentence(given: str, sentence: str, monkeypatch, capsys, quiet_root_logger) -> None:
    monkeypatch.setattr(sys, "argv", ["lab curate", "source=drawn", *SERVER, given])
    assert curate.main() == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said, re.S) and "sk-1234" not in said, said


def test_the_manual_shows_every_key() -> None:
    text = manual.text(["--help"], curate.values, curate.CURATE)
    assert all(f"  {key}=" in text for key, _ in keys.leaves(Curation) if key.partition(".")[0] not in ("source", "prompt"))
    assert "Exit code 0" in text and "Sweeps" not in text and "abo, drawn, table" in text
    assert "limits.budget=null" in manual.text(["--help", "limits.budget"], curate.values, curate.CURATE)


def test_abo_is_filtered_by_language_tags_and_keeps_twelve_attributes(tmp_path) -> None:
    """A German tag on an American marketplace does not count, an English one on a German does; an entity is a character."""
    html = [{"language_tag": "en_GB", "value": "<p>Soft&nbsp;&amp; <b>warm</b></p>"}, {"language_tag": "es_ES", "value": "Suave"}]
    colour = [{"language_tag": "en_IN", "value": "Navy", "standardized_values": ["Blue", "Navy"]}]
    root = abo(
        tmp_path,
        listing("1", "a", product_description=html, color=colour, product_type=[{"value": "RUG"}], domain_name="amazon.de"),
        listing("2", "a", tag="de_DE"), listing("3", None), listing("4", "nowhere"), "[1", "7", listing("1", "b", domain_name="amazon.de"),
        listing("5", "b", product_type="CHAIR", style=[]),
    )  # fmt: skip
    found = sources.read(made(f"source.root={root}"))
    assert [product.name for product in found.products] == ["1@amazon.de", "5@amazon.com"]
    first = found.products[0]
    assert first.attributes["product_description"] == ("Soft & warm",) and first.attributes["color"] == ("Navy", "Blue")
    assert first.attributes["product_type"] == ("RUG",) and "brand" not in first.attributes and "color: Navy, Blue" in first.metadata.splitlines()
    assert found.products[1].attributes["product_type"] == ("CHAIR",) and len(found.products[1].attributes) == 5
    reasons = [(each.reason, each.listing) for each in found.refusals]
    assert reasons == [
        ("fewer than 5 attributes in English", "2@amazon.com"), ("no main picture", "3@amazon.com"), ("no main picture", "4@amazon.com"),
        ("not readable", "listings_0.json.gz:5"), ("not readable", "listings_0.json.gz:6"), ("listed a second time", "1@amazon.de"),
    ]  # fmt: skip
    assert "Amazon.com" in found.credit
    with pytest.raises(DataError, match="images/original is not there. Unpack"):
        sources.read(made(f"source.root={root}", "source.pictures=original"))
    path = root / "listings/metadata/listings_0.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="listings_0.json.gz: .*Download it again"):
        sources.read(made(f"source.root={root}"))


def test_a_table_is_a_catalogue(tmp_path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "c.csv").write_text("image,sku,colour,stuff\na.png,007,red,wool\nb.png,8,,\n../x.png,9,red,\n,10,red,\n", encoding="utf-8")
    found = sources.read(made("source=table", f"source.path={tmp_path}/c.csv", "source.product=sku"))
    assert [(one.product, dict(one.attributes)) for one in found.products] == [("007", {"colour": ("red",), "stuff": ("wool",)})]
    assert [one.reason for one in found.refusals] == ["fewer than 1 attributes", "no picture", "no picture"]
    with pytest.raises(ConfigError, match="source.text=color: .*it has image, sku, colour, stuff. Did you mean 'colour'"):
        sources.read(made("source=table", f"source.path={tmp_path}/c.csv", "source.text=[color]"))


def products(folder: Path, pictures: list[tuple[str, Image.Image]]) -> Catalogue:
    """A catalogue of (product, picture)."""
    made = []
    for at, (product, image) in enumerate(pictures):
        image.save(folder / f"{at}.png")
        made.append(Product(f"{product}/{at}", product, Picture(str(folder / f"{at}.png")), {"color": ("red",)}))
    return Catalogue("c", folder, made, [])


def noise(seed: int, size: int = 96) -> Image.Image:
    """A picture unlike any other."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def test_a_picture_is_used_once_and_products_that_share_one_stay_together(tmp_path) -> None:
    """Told apart by pixels, before anything is paid for; the choice of fewer is part of that of more; the split is by product."""
    shared = [("p0", noise(0)), ("q0", noise(0)), ("q0", noise(100)), ("r0", noise(100)), ("r0", noise(101))]
    catalogue = products(tmp_path, [*shared, *((f"p{at % 30}", noise(at + 1)) for at in range(60))])
    rule = made("source=drawn", f"cache_dir={tmp_path}/cache", "curation.split=[60,20,20]")
    choice = selection.choose(catalogue, rule, lambda *_: None)
    assert len(choice.chosen) + len(choice.refusals) == 65 and len({one.pixels for one in choice.chosen}) == len(choice.chosen)
    assert [one.reason for one in choice.refusals].count("picture used already") == 2
    splits: dict[str, set[str]] = {}
    for one in choice.chosen:
        splits.setdefault(one.product.product, set()).add(one.split)
    assert all(len(found) == 1 for found in splits.values()), "one product, one part"
    assert len(set.union(*(splits.get(name, set()) for name in ("p0", "q0", "r0")))) == 1, "joined over what they share"
    assert 10 <= sum(one.split == "test" for one in choice.chosen) <= 16
    fewer = selection.choose(catalogue, made("source=drawn", f"cache_dir={tmp_path}/cache", "curation.products=20"), lambda *_: None)
    assert [one.product.name for one in fewer.chosen] == [one.product.name for one in choice.chosen][: len(fewer.chosen)]


def shoe(colour: str) -> Image.Image:
    """A product on white."""
    image = Image.new("RGB", (400, 400), "white")
    pen = ImageDraw.Draw(image)
    pen.polygon([(60, 300), (80, 160), (160, 150), (220, 230), (340, 260), (350, 300)], fill=colour)
    pen.rectangle((60, 300, 350, 322), fill="black")
    return image.resize((200, 200), Image.Resampling.LANCZOS)


def test_near_duplicates_are_told_by_shape_and_colour() -> None:
    """Saved again, smaller or a little darker: near; another colour of the same thing on white: not."""

    def near(one: Image.Image, other: Image.Image, **rule) -> bool:
        both = [likeness.Likeness(np.array([bits], np.uint64), colour[None]) for bits, colour in map(likeness.fingerprint, (one, other))]
        return bool(list(likeness.pairs(*both, Selection(**rule))))

    for image in (shoe("navy"), noise(3, 200)):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=60)
        smaller, darker = image.resize((100, 100), Image.Resampling.LANCZOS), image.point(lambda value: int(value * 0.97))
        assert all(near(image, again) for again in (Image.open(buffer).convert("RGB"), smaller, darker))
    for other in ("black", "blue", "darkred", "gray", "purple"):
        assert not near(shoe("navy"), shoe(other)) and near(shoe("navy"), shoe(other), near_colour=400.0)
    assert not any(near(noise(one), noise(other)) for one in range(12) for other in range(one))


def test_near_duplicates_across_parts_and_of_a_set_kept_apart_are_refused(tmp_path) -> None:
    (tmp_path / "apart").mkdir()
    noise(5).save(tmp_path / "apart/same.bmp")
    noise(6).resize((48, 48)).save(tmp_path / "apart/like.png")
    pictures = [(f"p{at}", noise(at)) for at in range(30)] + [(f"n{at}", noise(at).resize((64, 64))) for at in range(10, 30)]
    catalogue = products(tmp_path, pictures)
    given = ("source=drawn", f"cache_dir={tmp_path}/cache", "curation.split=[50,25,25]", f"curation.keep_apart=[{tmp_path}/apart]")
    choice = selection.choose(catalogue, made(*given), lambda *_: None)
    reasons = {one.listing: one.reason for one in choice.refusals}
    assert reasons["p5/5"] == "picture of a set kept apart" and reasons["p6/6"] == "near-duplicate of a set kept apart"
    parts: dict[int, set[str]] = {}
    for one in choice.chosen:
        parts.setdefault(int(one.product.product[1:]), set()).add(one.split)
    assert all(len(found) == 1 for found in parts.values()) and "near-duplicate of another part" in reasons.values()
    off = selection.choose(catalogue, made(*given, "curation.near_duplicates=false"), lambda *_: None)
    assert [one.reason for one in off.refusals] == ["picture of a set kept apart"]
    with pytest.raises(ConfigError, match=r"curation.keep_apart=\[easy_vqaa\]: it is no file.*Did you mean 'easy_vqa'"):
        selection.choose(catalogue, made(*given[:3], "curation.keep_apart=[easy_vqaa]"), lambda *_: None)


def test_an_answer_is_kept_under_all_that_it_depends_on(tmp_path) -> None:
    """Server, model, prompt, metadata, the bytes of the picture, each parameter; not the password of an address, nor limits."""
    catalogue = products(tmp_path, [("p", noise(1))])
    product = catalogue.products[0]
    plain = made("source=drawn")

    def key(name: str = "to", value: object = "elsewhere") -> str:
        x = copy.deepcopy(plain)
        *section, last = name.split(".")
        setattr(bounds.value_of(x, section[0]) if section else x, last, value)
        return request.of(product, catalogue, x).key

    different = {
        "to": "x", "llm.base_url": "http://other/v1", "llm.model": "n", "prompt.text": "Ask! {metadata}", "llm.temperature": 0.5, "llm.seed": 1,
        "llm.top_k": 1, "llm.top_p": 0.9, "llm.max_output_tokens": 255, "llm.extra_body": {"user": "x"}, "llm.image_side": 64,
    }  # fmt: skip
    assert len({key(*each) for each in different.items()}) == len(different)
    for name, value in {"llm.workers": 2, "llm.timeout_s": 3.0, "llm.api_key_env": "OTHER"}.items():
        assert key(name, value) == key()
    assert key("llm.base_url", "http://a:b@h/v1") == key("llm.base_url", "http://c:d@h/v1")
    before = key()
    noise(2).save(tmp_path / "0.png")
    assert key() != before
    other = dataclasses.replace(product, attributes={"color": ("blue",)})
    assert request.of(other, catalogue, plain).key != key()


def test_the_bytes_sent_are_the_file_unless_it_must_be_made_smaller(tmp_path) -> None:
    catalogue = products(tmp_path, [("p", noise(1, 100)), ("q", noise(2, 900))])
    small, large = (request.of(product, catalogue, made("source=drawn")).pictures[0] for product in catalogue.products)
    assert small.data == (tmp_path / "0.png").read_bytes() and small.mime == "image/png"
    assert Image.open(io.BytesIO(large.data)).size == (768, 768) and large.mime == "image/jpeg"
    turned = Image.Exif()
    turned[274] = 6
    noise(3, 100).resize((100, 50)).save(tmp_path / "0.png", exif=turned)
    assert Image.open(io.BytesIO(request.of(catalogue.products[0], catalogue, made("source=drawn")).pictures[0].data)).size == (50, 100)


LINES = {
    "What colour is it?,red": ("What colour is it?", "red"),
    "What colour is it? , Red.": ("What colour is it?", "Red"),
    '"What colour is it, mainly?","red"': ("What colour is it, mainly?", "red"),
    "What colour is it, mainly?,red": ("What colour is it, mainly?", "red"),
    '1. "What colour is it?", "red"': ("What colour is it?", "red"),
    "2) What colour is it?; red": ("What colour is it?", "red"),
    "- **What colour is it?**, *red*": ("What colour is it?", "red"),
    "Q1: What colour is it? A: red": ("What colour is it?", "red"),
    "| What colour is it? | red |": ("What colour is it?", "red"),
    "“What colour is it?”,“red”": ("What colour is it?", "red"),
    '"What colour is it?,red': ("What colour is it?", "red"),
    "What colour is it,red": ("What colour is it", "red"),
    "How many legs does it have?,4": ("How many legs does it have?", "4"),
    "What size is it?,24 inch": ("What size is it?", "24 inch"),
}
REFUSED = {
    "Here are some questions, as you asked": parsing.NO_QUESTION,
    "I am sorry.": parsing.NO_QUESTION,
    '{"question": "What?", "answer": "x"}': parsing.NO_QUESTION,
    "What colour is it?": parsing.NO_QUESTION,
    "What colour is it?,": parsing.NO_ANSWER,
    "If it is red, what is it?": parsing.NO_QUESTION,
}
NOTHING = ("question,answer", '"Question", "Answer"', "```csv", "```", "", "|---|---|", "| question | answer |")


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_read(line: str) -> None:
    (pair,) = parsing.parse(f"question, answer\n{line}\n```", cut=False)
    assert (pair.question, pair.answer, pair.reason) == (*LINES[line], "")


def test_lines_are_refused_alone_and_counted() -> None:
    """One bad line costs no other, whatever quotes it opens; fences and doubled headers are nothing."""
    lines = [line for pair in zip(LINES, [*REFUSED] * 3, strict=False) for line in pair]
    pairs = parsing.parse("\n".join([*NOTHING, *lines, *NOTHING]), cut=False)
    assert [pair.reason for pair in pairs] == [REFUSED.get(line, "") for line in lines]
    assert [(pair.question, pair.answer) for pair in pairs if not pair.reason] == list(LINES.values())
    assert parsing.parse("\n".join(NOTHING), cut=False) == []


def test_of_an_answer_that_was_cut_the_last_line_is_dropped_however_whole_it_looks() -> None:
    pairs = parsing.parse("What colour is it?,red\nWhat material?, wo", cut=True)
    assert [(pair.answer, pair.reason) for pair in pairs] == [("red", ""), ("wo", parsing.CUT)]


def test_each_rule_refuses_is_counted_and_can_be_switched_off() -> None:
    lines = (
        "What colour is it?,red\nwhat colour is it,Red\nWhat is its shade?,dark red\nIs it red or blue?,blue\nWhat is it made of?,wool\n"
        "Is it red?,yes\nWhat is it called?,vases\nWhich room?,hall\nWhich room?,attic"
    )
    attributes = {"color": ("Red", "blue"), "item_name": ("A vase for hall and attic",)}
    judge = lambda **rules: quality.judge(parsing.parse(lines, False), attributes, Quality(**rules))  # noqa: E731
    reasons = {
        "one_word": [2], "repeated": [1, 7, 8], "answer_in_question": [3], "unsupported": [4],
    }  # fmt: skip
    judged = judge()
    for name, places in reasons.items():
        assert [at for at, one in enumerate(judged) if one.reason == quality.RULES[name]] == places, name
        off = judge(**{name: False})
        assert all(quality.RULES[name] in off[at].doubts for at in places) and not any(one.reason == quality.RULES[name] for one in off)
    assert [at for at, one in enumerate(judged) if not one.reason] == [0, 5, 6]


def test_yes_and_no_are_balanced_in_each_part() -> None:
    one = lambda answer: quality.Judged("Is it?", answer, "")  # noqa: E731
    judged = {f"p{at}": [one("yes"), one("Yes"), one("no" if at % 2 else "red")] for at in range(40)}
    splits = {name: "train" if int(name[1:]) < 20 else "test" for name in judged}
    for share, most in ((0.5, 10), (0.6, 15), (1.0, 40), (None, 40)):
        found = quality.balance(judged, splits, Quality(yes_no_share=share), 0)
        for split in ("train", "test"):
            kept = [each.answer.lower() for name, each_of in found.items() if splits[name] == split for each in each_of if not each.reason]
            assert (kept.count("yes"), kept.count("no"), kept.count("red")) == (most, 10, 10)


def test_the_preview_holds_what_it_says() -> None:
    """The 95 % interval of the rest covers it about so often; without money it says how to give prices."""
    draw, inside = np.random.default_rng(0), 0
    for _ in range(400):
        values = draw.gamma(2.0, 50.0, 120)
        found = preview.Estimate.of_sum(values[:20].tolist(), 100)
        inside += found.low <= values[20:].sum() <= found.high
    assert 0.9 <= inside / 400 <= 0.99
    told = preview.lines([Usage(100, 10), Usage(120, 14)], [1, 2], 8, 0.0, made("source=drawn"))
    assert "calls" in told[1] and "12 (" in told[1] and "give limits.prices.input_per_million" in told[4]
    priced = made("source=drawn", "limits.budget=0.001", "limits.prices.input_per_million=1", "limits.prices.output_per_million=2")
    assert "0.0011" in preview.lines([Usage(100, 10), Usage(120, 14)], [1, 1], 8, 0.0, priced)[4]


class Clock:
    """Time that passes when a meter waits."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def test_a_minute_a_day_and_a_restart(tmp_path) -> None:
    """No window of a minute has more requests or tokens than its limit; those before a restart count; a day's limit does not wait."""
    store, clock, stop = Store(tmp_path / "a.sqlite"), Clock(), threading.Event()
    meter = limits.Meter(made("source=drawn", "limits.requests_per_minute=5", "limits.requests_per_day=13").service, store, stop, clock)
    meter.changed.wait = lambda seconds: setattr(clock, "now", clock.now + seconds)  # type: ignore[method-assign]
    for _ in range(13):
        meter.begin(Usage(10, 10))
    began = [moment for moment, _ in meter.recent]
    assert all(late - early > limits.MINUTE_S for early, late in zip(began, began[5:], strict=False)) and clock.now < 1e6 + 200
    with pytest.raises(limits.LimitReached, match="limits.requests_per_day=13: 13 requests were made within 24 hours"):
        meter.begin(Usage(10, 10))
    clock.now += limits.DAY_S
    meter.begin(Usage(10, 10))
    store.close()


def test_an_attempt_without_an_end_counts_at_the_most_it_may_cost(tmp_path) -> None:
    x = made("source=drawn", "limits.budget=0.0005", "limits.prices.input_per_million=1", "limits.prices.output_per_million=1")
    store = Store(tmp_path / "a.sqlite")
    with pytest.raises(BusyError, match="another command is asking a model there"):
        Store(tmp_path / "a.sqlite")
    catalogue = products(tmp_path, [("p", noise(1))])
    store.begin(request.of(catalogue.products[0], catalogue, x), Usage(300, 100), 0.0004)
    store.close()  # as a kill would
    again = Store(tmp_path / "a.sqlite")
    with pytest.raises(limits.LimitReached, match="limits.budget=0.0005: 0.0004 is spent, and the next request may cost 0.0002"):
        limits.Meter(x.service, again, threading.Event()).begin(Usage(100, 100))
    again.close()


def test_retry_after_is_honoured_in_both_forms_and_above_two_minutes() -> None:
    assert retry_after("150") == 150.0 and retry_after(None) is None and retry_after("soon") is None
    assert 595 < (retry_after(email.utils.formatdate(time.time() + 600, usegmt=True)) or 0) <= 600
    assert retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0

    class Outcome:
        def __init__(self, error: Exception) -> None:
            self.exception = lambda: error

    class Retry:
        attempt_number = 9

        def __init__(self, error: Exception) -> None:
            self.outcome = Outcome(error)

    waits = [Waits()(Retry(Passing("429", "", wait_s=150.0))) for _ in range(20)]  # type: ignore[arg-type]
    assert min(waits) >= 150 and max(waits) <= 151 and len(set(waits)) > 10, "and not all workers at once"
    drawn = [Waits()(Retry(Passing("500", ""))) for _ in range(50)]  # type: ignore[arg-type]
    assert 0 <= min(drawn) < 20 and 40 < max(drawn) <= 60


def said(**more) -> dict:
    """A completion."""
    choice = {"message": {"content": "What?,x"} | more.pop("message", {}), "finish_reason": "stop"} | more
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


RESPONSES = {
    "answered": (200, said(), State.answered),
    "cut": (200, said(finish_reason="length"), State.cut),
    "all spent on reasoning": (200, said(finish_reason="length", message={"content": None}), State.empty),
    "empty": (200, said(message={"content": " \n"}), State.empty),
    "filtered": (200, said(finish_reason="content_filter", message={"content": ""}), State.filtered),
    "refusal": (200, said(message={"content": None, "refusal": "No."}), State.filtered),
    "blocked": (400, {"error": {"message": "no", "code": "content_policy_violation"}}, State.filtered),
    "a bad request": (400, {"error": {"message": "odd picture"}}, State.failed),
    "rate": (429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, Passing),
    "server": (503, {}, Passing),
    "HTML": (200, "<html>", Passing),
    "another JSON": (200, {"choices": []}, Passing),
    "a list": (200, [1], Passing),
    "quota": (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, limits.LimitReached),
    "quota of Gemini": (429, [{"error": {"message": "spent", "details": [{"quotaId": "GenerateRequestsPerDayPerModel"}]}}], limits.LimitReached),
    "payment": (402, {"error": "pay"}, limits.LimitReached),
    "key": (401, {"error": {"message": "bad key"}}, ConfigError),
    "model": (404, {"error": {"message": "no such model"}}, ConfigError),
    "elsewhere": (302, {}, ConfigError),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_what_a_response_means(name: str) -> None:
    """A failure is never an empty answer; what passes is tried again, a quota or a key ends the run with the provider's words."""
    status, body, wanted = RESPONSES[name]
    text = body if isinstance(body, str) else json.dumps(body)
    act = lambda: Client(made("source=drawn").service).reply(httpx.Response(status, text=text), Usage(50, 60))  # noqa: E731
    if isinstance(wanted, State):
        reply = act()
        assert reply.answer.state is wanted and reply.answer.body == text
        assert reply.used == (Usage(7, 3) if status == 200 else Usage(0, 0))
    else:
        with pytest.raises(wanted) as caught:
            act()
        message = body["error"].get("message", "") if isinstance(body, dict) and isinstance(body.get("error"), dict) else ""
        assert message in str(caught.value)
    assert client.usage_of({}, Usage(50, 60)) == Usage(50, 60), "a server that counts nothing has used what was reserved"


def test_decisions_of_a_review_are_followed(tmp_path) -> None:
    rows = [Entry(f"id{at}", "i.png", "What?", "x", "train", "p", "p@a", "g", "other", "m", ()) for at in range(4)]
    path = tmp_path / "decisions.json"
    decisions = {"id0": {"decision": "accept"}, "id1": {"decision": "drop"}, "id2": {"decision": "mend", "question": "Which?", "answer": "y"}}
    path.write_text(json.dumps({"decisions": decisions | {"gone": {"decision": "accept"}}}), encoding="utf-8")
    kept, dropped, notes = review.decided(rows, made("source=drawn", f"review.decisions={path}"))
    assert [(row.id, row.question, row.answer, row.reviewed) for row in kept] == [
        ("id0", "What?", "x", True), ("id2", "Which?", "y", True), ("id3", "What?", "x", False),
    ]  # fmt: skip
    assert [one.reason for one in dropped] == ["dropped in review"] and "1 are about questions that are not in the manifest" in notes[1]
    for content, sentence in (("{}", "no file that review.html saved"), ('{"decisions": {"id0": {"decision": "mend"}}}', "mend with a question")):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=sentence):
            review.decided(rows, made("source=drawn", f"review.decisions={path}"))
