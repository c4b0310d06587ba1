"""GIT (Wang et al. 2022, 2205.14100): microsoft/git-base-vqav2, -textvqa and -large; module names of transformers 5."""

from lab.model.families import llava
from lab.model.family import Family, Part, all_but
from lab.model.git import Git

FAMILY = Family(
    name="git",
    model_type="git",
    classes=("GitForCausalLM",),
    attention=("eager",),
    architecture=Git(),
    surplus=r"git\.embeddings\.position_ids|git\.image_encoder\.vision_model\.embeddings\.position_ids",
    refuses={
        "fast_step": "its decoder's blocks are BERT's",
        "shared_prefix": "no image stands in its prompt, behind which it could be shared",
        "numbered": "no image stands in its prompt to be numbered",
        **all_but("vision_tokens", ("native",), "its tower makes one number of states of every image, which its decoder counts on"),
        **all_but("conditioning", ("prefix",), "its decoder reads images as it reads words"),
    },
    parts={
        "projector": Part(modules=r"git\.(visual_projection|img_temporal_embedding)(\..+)?", linears=r"git\.visual_projection\.visual_projection\.0"),
        "vision": Part(
            modules=r"git\.image_encoder(\..+)?",
            block=r"git\.image_encoder\.vision_model\.encoder\.layers\.(\d+)",
            attention=llava.FAMILY.parts["vision"].attention,
            mlp=("mlp.fc1", "mlp.fc2"),
        ),
        "llm": Part(
            modules=r"git\.(encoder|embeddings)(\..+)?|output",
            block=r"git\.encoder\.layer\.(\d+)",
            attention=("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
            mlp=("intermediate.dense", "output.dense"),
        ),
    },
)
