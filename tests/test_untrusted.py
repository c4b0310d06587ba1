"""A malicious pickle in place of any file that is loaded is never executed: a typed error, or the file is made anew."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lab import data, evaluate, model
from lab import run as running
from lab.answers import predictions
from lab.artifacts import adapter
from lab.config import Experiment, ModelDial, identity
from lab.data import tables
from lab.errors import DataError, LabError, ModelError
from lab.store import runs
from lab.training import checkpoints

pytestmark = pytest.mark.usefixtures("nominal_costs")

NAMES = (
    "adapter_model.bin", "pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "training_args.bin", "optimizer.pt", "scheduler.pt",
    "rng_state.pth", "last.ckpt", "step-00000002.ckpt", "model.pt", "state.pkl", "extras.bin", "tf_model.h5", "flax_model.msgpack",
)
"""Names under which one loader or another would look for pickled weights or states."""


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The folder that must not exist at the end of a test; that a bomb works is tried first."""
    proof, planted = tmp_path / "proof", tmp_path / "executed"
    pickle.loads(pickle.dumps(Bomb(proof)))
    assert proof.is_dir()
    yield planted
    assert not planted.exists(), "a pickle was executed"


@pytest.fixture(params=["pickle", "torch"])
def bomb(request: pytest.FixtureRequest, marker: Path) -> bytes:
    """A malicious file as `pickle.dump` or as `torch.save` writes it."""
    if request.param == "pickle":
        return pickle.dumps(Bomb(marker), protocol=2)  # torch.load's own
    file = io.BytesIO()
    torch.save({"weights": Bomb(marker)}, file)
    return file.getvalue()


