"""An exported folder as the artifacts of the MLflow LoggedModel that its run has: with a signature and an example of an input."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from lab.config import Tracking
from lab.tracking.mlflow_store import MlflowStore

EXAMPLE = "input_example.json"


def register(section: Tracking, model_id: str, folder: Path, library: str, example: dict[str, str]) -> None:
    """Upload a folder to a run's model. library: that loads it, peft or transformers. example: a value of each input."""
    client = MlflowStore(section).client()

    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    signature = ModelSignature(Schema([ColSpec("string", name) for name in example]), Schema([ColSpec("string", "answer")]))
    described = Model(artifact_path="model", signature=signature, model_id=model_id)
    described.add_flavor(library, folder=".")
    described.saved_input_example_info = {"artifact_path": EXAMPLE, "type": "json_object", "format": "columns"}
    client.log_model_artifacts(model_id, str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / EXAMPLE).write_text(json.dumps(example), encoding="utf-8")
        described.save(str(Path(scratch) / "MLmodel"))
        client.log_model_artifacts(model_id, scratch)
