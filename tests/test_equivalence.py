"""The equivalence gate passes for a sound run and catches what goes wrong between training and use."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab import data, model
from lab import run as running
from lab.artifacts import contract, export
from lab.errors import ContractError, ModelError
from lab.evaluation import equivalence, probing
from lab.model.answers import readout
from lab.model.encoding import Encoder
from lab.store import runs
from lab.verify import verify

pytestmark = pytest.mark.usefixtures("nominal_costs")


@pytest.fixture(scope="module")
def trained(composer, tiny_folder, tmp_path_factory):
    """A run whose adapter moves its logits visibly."""
    home = tmp_path_factory.mktemp("trained")
    x = composer(
        f"model.path={tiny_folder}", "data.num_train=64", "data.num_minival=8", "data.num_dev=32", "trainer.max_steps=10",
        "trainer.batch_size=4", "evaluation.latency_examples=0", "optim.lr=0.01",
        f"tracking.runs_dir={home}/runs", f"tracking.cache_dir={home}/cache", "tracking.enabled=false",
    )
    run = running.run_alone(x, "command", time.time())
    return x, run, home / "runs"


@pytest.fixture
def copied(trained, tmp_path):
    """The run in a folder of the test's own, and its merged export."""
    x, run, runs_dir = trained
    shutil.copytree(runs_dir, tmp_path / "runs")
    run_dir = tmp_path / "runs" / run.identity
    export.export(running.reload(x, run_dir), tmp_path / "export", contract.load(run_dir))
    return run, tmp_path / "runs", run_dir, tmp_path / "export"


def rewrite(path: Path, **changes) -> None:
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))


def test_a_sound_run_passes_every_check(trained, copied, capsys) -> None:
    _, run, _ = trained
    checks = {check["name"]: check for check in run.facts["verify"]}
    assert set(checks) == {"reloaded", "batch of one", "right padding", "plain folder", "generate"}
    assert run.metrics["verify/passed"] == 1.0
    assert checks["reloaded"]["max_gap"] == 0.0
    assert checks["batch of one"]["max_gap"] == 0.0
    _, runs_dir, _, folder = copied
    assert verify(runs_dir, run.identity) == 0
    assert verify(runs_dir, run.identity[:5], folder) == 0
    assert "stored" in capsys.readouterr().out


def test_renamed_keys_are_caught(copied) -> None:
    run, runs_dir, run_dir, _ = copied
    path = run_dir / "adapter" / "adapter_model.safetensors"
    renamed = {key.replace("language_model.layers", "layers"): value for key, value in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="does not fit this model"):
        verify(runs_dir, run.identity)


def test_a_merge_that_lost_the_adapter_is_caught(trained, copied, tmp_path, capsys) -> None:
    x, *_ = trained
    run, runs_dir, run_dir, _ = copied
    export.export(running.assemble(x, model.load(x.model)), tmp_path / "bare", contract.load(run_dir))
    assert verify(runs_dir, run.identity, tmp_path / "bare") == 1
    assert "plain folder" in [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if "FAIL" in line]


def test_a_wrong_pixel_budget_is_caught(copied, capsys) -> None:
    run, runs_dir, _, folder = copied
    name = "processor_config.json" if (folder / "processor_config.json").exists() else "preprocessor_config.json"
    values = json.loads((folder / name).read_text())
    (values.get("image_processor") or values)["size"] = {"shortest_edge": 256, "longest_edge": 2304}
    (folder / name).write_text(json.dumps(values))
    assert verify(runs_dir, run.identity, folder) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_wrong_template_is_caught(copied, capsys) -> None:
    run, runs_dir, _, folder = copied
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("helpful assistant", "terse oracle"))
    assert verify(runs_dir, run.identity, folder) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_wrong_padding_side_is_caught(copied, capsys) -> None:
    run, runs_dir, _, folder = copied
    rewrite(folder / "tokenizer_config.json", padding_side="right")
    assert verify(runs_dir, run.identity, folder) == 1
    assert "FAIL" in capsys.readouterr().out


