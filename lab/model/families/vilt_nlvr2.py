"""ViLT that compares two pictures (Kim et al. 2021, 2102.03334): dandelin/vilt-b32-finetuned-nlvr2; module names of transformers 5.

It says whether a statement is true of a left and a right picture, as one of the two labels of its config, and writes nothing.
"""

from dataclasses import replace

from lab.model.families import vilt_vqa
from lab.model.vilt import ViltPair

FAMILY = replace(
    vilt_vqa.FAMILY,
    name="vilt_nlvr2",
    classes=("ViltForImagesAndTextClassification",),
    architecture=ViltPair(),
    one_of=True,
)
