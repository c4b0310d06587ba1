"""The contract: an evaluation with other settings than the adapter was trained with is refused, and says what differs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lab import evaluate, finished, model
from lab.answers import predictions
from lab.artifacts import contract
from lab.config import Experiment
from lab.data.images import decode
from lab.errors import ContractError
from lab.store import runs
from lab.store.runs import Run

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("quiet_root_logger", "nominal_costs")


@dataclass(frozen=True)
class Trained:
    """A finished run and the checkpoint it stands on."""

    run: Run
    runs_dir: Path
    base: Path

    @property
    def folder(self) -> Path:
        return self.runs_dir / self.run.identity

    def evaluate(self, *arguments: str) -> int:
        return evaluate.main(["--run", self.run.identity, "--runs-dir", str(self.runs_dir), *arguments])


@pytest.fixture(scope="module")
def trained(composer: Callable[..., Experiment], tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from lab import run
    from lab.cli import process_started

    path = tmp_path_factory.mktemp("contract")
    x = composer(
        f"model.path={tiny_folder}",
        "data.num_train=16",
        "data.num_minival=16",
        "data.num_dev=32",
        "trainer.max_steps=3",
        "trainer.batch_size=4",
        "evaluation.latency_examples=0",
        "evaluation.verify=false",
        "tracking.enabled=false",
        f"tracking.runs_dir={path}/runs",
        f"tracking.cache_dir={path}/cache",
    )
    return Trained(run.run_alone(x, "test", process_started()), path / "runs", tiny_folder)


def json_of(folder: Path, name: str) -> Any:
    return json.loads((folder / "evaluations" / f"{name}.json").read_text())


def test_the_same_settings_give_the_same_predictions(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Rebuilt from its files alone, the run answers bit for bit as it did when it had just been trained."""
    assert trained.evaluate() == 0
    again = predictions.read(trained.folder / "evaluations" / "dev.parquet")
    first = predictions.read(trained.folder / "predictions" / "pairs.dev.parquet")
    for column in first.columns:
        assert getattr(again, column).tolist() == getattr(first, column).tolist(), column
    facts = json_of(trained.folder, "dev")
    assert facts["contract_broken"] is False
    assert (facts["differences"], facts["remarks"], facts["n"]) == ([], [], 32)
    for name in ("accuracy", "ece", "nll"):
        assert facts["metrics"][name] == trained.run.metrics[f"dev/{name}"]
    out = capsys.readouterr().out
    assert "n=32" in out
    for word in ("accuracy", "ece", "nll"):
        assert f"  {word} " in out
    assert "BROKEN" not in out


def test_a_prediction_is_what_the_evaluation_says(trained: Trained, tmp_path: Path) -> None:
    """Statements about pairs of pictures, written to files of a user's own, are answered as the run answered its dev split, to the bit."""
    from lab import data, predict

    dev = data.load(data.stored(trained.run.config["data"]), Path(trained.run.config["tracking"]["cache_dir"])).dev
    rows = []
    for i, sample in enumerate(dev[row] for row in range(len(dev))):
        for side, picture in enumerate(sample.images):
            decode(picture).save(tmp_path / f"{i}.{side}.png")
        rows.append(json.dumps({"images": [f"{i}.0.png", f"{i}.1.png"], "question": sample.text, "id": sample.sample_id}))
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    arguments = ["--run", trained.run.identity, str(tmp_path / "mine.jsonl"), "--runs-dir", str(trained.runs_dir), "--to", str(tmp_path / "out")]
    assert predict.main(arguments) == 0
    stored = predictions.read(trained.folder / "predictions" / "pairs.dev.parquet")
    answers = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pydict()
    assert answers["id"] == stored.sample_id.tolist() and answers["answer"] == stored.answered.tolist()
    assert set(answers["answer"]) <= {"True", "False"} and answers["probability"] == stored.confidence.tolist()


def test_another_split_and_other_data_are_free(trained: Trained) -> None:
    assert trained.evaluate("--split", "minival") == 0
    assert json_of(trained.folder, "minival")["n"] == 16
    assert trained.evaluate("data.num_dev=16", "evaluation.batch_size=3", "--name", "fewer") == 0
    facts = json_of(trained.folder, "fewer")
    assert (facts["n"], facts["contract_broken"]) == (16, False)


