"""python -m plain_logits FOLDER INPUTS LOGITS: logits of a checkpoint by Transformers alone; run in a process of its own."""

import sys

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

if __name__ == "__main__":
    folder, inputs, logits = sys.argv[1:]
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        torch.save(model(**torch.load(inputs)).logits, logits)
