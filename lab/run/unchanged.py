"""Whether the checkpoint of a finished run still is what its record is of: a folder keeps its name when its weights are overwritten."""

from __future__ import annotations

import json
from pathlib import Path

from lab import model
from lab.config import Experiment, identity
from lab.errors import ContractError, ModelError
from lab.model.identity import identify
from lab.store import runs


def require_same_base(x: Experiment) -> None:
    """Raise a `ContractError` where `model.path` is a folder whose weights or config are others than those of the finished run of `x`.

    A folder that is gone, and a hub's id, are as they were: nothing here says otherwise. Weights are read once (`lab.model.identity`).
    """
    run_dir = runs.folder(Path(x.tracking.runs_dir), identity(x))
    try:
        where = model.locate(x.model.path or "")
    except ModelError:
        return
    if x.model.llm_from is not None or not Path(where).is_dir():
        return
    try:
        trained = json.loads((run_dir / "contract.json").read_text(encoding="utf-8"))["base"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return  # whoever loads its adapter is told
    for part, now in identify(where, x.model.revision, Path(x.tracking.cache_dir)).items():
        if trained.get(part, now) != now:
            raise ContractError(
                f"model.path={x.model.path}: its {part} are not those of run {identity(x)}, which is finished ({trained[part][:12]}, now "
                f"{now[:12]}), so its record says nothing of them. Give trainer.if_finished=again to begin it anew, or another tracking.runs_dir to "
                "keep both."
            )
