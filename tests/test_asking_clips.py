"""Conversations and clips asked of a finished run by `lab.predict` and `lab.serve`: as it answered its own; refused in words where it takes none."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import clips
import httpx
import pyarrow.parquet as pq
import pytest

from lab import finished, predict
from lab import run as running
from lab.answers import predictions
from lab.config import Experiment
from lab.errors import LabError
from lab.host.progress import silent
from lab.run.assembly import clip_rule
from lab.run.predicting import Predictor
from lab.serving import app, guard, served
from lab.store import runs
from lab.store.runs import Run

pytestmark = pytest.mark.usefixtures("quiet_root_logger", "nominal_costs")


@pytest.fixture(scope="module")
def trained(composer: Callable[..., Experiment], tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, Path]:
    """The folder of a run over drawn conversations with clips, the run, and the manifest that it read."""
    root = tmp_path_factory.mktemp("clips")
    x = composer(
        "data=drawn_conversations", "data.source=clips", "data.num_train=5", "data.num_minival=5", "data.num_dev=10", "data.video.num_frames=4",
        f"model.path={tiny_folder}", f"tracking.runs_dir={root}/runs", f"tracking.cache_dir={root}/cache", "tracking.enabled=false",
        "trainer.max_steps=2", "trainer.batch_size=4", "evaluation.latency_examples=0", "evaluation.verify=false", "evaluation.zero_shot=false",
        "evaluation.max_new_tokens=4",
    )  # fmt: skip
    run = running.run_alone(x, "python -m lab.train", time.time())
    (manifest,) = (root / "cache").glob("drawn_conversations-*/conversations.json")
    return root, run, manifest


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    root, run, _ = trained
    return Predictor(root / "runs", run, finished.changed(run, []))


def test_a_manifest_is_asked_as_in_the_evaluation(trained, predictor: Predictor, tmp_path: Path, capsys) -> None:
    """Answers that its records have are not read, records without them are asked alike; texts alone, pictures and clips side by side."""
    root, run, manifest = trained
    dev = [record for record in json.loads(manifest.read_text()) if record["split"] == "dev"]
    records = [record | {"conversations": record["conversations"][: -1 if at % 2 else None]} for at, record in enumerate(dev)]
    (tmp_path / "mine.json").write_text(json.dumps([*records, records[1] | {"images": [], "id": "bad"}]))
    words = [run.identity, str(tmp_path / "mine.json"), f"data.root={manifest.parent}", "--runs-dir", f"{root}/runs", "--to", str(tmp_path / "out")]
    assert predict.main(words) == 1
    assert "mine.json:" in (told := capsys.readouterr().out) and "each <image> stands for one file" in told and "10 answers, 1 skipped" in told
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    stored = predictions.read(runs.own_predictions(run, root / "runs" / run.identity, "dev"))
    assert [row["answer"] for row in rows] == stored.answered.tolist() and [row["id"] for row in rows] == stored.sample_id.tolist()
    assert [row["probability"] for row in rows] == pytest.approx(stored.confidence.tolist(), abs=1e-5)
    assert [bool(row["video"]) for row in rows] == ["videos" in record for record in dev]
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert "[clip 1]" in page and 'class="turn assistant"' in page
    with pytest.raises(LabError, match="--question: .*mine.json has turns of its own"):
        predictor.questions([tmp_path / "mine.json"], "What?")


def test_clips_are_asked_by_file_folder_and_column(trained, predictor: Predictor, tmp_path: Path) -> None:
    """One way or another the same clip and words give the same answer; a broken clip is listed."""
    clip = next(trained[2].parent.glob("media/dev-*.mkv"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "whole.mkv").write_bytes(clip.read_bytes())
    (folder / "cut.mp4").write_bytes(clips.encoded(clips.frames())[:-2000])
    (folder / "rows.csv").write_text("video,question\nwhole.mkv,<video>Which way?\n")
    found = []
    for places, question in (([clip], "Which way?"), ([folder], "Which way?"), ([folder / "rows.csv"], None)):
        predicted = predictor.answer(predictor.questions(places, question), silent)
        found += predicted.arrow().to_pylist()
        assert [Path(one.source).name for one in predicted.splits.skipped] == (["cut.mp4"] if places == [folder] else [])
    assert [(row["image"], Path(row["video"]).name) for row in found] == [("", clip.name), ("", "whole.mkv"), ("", "whole.mkv")]
    assert len({(row["answer"], row["probability"]) for row in found}) == 1
    with pytest.raises(LabError, match="<image> and <video> in its question name others"):
        predictor.questions([clip], "<image>Which way?")


def test_a_server_takes_clips_and_turns(trained) -> None:
    """The form, both forms of a message's part, and a conversation of several turns: each as `lab.predict` answers it; a fault has its field."""
    root, run, manifest = trained
    records = [record for record in json.loads(manifest.read_text()) if record["split"] == "dev"]
    place = next(at for at, record in enumerate(records) if "videos" in record)
    stored = predictions.read(runs.own_predictions(run, root / "runs" / run.identity, "dev"))
    data = (manifest.parent / records[place]["videos"][0]).read_bytes()
    url = f"data:video/x-matroska;base64,{base64.b64encode(data).decode()}"
    said = [turn["value"] for turn in records[place]["conversations"]]
    parts = ({"type": "video_url", "video_url": {"url": url}}, {"type": "video", "video": url})
    loaded = served.load(root / "runs", [run.identity], [], silent, lambda told: None)
    api, serving = app.build(loaded, guard.Limits())

    async def talk() -> None:
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:

            async def chat(*messages: tuple[str, Any]) -> httpx.Response:
                body = [{"role": role, "content": content} for role, content in messages]
                return await http.post("/v1/chat/completions", json={"model": run.identity, "messages": body})

            for part in parts:
                first = ("user", [part, {"type": "text", "text": said[0].removeprefix("<video>")}])
                reply = (await chat(first, ("assistant", said[1]), ("user", said[2]))).json()
                assert reply["choices"][0]["message"]["content"] == stored.answered[place]
                assert reply["prediction"]["frames"][0]["shown"] == [0, 2, 4, 6]
            files = {"video": ("a.mkv", data, "video/x-matroska")}
            form = await http.post("/predict", data={"question": said[0]}, files=files)
            assert form.json()["answer"] == (await chat(first)).json()["choices"][0]["message"]["content"]
            assert (await http.get("/v1/models")).json()["data"][0]["clips"] is True
            assert "no such" not in (await http.post("/predict", data={"question": "How many corners has a circle?"})).text
            broken = [{"type": "video", "video": url[: len(url) // 2 // 4 * 4]}, {"type": "text", "text": "What?"}]
            for messages, field in (
                ([("user", broken)], "messages.0.content.0.video"),
                ([("user", [{"type": "video", "video": "http://a/b.mp4"}])], "messages.0.content.0.video"),
                ([first, ("user", "again?")], "messages.1.role"),
                ([first, ("assistant", "yes")], "messages.1.role"),
                ([("user", "a"), ("assistant", [parts[0]]), ("user", "b")], "messages.1.content.0"),
            ):
                refused = await chat(*messages)
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, field), refused.text
            wrong = await http.post("/predict", data={"question": "<image> and <video>?"}, files=files)
            assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "question"

    try:
        asyncio.run(talk())
    finally:
        serving.batching.end()


def test_a_run_that_takes_no_clip_says_why(trained, composer: Callable[..., Experiment]) -> None:
    root, run, _ = trained
    x = finished.changed(run, [])
    assert clip_rule(x).num_frames == 4
    for other, reason in (
        (replace(x, data=replace(x.data, name="drawn_charts")), "data=drawn_charts, which has none"),
        (replace(x, vision_tokens=replace(x.vision_tokens, name="pool")), "vision_tokens=pool: a clip: "),
        (replace(x, model=replace(x.model, family="llava")), "model.family=llava does not take it: it takes pictures, and no video"),
    ):
        with pytest.raises(LabError, match=reason):
            clip_rule(other)