def test_another_runs_export_is_refused(copied) -> None:
    run, runs_dir, _, folder = copied
    described = json.loads((folder / "contract.json").read_text())
    described["prompt"]["template"] = "{statement}?"
    (folder / "contract.json").write_text(json.dumps(described))
    with pytest.raises(ContractError, match="prompt.template"):
        verify(runs_dir, run.identity, folder)


def test_nothing_is_overwritten_by_an_export(trained, copied) -> None:
    x, *_ = trained
    _, _, run_dir, folder = copied
    with pytest.raises(ModelError, match="not empty"):
        export.export(running.reload(x, run_dir), folder, contract.load(run_dir))


def test_a_near_tie_is_no_flip_and_anything_farther_apart_is() -> None:
    labels = torch.tensor([[3, 1], [3, 1]])
    logits = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0))
    logits[..., 4] = logits.amax(dim=-1) + 1  # what the model in memory says everywhere
    for margin in (0.1, 0.3):
        logits[0, 1, 5] = logits[0, 1, 4] - margin
        reference, turned = probing.of_words(logits, labels), logits.clone()
        assert torch.isclose(reference.margins[0, 1], torch.tensor(margin))
        turned[0, 1, [4, 5]] = logits[0, 1, [5, 4]]
        check = equivalence.against("right padding", reference, probing.of_words(turned, labels), 0.25)
        assert check.max_gap is not None and check.max_gap < 1e-6
        assert check.passed is (margin < 0.25) and check.flips == (margin > 0.25) and ("near tie" in check.note) is (margin < 0.25)
    reference = probing.of_words(logits, torch.tensor([[4, 1], [3, 1]]))  # its second answers are margin .3 above the next
    first = [equivalence.first_other(torch.tensor(written), reference, 0, 0, torch.tensor([4, 1])) for written in ([4, 4], [4, 5], [4, 2])]
    assert first[0] is None and first[1] == first[2] == reference.margins[0, 1].item()
    assert equivalence.first_other(torch.tensor([4, 7]), reference, 1, 0, torch.tensor([3, 1])) is None  # it went on from another word


def all_logits(vlm, encoder, samples, batch_size, side="left") -> torch.Tensor:
    examples = [encoder.example(sample) for sample in samples]
    parts = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    if side == "left":
        return torch.cat([probing.probe(vlm, encoder, part).numbers for part in parts])
    return torch.cat([probing.probe(vlm, encoder, part, padding_side="right").numbers for part in parts])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_do_not_depend_on_batch_size_or_padding_side(trained, composer, dtype, record_property) -> None:
    """float32: bit-identical scores for batches of 1, 7, 16 and both sides; bfloat16: no answer flips."""
    x, run, runs_dir = trained
    x = composer(f"model.path={x.model.path}", f"model.dtype={dtype}", "data.num_dev=16", "data.num_train=64",
                 "data.num_minival=8", f"tracking.cache_dir={x.tracking.cache_dir}")
    vlm = running.reload(x, runs.folder(runs_dir, run.identity))
    encoder, tokens = Encoder(vlm, x.prompt), readout(vlm.processor.tokenizer, x.prompt)
    dev = data.load(x.data, Path(x.tracking.cache_dir)).dev
    samples = [dev[i] for i in range(16 if dtype == "float32" else 8)]  # many a CPU is slow in 16 bits
    reference = all_logits(vlm, encoder, samples, 16)
    for batch_size, side in ((1, "left"), (7, "left"), (1, "right"), (7, "right"), (16, "right")):
        other = all_logits(vlm, encoder, samples, batch_size, side)
        gap = (other - reference).abs().max().item()
        record_property(f"{dtype} {batch_size} {side}", gap)
        assert torch.equal(tokens.answers(other), tokens.answers(reference)), (batch_size, side)
        if dtype == "float32":
            assert gap == 0.0, (batch_size, side, gap)
