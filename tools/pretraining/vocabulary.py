"""The text that the tiny tokenizer is fitted to: our own grammars, the prompts, and everyday English words.

Nothing here is copied from a data set. The word list is written by hand, with the words of spatial reasoning
in front, so that a sentence about towers and boxes does not fall apart into letters.
"""

from __future__ import annotations

import numpy as np

from lab.data.scenes import COLOURS, PALETTES, PLURALS, SHAPES
from lab.data.statements import FAMILIES, propose

DECLARATIVE = "Statement: {statement}\nAnswer 'True' or 'False'."
QUESTION = "{statement}\nIs this true? Answer 'Yes' or 'No'."
CAPTION = "Describe the {side} image."
SYSTEM = "You are a helpful assistant."

ANSWERS = tuple(
    space + case for word in ("true", "false", "yes", "no") for case in (word.capitalize(), word) for space in ("", " ")
)

SPATIAL = """
tower towers box boxes block blocks item items object objects touching touch wall edge corner base top bottom
side sides exactly least most only both neither either each every none all same different number more less fewer
than between above below under over next behind front inside outside near far close closely left right middle
center centre row column grid cell first second third last one two three four five six seven eight nine ten zero
black white gray grey pink brown red blue green yellow purple orange colour color colours colors shape shapes
circle circles square squares triangle triangles diamond diamonds star stars small medium big large larger
smaller size position line image images picture pictures photo contain contains containing there is are was were
be been has have had show shows shown does do not without with and or but if then
"""

EVERYDAY = """
a about after again against ago also always am an animal another answer any anyone anything are around as ask
assistant at away back bad bag ball bear because bed before best better bird blanket boat body book bottle bowl
boy bread bus bird buy by call came can car cat chair change child city clean clear clock cold come could cup cut
dark day deep desk did dish dog done door down draw drink drive dry each early eat egg empty end enough even ever
eye face fact fall false family fast few field find fire fish floor flower fly follow food foot for found from
full game gave get girl give glass go good got grass great ground group grow had hair half hand happy hard he
head hear heavy help helpful her here high hill him his hold home horse hot hour house how i idea in into it its
job just keep kind know land late laugh leaf learn leave let letter life light like little live long look lot low
made make man many may me mean men might mind money month moon morning mother mouth move much must my name never
new news night no nose nothing now of off old on once open other our out own page paper part people person place
plane plant plate play point question quick quiet rain read ready real rest ride river road rock roof room round
run said saw say school sea seat see seem seen set she ship shirt shop short should sign sit sky sleep slow snow
so some something soon sound stand start statement stay step still stone stop story street strong such sun sure
swim system table take talk tall tell that the their them these they thing things think this those thought time
to today together too town toy train tree true try turn until up us use user very wait walk want warm watch water
way we wear week well went what wheel when where which while who whole why will wind window winter wish woman
wood word words work world would write wrong yard year yes yet you young your describe facing parked sitting
standing holding wearing looking open closed pair single visible least
"""


def sentences(num_per_family: int = 400) -> list[str]:
    """Statements of all families: only their spelling is learned here, never their truth."""
    rng = np.random.default_rng([0x70C, 0])
    return [propose(rng, family, PALETTES["hard"]).text for family in FAMILIES for _ in range(num_per_family)]


def corpus() -> list[str]:
    """All text that the tokenizer sees. Repetition is weight: it decides which words become one token."""
    words = (SPATIAL + EVERYDAY).split()
    spelled = [f" {word}" for word in words] * 6 + [f" {word}" for word in SPATIAL.split()] * 30
    openings = ("The", "There", "Both", "Only", "Exactly", "Neither", "At", "One", "Each", "Every")
    spelled += [space + word for word in openings for space in ("", " ")] * 200
    prompts = [form.format(statement="", side="left") for form in (DECLARATIVE, QUESTION, CAPTION)] + [SYSTEM]
    objects = [f" {word}" for word in (*COLOURS, *SHAPES, *PLURALS.values(), "object", "objects", "nothing")]
    roles = ["system\n", "user\n", "assistant\n"]
    return sentences() + spelled + prompts * 400 + objects * 200 + list(ANSWERS) * 400 + roles * 200
