"""Prompts are pure strings: placeholders are checked, orders are recorded, the hash tells templates apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.answers.choice import spellings
from lab.data import named
from lab.errors import ConfigError
from lab.prompt import check, describe, image_order, parse_template, to_chat
from lab.records import Choice, Picture, Sample, Text, Turn


def sample(name: str = "a", images: int = 2) -> Sample:
    pictures = tuple(Picture(f"{name}{i}") for i in range(images))
    return Sample(name, "There is a {curly} cat.", pictures, Choice.truth(True), "set", "group")


def texts(chat) -> list[str]:
    return [part.get("text", "<image>") for part in chat.messages[-1]["content"]]


def test_images_come_first_each_with_the_separator(composer) -> None:
    chat = to_chat(sample(), composer().prompt)
    assert texts(chat)[:4] == ["<image>", "\n", "<image>", "\n"]
    assert texts(chat)[4] == "Statement: There is a {curly} cat.\nAnswer 'True' or 'False'."
    assert chat.answer == "True"


def test_qa_has_its_own_words(composer) -> None:
    assert to_chat(sample(), composer("prompt=qa").prompt).answer == "Yes"


@pytest.mark.parametrize("template", ["no placeholder", "{statement} {statement}", "{statement} {extra}", "{statement", "{}"])
def test_a_wrong_template_is_refused(composer, template) -> None:
    dial = composer().prompt
    dial.template = template
    with pytest.raises(ConfigError, match="prompt.template"):
        parse_template(dial)


def test_a_template_file_is_used(composer, tmp_path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Is it so? {statement}\n")
    dial = composer().prompt
    dial.template_file = str(path)
    assert parse_template(dial)[0] == "Is it so? {statement}"
    dial.template_file = str(tmp_path / "absent.txt")
    with pytest.raises(ConfigError, match="absent.txt"):
        parse_template(dial)


def test_data_that_ask_questions_choose_their_prompt(composer) -> None:
    """Unless another is named; what a prompt cannot frame is refused."""
    x = composer("data=easy_vqa", "prompt.version=2")
    chat = to_chat(replace(sample(), text="What {colour}?", answer=Text(("grey", "red"), (3, 7))), x.prompt)
    assert texts(chat)[-1] == "What {colour}?\nAnswer with a word or a short phrase." and chat.answer == "red"
    assert (x.prompt.name, x.prompt.version, composer("prompt=qa", "data=easy_vqa").prompt.name) == ("question", 2, "qa")
    for name, prompt, legal in (("easy_vqa", "qa", "prompt=question"), ("pairs", "question", "prompt=declarative")):
        with pytest.raises(ConfigError, match=f"data={name} has .*{legal}"):
            check(composer(f"data={name}", f"prompt={prompt}").prompt, name, named(name).asks or "")


def test_a_conversation_stands_as_it_is(composer) -> None:
    """In no frame, its images in their places; a system message of the prompt only where it has none of its own."""
    turns = Turn("user", ("Is ", 1, " left of ", 0, "?")), Turn("assistant", ("Yes.",), learned=True), Turn("user", ("Why {so}?",))
    talk = replace(sample(), text="Why {so}?", answer=Text(("It is.",)), turns=turns)
    dial = composer("prompt=conversation", "prompt.system=Be brief.").prompt
    chat = to_chat(talk, dial)
    words = [[part.get("text", "<image>") for part in message["content"]] for message in chat.messages]
    assert words == [["Be brief."], ["Is ", "<image>", " left of ", "<image>", "?"], ["Yes."], ["Why {so}?"]]
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user"]
    assert (chat.answer, chat.image_order, chat.learned) == ("It is.", (1, 0), (2,))
    own = to_chat(replace(talk, turns=(Turn("system", ("Rhyme.",)), *turns)), dial)
    assert [message["role"] for message in own.messages] == ["system", "user", "assistant", "user"]
    assert own.messages[0]["content"][0]["text"] == "Rhyme." and own.learned == (2,)
    assert image_order(talk, composer("prompt=conversation", "prompt.image_order=swap").prompt, 0) == (0, 1)
    assert texts(to_chat(sample(), dial))[-1] == sample().text, "a lone question is in no frame either"
    dial.template = "{conversation} Please."
    with pytest.raises(ConfigError, match="stands as it is"):
        parse_template(dial)


def test_other_options_are_their_own_words(composer) -> None:
    yes_or_no = replace(sample(), answer=Choice(1, ("yes", "no")))
    assert to_chat(yes_or_no, composer("data=easy_vqa").prompt).answer == "no"


def test_orders(composer) -> None:
    assert image_order(sample(), composer("prompt.image_order=swap").prompt, 0) == (1, 0)
    dial = composer("prompt.image_order=random").prompt
    orders = [image_order(sample(f"s{i}"), dial, 0) for i in range(200)]
    assert orders == [image_order(sample(f"s{i}"), dial, 0) for i in range(200)], "a function of seed and id alone"
    assert 60 < orders.count((1, 0)) < 140
    assert orders != [image_order(sample(f"s{i}"), dial, 1) for i in range(200)]


def test_the_hash_tells_prompts_apart(composer) -> None:
    base = describe(composer().prompt)["hash"]
    changes = ["prompt.system=hi", "prompt.separator=' '", "prompt.numbered=true", "prompt.answer_true=Yes", "prompt=qa"]
    assert len({base, *(describe(composer(change).prompt)["hash"] for change in changes)}) == 6


def test_spellings() -> None:
    assert spellings("True") == ("True", "true", "TRUE", " True", " true", " TRUE")
