"""An exported folder is the run: the same answers by Transformers and PEFT alone, its processor, its card; nothing is overwritten."""

from __future__ import annotations

import ast
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from lab import export, model
from lab import run as running
from lab.artifacts import export as folders
from lab.artifacts import plain_answers
from lab.config import Experiment
from lab.errors import ContractError, DataError, ModelError
from lab.run import exporting
from lab.store import runs
from lab.store.runs import Run
from lab.training import checkpoints

pytestmark = pytest.mark.usefixtures("quiet_root_logger", "nominal_costs")


@pytest.fixture(scope="module")
def trained(composer: Callable[..., Experiment], tiny_folder: Path, tmp_path_factory) -> tuple[Path, Run]:
    """A run that chooses between True and False, with adapters in the language model and in the projector."""
    home = tmp_path_factory.mktemp("trained")
    x = composer(
        f"model.path={tiny_folder}", "lora=llm_projector", "data.num_train=64", "data.num_minival=8", "data.num_dev=40",
        "trainer.max_steps=6", "trainer.batch_size=4", "evaluation.latency_examples=0", "evaluation.verify=false", "optim.lr=0.01",
        f"tracking.runs_dir={home}/runs", f"tracking.cache_dir={home}/cache", "tracking.enabled=false",
    )  # fmt: skip
    return home / "runs", running.run_alone(x, "python -m lab.train lora=llm_projector", time.time())


def test_a_process_without_the_laboratory_answers_as_the_run(trained: tuple[Path, Run], tmp_path: Path, capsys) -> None:
    runs_dir, run = trained
    assert export.main([run.identity[:6], "--to", f"{tmp_path}/out", "--runs-dir", str(runs_dir)]) == 0
    told = capsys.readouterr().out
    assert "32 of 32 answers equal" in told and f"hf upload YOUR_NAME/{run.name}" in told
    held = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "contract.json", "README.md", "config.json"} <= held
    assert not {"model.safetensors", "extras.safetensors"} & held
    require_card((tmp_path / "out" / "README.md").read_text(), run, "peft")
    script = (tmp_path / "out.serve.sh").read_text()
    assert "--max-lora-rank 16" in script and "--enable-tower-connector-lora" in script and f"--lora-modules {run.identity}=" in script


def test_the_script_that_answers_imports_nothing_of_the_laboratory() -> None:
    tree = ast.parse(Path(plain_answers.__file__).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} == {"json", "sys", "typing", "numpy", "torch", "peft", "transformers"}


def require_card(card: str, run: Run, library: str) -> None:
    """It says task, data, metrics with intervals, contract and licence."""
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == library and "base_model" not in head, "a folder is no checkpoint of the hub"
    (found,) = head["model-index"][0]["results"]
    assert found["dataset"]["name"] == "pairs" and {"type": "accuracy", "name": "accuracy", "value": run.metrics["dev/accuracy"]} in found["metrics"]
    assert re.search(rf"\| accuracy \| {run.metrics['dev/accuracy']:.4f} \| 0\.\d+ to 0\.\d+ \|", card)
    for said in ("True", json.dumps(run.config["prompt"]["template"])[1:-1], "32 of 32", "40 dev", "licence"):
        assert said in card


