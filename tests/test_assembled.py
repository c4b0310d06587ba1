"""`model=assembled`: what two checkpoints become, that text alone stays the language model's, and a sentence for each pair that cannot be joined."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import assembled_sources as made
import checkpoints
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from lab import lora, model
from lab.config import LoraDial, ModelDial, ProjectorInit
from lab.errors import LabError, ModelError
from lab.model import Vlm
from lab.model.assembled import folder as folders
from lab.model.assembled.draft import draft
from lab.training.fast import fused_step

pytestmark = pytest.mark.usefixtures("blank_figures", "nominal_costs")

CROP = {"projector_init": ProjectorInit.crop}
PAIRS = (("siglip", "llama"), ("dinov2", "qwen2"), ("clip", "mistral"), ("siglip", "qwen3"), ("clip", "gemma"), ("dinov2", "gemma3_text"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of sources by name, made when they are first asked for."""
    root = tmp_path_factory.mktemp("sources")

    def source(kind: str, name: str = "", **values: Any) -> Path:
        folder = root / (name or kind)
        if not folder.exists():
            if kind == "qwen3_vl":
                checkpoints.save(kind, folder)
            elif kind in ("clip", "siglip", "dinov2", "dinov2_with_registers"):
                made.tower(kind, folder, **values)
            else:
                made.language(kind, folder, **values)
        return folder

    return source


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def path_of(vlm: Vlm) -> Path:
    return Path(vlm.base["path"])


def files_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def edited(folder: Path, target: Path, **values: Any) -> Path:
    """A copy of a checkpoint with other values in its config.json; `text_config__key` for one inside."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    for key, value in values.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    (target / "config.json").write_text(json.dumps(config))
    return target


QWEN3 = {
    "narrower, tied, cropped": ({}, CROP, (0, 6)),
    "wider, untied": ({"hidden_size": 80, "tie_word_embeddings": False}, {}, (18, 0)),
    "padded vocabulary": ({"vocab_size": 900}, CROP, (0, 6)),
    "narrower, random": ({}, {}, (18, 0)),
    "as wide, cropped": ({"hidden_size": 64}, CROP, (0, 0)),
    "untied, cropped": ({"tie_word_embeddings": False}, CROP, (0, 6)),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.bar] * (i > 2)) for i, case in enumerate(QWEN3)])
def test_a_qwen3_vl_tower_before_a_qwen3(case: str, sources, cache) -> None:
    """Every tensor is one of the tower's, of the language model's, or named as fresh or cropped; the flags are the language model's."""
    values, options, (fresh, cropped) = QWEN3[case]
    values = {"tie_word_embeddings": True, **values}
    llm = sources("qwen3", case, **values)
    vlm = model.load(made.dial("qwen3_vl", sources("qwen3_vl"), llm, **options), cache)
    facts = vlm.base["assembled"]
    assert facts["text_only_difference"] <= 1e-6
    assert (len(facts["fresh"]), len(facts["cropped"])) == (fresh, cropped)
    assert all(vlm.family.part_of(name) == "projector" for name in facts["fresh"] + facts["cropped"])
    words, tower, state = files_of(llm), files_of(sources("qwen3_vl")), files_of(path_of(vlm))
    for name, tensor in state.items():
        if name in facts["cropped"]:
            assert torch.equal(tensor, tower[name][: len(tensor)])
        elif name not in facts["fresh"]:
            source = tower[name] if name.startswith("model.visual.") else words[name.replace("model.language_model.", "model.")]
            assert torch.equal(tensor, source), name
    config = json.loads((path_of(vlm) / "config.json").read_text())
    assert config["tie_word_embeddings"] == config["text_config"]["tie_word_embeddings"] == values["tie_word_embeddings"]
    assert ("lm_head.weight" in state) == (not values["tie_word_embeddings"])
    assert (vlm.base_model.lm_head.weight is vlm.base_model.get_input_embeddings().weight) == values["tie_word_embeddings"]
    assert config["text_config"]["rope_parameters"]["rope_theta"] == 1e6 and config["text_config"]["rope_parameters"]["mrope_section"] == [2, 3, 3]
    assert config["text_config"]["vocab_size"] == values.get("vocab_size", 768) == len(vlm.base_model.get_input_embeddings().weight)
    assert config["vision_config"]["out_hidden_size"] == values.get("hidden_size", 48)


