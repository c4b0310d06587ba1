"""What a page says is learned of a sample is what the training's own batch labels, with its pictures as large as they are read."""

from __future__ import annotations

import re

import checkpoints
import pytest
from conversations import conversation, said_by
from test_conversations import FAMILIES, encoder_of

from lab import model
from lab.config import Experiment
from lab.data import check
from lab.data.splits import Records
from lab.model import Vlm
from lab.run import transcripts
from lab.training.examples import Examples

SAID = ("Say yes", "yes", "What is it? <b>Tell</b> me & mine.", "请拿起红色方块。")


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return model.load(checkpoints.save(request.param, tmp_path_factory.mktemp("transcripts") / request.param))


def test_a_transcript_is_the_row_with_what_is_learned_marked(vlm: Vlm) -> None:
    """All that is said by either side, in order; each picture once, as large as it is read; nothing else is marked."""
    encoder, end = encoder_of(vlm), "</s>" if vlm.family.name == "llava" else "<|im_end|>"
    for seed in range(12):
        one = conversation(seed, said=SAID)
        found = transcripts.transcript(encoder, one)
        learned = [stretch.text.strip() for stretch in found.stretches if stretch.face == "learned"]
        joined = "".join(learned)
        assert joined.replace(" ", "") == "".join(said + end for said in said_by(one)).replace(" ", "")
        pictures = [stretch for stretch in found.stretches if stretch.picture is not None]
        assert len(pictures) == len(one.images)
        for number, stretch in enumerate(pictures, start=1):
            assert re.fullmatch(rf"\[image {number}: \d+ x \d+ px, \d+ tokens\]", stretch.text)
        rest = "".join(stretch.text for stretch in found.stretches if stretch.picture is None)
        assert "image_pad" not in rest and "<image>" not in rest
        for turn in one.turns:
            assert all(part.strip() in rest for part in turn.parts if isinstance(part, str))


def test_the_page_holds_three_samples_and_what_they_say_is_never_markup(vlm: Vlm, tmp_path) -> None:
    encoder = encoder_of(vlm)
    examples = Examples(Records([conversation(seed, said=SAID) for seed in range(5)]), encoder)
    transcripts.write(examples, tmp_path / transcripts.FILE)
    text = (tmp_path / transcripts.FILE).read_text()
    assert text.count('class="transcript"') == 3 and "<b>Tell" not in text
    assert text.count('<mark class="learned">') >= 3 and "&lt;b&gt;Tell" in text


def test_a_command_tells_them_in_text_with_the_page_beside(composer, tiny_folder, tmp_path) -> None:
    x: Experiment = composer(f"model.path={tiny_folder}", "prompt=conversation")
    path = tmp_path / "shown.html"
    samples = [conversation(seed, 2, 3) for seed in range(4)]
    told = transcripts.show(x, samples, 2, path, colour=False)
    assert path.is_file() and str(path) in told
    assert told.count("⟦") == sum(len(said_by(one)) for one in samples[:2]) and f"⟦{samples[0].answer.text}<|im_end|>⟧" in told
    assert "\x1b[32m" in transcripts.show(x, samples, 1, path, colour=True)


def test_the_check_of_data_shows_what_a_model_will_see(tmp_path, capsys) -> None:
    few = [f"data.num_{part}={number}" for part, number in (("train", 8), ("minival", 2), ("dev", 2))]
    assert check.act(["data=drawn_conversations", *few, "model=tiny"], tmp_path, None, 2) == 0
    out = capsys.readouterr().out
    assert out.count("<|im_start|>user") >= 2 and out.count("<|im_end|>⟧") == out.count("<|im_start|>assistant")
    assert (tmp_path / "shown.html").read_text().count('class="transcript"') == 2