@pytest.mark.bar
def test_a_merged_folder_answers_as_the_run(trained: tuple[Path, Run], tmp_path: Path, export_asked_here: None) -> None:
    runs_dir, run = trained
    assert "32 of 32 answers equal" in export.export_run(runs_dir, run.identity, tmp_path / "out", merge=True)
    require_card((tmp_path / "out" / "README.md").read_text(), run, "transformers")
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_nothing_is_overwritten_and_a_refused_export_leaves_nothing(trained: tuple[Path, Run], tmp_path: Path, monkeypatch) -> None:
    runs_dir, run = trained
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty, and nothing is overwritten"):
        export.export_run(runs_dir, run.identity, tmp_path / "full")
    monkeypatch.setattr(exporting.Exporting, "plain", lambda *_: exporting.Agreement(32, 1, 0.0))
    with pytest.raises(ContractError, match="nothing is written, as plain Transformers answers 1 of 32 questions otherwise"):
        export.export_run(runs_dir, run.identity, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_processor_that_drifted_is_refused(trained: tuple[Path, Run], tmp_path: Path, monkeypatch) -> None:
    """Transformers keeps `do_resize=False`, once given, and would save it."""
    runs_dir, run = trained
    write = exporting.Exporting.write

    def drifted(arm: exporting.Exporting, folder: Path, merged: bool) -> exporting.Exported:
        arm.arm.vlm.processor.image_processor.do_resize = False
        return write(arm, folder, merged)

    monkeypatch.setattr(exporting.Exporting, "write", drifted)
    with pytest.raises(ContractError, match=r"processor.do_resize: trained with true, now false"):
        export.export_run(runs_dir, run.identity, tmp_path / "out")


def test_an_adapter_that_fits_no_module_is_refused(trained: tuple[Path, Run], tmp_path: Path) -> None:
    runs_dir, run = trained
    shutil.copytree(runs_dir, tmp_path / "runs")
    path = tmp_path / "runs" / run.identity / "adapter" / "adapter_model.safetensors"
    save_file({name.replace("layers", "blocks"): value for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="does not fit this model"):
        export.export_run(tmp_path / "runs", run.identity, tmp_path / "out")


def test_a_checkpoint_of_a_run_that_still_trains(small, tmp_path: Path, export_asked_here: None) -> None:
    """The exported adapter is that of the step; the run goes on."""
    x = small("trainer.max_steps=3", "optim.lr=0.01", "data.num_dev=4")
    run = running.run_arm(x, running.prepare(x), running.new_run(x, "command"), time.time(), pause_at=2)
    assert "4 of 4 answers equal" in export.export_run(tmp_path / "runs", run.identity, tmp_path / "out", step=2)
    taken = checkpoints.read(checkpoints.of_step(runs.folder(tmp_path / "runs", run.identity), 2)).group("weights")
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name.removeprefix("model.").replace(".default.", "."): value.sum() for name, value in taken.items()} == {
        name: value.sum() for name, value in saved.items()
    }
    assert "as it was after 2 optimizer steps" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(DataError, match="--step 1: .* has no checkpoint of it; kept are 2"):
        export.export_run(tmp_path / "runs", run.identity, tmp_path / "other", step=1)


def test_an_arm_whose_dials_add_computation_is_refused(small, tmp_path: Path) -> None:
    x = small("vision_tokens=pool", "vision_tokens.budget=4")
    with pytest.raises(ModelError, match="cannot be exported: vision_tokens or conditioning adds computation"):
        folders.export(running.assemble(x, model.load(x.model)), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.bar
def test_an_export_is_the_runs_logged_model_with_signature_and_example(with_tracker, tmp_path: Path, export_asked_here: None, capsys) -> None:
    mlflow = pytest.importorskip("mlflow")
    x = with_tracker("trainer.max_steps=1", "data.num_dev=4", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")
    run = running.run_alone(x, "command", time.time())
    told = export.export_run(tmp_path / "runs", run.identity, tmp_path / "out", mlflow=True)
    (model_id,) = re.findall(r"artifacts of (m-\w+)", told)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    held = {file.path for file in client.list_logged_model_artifacts(model_id)}
    assert {"adapter_model.safetensors", "MLmodel", "input_example.json", "README.md"} <= held
    location = client.get_logged_model(model_id).artifact_location
    described = mlflow.models.Model.load(mlflow.artifacts.download_artifacts(f"{location}/MLmodel", dst_path=str(tmp_path)))
    assert described.signature.inputs.input_names() == ["image", "question"] and described.model_id == model_id
