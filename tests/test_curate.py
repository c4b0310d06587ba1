"""`python -m lab.curate` over the drawn catalogue against a server process: kills, faults, limits by the server's own log, secrets, training."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import llm_server
import pyarrow.parquet as pq
import pytest

from lab import curate, data
from lab.config import DataDial
from lab.curation import config, review, run
from lab.curation.manifest import Entry
from lab.errors import ConfigError, DataError
from lab.host.stopping import Stopped
from lab.llm import asking, limits
from lab.run import run_alone
from lab.store import runs

PRICES = ("limits.prices.input_per_million=2", "limits.prices.output_per_million=8")
WORKERS = 4
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where drawn catalogues are kept, so that each is drawn once."""
    return tmp_path_factory.mktemp("catalogue")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server without faults."""
    with llm_server.running(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts of a twentieth of a second."""
    monkeypatch.setattr(asking.Waits, "drawn", asking.tenacity.wait_random(0, 0.05))
    monkeypatch.setattr(asking.Waits, "apart", asking.tenacity.wait_random(0, 0.02))


def words(to: Path, address: str, catalogue: Path, *more: str, number: int = 24) -> list[str]:
    """The command's arguments."""
    own = [f"source.products={number}", f"to={to}", f"cache_dir={catalogue}", f"llm.base_url={address}", "llm.model=m", f"llm.workers={WORKERS}"]
    return ["source=drawn", *own, "llm.api_key_env=null", "preview=false", "curation.near_duplicates=false", "review.pictures=3", *PRICES, *more]


def ran(*arguments: str) -> int:
    """Its exit code, in this process; what ends it is raised."""
    return run.curate(config.freeze(curate.compose(arguments)), time.time())


def rows(to: Path, name: str = "manifest") -> list[dict]:
    """A table that it wrote."""
    return pq.read_table(to / f"{name}.parquet").to_pylist()


def paid(log: Path, since: int = 0) -> Counter[str]:
    """How often each picture was asked and paid for, by the server's log."""
    return Counter(entry["picture"] for entry in llm_server.read(log)[since:] if entry["paid"])


