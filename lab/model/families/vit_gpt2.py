"""ViT + GPT-2 (Dosovitskiy et al. 2020, 2010.11929; Radford et al. 2019) as `VisionEncoderDecoderModel`: transformers 5's names.

A checkpoint of one's own, such as nlpconnect/vit-gpt2-image-captioning. Every image costs what the encoder makes of it, 197
states at 224 pixels, so only `vision_tokens=native` is legal; the image enters by the decoder's own cross-attention alone.
"""

from lab.model.encoder_decoder import EncoderDecoder
from lab.model.family import Family, Part, all_but

FAMILY = Family(
    name="vit_gpt2",
    model_type="vision-encoder-decoder",
    classes=("VisionEncoderDecoderModel",),
    attention=("sdpa", "eager"),
    components={"encoder": ("vit",), "decoder": ("gpt2",)},
    architecture=EncoderDecoder(),
    unused=r"encoder\.pooler\..+",
    surplus=r"decoder\.transformer\.h\.\d+\.(attn|crossattention)\.(masked_)?bias",  # masks that early versions kept with the weights
    refuses={
        "fast_step": "its decoder's blocks are GPT-2's",
        "shared_prefix": "its words meet the images in every block, so their reading cannot be shared",
        "quantisation": "bitsandbytes does not know its Conv1D layers",
        "numbered": "no image stands in its prompt to be numbered",
        "olora": "PEFT's OLoRA takes its Conv1D weights the wrong way round",
        "export": "plain Transformers shows such a model one image a prompt; several need their states joined first",
        **all_but("vision_tokens", ("native",), "its encoder makes one number of states of every image, whatever is asked for"),
        **all_but("conditioning", ("add_cross_attention",), "images enter it by its decoder's own cross-attention"),
    },
    parts={
        "projector": Part(modules=r"enc_to_dec_proj", linears=r"enc_to_dec_proj"),
        "vision": Part(
            modules=r"encoder(\..+)?",
            block=r"encoder\.layers\.(\d+)",
            attention=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
            mlp=("mlp.fc1", "mlp.fc2"),
        ),
        "llm": Part(
            modules=r"decoder(\..+)?",
            block=r"decoder\.transformer\.h\.(\d+)",
            attention=(
                "attn.c_attn", "attn.c_proj", "crossattention.q_attn", "crossattention.c_attn", "crossattention.c_proj",
            ),
            mlp=("mlp.c_fc", "mlp.c_proj"),
        ),
    },
)  # fmt: skip
