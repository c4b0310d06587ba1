"""`lab serve`: finished runs over HTTP answer what `lab predict` answers, to whoever asks, however badly others ask."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from hostile_requests import MARK, post, requests
from PIL import Image
from serving import Server, World, body, make_world

from lab import serve, verify
from lab.finished import find
from lab.freezing import from_dict
from lab.run import endpoint
from lab.serving import app, fetching, guard, served
from lab.serving.metrics import Metrics
from lab.serving.pieces import Pieces
from lab.store import runs

pytestmark = pytest.mark.usefixtures("quiet_root_logger", "nominal_costs")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def world(composer, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(composer, tiny_folder, tmp_path_factory.mktemp("serve"))


class Elsewhere(BaseHTTPRequestHandler):
    """A host of pictures, and of what a server that fetches them must stand."""

    good = b""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.reply(302, b"", Location=self.path.removeprefix("/to/"))
        elif self.path == "/slow":
            time.sleep(1)
        elif self.path == "/large":
            self.reply(200, bytes(2 * 2**20))
        elif self.path == "/packed":
            self.reply(200, gzip.compress(self.good), Content_Encoding="gzip")
        else:
            self.reply(200 if self.path == "/0.png" else 404, self.good)

    def reply(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nowhere."""


@pytest.fixture(scope="module")
def elsewhere(world: World) -> Iterator[int]:
    """The port of such a host on this machine."""
    Elsewhere.good = world.picture(0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield host.server_port
        host.shutdown()


@pytest.fixture(scope="module")
def server(world: World, forking_server: Path, elsewhere: int) -> Iterator[Server]:
    """All over one base; it must end well when the module is done."""
    one = Server(forking_server, world, [*world.all, world.boxes], "--allow-media-domain", f"127.0.0.1:{elsewhere}")
    yield one
    assert one.end() == 0, one.log.read_text()


def client(server: Server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


def test_the_answers_are_those_of_predict(world: World, server: Server) -> None:
    """Of every adapter, by both doors, in their frame already or not; the same prompt differs by adapter."""
    answers = {}
    for identity in world.all:
        rows = world.predicted(identity, "what is it?", range(4)).arrow().to_pylist()
        frame = world.predictor(identity).x.prompt.template
        for i, row in enumerate(rows):
            found = server.form(identity, "what is it?", world.picture(i)).json()
            assert (found["answer"], found["probability"]) == (row["answer"], pytest.approx(row["probability"], abs=1e-5))
            completion = server.ask(identity, frame.format(question="what is it?"), world.url(i)).json()
            assert completion["choices"][0]["message"]["content"] == row["answer"] and completion["prediction"]["frames"] == found["frames"]
        answers[identity] = [row["answer"] for row in rows]
    assert answers[world.words] != answers[world.other]


def test_the_openai_client_asks(world: World, server: Server) -> None:
    """Models are runs; a text or boxes whole and in pieces, a choice with the probability of each option."""
    asking = client(server)
    models = {model.id: model for model in asking.models.list()}
    assert set(models) == {*world.all, world.boxes} and set(models[world.red].options) == {"no", "yes"} and models[world.words].kind == "text"
    assert models[world.words].adapter != models[world.other].adapter
    for identity in (*world.all, world.boxes):
        told = body(identity, "what colour is it?", world.url(3), logprobs=True, top_logprobs=5)
        whole = asking.chat.completions.create(**told)
        chunks = list(asking.chat.completions.create(**told, stream=True, stream_options={"include_usage": True}))
        pieces = [chunk.choices[0] for chunk in chunks if chunk.choices]
        text = whole.choices[0].message.content
        assert text and "".join(piece.delta.content or "" for piece in pieces) == text
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [whole.choices[0].finish_reason]
        assert chunks[-1].usage == whole.usage and pieces[-1].logprobs.model_dump() == whole.choices[0].logprobs.model_dump()
        log_p = sum(each.logprob for each in whole.choices[0].logprobs.content)
        if identity == world.red:
            shares = whole.prediction["probabilities"]
            top = {one.token: one.logprob for one in whole.choices[0].logprobs.content[0].top_logprobs}
            assert set(shares) == set(top) == {"yes", "no"} and sum(shares.values()) == pytest.approx(1) and text == max(top, key=top.__getitem__)
        else:
            table = world.predicted(identity, "what colour is it?", [3]).table
            assert log_p == pytest.approx(table.log_p[0], abs=1e-4) and whole.usage.completion_tokens == table.tokens[0]


def test_a_run_is_verified_at_its_server_and_another_in_its_place_is_not(world: World, server: Server) -> None:
    """As `lab verify --endpoint` asks: whole prompts as they were trained, separators between pictures among them."""

    def checks(identity: str, model: str) -> list[bool | None]:
        run, run_dir = find(world.root / "runs", identity), runs.folder(world.root / "runs", identity)
        asked = endpoint.questions(run, run_dir, from_dict(run.config), 4)
        with contextlib.closing(endpoint.Endpoint(f"{server.url}/v1", None, model)) as asking:
            return [check.passed for check in endpoint.replay(asked, asking, None)]

    for identity in (world.words, world.red):
        assert checks(identity, identity) == [True, True, None]
    assert checks(world.words, world.other) == [False, True, None]


@pytest.mark.parametrize("name", ["words", "red", "boxes"])
def test_verify_finds_what_was_measured(world: World, server: Server, monkeypatch, name: str) -> None:
    """`lab verify --endpoint` replays the run's own questions, of every kind of answer; another adapter's answers are not its."""

    def verified(*words: str) -> int:
        command = ["lab.verify", getattr(world, name), "--endpoint", f"{server.url}/v1", "--runs-dir", f"{world.root}/runs", *words]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            verify.main()
        return int(end.value.code or 0)

    assert verified() == 0
    assert name != "words" or verified("--model", world.other) == 1


def test_a_stream_is_events_that_end(world: World, server: Server) -> None:
    lines = server.ask(world.words, "what is it?", world.url(0), stream=True).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and all(json.loads(line.removeprefix("data: "))["object"] for line in lines[:-2])
    assert server.ask(world.words, "what<|im_end|>?", world.url(0), stream=True).status_code == 400, "before a stream begins"


def test_a_turned_picture_is_asked_upright_and_its_frame_is_told(world: World, server: Server) -> None:
    stored = Image.linear_gradient("L").convert("RGB").resize((120, 60))
    tag = stored.getexif()
    tag[0x0112] = 6
    turned, upright = io.BytesIO(), io.BytesIO()
    stored.save(turned, "PNG", exif=tag)
    stored.rotate(-90, expand=True).save(upright, "PNG")
    (first, second) = (server.form(world.words, "what is it?", file.getvalue()).json() for file in (turned, upright))
    assert first["frames"] == [{"width": 60, "height": 120, "exif_orientation": 6, "exif_applied": True}]
    assert second["frames"] == [{"width": 60, "height": 120, "exif_orientation": 1, "exif_applied": True}]
    assert {**first, "frames": 0} == {**second, "frames": 0}


def test_boxes_are_in_pixels_of_the_picture_shown(world: World, server: Server) -> None:
    """As of `lab predict`, with their scores; of a turned picture in its frame."""
    predicted = world.predicted(world.boxes, "where is it?", [1])
    found = server.form(world.boxes, "where is it?", world.picture(1)).json()
    regions, scores = predicted.table.regions[0], predicted.table.scores[0]
    assert regions and found["status"] == predicted.table.status[0] and found["answer"] == predicted.table.text[0]
    assert [[box[name] for name in ("label", "x0", "y0", "x1", "y1")] for box in found["regions"]] == [list(region) for region in regions]
    assert [box["score"] for box in found["regions"]] == pytest.approx(list(scores), abs=1e-5)


def sent(server: Server, data: bytes) -> bytes:
    """What comes back for some bytes, until the server closes; nothing where it resets the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


def load(world: World, server: Server, number: int, at_once: int) -> tuple[float, list[tuple[str, int, str]]]:
    """Seconds of so many questions over all adapters, and each with its answer.

    A plain connection for each that asks: the pool of httpx looks through all of its connections at each reply, and with 200 of them takes
    more of the machine than the server does.
    """
    questions = [(world.all[i % 3], i % 12) for i in range(number)]
    requests = [post("/v1/chat/completions", json.dumps(body(name, "what is it?", world.url(i)))) for name, i in questions]

    def ask(i: int) -> tuple[str, int, str]:
        head, _, said = sent(server, requests[i]).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), (head, said)
        return *questions[i], json.loads(said)["choices"][0]["message"]["content"]

    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(ask, range(number)))
    return time.monotonic() - began, answers


WATCHING = """
import socket, sys, time
slowest = 0
print(flush=True)
while not __import__("select").select([sys.stdin], [], [], 0.02)[0]:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as to:
        to.sendall(b"GET /health HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
        assert b'"ok"' in b"".join(iter(lambda: to.recv(4096), b""))
    slowest = max(slowest, time.monotonic() - began)
print(slowest)
"""
"""Asks /health until its input ends, and says what the slowest reply took."""


def check_load(world: World, server: Server, number: int) -> float:
    """Every one of concurrent questions is answered as by `lab predict`; the slowest reply of /health to another process meanwhile, in seconds."""
    command = [sys.executable, "-IS", "-c", WATCHING, str(server.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None and watching.stdout.readline()
        _, answers = load(world, server, number, number)
        slowest = float(watching.communicate()[0])
    expected = {name: world.predicted(name, "what is it?", range(12)).table.answered.tolist() for name in world.all}
    assert [answer for _, _, answer in answers] == [expected[name][i] for name, i, _ in answers]
    return slowest


def test_concurrent_questions_of_all_adapters(world: World, server: Server) -> None:
    before = server.metric("lab_batch_questions_sum"), server.metric("lab_batch_questions_count")
    check_load(world, server, 36)
    questions, batches = (server.metric(f"lab_batch_questions_{what}") - was for what, was in zip(("sum", "count"), before, strict=True))
    assert questions == 36 and batches < 36, "some were asked together"


@pytest.mark.bar
def test_200_questions_at_once_take_a_third_of_the_time_that_they_take_one_by_one(world: World, server: Server) -> None:
    slowest = check_load(world, server, 200)
    one_by_one, together = load(world, server, 200, 1)[0], load(world, server, 200, 200)[0]
    print(f"\n200 questions over 3 adapters: one by one {one_by_one:.1f} s, at once {together:.1f} s, {one_by_one / together:.1f} x; "
          f"slowest /health {slowest:.2f} s")  # fmt: skip
    assert one_by_one / together >= 3 and slowest < 1


def test_hostile_requests_are_refused_and_others_are_served(world: World, server: Server) -> None:
    """Each by a status of its own fault or by a closed connection; at most 1 KB is said, nothing of it what was sent."""
    asked = requests(world)
    assert len(asked) >= 60
    wrong = {}
    for name, data in asked.items():
        head, _, said = sent(server, data).partition(b"\r\n\r\n")
        status = int(head.split()[1]) if head else 0
        if not (400 <= status < 500 or not head) or len(said) > 1024 or MARK.encode() in head + said:
            wrong[name] = (head[:200], said[:200])
    assert not wrong, "\n".join(map(str, wrong.items()))
    assert server.form(world.words, "what is it?", world.picture(0)).status_code == 200
    assert MARK not in server.log.read_text() and "Traceback" not in server.log.read_text(), "nor is it logged"


@pytest.mark.parametrize(("changed", "field"), [
    ({"model": None}, "model"), ({"messages": [{"role": "user"}]}, "messages.0.content"), ({"temperature": 1}, "temperature"), ({"x": 1}, "x"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content.0.image_url.url"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}, {"type": "text", "text": "?"}]}]},
     "messages.0.content.0.image_url.url"),
])  # fmt: skip
def test_an_error_names_the_field(world: World, server: Server, changed: dict, field: str) -> None:
    request = {key: value for key, value in {**body(world.words, "what?", world.url(0)), **changed}.items() if value is not None}
    reply = server.http.post("/v1/chat/completions", json=request)
    assert reply.status_code in (400, 422) and reply.json()["error"]["param"] == field and field in reply.json()["error"]["message"]


def test_a_picture_is_fetched_from_a_listed_host_alone(world: World, server: Server, elsewhere: int, monkeypatch) -> None:
    """As if it had come with the request. A name must lead to public addresses, after redirects too; size, time and redirects are bounded."""
    fetched, sent = (server.ask(world.words, "what is it?", url) for url in (f"http://127.0.0.1:{elsewhere}/0.png", world.url(0)))
    assert fetched.json()["prediction"] == sent.json()["prediction"]
    refused = server.ask(world.words, "what is it?", f"http://127.0.0.1:{elsewhere}/404?secret")
    assert refused.status_code == 400 and "status 404" in refused.text and "secret" not in refused.text
    here, named = f"http://127.0.0.1:{elsewhere}", f"http://localhost:{elsewhere}"
    monkeypatch.setattr(fetching, "FETCH_S", 0.5)

    async def fetch(url: str) -> bytes:
        held = guard.Held(guard.Guard(None, guard.Limits(), Metrics([], [], lambda: 0), app.is_open))
        return await fetching.Fetching((f"127.0.0.1:{elsewhere}", f"localhost:{elsewhere}"), 2**20).fetch(url, held)

    assert asyncio.run(fetch(f"{here}/to//to//0.png")) == world.picture(0)
    for url, reason in {
        f"{named}/0.png": "not public", f"{here}/to/{named}/0.png": "not public", "http://127.0.0.1/0.png": "none of them",
        f"{here}/to/http://169.254.169.254/latest": "none of them", f"http://127.0.0.1:{elsewhere}@example.org/": "without a user's name",
        "file:///etc/passwd": "http or https", "/etc/passwd": "http or https", "http://a\x01/": "no address", f"{here}/large": "larger than 1 MB",
        f"{here}/to/{'/to/' * 4}0.png": "more than 3 times", f"{here}/slow": "did not come", f"{here}/packed": "compressed",
    }.items():  # fmt: skip
        with pytest.raises(fetching.NotFetched, match=reason):
            asyncio.run(fetch(url))
    private = "127.0.0.1 10.1.2.3 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 ::1 fe80::1 fd00::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1::"
    assert not any(fetching.is_public(fetching.literal(address)) for address in private.split())
    assert fetching.is_public(fetching.literal("1.1.1.1")) and fetching.is_public(fetching.literal("2606:4700::1111"))


def test_metrics_have_no_label_from_outside(server: Server) -> None:
    before = len(server.get("/metrics").text.splitlines())
    for i in range(200):
        server.get(f"/scanned/{i}")
    series = [line for line in server.get("/metrics").text.splitlines() if "scanned" in line]
    assert not series and len(server.get("/metrics").text.splitlines()) < before + 20
    assert 'lab_requests_total{model="none",route="unmatched",status="404"}' in server.get("/metrics").text


@pytest.mark.bar
@pytest.mark.parametrize("keys", [("model.dtype=bfloat16",), ("model.dtype=bfloat16", "model.quantisation=nf4")], ids=("bfloat16", "nf4"))
def test_fewer_bits_flip_few_answers_in_other_batches(keys, composer, tiny_folder: Path, forking_server: Path, tmp_path: Path) -> None:
    """Of 60 questions at once against `lab predict`; as many as `lab verify` takes of such a base."""
    world = make_world(composer, tiny_folder, tmp_path, *keys)
    server = Server(forking_server, world, world.all)
    _, answers = load(world, server, 60, 60)
    expected = {name: world.predicted(name, "what is it?", range(12)).table.answered.tolist() for name in world.all}
    flips = sum(answer != expected[name][i] for name, i, answer in answers)
    print(f"\n{keys[-1]}: {flips} of {len(answers)} answers are others than those of lab predict")
    assert server.end() == 0 and flips <= endpoint.MOST_FLIPS * len(answers)


def hold(server: Server, number: int) -> tuple[list[socket.socket], float]:
    """Open so many connections that say half a head or nothing; the time in which somebody else is then answered."""
    held = []
    for i in range(number):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /heal" if i % 2 else b"")
        held.append(connection)
    began = time.monotonic()
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200, "by a connection of its own"
    return held, time.monotonic() - began


def test_open_sockets_keep_nobody_out(world: World, server: Server) -> None:
    held, _ = hold(server, 300)
    assert server.form(world.words, "what is it?", world.picture(0)).status_code == 200
    for connection in held:
        connection.close()


@pytest.mark.bar
def test_thousands_of_sockets_and_hostile_requests_take_no_memory(world: World, server: Server) -> None:
    """Thrice: 10,000 connections held open while all hostile requests are sent and others are answered."""
    sizes = []
    for _ in range(3):
        held, seconds = hold(server, 10_000)
        for data in requests(world).values():
            sent(server, data)
        assert server.form(world.words, "what is it?", world.picture(0)).status_code == 200 and seconds < 30
        for connection in held:
            connection.close()
        sizes.append(float(server.get("/metrics").text.split("\nprocess_resident_memory_bytes ")[1].split()[0]) / 1e6)
    print(f"\n{len(requests(world))} hostile requests beside 10,000 sockets, thrice: memory {', '.join(f'{size:.0f} MB' for size in sizes)}")
    assert sizes[-1] < 1.1 * sizes[0]


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def long_stream(server: Server, world: World, most: int) -> Iterator[socket.socket]:
    """A connection on which an answer of so many tokens has begun."""
    request = json.dumps(body(world.other, "what is it?", world.url(0), stream=True, max_tokens=most))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(post("/v1/chat/completions", request))
        begun = b""
        while b'"content": ""' not in begun:
            begun += connection.recv(65536)
        yield connection


def test_a_client_that_leaves_ends_its_computation(world: World, server: Server) -> None:
    """Its thousand tokens are not written: the next question, in the same queue, is answered long before they could be."""
    assert server.ask(world.other, "what is it?", world.url(0), max_tokens=30).json()["usage"]["completion_tokens"] == 30, "it goes on and on"
    with long_stream(server, world, 1000):
        written = server.metric("lab_tokens_written_total")
    assert server.form(world.red, "is it red?", world.picture(0)).status_code == 200
    assert server.metric("lab_tokens_written_total") == written + 1


def test_sigterm_answers_what_is_under_way(world: World, forking_server: Path) -> None:
    """And sigkill harms no file; the next server answers as the one before."""
    before = hashes(world.root / "runs")
    killed = Server(forking_server, world, [world.other])
    with long_stream(killed, world, 100):
        killed.end(signal.SIGKILL)
    assert hashes(world.root / "runs") == before
    drained = Server(forking_server, world, [world.other])
    with long_stream(drained, world, 100) as connection:
        drained.process.send_signal(signal.SIGTERM)
        rest = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"data: [DONE]" in rest and b'"finish_reason": "length"' in rest
    assert drained.end() == 0 and hashes(world.root / "runs") == before


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_the_page_asks_and_shows_probabilities_and_boxes(world: World, server: Server) -> None:
    """A real browser drops a picture, asks, and sees the answer; nothing comes from elsewhere."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found, boxes = server.form(world.red, "is it red?", world.picture(0)).json(), server.form(world.boxes, "where is it?", world.picture(1)).json()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        fetched: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(server.url)
        page.wait_for_selector("option", state="attached")
        page.select_option("#model", world.red)
        page.set_input_files("#file", str(world.root / "0.png"))
        page.fill("#question", "is it red?")
        page.click("#ask")
        page.wait_for_selector("#details table")
        assert page.text_content("#answer") == found["answer"] and page.locator("figure img").count() == 1
        rows = [f"{option}\t{100 * share:.1f} %\t" for option, share in found["probabilities"].items()]
        assert page.locator("#details tr").all_inner_texts() == rows
        page.select_option("#model", world.boxes)
        page.set_input_files("#file", str(world.root / "1.png"))
        page.fill("#question", "where is it?")
        page.click("#ask")
        page.wait_for_selector("figure svg rect", state="attached")
        told = page.text_content("#answer")
        assert told.startswith(f"{len(boxes['regions'])} box") and told.endswith(f"({boxes['status']})")
        drawn = page.evaluate("[...document.querySelectorAll('rect')].map((one) => one.getBoundingClientRect().toJSON())")
        shown = page.evaluate("document.querySelector('figure img').getBoundingClientRect().toJSON()")
        scale = shown["width"] / boxes["frames"][0]["width"]
        for one, box in zip(drawn, boxes["regions"], strict=True):
            place = [shown["left"] + scale * box["x0"], shown["top"] + scale * box["y0"], scale * (box["x1"] - box["x0"])]
            assert [one["left"], one["top"], one["width"]] == pytest.approx(place, abs=3), "where the picture has it, but for half a line's width"
        page.select_option("#model", world.words)
        page.click("#ask")
        page.wait_for_selector("rect", state="detached")
        assert page.locator("#details small").count() == 1
        page.goto(f"{server.url}/docs")
        page.wait_for_selector(".opblock")
        browser.close()
    assert not errors and all(url.startswith((server.url, "blob:", "data:")) for url in fetched)


def guarded(limits: guard.Limits, method: str = "GET", path: str = "/v1/models", **more) -> httpx.Response:
    """A reply from behind a guard alone."""

    async def inner(scope, receive, send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=guard.Guard(inner, limits, Metrics([path], [], lambda: 0), app.is_open))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, path, **more)

    return asyncio.run(ask())


def test_a_token_is_asked_for() -> None:
    limits = guard.Limits(token="a" * 20)
    for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {'a' * 19}"}, {"Authorization": f"Basic {'a' * 20}"}):
        assert guarded(limits, headers=headers).status_code == 401
    assert guarded(limits, headers={"Authorization": f"Bearer {'a' * 20}"}).text == "in"
    assert guarded(limits, path="/health").text == guarded(limits, path="/").text == guarded(guard.Limits()).text == "in"


def test_only_known_names_are_answered_to() -> None:
    limits = guard.Limits(hosts=("lab.example",))
    ours, others = ("localhost:8000", "127.0.0.1", "[::1]:80", "LAB.example:9"), ("evil.example", "127.0.0.1.evil.example", "")
    for host, status in [*((host, 200) for host in ours), *((host, 403) for host in others)]:
        assert guarded(limits, headers={"Host": host}).status_code == status, host
        assert guarded(limits, headers={"Origin": f"https://{host}"}).status_code == status, host
    assert "access-control-allow-origin" not in guarded(limits, headers={"Origin": "http://localhost:3000"}).headers
    assert guarded(guard.Limits(body=1000), "POST", content=b"x" * 1001).status_code == 413


def test_a_slow_body_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.05)

    async def slow():
        yield b"a"
        await asyncio.sleep(5)
        yield b"b"

    assert guarded(guard.Limits(), "POST", content=slow()).status_code == 408


@pytest.mark.parametrize(("words", "token", "sentence"), [
    (["--host", "0.0.0.0"], None, "others reach that address, so clients must give a token"), ([], "short", "16 or more printable"),
    (["--allow-media-domain", "https://x.org"], None, "give the name of one host"), (["--allow-media-domain", "*.org"], None, "the name of one host"),
    (["--host", "not an address", "--port", "1"], "a" * 16, "it cannot listen there"), (["--port", "0"], None, "there is no such run"),
])  # fmt: skip
def test_what_cannot_be_served_is_said(tmp_path: Path, monkeypatch, capsys, words: list[str], token: str | None, sentence: str) -> None:
    if token is not None:
        monkeypatch.setenv("LAB_SERVE_TOKEN", token)
    assert serve.main(["--run", "1a2b", "--runs-dir", str(tmp_path), *words]) == 2 and sentence in capsys.readouterr().err
    monkeypatch.setattr(serve, "NEEDS", ("no_such_package",))
    assert serve.main(["--run", "1a2b"]) == 2 and "Install them with `pip install 'vlm-lab[serve]'`" in capsys.readouterr().err


def test_a_base_is_loaded_once_and_left_as_it_was(world: World) -> None:
    """An adapter on it and off again computes what it does alone, and the base what it did before."""
    import torch

    models = served.load(world.root / "runs", world.all, [], lambda *_: None, lambda line: None)
    first, *others = models.values()
    assert all(one.rebuilt.base is first.rebuilt.base and one.vlm.base_model is first.vlm.base_model for one in others)
    example, _ = first.example(first.sample(served.Question("what?", "", (served.Upload("", world.picture(0)),))))
    batch = first.encoder.collate([example], with_answers=False)

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return first.rebuilt.base.predict(batch)

    bare, names = logits(), [name for name, _ in first.rebuilt.base.model.named_modules()]
    on = []
    for one in (*models.values(), first):
        with one.on_base(), torch.inference_mode():
            on.append(one.vlm.predict(batch))
    assert torch.equal(on[0], on[-1]) and len({tensor.sum().item() for tensor in (*on, bare)}) == 4
    assert torch.equal(logits(), bare) and [name for name, _ in first.rebuilt.base.model.named_modules()] == names


@pytest.mark.parametrize("text", ["a 😀 family 👨‍👩‍👧, ñandú, 日本語", "don't", "", "\ufffd ends \ufffd"])
def test_pieces_join_to_the_whole(text: str) -> None:
    """Byte by byte, which splits every character that is more than one."""
    tokens, pieces = [text.encode()[: i + 1] for i in range(len(text.encode()))], Pieces()
    sent = [pieces.of(part.decode(errors="replace")) for part in tokens]
    assert "".join(sent) + pieces.rest(text) == text and not any("\ufffd" in piece for piece in sent if "\ufffd" not in text)
    written, late = ["do", "do n", "do n '", "don't"], Pieces(cleans=True)
    assert "".join(map(late.of, written)) + late.rest("don't you") == "don't you"
