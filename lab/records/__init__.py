"""The records that cross the borders between the laboratory's rooms.

    Sample      data -> prompt          one question with its images and its answer
    Chat        prompt -> model         the messages for the checkpoint's own chat template
    Batch       data -> training        prompts, images and what is to be predicted
    Prediction  evaluation -> report    what the model said of one sample; every metric is a function of it
"""

from lab.records.answers import TRUE_FALSE, Answer, AnswerSpace, Choice, Region, Regions, Text
from lab.records.batches import Batch, ExampleSize, Media, Rows, Target, Tokens, on_tensors
from lab.records.media import Clip, Footage, Medium, Picture, Sampling
from lab.records.predictions import Located, Prediction, Replied, Said, Scored, Written
from lab.records.samples import Chat, Sample, Turn
from lab.records.splits import Part, Skipped, Source, Split, Splits

__all__ = [
    "Answer", "AnswerSpace", "Batch", "Chat", "Choice", "Clip", "ExampleSize", "Footage", "Located", "Media", "Medium", "Part",
    "Picture", "Prediction", "Region", "Regions", "Replied", "Rows", "Said", "Sample", "Sampling", "Scored", "Skipped", "Source",
    "Split", "Splits", "TRUE_FALSE", "Target", "Text", "Tokens", "Turn", "Written", "on_tensors",
]  # fmt: skip
