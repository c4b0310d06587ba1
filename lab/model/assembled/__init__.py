"""A checkpoint put together from a vision tower and a language model: `model=assembled`.

    draft.py     config and processor by the rules of a route; what cannot be joined is said, and no weight is read
    llava.py, qwen3_vl.py   the two routes
    weights.py   tensors from both, those that are fresh, written as `save_pretrained` writes them
    folder.py    made once and kept; text alone must give the language model's own logits before it is
"""
