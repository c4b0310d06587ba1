"""MLflow's server in one process, as `mlflow server --workers 1` has it run: `python -m tracking_server PORT STORE ARTIFACTS`."""

from __future__ import annotations

import os
import sys

import uvicorn
from mlflow.server import constants

if __name__ == "__main__":
    port, store, artifacts = sys.argv[1:]
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{store}"
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=int(port), log_level="warning")