def money(log: Path, since: int = 0) -> float:
    """What the server would charge."""
    return sum(2e-6 * entry["prompt_tokens"] + 8e-6 * entry["completion_tokens"] for entry in llm_server.read(log)[since:] if entry["paid"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, catalogue: Path, server) -> Path:
    """A whole curation of 24 products."""
    to = tmp_path_factory.mktemp("whole") / "curated"
    assert ran(*words(to, server[0], catalogue, "review.pictures=50")) == 0
    return to


def test_what_it_leaves(undisturbed: Path) -> None:
    manifest, refused = rows(undisturbed), rows(undisturbed, "refused")
    assert {"image", "question", "answer", "split", "product"} <= set(manifest[0]) and all(row["reason"] for row in refused)
    assert {row["split"] for row in manifest} == {"train", "validation", "test"}
    assert {row["subset"] for row in manifest} >= {"color", "shape", "pattern", "number", "yes/no"}
    assert all((undisturbed / row["image"]).is_file() and " " not in row["answer"] for row in manifest)
    assert {"fewer than 5 attributes in English", "picture used already", "bad picture", "no main picture", "answer not in the attributes"} <= {
        row["reason"] for row in refused
    }
    card = (undisturbed / "README.md").read_text(encoding="utf-8")
    assert "free for any use" in card and "`m` at `http://127.0.0.1" in card and "money 0.0" in card and "Write four to six questions" in card
    page = (undisturbed / "review.html").read_text(encoding="utf-8")
    assert page.count("<section>") == len({row["listing"] for row in manifest}) and "http://" not in page.replace("http://127.0.0.1", "")


def test_a_second_time_costs_nothing_and_changes_nothing(undisturbed: Path, catalogue: Path, server) -> None:
    """With another number of workers too; another prompt is asked anew."""
    before, asked = (undisturbed / "manifest.parquet").read_bytes(), len(llm_server.read(server[1]))
    assert ran(*words(undisturbed, server[0], catalogue, "llm.workers=1", "preview=true")) == 0
    assert (undisturbed / "manifest.parquet").read_bytes() == before and len(llm_server.read(server[1])) == asked


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_person_looks_them_through_by_the_keyboard(undisturbed: Path, tmp_path) -> None:
    """Accept, mend, drop, save; a reload forgets nothing; the file is what `review.decisions` takes. Nothing is fetched."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((undisturbed / "review.html").as_uri())
        ids = page.eval_on_selector_all("li.kept", "items => items.map(item => item.dataset.id)")
        for key in "am":
            page.keyboard.press(key)
        page.keyboard.type("mended")
        page.keyboard.press("Enter")
        page.keyboard.press("d")
        page.reload()
        assert page.text_content("#done") == f"3 of {len(ids)} decided"
        with page.expect_download() as download:
            page.keyboard.press("s")
        download.value.save_as(tmp_path / "decisions.json")
        browser.close()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    kept, dropped, notes = review.decided(entries(undisturbed), made(undisturbed, tmp_path))
    assert {row.id: row.answer for row in kept if row.reviewed}.keys() == {*ids[:2]} and "3 are followed" in notes[0]
    assert next(row.answer for row in kept if row.id == ids[1]) == "mended" and len(dropped) == 1


def entries(to: Path) -> list[Entry]:
    """The rows of a manifest."""
    return [Entry(**row | {"doubts": tuple(row["doubts"])}) for row in rows(to)]


def made(to: Path, folder: Path) -> config.Curation:
    """A config that names a review's decisions."""
    return config.freeze(curate.compose([*words(to, "http://127.0.0.1:9/v1", folder), f"review.decisions={folder}/decisions.json"]))


def test_a_folder_of_others_is_left_alone(tmp_path, catalogue: Path, server) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="nothing is overwritten unasked"):
        ran(*words(tmp_path, server[0], catalogue))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_both_doors_read_the_manifest(undisturbed: Path, tmp_path) -> None:
    path = str(undisturbed / "manifest.parquet")
    own, plain = (data.load(DataDial(name=name, path=path, kind="text"), tmp_path) for name in ("abo_vqa", "questions"))
    parts = [[list(split) for split in (splits.train, splits.minival, splits.dev)] for splits in (own, plain)]
    assert parts[0] == parts[1] and all(parts[0])
    assert sum(map(len, parts[0])) == len(rows(undisturbed))
    with pytest.raises(DataError, match="python -m lab.curate to=FOLDER"):
        data.load(DataDial(name="abo_vqa", path=str(tmp_path / "nothing.parquet")), tmp_path)


