"""Rules of benchmarks: what a stored reply is worth, of itself and its references alone. No model, no chance, no torch.

    RULES["anls"]("ab", ["abcd"], profile="ours")     ->  Marked(score=0.5, read_as="ab")

`rule(prediction, references, profile=..., asked=...)`; `profile` is one of `PROFILES`. `read_as=None`: nothing could be read of the reply,
which is wrong under every profile and a rate of its own: where lmms-eval draws an option by lot, none is answered here.
"""

from __future__ import annotations

from lab.statistics.marking import letters, numbers, words
from lab.statistics.marking.mark import PROFILES, UNPARSED, Asked, Mark, Marked, Rule

__all__ = ["PROFILES", "RULES", "UNPARSED", "Asked", "Mark", "Marked", "Rule"]

LETTER = (
    "the option whose letter, or whose words, the reply states last and whole; several letters of which none is stated as the answer are "
    "unparsed"
)
MATHVISTA_EXTRACTS = "asks a language model to extract the answer of a reply that is not one alone; here such a reply is unparsed"

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("exact_answer", 1, words.exact_answer, "equality, both sides by EvalAI's normaliser (case, punctuation, articles, number words)"),
        Rule("vqa_accuracy", 1, words.vqa_accuracy, "min(votes / 3, 1), the mean over leaving each annotator out, both sides by EvalAI's normaliser"),
        Rule("anls", 1, words.anls, "normalised Levenshtein similarity with the best reference, 0 below a half"),
        Rule("relaxed_accuracy", 1, words.relaxed_accuracy, "a number within 5 % of the reference, else equality without case"),
        Rule("contained", 1, words.contained, "a reference stands in the reply; formulas without spaces and with case"),
        Rule("yes_no", 1, words.yes_no, "yes or no as a whole word of the reply, not both"),
        Rule("letter", 1, letters.by_letter(letters.first_option), LETTER),
        Rule("letter_scienceqa", 1, letters.by_letter(letters.pointed), LETTER),
        Rule("letter_ai2d", 1, letters.by_letter(letters.pointed_or_marked), LETTER),
        Rule("letter_seed", 1, letters.by_letter(letters.initial), LETTER),
        Rule(
            "mmmu", 1, numbers.mmmu, f"of a multiple choice {LETTER}; an open question by MMMU's official parser",
            {
                "lmms": "lmms-eval draws an option by lot where it reads none; such replies are wrong here",
                "vlmevalkit": "VLMEvalKit marks an open question as a choice between the gold (A) and other answers (B), so that a reply "
                "of just A is right",
            },
        ),
        Rule(
            "mathvista", 1, numbers.mathvista, "an option, a whole number, a number to the question's places, or a list, read without a model",
            {"lmms": f"lmms-eval {MATHVISTA_EXTRACTS}", "vlmevalkit": f"VLMEvalKit {MATHVISTA_EXTRACTS}, and marks every list wrong"},
        ),
        Rule("realworldqa", 1, numbers.realworldqa, f"{LETTER}; where the gold is no letter, equality by EvalAI's normaliser"),
    )
}  # fmt: skip
