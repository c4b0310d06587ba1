"""A server of a run is held against what the run has stored: what makes it answer otherwise is refused with what it is."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import openai_server
import pytest
from openai_server import Served

from lab import run as running
from lab import verify
from lab.config import Experiment
from lab.export import export_run
from lab.store import runs
from lab.store.runs import Run

pytestmark = pytest.mark.usefixtures("quiet_root_logger", "nominal_costs")


@pytest.fixture(scope="module", params=["choice", "text"])
def served(request: pytest.FixtureRequest, composer: Callable[..., Experiment], tiny_folder: Path, tmp_path_factory) -> tuple[Path, Run, Served]:
    """A run of each kind of answer, and its model."""
    home = tmp_path_factory.mktemp("served")
    own = {"choice": ("data.num_minival=4", "data.num_dev=8", "data.num_train=32"), "text": words(home)}[request.param]
    x = composer(
        f"model.path={tiny_folder}", "trainer.max_steps=6", "trainer.batch_size=4", "evaluation.latency_examples=0", "optim.lr=0.01",
        "evaluation.verify=false", f"tracking.runs_dir={home}/runs", f"tracking.cache_dir={home}/cache", "tracking.enabled=false", *own,
    )  # fmt: skip
    run = running.run_alone(x, "command", time.time())
    return home / "runs", run, Served(running.reload(x, runs.folder(home / "runs", run.identity)), run.identity)


def words(folder: Path) -> tuple[str, ...]:
    """Open questions about pictures of several sizes."""
    from PIL import Image

    rows = ["image,question,answer,split"]
    for i, split in enumerate(["train"] * 6 + ["minival"] * 2 + ["dev"] * 4):
        Image.new("RGB", (84 + i, 84 + 28 * (i % 3)), ("red", "green", "blue")[i % 3]).save(folder / f"{i}.png")
        rows.append(f"{i}.png,what colour is {i}?,{('red', 'green', 'blue')[i % 3]},{split}")
    (folder / "words.csv").write_text("\n".join(rows))
    return "data=questions", f"data.path={folder}/words.csv", "evaluation.max_new_tokens=6"


def ask(served: tuple[Path, Run, Served], monkeypatch: pytest.MonkeyPatch, *words: str, **wrong: object) -> int:
    """`lab verify RUN --endpoint URL` of a server that has something wrong."""
    runs_dir, run, right = served
    with openai_server.running(replace(right, **wrong)) as url:
        monkeypatch.setattr(sys, "argv", ["lab.verify", run.identity, "--endpoint", url, "--runs-dir", str(runs_dir), *words])
        with pytest.raises(SystemExit) as end:
            verify.main()
    return int(end.value.code or 0)


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The checks that were printed, by name; what was said of them all under "error"."""
    said = capsys.readouterr()
    return {line[:16].strip(): line for line in said.out.splitlines()[1:]} | {"error": said.err}


def test_a_server_that_answers_as_the_run_passes(served, monkeypatch, capsys) -> None:
    requests: list = []
    assert ask(served, monkeypatch, requests=requests) == 0
    told = lines(capsys)
    assert all(told[name].rstrip().endswith(("pass", "base's)")) for name in ("stored answers", "prompt tokens", "bare base")), told
    assert {body["model"] for body in requests} == {served[1].identity, "base"}
    assert all(body["temperature"] == 0 for body in requests)


def test_an_adapter_that_is_not_applied_is_refused(served, monkeypatch, capsys) -> None:
    assert ask(served, monkeypatch, bare=True) == 1
    told = lines(capsys)
    assert "FAIL (base answers the same: the adapter is not applied)" in told["bare base"]
    assert "FAIL" in told["stored answers"] and "does not serve run" in told["error"]


def test_other_pixel_limits_are_refused(served, monkeypatch, capsys) -> None:
    assert ask(served, monkeypatch, most_pixels=28 * 28) == 1
    assert "FAIL" in (told := lines(capsys))["prompt tokens"] and "other pixel limits" in told["prompt tokens"]


def test_a_server_without_log_probabilities_and_without_a_base_is_judged_by_its_answers(served, monkeypatch, capsys) -> None:
    assert ask(served, monkeypatch, logprobs=False, base=None) == 0
    told = lines(capsys)
    assert "log-probabilities are not told" in told["stored answers"]
    assert "not applicable (the endpoint does not offer the bare base" in told["bare base"]


def test_what_cannot_be_asked_is_said(served, monkeypatch, capsys) -> None:
    assert ask(served, monkeypatch, "--model", "other") == 2
    assert "it has no model other. It has" in lines(capsys)["error"]
    assert ask(served, monkeypatch, "--api-key-env", "NO_SUCH_VARIABLE") == 2
    assert "NO_SUCH_VARIABLE: this variable is not set" in lines(capsys)["error"]


@pytest.mark.bar
def test_transformers_serves_an_exported_adapter_as_it_was_measured(served, tmp_path: Path, monkeypatch, capsys) -> None:
    """By the command that is written beside the folder, on a CPU; it tells no log-probabilities."""
    runs_dir, run, _ = served
    export_run(runs_dir, run.identity, tmp_path / "out")
    words = next(line for line in (tmp_path / "out.serve.sh").read_text().splitlines() if "transformers serve" in line).removeprefix("# ").split()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words[0], words[words.index("8000")] = str(Path(sys.executable).with_name("transformers")), str(port)
    with subprocess.Popen([*words, "--device", "cpu"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait_for(url)
            arguments = ["lab.verify", run.identity, "--endpoint", url, "--model", words[2], "--runs-dir", str(runs_dir)]
            monkeypatch.setattr(sys, "argv", arguments)
            with pytest.raises(SystemExit) as end:
                verify.main()
        finally:
            server.terminate()
    told = capsys.readouterr()
    assert end.value.code in (0, None), told.out + told.err


def wait_for(url: str) -> None:
    """Until a server answers."""
    for _ in range(600):
        try:
            httpx.get(f"{url}/models", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")