@pytest.mark.parametrize("pair", [pytest.param(pair, marks=[pytest.mark.bar] * (i > 1)) for i, pair in enumerate(PAIRS)], ids="-".join)
def test_a_tower_before_a_language_model_of_llamas_kind(pair: tuple[str, str], sources, cache) -> None:
    tower, kind = sources(pair[0]), sources(pair[1])
    vlm = model.load(made.dial("llava", tower, kind), cache)
    facts, config = vlm.base["assembled"], vlm.base_model.config
    assert facts["text_only_difference"] <= 1e-6
    assert facts["fresh"] == [f"model.multi_modal_projector.linear_{i}.{part}" for i in (1, 2) for part in ("weight", "bias")]
    whole = pair[0] != "siglip"  # a class token stands first, and is dropped
    assert config.vision_feature_select_strategy == ("default" if whole else "full") == vlm.processor.vision_feature_select_strategy
    assert vlm.processor.num_additional_image_tokens == int(whole) and vlm.processor.patch_size == 8
    images = vlm.processor.image_processor
    assert (tuple(images.image_mean), tuple(images.image_std)) == ((0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    assert config.vision_feature_layer == -2
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert [len(each) for each in vlm.base_model.get_image_features(pixels).pooler_output] == [16, 16] == [facts["tokens_per_image"]] * 2
        own: Any = {"clip": hf.CLIPVisionModel, "siglip": hf.SiglipVisionModel, "dinov2": hf.Dinov2Model}[pair[0]].from_pretrained(tower)
        seen, wanted = (each(pixels, output_hidden_states=True).hidden_states[-2] for each in (vlm.base_model.model.vision_tower, own.eval()))
    assert torch.equal(seen, wanted)
    linears = {name for name, module in vlm.base_model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    assert bool(fused_step.blocks(vlm)) == (pair[1] in ("llama", "qwen2")), "others normalise queries and keys, have a window or gates of their own"
    assert set(lora.target_names(vlm, LoraDial(where=["vision", "projector", "llm"]))) == linears
    assert {vlm.family.part_of(name) for name, _ in vlm.model.named_parameters()} == {"vision", "projector", "llm"}
    prefixes = {name.partition(".")[0] for name in files_of(path_of(vlm)) if not name.startswith("lm_head")}
    assert prefixes == {"vision_tower", "language_model", "multi_modal_projector"}, "as llava-hf/llava-1.5-7b-hf is published"


def without(sources: Callable[..., Path], target: Path, *names: str) -> Path:
    """A copy of a SigLIP tower that lacks some files."""
    shutil.copytree(sources("siglip"), target)
    for name in names:
        (target / name).unlink()
    return target


def headless(sources: Callable[..., Path], target: Path, head: torch.Tensor | None, tied: bool) -> Path:
    """A Qwen3 whose flag and files say otherwise of its head."""
    edited(sources("qwen3", "tied qwen3", tie_word_embeddings=True), target, tie_word_embeddings=tied)
    state = files_of(target)
    save_file(state | ({} if head is None else {"lm_head.weight": head}), target / "model.safetensors", {"format": "pt"})
    return target


def pickled(sources: Callable[..., Path], target: Path) -> Path:
    shutil.copytree(sources("qwen3"), target)
    torch.save(files_of(target), target / "pytorch_model.bin")
    (target / "model.safetensors").unlink()
    return target


def qwen3_vl(sources: Callable[..., Path], llm: Path, **values: Any) -> ModelDial:
    return made.dial("qwen3_vl", sources("qwen3_vl"), llm, **values)


def llava(vision: Path, llm: Path, **values: Any) -> ModelDial:
    return made.dial("llava", vision, llm, **values)


REFUSED: dict[str, tuple[Callable[..., ModelDial], str]] = {
    "fewer blocks than DeepStack levels": (
        lambda s, t: qwen3_vl(s, s("qwen3", "one block", num_hidden_layers=1)),
        r"it has 1 block, and the tower .* speaks to 2 \(DeepStack\)",
    ),
    "heads that M-RoPE does not cover": (
        lambda s, t: qwen3_vl(s, s("qwen3", "wide heads", head_dim=32)), r"32 wide, and M-RoPE .* divides 16 numbers",
    ),
    "crop of too little": (
        lambda s, t: qwen3_vl(s, s("qwen3", "wide", hidden_size=80), **CROP), r"projector_init=crop: .* is 80 wide",
    ),
    "a window": (
        lambda s, t: qwen3_vl(s, edited(s("qwen3"), t / "llm", use_sliding_window=True, sliding_window=8)), "within a window of 8",
    ),
    "a Qwen2 behind a Qwen3-VL": (lambda s, t: qwen3_vl(s, s("qwen2")), r"of type 'qwen2'.* no norm of queries"),
    "a tower of CLIP before a Qwen3-VL's projector": (
        lambda s, t: made.dial("qwen3_vl", s("clip"), s("qwen3")), "of type 'clip', and qwen3_vl is needed .* model.family=llava",
    ),
    "padding outside the vocabulary": (
        lambda s, t: qwen3_vl(s, edited(s("qwen3"), t / "llm", pad_token_id=5000)), "pad_token_id=5000 is no row",
    ),
    "a head that is not in the file": (
        lambda s, t: qwen3_vl(s, headless(s, t / "llm", None, tied=False)), "hold no lm_head",
    ),
    "a head of its own under a flag that ties it": (
        lambda s, t: qwen3_vl(s, headless(s, t / "llm", torch.randn(768, 48), tied=True)),
        "is not the embedding",
    ),
    "registers": (lambda s, t: llava(s("dinov2_with_registers"), s("llama")), "register tokens, which LLaVA would take"),
    "logits that are capped": (lambda s, t: llava(s("clip"), s("gemma2")), "of type 'gemma2'.*Gemma 2 caps its logits"),
    "an unknown tower": (lambda s, t: llava(s("qwen3"), s("llama")), "of type 'qwen3', and clip_vision_model"),
    "a block that the tower has not": (
        lambda s, t: llava(s("clip"), s("llama"), vision_feature_layer=-4), "vision_feature_layer=-4: .* has 3 blocks",
    ),
    "patches that do not divide a picture": (
        lambda s, t: llava(edited(s("clip"), t / "clip", vision_config__image_size=30), s("llama")), "30 pixels wide and its patches 8",
    ),
    "crop without a projector": (lambda s, t: llava(s("clip"), s("llama"), **CROP), "has no projector to cut"),
    "no image processor": (
        lambda s, t: llava(without(s, t / "siglip", "preprocessor_config.json"), s("llama")), "AutoImageProcessor finds nothing there",
    ),
    "no weights": (lambda s, t: llava(without(s, t / "siglip", "model.safetensors"), s("llama")), "holds no safetensors"),
    "pickle": (lambda s, t: llava(s("siglip"), pickled(s, t / "llm")), "holds no safetensors, and weights are read from nothing else"),
    "quantised": (
        lambda s, t: llava(s("siglip"), edited(s("llama"), t / "llm", quantization_config={"quant_method": "gptq", "bits": 4})),
        "are quantised",
    ),
    "a template that ends no turn": (
        lambda s, t: llava(s("siglip"), s("qwen2", "endless", template=made.CHATML.replace("<|im_end|>", "over and out"))),
        "chat template writes 1 placeholders of one picture and ends an answer with 'over and out'",
    ),
    "a template that shows no picture twice": (
        lambda s, t: llava(s("siglip"), s("qwen2", "blind", template=made.CHATML.replace("message['content']", "'hm'"))),
        "chat template writes 0 placeholders",
    ),
    "a family without a route": (
        lambda s, t: made.dial("qwen2_vl", s("qwen3_vl"), s("qwen3")),
        "an assembled model is of qwen3_vl or llava",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_joined_is_refused_with_its_own_sentence(case: str, sources, cache, tmp_path) -> None:
    """Before any weight is read, and nothing is left behind."""
    dial_of, sentence = REFUSED[case]
    dial = dial_of(sources, tmp_path)
    before = {path for path in cache.rglob("*") if path.parent.name != "weights"}
    with pytest.raises(LabError, match=sentence):
        draft(dial)
    with pytest.raises(LabError, match=sentence):
        model.load(dial, cache)
    assert {path for path in cache.rglob("*") if path.parent.name not in ("weights", cache.name)} <= before


def test_every_sentence_is_another() -> None:
    assert len({sentence for _, sentence in REFUSED.values()}) == len(REFUSED)


@pytest.mark.parametrize("fault", ["rope", "flags"])
def test_the_decisive_test_stops_what_no_rule_names(fault: str, sources, tmp_path, monkeypatch) -> None:
    """The tower's rope theta in place of the language model's, a tied flag over an untied head: nothing is kept."""
    from lab.model.assembled import qwen3_vl

    right = qwen3_vl.text_config

    def wrong(vision, llm, tokenizer):
        config, rows = right(vision, llm, tokenizer)
        if fault == "rope":
            config.rope_parameters = {**config.rope_parameters, "rope_theta": 5e6}
        else:
            config.tie_word_embeddings = True
        return config, rows

    monkeypatch.setattr(qwen3_vl, "text_config", wrong)
    llm = sources("qwen3", "untied", tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"text alone has logits that differ by|tie_word_embeddings of the outer and the text config"):
        model.load(made.dial("qwen3_vl", sources("qwen3_vl"), llm), tmp_path)
    assert not list(tmp_path.rglob("config.json")) and not list(tmp_path.rglob("*.safetensors"))


def test_keys_that_contradict_each_other(composer, sources, tmp_path) -> None:
    """And the family is the tower's, where nobody names it."""
    both = ["model=assembled", f"model.vision_from={sources('clip')}", f"model.llm_from={sources('llama')}"]
    assert composer(*both).model.family == "llava"
    for more, sentence in (
        (["model.path=tiny_base"], "model.path=tiny_base: beside model.vision_from and model.llm_from there is no other checkpoint"),
        (["model.revision=main"], "model.revision=main: beside"),
        ([f"model.vision_from={tmp_path}"], f"model.vision_from={tmp_path}: its config.json cannot be read"),
        (["model.vision_from=null", "model.family=llava"], "model.vision_from: no value is given, and model=assembled needs one"),
    ):
        with pytest.raises(LabError, match=sentence):
            model.check(composer(*both, *more).model)
    with pytest.raises(LabError, match="only model=assembled reads them"):
        model.check(composer("model.projector_init=crop").model)
    with pytest.raises(LabError, match=r"model.llm_from=\./nowhere: there is no such folder"):
        model.check(ModelDial(name="assembled", family="llava", vision_from=str(sources("clip")), llm_from="./nowhere"))


def test_placeholders_that_the_language_model_does_not_know_are_added(sources, cache, tmp_path) -> None:
    """Rows for them begin as the mean of the others; ids lie below rows, and rows are those that text_config says."""
    plain = copy.deepcopy(made.words("llama"))  # which knows none of Qwen's special tokens
    llm = made.language("qwen3", tmp_path / "llm", tokenizer=plain, tie_word_embeddings=False)
    vlm = model.load(made.dial("qwen3_vl", sources("qwen3_vl"), llm), cache)
    added = vlm.base["assembled"]["tokens_added"]
    assert {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"} <= set(added)
    config, tokenizer = vlm.base_model.config, vlm.processor.tokenizer
    old, rows = len(plain), len(vlm.base_model.get_input_embeddings().weight)
    assert rows == config.text_config.vocab_size == len(vlm.base_model.lm_head.weight) == old + len(added)
    for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        assert old <= getattr(config, key) < rows
    assert config.image_token_id == vlm.processor.image_token_id == tokenizer("<|image_pad|>", add_special_tokens=False)["input_ids"][0]
    table = vlm.base_model.get_input_embeddings().weight
    assert torch.allclose(table[old], table[:old].mean(0), atol=1e-6) and torch.equal(table[old], table[rows - 1])
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in vlm.base_model.generation_config.eos_token_id
    padded = made.language("qwen3", tmp_path / "padded", tokenizer=copy.deepcopy(plain), vocab_size=old + 200)
    kept = model.load(made.dial("qwen3_vl", sources("qwen3_vl"), padded), cache)
    number = len(kept.base_model.get_input_embeddings().weight)
    assert number == kept.base_model.config.text_config.vocab_size == old + 200 > len(kept.processor.tokenizer)


def test_names_of_tensors_are_those_of_the_published_class(sources, cache) -> None:
    """Of Qwen3-VL those of the checkpoint that the tower is of; a name that differs is refused."""
    vlm = model.load(made.dial("qwen3_vl", sources("qwen3_vl"), sources("qwen3", "narrow", tie_word_embeddings=True), **CROP), cache)
    names = {re.sub(r"layers\.\d", "layers.N", name) for name in files_of(path_of(vlm))}
    assert names == {re.sub(r"layers\.\d", "layers.N", name) for name in files_of(sources("qwen3_vl"))}


def test_it_is_made_once_and_whole(sources, tmp_path, monkeypatch, caplog) -> None:
    dial = made.dial("llava", sources("siglip"), sources("llama"))
    caplog.set_level("INFO")
    first = model.load(dial, tmp_path)
    assert "text alone: logits differ from the language model's by at most 0" in caplog.text and "4 tensors fresh" in caplog.text
    stamps = {path: path.stat().st_mtime_ns for path in path_of(first).iterdir()}
    monkeypatch.setattr(folders, "make", lambda *_: pytest.fail("it is there"))
    again = model.load(dial, tmp_path)
    assert again.base == first.base and {path: path.stat().st_mtime_ns for path in path_of(first).iterdir()} == stamps
    assert not [path for path in path_of(first).iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_another_choice_or_another_weight_is_another_folder(sources, tmp_path) -> None:
    """Keyed by content: a moved source is the same, a changed one another."""
    llm, tower = sources("llama"), shutil.copytree(sources("siglip"), tmp_path / "moved")
    first = path_of(model.load(made.dial("llava", sources("siglip"), llm), tmp_path))
    assert path_of(model.load(made.dial("llava", tower, llm), tmp_path)) == first
    assert path_of(model.load(made.dial("llava", tower, llm, vision_feature_layer=-1), tmp_path)) != first
    state = files_of(tower)
    moved = {name: tensor + (0.1 if name.endswith("fc1.bias") else 0) for name, tensor in state.items()}
    save_file(moved, tower / "model.safetensors", {"format": "pt"})
    assert path_of(model.load(made.dial("llava", tower, llm), tmp_path)) != first


@pytest.mark.parametrize("process", ["forked", pytest.param("fresh", marks=pytest.mark.bar)])
@pytest.mark.parametrize("route", ["qwen3_vl", "llava"])
def test_plain_transformers_loads_it_with_the_sources_moved_away(route: str, process: str, sources, tmp_path, request) -> None:
    """In another process, without the laboratory: logits are equal to the bit, of a picture with a question."""
    from PIL import Image

    python = sys.executable if process == "fresh" else request.getfixturevalue("fast_python")
    vision, llm = (shutil.copytree(sources(kind), tmp_path / kind) for kind in (("siglip", "llama") if route == "llava" else ("qwen3_vl", "qwen3")))
    vlm = model.load(made.dial(route, vision, llm), tmp_path / "cache")
    for folder in (vision, llm):
        shutil.move(folder, tmp_path / f"{folder.name} elsewhere")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is it red ?"}]}]
    text = vlm.processor.apply_chat_template(asked, add_generation_prompt=True)
    inputs = vlm.processor(text=[text], images=[Image.new("RGB", (64, 64), "red")], return_tensors="pt")
    torch.save(dict(inputs), tmp_path / "inputs.pt")
    words = ["-m", "plain_logits", str(path_of(vlm)), f"{tmp_path}/inputs.pt", f"{tmp_path}/logits.pt"]
    subprocess.run([python, *words], check=True, cwd=Path(__file__).parent)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), vlm.model(**inputs).logits)


KEYS = (
    "data.num_train=8", "data.num_minival=4", "data.num_dev=24", "trainer.max_steps=2", "trainer.batch_size=2", "trainer.save_every=1",
    "evaluation.probe_examples=2", "evaluation.latency_examples=0", "evaluation.ask=[score,generate]", "tracking.enabled=false",
)  # fmt: skip


def asked(sources: Callable[..., Path], route: str, tmp_path: Path, *more: str) -> list[str]:
    """The keys of a small run of `model=assembled`; its family is the tower's."""
    vision, llm = ("siglip", "qwen2") if route == "llava" else ("qwen3_vl", "qwen3")
    given = [f"model.vision_from={sources(vision)}", f"model.llm_from={sources(llm)}", "model.dtype=float32"]
    return ["model=assembled", *given, f"tracking.runs_dir={tmp_path}/runs", f"tracking.cache_dir={tmp_path}/cache", *KEYS, *more]


@pytest.mark.parametrize("route", ["qwen3_vl", pytest.param("llava", marks=pytest.mark.bar)])
def test_it_trains_like_any_other(route: str, sources, composer, tmp_path, capsys, monkeypatch) -> None:
    """Planned before it is made; trained, asked, passed by the gate, evaluated again; its figure stands in the contract."""
    from lab import evaluate, plan
    from lab import run as running
    from lab.artifacts import contract
    from lab.cli import process_started
    from lab.store import runs

    given = asked(sources, route, tmp_path, "lora.where=[projector]")
    monkeypatch.setattr(sys, "argv", ["lab.plan", *given])
    with pytest.raises(SystemExit) as ended:
        plan.main()
    assert ended.value.code == 0 and "adapters" in capsys.readouterr().out and not (tmp_path / "cache" / "assembled").exists()
    x = composer(*given)
    assert x.model.family == route
    record = running.run_alone(x, "test", process_started())
    assert record.status == runs.FINISHED and all(check["passed"] in (True, None) for check in record.facts["verify"])
    kept = contract.load(tmp_path / "runs" / record.identity)["base"]["assembled"]
    assert kept["text_only_difference"] <= 1e-6 and kept["fresh"]
    assert kept["llm_from"]["path"] == str(sources("qwen2" if route == "llava" else "qwen3"))
    runs_dir = ["--runs-dir", f"{tmp_path}/runs"]
    assert evaluate.main([record.identity, *runs_dir]) == 0


@pytest.mark.bar
def test_it_is_exported_like_any_other(sources, composer, tmp_path) -> None:
    """Over the folder that it was made in, asked again without the laboratory."""
    from lab import export
    from lab import run as running
    from lab.cli import process_started

    record = running.run_alone(composer(*asked(sources, "llava", tmp_path, "lora.where=[projector,llm]")), "test", process_started())
    given = ["--run", record.identity, "--to", str(tmp_path / "exported"), "--runs-dir", f"{tmp_path}/runs"]
    assert export.main(given) == 0
    base = json.loads((tmp_path / "exported" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(base).parent == tmp_path / "cache" / "assembled"
