"""Answers of an exported folder by Transformers and PEFT alone: python plain_answers.py JOB.json. Imports nothing of this laboratory.

JOB.json holds what `lab.run.exporting` writes; a JSON list of answers goes to its `to`, one a question.
"""

import json
import sys
from typing import Any

import numpy
import peft
import torch
import transformers
from transformers.image_utils import load_image
from transformers.video_utils import VideoMetadata


def load(job: dict[str, Any]) -> Any:
    """The folder's model; an adapter's over its base, which is quantised as it was trained."""
    kind, options = getattr(transformers, job["class"]), {"dtype": job["dtype"], "attn_implementation": job["attention"]}
    if job["base"] is None:
        return kind.from_pretrained(job["folder"], **options).eval().to(job["device"])
    if job["quantisation"] is not None:
        options["quantization_config"] = transformers.BitsAndBytesConfig(**job["quantisation"])
    model = kind.from_pretrained(job["base"], revision=job["revision"], **options)
    model = model if job["quantisation"] is not None else model.to(job["device"])
    return peft.PeftModel.from_pretrained(model, job["folder"]).eval()


def inputs(processor: Any, question: dict[str, Any], job: dict[str, Any]) -> Any:
    """By the folder's processor, and by its chat template where the question is messages."""
    text = question["text"]
    if question["messages"] is not None:
        text = processor.apply_chat_template(question["messages"], add_generation_prompt=True, tokenize=False, **job["template"])
    images = [load_image(path) for path in question["images"]] or None
    made = processor(text=[text], images=images, return_tensors="pt", **clips(question["videos"]), **job["call"])
    if question["asked"] is not None:  # of a Q-Former, which reads the bare question
        read = processor.qformer_tokenizer([question["asked"]], return_tensors="pt")
        made |= {f"qformer_{name}": read[name] for name in ("input_ids", "attention_mask")}
    return {name: value.to(job["device"]) if isinstance(value, torch.Tensor) else value for name, value in made.items()}


def clips(videos: list[dict[str, Any]]) -> dict[str, Any]:
    """Frames that were chosen already, with their times, as a processor takes them."""
    if not videos:
        return {}
    frames = [torch.from_numpy(numpy.load(video["frames"])) for video in videos]
    options = {"do_sample_frames": False, "size": videos[0]["size"], "input_data_format": "channels_first"}
    return {"videos": frames, "video_metadata": [VideoMetadata(**video["metadata"]) for video in videos], "videos_kwargs": options}


def answer(model: Any, processor: Any, question: dict[str, Any], job: dict[str, Any]) -> str:
    """What is written greedily, or the likeliest of the options by the first token."""
    given = inputs(processor, question, job)
    if job["labels"]:
        first = model(**given).logits[0]
        text = model.config.id2label[int(first.argmax())]
    else:
        said = model.generate(**given, do_sample=False, max_new_tokens=job["max_new_tokens"], output_logits=True, return_dict_in_generate=True)
        first, ids = said.logits[0][0], said.sequences[0, said.sequences.shape[1] - len(said.logits) :].tolist()
        text = written(processor.tokenizer, ids, model.generation_config.eos_token_id, job["special"])
    if not question["options"]:
        return text
    mass = {option: first.float()[ids].logsumexp(dim=0).item() for option, ids in question["options"].items()}
    return max(mass, key=lambda option: mass[option])


def written(tokenizer: Any, ids: list[int], ends: int | list[int], special: bool) -> str:
    """What some tokens say. special: with the tokens by which boxes are written, up to the end of the turn."""
    if not special:
        return tokenizer.decode(ids, skip_special_tokens=True)
    ends = ends if isinstance(ends, list) else [ends]
    ids = ids[:-1] if ids and ids[-1] in ends else ids
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def main() -> None:
    """Answer every question of a job."""
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    processor, model = transformers.AutoProcessor.from_pretrained(job["folder"]), load(job)
    if not job["labels"]:
        model.generation_config = transformers.GenerationConfig.from_pretrained(job["folder"])
    answers = [answer(model, processor, question, job) for question in job["questions"]]
    with open(job["to"], "w", encoding="utf-8") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main()