def test_a_checkpoint_may_move(trained: Trained, tmp_path: Path) -> None:
    """The path is told, the weights decide."""
    shutil.copytree(trained.base, tmp_path / "elsewhere")
    assert trained.evaluate(f"model.path={tmp_path}/elsewhere", "--name", "moved") == 0
    assert [line.split(":")[0] for line in json_of(trained.folder, "moved")["remarks"]] == ["base.path"]


def edit_json(path: Path, *keys: str, value: Any) -> None:
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def other_weights(folder: Path) -> None:
    from tools.pretraining.architecture import make_model
    from tools.pretraining.tokenizer import make_processor

    make_model(make_processor(), seed=2).save_pretrained(folder)


def other_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("You are a helpful assistant.", "You are an assistant."))


def other_mean(folder: Path) -> None:
    edit_json(folder / "processor_config.json", "image_processor", "image_mean", value=[0.5, 0.5, 0.5])


def other_pixels(folder: Path) -> None:
    edit_json(folder / "processor_config.json", "image_processor", "size", "longest_edge", value=48 * 48)


def other_resampling(folder: Path) -> None:
    edit_json(folder / "processor_config.json", "image_processor", "resample", value=2)


VIOLATIONS: dict[str, tuple[list[str], Callable[[Path], None] | None, str]] = {
    "pixel budget by the dial": (
        ["vision_tokens=resize", "vision_tokens.budget=4"], None, "processor.size.longest_edge: trained with 16384, now 1024",
    ),
    "pixel budget of the checkpoint": ([], other_pixels, "processor.size.longest_edge: trained with 16384, now 2304"),
    "normalisation": ([], other_mean, "processor.image_mean: trained with [0.48145466, 0.4578275, 0.40821073], now [0.5, 0.5, 0.5]"),
    "resampling filter": ([], other_resampling, "processor.resample: trained with 3, now 2"),
    "template text": (["prompt.template='{statement} True or False?'"], None, "prompt.template: trained with \"Statement: {statement}"),
    "template version": (["prompt.version=2"], None, "prompt.version: trained with 1, now 2"),
    "another template": (["prompt=qa"], None, "prompt.answers.true: trained with \"True\", now \"Yes\""),
    "system prompt": (["prompt.system='Look closely.'"], None, "prompt.system: trained with null, now \"Look closely.\""),
    "answer words": (["prompt.answer_true=Yes", "prompt.answer_false=No"], None, "answers.options: trained with [[\"True\""),
    "separator": (["prompt.separator=' '"], None, "prompt.separator: trained with \"\\n\", now \" \""),
    "numbered pictures": (["prompt.numbered=true"], None, "prompt.numbered: trained with false, now true"),
    "image order": (["prompt.image_order=swap"], None, "prompt.image_order: trained with \"fixed\", now \"swap\""),
    "chat template": ([], other_template, "You are a helpful assistant.<|im_end|>"),
    "base revision": (["model.revision=0123abc"], None, "base.revision: trained with null, now \"0123abc\""),
    "base weights": ([], other_weights, "base.weights: trained with"),
    "base dtype": (["model.dtype=bfloat16"], None, "base.dtype: trained with \"float32\", now \"bfloat16\""),
    "rank of the adapter": (["lora.r=8"], None, "lora.r: trained with 16, now 8"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_refused_and_shown(
    trained: Trained, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, perturb, shown = VIOLATIONS[name]
    before = sorted(trained.folder.rglob("*"))
    if perturb is not None:
        shutil.copytree(trained.base, tmp_path / "base")
        perturb(tmp_path / "base")
        overrides = [*overrides, f"model.path={tmp_path}/base"]
    assert trained.evaluate(*overrides) == 2
    error = capsys.readouterr().err
    assert f"error: run {trained.run.identity}" in error
    assert shown in error
    assert "--break-contract" in error
    assert sorted(trained.folder.rglob("*")) == before, "a refused evaluation writes nothing"


def test_the_padding_side_is_refused_and_shown(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = model.load

    def on_the_right(*given: Any) -> Any:
        vlm = load(*given)
        vlm.processor.tokenizer.padding_side = "right"
        return vlm

    monkeypatch.setattr(model, "load", on_the_right)
    assert trained.evaluate() == 2
    assert 'padding_side: trained with "left", now "right"' in capsys.readouterr().err


def test_a_broken_contract_is_measured_and_marked(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.evaluate("prompt.image_order=swap", "--break-contract", "--name", "swapped") == 0
    facts = json_of(trained.folder, "swapped")
    assert facts["contract_broken"] is True
    assert [line.split(":")[0] for line in facts["differences"]] == ["prompt.hash", "prompt.image_order"]
    assert "CONTRACT BROKEN" in capsys.readouterr().out
    order = predictions.read(trained.folder / "evaluations" / "swapped.parquet").image_order
    assert set(order) == {(1, 0)}


def test_breaking_shows_in_the_default_name(trained: Trained) -> None:
    assert trained.evaluate("prompt.numbered=true", "--break-contract") == 0
    names = {path.name for path in (trained.folder / "evaluations").glob("*-broken.*")}
    assert len(names) == 2


def test_a_missing_contract_is_refused(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied = tmp_path / "runs"
    shutil.copytree(trained.runs_dir, copied)
    (copied / trained.run.identity / "contract.json").unlink()
    assert evaluate.main(["--run", trained.run.identity, "--runs-dir", str(copied)]) == 2
    assert "contract cannot be read" in capsys.readouterr().err


def test_an_emptied_adapter_is_refused(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    copied = tmp_path / "runs"
    shutil.copytree(trained.runs_dir, copied)
    path = copied / trained.run.identity / "adapter" / "adapter_model.safetensors"
    save_file({name: t * 0 if "lora_B" in name else t for name, t in load_file(path).items()}, path)
    assert evaluate.main(["--run", trained.run.identity, "--runs-dir", str(copied)]) == 2
    assert "B A = 0 in every layer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prompt.templat=x"], "prompt.templat: there is no such key. Did you mean 'template'?"),
        (["prompt=qu"], "Did you mean 'qa'?"),
        (["optim.lr=1"], "an evaluation does not train"),
        (["trainer.max_steps=3"], "an evaluation does not train"),
        (["prompt=qa,declarative"], "one value of each key"),
        (["data.num_dev=many"], "num_dev"),
        (["lora=none"], "lora.name: trained with \"llm\", now \"none\""),
    ],
)
def test_bad_changes_are_one_sentence(
    trained: Trained, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained.evaluate(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_which_run(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """The first digits are enough; what is unknown, unfinished or ambiguous is said."""
    assert finished.find(trained.runs_dir, trained.run.identity[:4]).identity == trained.run.identity
    assert evaluate.main(["--run", "nothing", "--runs-dir", str(trained.runs_dir)]) == 2
    assert "there is no such run" in capsys.readouterr().err
    other = Run("f" * 10, "x", trained.run.config, "x", status=runs.FAILED)
    runs.save(trained.runs_dir, other)
    assert evaluate.main(["--run", "ffff", "--runs-dir", str(trained.runs_dir)]) == 2
    assert "it is FAILED" in capsys.readouterr().err
    shutil.rmtree(trained.runs_dir / other.identity)


def test_a_baseline_has_no_adapter_and_is_evaluated_all_the_same(
    composer: Callable[..., Experiment], trained: Trained, tmp_path: Path
) -> None:
    from lab import run
    from lab.cli import process_started

    config = trained.run.config
    x = composer(
        f"model.path={trained.base}",
        "lora=none",
        "trainer.max_steps=0",
        *(f"data.{key}={config['data'][key]}" for key in ("num_train", "num_minival", "num_dev")),
        "evaluation.verify=false",
        f"tracking.runs_dir={tmp_path}/runs",
        f"tracking.cache_dir={config['tracking']['cache_dir']}",
    )
    record = run.run_alone(x, "test", process_started())
    assert evaluate.main(["--run", record.identity, "--runs-dir", f"{tmp_path}/runs"]) == 0
    facts = json_of(tmp_path / "runs" / record.identity, "dev")
    assert facts["metrics"]["nll"] == record.metrics["dev/nll"]


def test_the_contract_says_what_images_cost(trained: Trained) -> None:
    assert contract.load(trained.folder)["visual_tokens"] == {"mean": 16.0, "min": 16.0, "max": 16.0}


def test_long_texts_are_shown_where_they_begin_to_differ() -> None:
    a, b = "x" * 300 + "left" + "y" * 300, "x" * 300 + "right" + "y" * 300
    with pytest.raises(ContractError) as caught:
        contract.enforce({"prompt": {"template": a}}, {"prompt": {"template": b}}, "this")
    line = str(caught.value).splitlines()[1]
    assert "left" in line
    assert "right" in line
    assert len(line) < 260


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom lab import evaluate, finished\n"
        "try:\n    evaluate.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'lightning', 'hydra') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.splitlines()[-1] == "[]"
    assert "--break-contract" in out