def plant(folder: Path, content: bytes, *more: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*NAMES, *more):
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def finished(composer: Callable[..., Experiment], tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The overrides and the folder of a small finished run."""
    folder = tmp_path_factory.mktemp("finished")
    overrides = [
        f"model.path={tiny_folder}", "data.num_train=16", "data.num_minival=8", "data.num_dev=8", "trainer.max_steps=2",
        "trainer.batch_size=4", "evaluation.latency_examples=0", "evaluation.verify=false", "tracking.enabled=false",
    ]
    run_here(composer, overrides, folder)
    return overrides, folder


def run_here(composer: Callable[..., Experiment], overrides: list[str], folder: Path) -> tuple[Experiment, runs.Run]:
    x = composer(*overrides, f"tracking.runs_dir={folder}/runs", f"tracking.cache_dir={folder}/cache")
    return x, running.run_alone(x, "command", time.time())


@pytest.fixture
def own(finished: tuple[list[str], Path], composer: Callable[..., Experiment], tmp_path: Path) -> tuple[list[str], Path, Path]:
    """A copy of the finished run: overrides, its place, its run folder."""
    overrides, folder = finished
    shutil.copytree(folder, tmp_path / "own")
    return overrides, tmp_path / "own", tmp_path / "own" / "runs" / identity(composer(*overrides))


def test_a_training_checkpoint(own, bomb, composer, caplog) -> None:
    """A killed run whose checkpoints are bombs begins again from nothing, and ends with the same bits."""
    overrides, place, run_dir = own
    trained = (run_dir / "adapter" / adapter.PEFT_WEIGHTS).read_bytes()
    killed = runs.load(place / "runs", run_dir.name)
    killed.status = runs.KILLED
    runs.save(place / "runs", killed)
    shutil.rmtree(run_dir / "adapter")
    plant(checkpoints.folder(run_dir), bomb, "step-00000001.safetensors", checkpoints.BEST)
    _, run = run_here(composer, overrides, place)
    assert run.status == runs.FINISHED and "step-00000001.safetensors: no checkpoint" in caplog.text
    assert (run_dir / "adapter" / adapter.PEFT_WEIGHTS).read_bytes() == trained


def test_an_adapter(own, bomb, capsys) -> None:
    """Through the door that loads it: refused in the absence of safetensors, and where safetensors is only the name."""
    _, place, run_dir = own
    asked = ["--run", run_dir.name, "--runs-dir", str(place / "runs"), "data.num_dev=8"]
    plant(run_dir / "adapter", bomb)
    assert evaluate.main(asked) == 0  # bombs beside the real file are not looked at
    (run_dir / "adapter" / adapter.PEFT_WEIGHTS).unlink()
    for planted, words in ((None, "an adapter is read from safetensors only"), (adapter.PEFT_WEIGHTS, "cannot be read")):
        if planted:
            (run_dir / "adapter" / planted).write_bytes(bomb)
        assert evaluate.main(asked) == 2
        shown = capsys.readouterr().err
        assert words in shown and "Traceback" not in shown


def test_extra_modules_of_an_adapter(tiny_folder, composer, bomb, tmp_path) -> None:
    x = composer("conditioning=cross_attention", f"model.path={tiny_folder}")
    plant(tmp_path / "adapter", bomb, adapter.EXTRAS)
    with pytest.raises(ModelError, match="extras.safetensors.*cannot be read"):
        adapter.load(running.assemble(x, model.load(x.model)), tmp_path / "adapter")


def test_a_cache_shard(own, bomb, composer, caplog) -> None:
    """Shards are computed again, and give the same trained bits; files of other names are not looked at."""
    overrides, place, run_dir = own
    trained = (run_dir / "adapter" / adapter.PEFT_WEIGHTS).read_bytes()
    shards = list((place / "cache" / "features").glob("*/*.safetensors"))
    assert shards
    for shard in shards:
        shard.write_bytes(bomb)
        plant(shard.parent, bomb)
    run_here(composer, [*overrides, "trainer.if_finished=again"], place)
    assert caplog.text.count("is damaged") == len(shards)
    assert (run_dir / "adapter" / adapter.PEFT_WEIGHTS).read_bytes() == trained


def test_a_data_cache(own, bomb, composer, caplog) -> None:
    """Drawn pairs are drawn again, and are the same."""
    overrides, place, _ = own
    x = composer(*overrides, f"tracking.cache_dir={place}/cache")
    before = data.fingerprint(data.load(x.data, place / "cache").dev)
    tables_here = list((place / "cache").glob("pairs-*/*.arrow"))
    assert len(tables_here) == 6
    for table in tables_here:
        table.write_bytes(bomb)
    assert data.fingerprint(data.load(x.data, place / "cache").dev) == before
    assert "drawn again" in caplog.text


def test_a_parquet_table_its_cache_and_a_script_beside_it(tmp_path, bomb, marker, monkeypatch) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "test.parquet").write_bytes(bomb)
    with pytest.raises(DataError, match="cannot be read"):
        tables.open_tables(str(folder), ("test",), ("image",), tmp_path / "cache")
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": None}], "text": ["a"]}), folder / "test.parquet")
    script = tmp_path / "parquet" / "parquet.py"  # `datasets` once ran a script of the format's name
    script.parent.mkdir()
    script.write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    monkeypatch.chdir(tmp_path)
    opened = tables.open_tables(str(folder), ("test",), ("image",), tmp_path / "cache")["test"]
    assert len(opened) == 1
    del opened
    cached = list((tmp_path / "cache" / "tables").rglob("*.arrow"))
    assert cached
    for table in cached:
        table.write_bytes(bomb)
        plant(table.parent, bomb)
    with pytest.raises(DataError, match="cannot be read"):
        tables.open_tables(str(folder), ("test",), ("image",), tmp_path / "cache")


def test_an_arrow_type_that_carries_a_pickle(tmp_path, marker) -> None:
    """pyarrow before 14.0.1 unpickled the description of such a column (CVE-2023-47248)."""
    described = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Bomb(marker))}
    column = pa.field("png", pa.binary(), metadata=described)
    folder = tmp_path / "root"
    folder.mkdir()
    table = pa.table([pa.array([b"x"])], schema=pa.schema([column]))
    pq.write_table(table, folder / "test.parquet")
    with pytest.raises(LabError):
        tables.open_tables(str(folder), ("test",), ("image",), tmp_path / "cache")
    with pa.ipc.new_file(str(tmp_path / "samples.arrow"), table.schema) as file:
        file.write_table(table)
    pa.ipc.open_file(pa.memory_map(str(tmp_path / "samples.arrow"))).read_all()


@pytest.mark.parametrize("how", ["alone", "named safetensors", "in an index", "as an adapter beside"])
def test_a_base_checkpoint(tiny_folder, tmp_path, bomb, how) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    plant(folder, bomb)
    if how == "as an adapter beside":
        described = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(folder)}
        (folder / "adapter_config.json").write_text(json.dumps(described))
    else:
        (folder / "model.safetensors").unlink()
    if how == "named safetensors":
        (folder / "model.safetensors").write_bytes(bomb)
    if how == "in an index":
        names = model.load(dial(tiny_folder)).model.state_dict()
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model-00001-of-00001.bin")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="model.path"):
        model.load(dial(folder))


def dial(folder: Path) -> ModelDial:
    return ModelDial(name="tiny", family="qwen2_vl", path=str(folder))


def test_code_in_a_checkpoint_runs_only_if_the_config_says_so(tiny_folder, tmp_path, marker) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    for name, entries in {
        "config.json": {"AutoConfig": "theirs.Config", "AutoModelForImageTextToText": "theirs.Model"},
        "processor_config.json": {"AutoProcessor": "theirs.Processor"},
        "preprocessor_config.json": {"AutoImageProcessor": "theirs.ImageProcessor"},
        "tokenizer_config.json": {"AutoTokenizer": ["theirs.Tokenizer", "theirs.Tokenizer"]},
    }.items():
        path = folder / name
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**values, "auto_map": entries}))
    model.load(dial(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "theirs"}))
    with pytest.raises(ModelError, match="trust_remote_code"):
        model.load(dial(folder))


def test_predictions(tmp_path, bomb) -> None:
    (tmp_path / "dev.parquet").write_bytes(bomb)
    with pytest.raises(LabError, match="dev.parquet"):
        predictions.read(tmp_path / "dev.parquet")


def test_nothing_in_the_laboratory_unpickles() -> None:
    """No module calls a loader of pickles without `weights_only=True`, `eval`, `exec` or a shell."""
    guilty = []
    for path in sorted((Path(__file__).parents[1] / "lab").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.partition("#")[0]
            words = ("import pickle", "pickle.load", "allow_pickle=True", "shell=True", "os.system", "os.popen", "yaml.load(", " exec(")
            torch_load = "torch.load(" in code and "weights_only=True" not in code
            evaluates = " eval(" in code or "=eval(" in code
            if torch_load or evaluates or any(word in code for word in words):
                guilty.append(f"{path}:{number}: {line.strip()}")
    assert not guilty