@pytest.mark.usefixtures("nominal_costs")
def test_two_steps_of_training(undisturbed: Path, small) -> None:
    x = small(
        "data=abo_vqa", f"data.path={undisturbed}/manifest.parquet", "data.num_train=8", "data.num_minival=2", "data.num_dev=4", "trainer.max_steps=2"
    )
    assert run_alone(x, "command", time.time()).status == runs.FINISHED


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "lab.curate", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def killed_at_random(tmp_path: Path, catalogue: Path, number: int, kills: int, delay: float, seed: int) -> None:
    """As an undisturbed run in the end, and nothing paid for twice but what was in flight."""
    draw = random.Random(seed)
    with llm_server.running(tmp_path, delay=delay) as (address, log):
        arguments = words(tmp_path / "killed", address, catalogue, number=number)
        for _ in range(kills):
            process, before = start(arguments), len(llm_server.read(log))
            least = before + draw.randint(1, max(1, number // (kills + 1)))
            while len(llm_server.read(log)) < least and process.poll() is None:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        process = start(arguments)
        told = process.communicate()[0]
        assert process.returncode == 0, told
        with sqlite3.connect(tmp_path / "killed/answers.sqlite") as connection:
            (open_attempts,) = connection.execute("SELECT COUNT(*) FROM attempts WHERE ended IS NULL").fetchone()
            (attempts,) = connection.execute("SELECT COUNT(*) FROM attempts").fetchone()
        times = paid(log)
        twice = sum(times.values()) - len(times)
        assert len(times) >= number - 2 and twice <= open_attempts <= kills * WORKERS
        assert attempts >= len(llm_server.read(log)) >= attempts - open_attempts, "every request that the server saw is counted"
        assert ran(*words(tmp_path / "whole", address, catalogue, number=number)) == 0
        print(f"{number} products, {kills} kills: {len(llm_server.read(log))} requests, asked twice {twice}, in flight at kills {open_attempts}")
    for name in ("manifest.parquet", "refused.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_killed_it_ends_as_if_never_killed(tmp_path, catalogue: Path, fast_python) -> None:
    killed_at_random(tmp_path, catalogue, 24, 1, 0.05, 0)


@pytest.mark.bar
def test_200_products_killed_five_times(tmp_path, catalogue: Path) -> None:
    killed_at_random(tmp_path, catalogue, 200, 5, 0.05, int(time.time()))


@pytest.mark.bar
def test_sigterm_waits_for_what_is_in_flight(tmp_path, catalogue: Path) -> None:
    """As a limit of time does, which the suite looks at in its own process."""
    with llm_server.running(tmp_path, delay=0.2) as (address, log):
        process = start(words(tmp_path / "to", address, catalogue))
        while len(llm_server.read(log)) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        told = process.communicate()[0]
        assert process.returncode == 75, told
        assert ran(*words(tmp_path / "to", address, catalogue)) == 0
    assert set(paid(log).values()) == {1}


def test_a_limit_of_time_stops_in_the_middle(tmp_path, catalogue: Path) -> None:
    with llm_server.running(tmp_path, delay=0.2) as (address, log):
        with pytest.raises(Stopped, match="limits.max_time=00:00:01"):
            ran(*words(tmp_path / "to", address, catalogue, "limits.max_time=00:00:01", "llm.workers=1"))
        assert 0 < len({row["image"] for row in rows(tmp_path / "to")}) <= len(llm_server.read(log)) < 10


TRANSIENT = {"500": 0.1, "429": 0.05, "cut": 0.08, "html": 0.07}
"""Three requests in ten."""


def test_three_requests_in_ten_fail_and_it_ends_complete(tmp_path, undisturbed: Path, catalogue: Path, quick) -> None:
    """Forty refusals for their rate come first: time bounds them, not their number."""
    with llm_server.running(tmp_path, TRANSIENT | {"first": {"429": 40, "500": 2, "cut": 2, "html": 2}}) as (address, log):
        assert ran(*words(tmp_path / "to", address, catalogue)) == 0
        faults = Counter(entry["fault"] for entry in llm_server.read(log))
    with sqlite3.connect(tmp_path / "to/answers.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM attempts").fetchone() == (faults.total(),), "every attempt counts, and there are no others"
    assert len(faults) == 5 and (tmp_path / "to/manifest.parquet").read_bytes() == (undisturbed / "manifest.parquet").read_bytes()


@pytest.mark.bar
def test_200_products_with_faults_of_three_in_ten(tmp_path, catalogue: Path) -> None:
    """As a user runs it: the waits as they are, slow answers over the time limit among the faults."""
    faults = {"500": 0.07, "429": 0.05, "cut": 0.06, "html": 0.06, "slow": 0.04, "429 date": 0.02}
    with llm_server.running(tmp_path, faults) as (address, log):
        assert ran(*words(tmp_path / "to", address, catalogue, "llm.timeout_s=2", "llm.workers=8", number=200)) == 0
        faulty = Counter(entry["fault"] for entry in llm_server.read(log))
        assert ran(*words(tmp_path / "whole", address, catalogue, "llm.timeout_s=2", "llm.workers=8", number=200)) == 0
    print(f"200 products: {faulty.total()} requests, of them {faulty.total() - faulty['']} with faults: {dict(faulty)}")
    assert (tmp_path / "to/manifest.parquet").read_bytes() == (tmp_path / "whole/manifest.parquet").read_bytes()


def test_what_the_model_leaves_out_is_told_by_product(tmp_path, catalogue: Path, quick) -> None:
    """Each bad answer is counted apart, paid answers stay, and only what failed is asked again."""
    first = {"nonsense": 1, "empty": 1, "length": 1, "length empty": 1, "filter": 1, "blocked": 1, "bad": 1, "no usage": 1, "quotes": 1}
    with llm_server.running(tmp_path, {"first": first}) as (address, log):
        assert ran(*words(tmp_path / "to", address, catalogue, "llm.workers=1")) == 1
        reasons = Counter(row["reason"] for row in rows(tmp_path / "to", "refused"))
        wanted = {"no answer": 1, "no question": 1, "answer empty": 2, "answer filtered by the provider": 2, "cut by the token limit": 1}
        assert {reason: reasons[reason] for reason in wanted} == wanted
        missing = [row for row in rows(tmp_path / "to", "refused") if row["reason"] == "no answer"]
        assert "image too odd" in missing[0]["detail"] and "**Not complete**: 1 products" in (tmp_path / "to/README.md").read_text(encoding="utf-8")
        before = len(llm_server.read(log))
        assert ran(*words(tmp_path / "to", address, catalogue)) == 0
        assert len(llm_server.read(log)) == before + 1


@pytest.mark.parametrize("limit", ["limits.budget=0.012", "limits.tokens=6000", "limits.requests_per_day=7"])
def test_a_limit_stops_before_it_is_passed_and_a_higher_one_goes_on(limit: str, tmp_path, catalogue: Path, capsys, quick) -> None:
    """By the server's own log, with faults that are paid for; nothing is asked twice; the exit code is the limit's own."""
    with llm_server.running(tmp_path, {"500": 0.15, "cut": 0.1}, seed=3) as (address, log):
        assert ran(*words(tmp_path / "to", address, catalogue, limit)) == limits.AT_A_LIMIT == 3
        key, _, most = limit.partition("=")
        entries = llm_server.read(log)
        spent = {
            "limits.budget": money(log), "limits.requests_per_day": len(entries),
            "limits.tokens": sum(entry["prompt_tokens"] + entry["completion_tokens"] for entry in entries if entry["paid"]),
        }[key]  # fmt: skip
        assert 0.5 * float(most) <= spent <= float(most)
        assert f"stopped: {key}={most}" in capsys.readouterr().err and len(rows(tmp_path / "to"))
        assert ran(*words(tmp_path / "to", address, catalogue, limit)) == 3
        assert len(llm_server.read(log)) == len(entries), "the same cap stops at once"
        assert ran(*words(tmp_path / "to", address, catalogue)) == 0
        cut = Counter(entry["picture"] for entry in llm_server.read(log) if entry["fault"] == "cut")
    assert all(times == 1 + cut[picture] for picture, times in paid(log).items())


def test_requests_of_a_minute(tmp_path, catalogue: Path, monkeypatch) -> None:
    """No window of the minute, here half a second, has more by the server's log, and it is used."""
    monkeypatch.setattr(limits, "MINUTE_S", 0.5)
    monkeypatch.setattr(limits, "MARGIN_S", 0.1)
    with llm_server.running(tmp_path) as (address, log):
        assert ran(*words(tmp_path / "to", address, catalogue, "limits.requests_per_minute=8")) == 0
    came = sorted(entry["came"] for entry in llm_server.read(log))
    assert all(late - early > 0.5 for early, late in zip(came, came[8:], strict=False)) and came[-1] - came[0] < 4


def test_a_quota_stops_at_once_with_the_providers_sentence(tmp_path, catalogue: Path, capsys) -> None:
    with llm_server.running(tmp_path, {"quota": 1.0}) as (address, log):
        assert ran(*words(tmp_path / "to", address, catalogue)) == 3
        assert "The provider says: You exceeded your current quota" in capsys.readouterr().err and len(llm_server.read(log)) <= WORKERS
        assert {row["reason"] for row in rows(tmp_path / "to", "refused")} >= {"no answer"} and rows(tmp_path / "to") == []


def test_a_wait_longer_than_the_patience_stops_and_says_so(tmp_path, catalogue: Path, capsys) -> None:
    with llm_server.running(tmp_path, {"429 long": 1.0}) as (address, log):
        assert ran(*words(tmp_path / "to", address, catalogue, "llm.give_up_s=100")) == 3
        assert len(llm_server.read(log)) <= WORKERS
    assert "asks to wait 150 s, longer than llm.give_up_s=100" in capsys.readouterr().err


def test_a_server_that_is_not_there_and_one_that_refuses_all(tmp_path, catalogue: Path, monkeypatch, quick) -> None:
    with pytest.raises(ConfigError, match="llm.base_url=http://127.0.0.1:9/v1: no connection .* Is the server running"):
        ran(*words(tmp_path / "to", "http://127.0.0.1:9/v1", catalogue))
    with llm_server.running(tmp_path, {"bad": 1.0}) as (address, log):
        with pytest.raises(ConfigError, match="the first 10 requests all failed, none was answered: 400: image too odd"):
            ran(*words(tmp_path / "bad", address, catalogue))
        assert len(llm_server.read(log)) <= 10 + 2 * WORKERS


def test_the_key_is_sent_and_nowhere_else(tmp_path, catalogue: Path, monkeypatch, capsys, quiet_root_logger) -> None:
    """Not in a file, not printed, though the server says it back."""
    monkeypatch.setenv("MY_KEY", "sk-planted-key-of-mine")
    faults = {"first": {"key": 1}}
    with llm_server.running(tmp_path, faults) as (address, log):
        arguments = [*words(tmp_path / "to", address, catalogue, number=8), "llm.api_key_env=MY_KEY"]
        monkeypatch.setattr(sys, "argv", ["lab curate", *arguments, "llm.workers=1"])
        assert curate.main() == 2
        said = "".join(capsys.readouterr())
        assert "Incorrect API key: Bearer ***" in said
        assert curate.main() == 0
        said += "".join(capsys.readouterr())
    assert {entry["authorization"] for entry in llm_server.read(log)} == {"Bearer sk-planted-key-of-mine"}
    written = {path: path.read_bytes() for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert "planted" not in said and not [path for path, content in written.items() if b"planted" in content]


def test_a_preview_tells_the_whole_and_is_not_paid_twice(tmp_path, catalogue: Path, server, capsys) -> None:
    asked = len(llm_server.read(server[1]))
    arguments = words(tmp_path / "to", server[0], catalogue, "prompt=seed001_3", "limits.budget=1")
    assert ran(*arguments, "preview=only") == 0
    told = capsys.readouterr().out
    assert len(llm_server.read(server[1])) == asked + 20 and not (tmp_path / "to/manifest.parquet").exists()
    assert "preview: 20 pictures are asked; the other 4 will take" in told and "calls       4 (4 to 4)" in told
    low, high = (float(word) for word in told.split("money")[1].split("(")[1].split(")")[0].split(" to "))
    halfway = len(llm_server.read(server[1]))
    assert ran(*arguments, "preview=true") == 0
    assert len(llm_server.read(server[1])) == asked + 24 and low <= money(server[1], halfway) <= high
    assert json.loads(json.dumps(rows(tmp_path / "to")))
