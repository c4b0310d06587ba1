"""Every benchmark that is a data option: one entry here and one `conf/data/<name>.yaml` each. Light.

Names of columns are those of the hub's Parquet; of several, separated by `|`, the first that is there. The TSV of VLMEvalKit has one form for
all sets (`lab.data.benchmarks.questions`). A dot reaches into a struct.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.records import Choice, Text

WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Spec:
    """A benchmark.

    hub, licence: where it is published, and the licence of its data. rule: of `lab.statistics.marking`. headline: what its main number is
    called. splits: questions of each, officially, the first is read by default; those without answers are not here. folders: of a hub snapshot,
    by `data.subset`, the first by default. tsv: VLMEvalKit's names of its file. kind: of its answers, where `data.kind` says nothing.
    prompt: what follows the question. answer: names the right option by `gold` (letter, index, text), where there are options.
    images: columns of pictures; joined: the folder whose rows have them by an id, which `cluster` holds. cluster: what the picture is known
    by; without it, by its bytes. categories: a row for each of their values in a report. macro: the category whose mean of means is a score.
    interleaved: pictures stand where `<image k>` is.
    """

    title: str
    hub: str
    licence: str
    rule: str
    splits: Mapping[str, int]
    tsv: tuple[str, ...]
    headline: str = "accuracy"
    folders: Mapping[str, str] = field(default_factory=dict)
    kind: str = Choice.kind
    prompt: str = LETTER
    id: str = ""
    question: str = "question"
    hint: str = ""
    answer: str = "answer"
    options: str = ""
    gold: str = ""
    images: tuple[str, ...] = ("image",)
    joined: str = ""
    cluster: str = ""
    categories: Mapping[str, str] = field(default_factory=dict)
    macro: str = ""
    answer_type: str = ""
    precision: str = ""
    interleaved: bool = False


SPECS: dict[str, Spec] = {
    "gqa": Spec(
        "GQA (Hudson and Manning 2019)", "lmms-lab/GQA", "CC-BY-4.0", "exact_answer", {"testdev": 12578}, ("GQA_TestDev_Balanced",),
        folders={"testdev_balanced": "testdev_balanced_instructions"}, kind=Text.kind, prompt=WORD, id="id", joined="testdev_balanced_images",
        cluster="imageId", categories={"structural": "types.structural"},
    ),
    "scienceqa": Spec(
        "ScienceQA (Lu et al. 2022)", "lmms-lab/ScienceQA", "CC-BY-NC-SA-4.0", "letter_scienceqa", {"test": 2017, "validation": 2097},
        ("ScienceQA_TEST",), folders={"IMG": "ScienceQA-IMG", "FULL": "ScienceQA-FULL"}, hint="hint", options="choices", gold="index",
        categories={"subject": "subject"},
    ),
    "textvqa": Spec(
        "TextVQA (Singh et al. 2019)", "lmms-lab/textvqa", "CC-BY-4.0", "vqa_accuracy", {"validation": 5000, "train": 34602}, ("TextVQA_VAL",),
        headline="vqa_accuracy", kind=Text.kind, prompt=WORD, id="question_id", answer="answers", cluster="image_id",
    ),
    "mmmu": Spec(
        "MMMU (Yue et al. 2024)", "lmms-lab/MMMU", "Apache-2.0", "mmmu", {"validation": 900, "dev": 150}, ("MMMU_DEV_VAL",), kind=Text.kind,
        id="id", options="options", gold="letter", images=tuple(f"image_{k}" for k in range(1, 8)), interleaved=True,
        categories={"type": "question_type"},
    ),
    "seed": Spec(
        "SEED-Bench (Li et al. 2023)", "lmms-lab/SEED-Bench", "CC-BY-NC-4.0", "letter_seed", {"test": 17990}, ("SEEDBench_IMG",),
        id="question_id", options="choice_a choice_b choice_c choice_d", gold="letter", cluster="data_id",
        categories={"type": "question_type_id"},
    ),
    "mathvista": Spec(
        "MathVista (Lu et al. 2024)", "AI4Math/MathVista", "CC-BY-SA-4.0", "mathvista", {"testmini": 1000}, ("MathVista_MINI",), kind=Text.kind,
        prompt="", id="pid", question="query|question", options="choices", gold="text", images=("decoded_image",), cluster="image",
        categories={"task": "metadata.task", "type": "question_type"}, answer_type="answer_type", precision="precision",
    ),
    "ai2d": Spec(
        "AI2D (Kembhavi et al. 2016)", "lmms-lab/ai2d", "CC-BY-SA-4.0", "letter_ai2d", {"test": 3088}, ("AI2D_TEST", "AI2D_TEST_NO_MASK"),
        options="options", gold="index",
    ),
    "chartqa": Spec(
        "ChartQA (Masry et al. 2022)", "lmms-lab/ChartQA", "GPL-3.0", "relaxed_accuracy", {"test": 2500}, ("ChartQA_TEST",),
        headline="relaxed_accuracy", kind=Text.kind, prompt=WORD, question="question|query", answer="answer|label",
        categories={"type": "type|human_or_machine"},
    ),
    "docvqa": Spec(
        "DocVQA (Mathew et al. 2021)", "lmms-lab/DocVQA", "see rrc.cvc.uab.es", "anls", {"validation": 5349}, ("DocVQA_VAL",), headline="anls",
        folders={"DocVQA": "DocVQA"}, kind=Text.kind, prompt=WORD, id="questionId", answer="answers",
        cluster="ucsf_document_id ucsf_document_page_no", categories={"type": "question_types"},
    ),
    "mmstar": Spec(
        "MMStar (Chen et al. 2024)", "Lin-Chen/MMStar", "none stated", "letter", {"val": 1500}, ("MMStar",), id="index", gold="letter",
        categories={"category": "category", "l2_category": "l2_category"}, macro="l2_category",
    ),
    "realworldqa": Spec(
        "RealWorldQA (xAI 2024)", "xai-org/RealworldQA", "CC-BY-ND-4.0", "realworldqa", {"test": 765}, ("RealWorldQA",), kind=Text.kind, prompt="",
        gold="letter",
    ),
    "ocrbench": Spec(
        "OCRBench (Liu et al. 2024)", "echo840/OCRBench", "none stated", "contained", {"test": 1000}, ("OCRBench",), kind=Text.kind, prompt="",
        categories={"type": "question_type"}, answer_type="dataset",
    ),
    "pope": Spec(
        "POPE (Li et al. 2023)", "lmms-lab/POPE", "MIT", "yes_no", {"test": 9000, "adversarial": 3000, "popular": 3000, "random": 3000}, ("POPE",),
        folders={"all": "data", "Full": "Full"}, kind=Text.kind, prompt=WORD, id="id", cluster="image_source", categories={"track": "category"},
    ),
}  # fmt: skip

OFFICIAL_SUBSETS = {("scienceqa", "FULL", "test"): 4241, ("seed", "SEEDBench_IMG", "test"): 14233}
"""Questions of a subset, or of a TSV by its name, where they are others than the split's."""

ALIASES = {"science_qa": "scienceqa"}
"""Other spellings of a name."""
