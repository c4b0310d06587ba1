"""The study of `sweeps/product_vqa.yaml` at the size of two cores: a drawn catalogue, a server in the place of a language model, small bases."""
