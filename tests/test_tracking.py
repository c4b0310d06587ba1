"""The tracker killed, away, slow, locked or replaced: every point that was logged is in MLflow once, and the user is told once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_server import Server

from lab import sync
from lab.config import Tracking
from lab.errors import ConfigError
from lab.store import curve_files, runs
from lab.store.runs import Run, Sweep
from lab.store.sync_state import NOTE
from lab.tracking import naming
from lab.tracking.background import BackgroundSync, Trackers
from lab.tracking.mlflow_store import copy_migrated_schema
from lab.tracking.mlflow_sync import MlflowSync
from lab.tracking.system_metrics import SystemMetrics

ROOT = Path(__file__).parents[1]
ARMS = 4
POINTS = "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND key NOT LIKE 'system/%'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path, forking_server: Path) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), migrated, forking_server)
    made.start()
    made.wait()
    yield made
    made.kill()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """What this process and those forked from it have told the user."""
    path = tmp_path / "told"
    handler = logging.FileHandler(path)
    logging.getLogger("lab.tracking").addHandler(handler)
    yield path.read_text
    logging.getLogger("lab.tracking").removeHandler(handler)
    handler.close()


class Line:
    """A connection to a server that can be slow, or lose the answers to requests that have arrived. One request at a time."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.delay_s = 0.0
        self.loses_answers_to: bytes | None = None
        self.lost = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            asking, _ = self.listener.accept()
            threading.Thread(target=self.carry, args=(asking,), daemon=True).start()

    def carry(self, asking: socket.socket) -> None:
        with asking, socket.create_connection(("127.0.0.1", self.server_port)) as answering:
            request = asking.recv(1 << 20)
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(next((line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0))
            while len(body) < length:
                body += asking.recv(1 << 20)
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:"))
            time.sleep(self.delay_s)
            answering.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            answer = b"".join(iter(lambda: answering.recv(1 << 20), b""))
            if self.loses_answers_to is not None and self.loses_answers_to in head.split(b"\r\n")[0]:
                self.lost += 1
                return
            asking.sendall(answer)


def begin(runs_dir: Path, name: str, sweep: str | None = None) -> Run:
    config = {"lora": {"r": 8}, "tracking": {"uri": None, "experiment": "lab"}}
    run = Run(name, name, config, "python -m lab.train", started=runs.now(), sweep=sweep)
    runs.save(runs_dir, run)
    return run


def end(runs_dir: Path, run: Run) -> None:
    run.status, run.ended = runs.FINISHED, runs.now()
    run.metrics = {"dev/accuracy": 0.75, "train/steps": 7.0, "minival/nll": 0.5}
    runs.save(runs_dir, run)


def write_rows(run_dir: Path, count: int, first: int = 0) -> None:
    for step in range(first, first + count):
        curve_files.append(run_dir, {"step": step, "seconds": round(0.001 * step, 3), "train/loss": 1.0 / (step + 1), "lr": 0.1 * step})


def arm(section: Tracking, name: str, rows: int | None, survives: bool) -> None:
    """What a training process does to its run folder, with a courier beside it; rows None: until there is a file `enough`."""
    runs_dir = Path(section.runs_dir)
    with BackgroundSync(Trackers(section), [name], every_s=0.2), runs.held(runs.folder(runs_dir, name)):
        run = begin(runs_dir, name, sweep="sweep")
        step = 0
        while step < rows if rows is not None else not (runs_dir / "enough").exists():
            write_rows(runs.folder(runs_dir, name), 1, first=step)
            time.sleep(0.02 if rows is not None else 0.1)
            step += 1
        if not survives:
            os.kill(os.getpid(), signal.SIGKILL)
        end(runs_dir, run)


def arms_at_once(section: Tracking, rows: int | None = None, killed: str | None = None) -> list[multiprocessing.Process]:
    context = multiprocessing.get_context("fork")
    names = [f"arm{i}" for i in range(ARMS)]
    runs.save_sweep(Path(section.runs_dir), Sweep("sweep", "sweep", "command", names, ["lora.r"], started=runs.now()))
    made = [context.Process(target=arm, args=(section, name, rows, name != killed)) for name in names]
    for process in made:
        process.start()
    return made


def logged(runs_dir: Path, name: str) -> Counter:
    """Every point that a run has logged: (key, step, value); final numbers stand at step 0."""
    rows = curve_files.read(runs.folder(runs_dir, name))
    points = [(naming.curve_name(key), row["step"], row[key]) for row in rows for key in row if key not in ("step", "seconds")]
    run = runs.load(runs_dir, name)
    assert run is not None
    return Counter(points) + Counter((key, 0, value) for key, value in naming.final(run).items())


def stored(database: Path) -> dict[str, Counter]:
    """Every point in a store by the identity of its run, read past MLflow, but the machine's; fails if a run's start is there twice."""
    with sqlite3.connect(database) as connection:
        query = "SELECT value, run_uuid FROM tags WHERE key = 'lab.identity'"
        names = connection.execute(query).fetchall()
        assert len({name for name, _ in names}) == len(names), names
        points = {name: Counter() for name, _ in names}
        for name, uuid in names:
            points[name].update(connection.execute(POINTS, (uuid,)).fetchall())
    return points


def statuses(database: Path) -> dict[str, str]:
    with sqlite3.connect(database) as connection:
        role = "SELECT value FROM tags WHERE key = 'lab.role' AND run_uuid = t.run_uuid"
        query = f"""SELECT t.value, r.status FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid
            WHERE t.key = 'lab.identity' OR (t.key = 'lab.sweep' AND ({role}) = 'sweep')"""
        found = connection.execute(query).fetchall()
        assert len(dict(found)) == len(found), found
        return dict(found)


def total(server: Server) -> int:
    return sum(points.total() for points in stored(server.store).values())


def until(there: Callable[[], bool]) -> None:
    """Wait for something that another process brings about."""
    for _ in range(1200):
        if there():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


def test_a_server_killed_and_restarted_has_every_point_of_four_processes_once(server, tmp_path, told, forking_server) -> None:
    section = Tracking(runs_dir=str(tmp_path / "runs"), uri=server.uri)
    living = arms_at_once(section)
    until(lambda: total(server) > 80)
    server.kill()
    before = total(server)
    time.sleep(1.0)
    server.start()
    until(lambda: total(server) > before + 80)
    (tmp_path / "runs" / "enough").touch()
    for process in living:
        process.join()
    command = [str(forking_server), "-m", "lab.sync", "--runs-dir", str(tmp_path / "runs"), "--uri", server.uri]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {f"arm{i}": logged(tmp_path / "runs", f"arm{i}") for i in range(ARMS)}
    found = stored(server.store)
    count, wanted = total(server), sum(points.total() for points in expected.values())
    print(f"{wanted} points logged by {ARMS} processes, {before} in MLflow at the kill, {count} at the end")
    assert found == expected, f"{wanted} points were logged, {count} are in MLflow"
    assert statuses(server.store) == {**dict.fromkeys(expected, "FINISHED"), "sweep": "RUNNING"}
    assert told().count("does not answer") == ARMS  # each process tells its user once


def test_answers_that_are_lost_double_nothing(server, tmp_path, caplog) -> None:
    """A time-out whose request has arrived: the run, its parameters and its points are there once after all."""
    line = Line(server.port)
    runs_dir = tmp_path / "runs"
    courier = MlflowSync(Tracking(runs_dir=str(runs_dir), uri=line.uri))
    run = begin(runs_dir, "lossy")
    write_rows(runs_dir / "lossy", 5)
    for lost in (b"runs/create", b"runs/log-batch", b"runs/update"):
        line.loses_answers_to = lost
        assert not courier.deliver("lossy")
        end(runs_dir, run)
    assert line.lost == 3
    line.loses_answers_to = None
    assert courier.deliver("lossy") and courier.deliver("lossy")
    assert stored(server.store)["lossy"] == logged(runs_dir, "lossy")
    assert sum("does not answer" in record.message for record in caplog.records) == 1


def test_a_slow_server_slows_no_step(server, tmp_path, told, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    line = Line(server.port)
    line.delay_s = 1.5
    section = Tracking(runs_dir=str(tmp_path), uri=line.uri)
    run = begin(tmp_path, "slow")
    with BackgroundSync(Trackers(section), ["slow"], every_s=0.05):
        begun = time.perf_counter()
        write_rows(tmp_path / "slow", 100)
        end(tmp_path, run)
        assert time.perf_counter() - begun < 1.0
        time.sleep(1.5)
    assert told().count("does not answer") == 1
    line.delay_s = 0.0
    assert MlflowSync(section).deliver("slow")
    assert stored(server.store)["slow"] == logged(tmp_path, "slow")


def test_a_new_sqlite_file_takes_four_processes_at_once_and_one_is_killed(tmp_path) -> None:
    """They race for the tables and the experiment; the courier of a killed process delivers what it left."""
    section = Tracking(runs_dir=str(tmp_path / "runs"), cache_dir=str(tmp_path / "cache"), uri=f"sqlite:///{tmp_path}/new.db")
    living = arms_at_once(section, rows=100, killed="arm2")
    for process in living:
        process.join()
    assert [process.exitcode for process in living] == [0, 0, -signal.SIGKILL, 0]
    wanted = {**{f"arm{i}": "FINISHED" for i in range(ARMS)}, "arm2": "KILLED"}
    until(lambda: statuses(tmp_path / "new.db") == wanted)
    found = stored(tmp_path / "new.db")
    assert found["arm2"].total() == 200
    assert all(found[name] == logged(tmp_path / "runs", name) for name in found if name != "arm2")


def opened(folder: Path, cache: Path, name: str = "store.db") -> MlflowSync:
    """A courier whose store, in a folder of its own, has been opened and holds a run."""
    folder.mkdir()
    courier = MlflowSync(Tracking(runs_dir=str(folder), cache_dir=str(cache), uri=f"sqlite:///{folder}/{name}"))
    run = begin(folder, "one")
    write_rows(folder / "one", 3)
    end(folder, run)
    assert courier.deliver("one")
    assert stored(folder / name)["one"] == logged(folder, "one")
    return courier


def tables(database: Path) -> tuple[set[str], list[str]]:
    """What makes a store's tables and indices, constraints in any order, and its revision."""
    with contextlib.closing(sqlite3.connect(database)) as store:
        statements = [sql for (sql,) in store.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        made = {"\n".join(sorted(line.strip(" ,\t") for line in sql.splitlines())) for sql in statements}
        return made, [revision for (revision,) in store.execute("SELECT version_num FROM alembic_version")]


def test_migrations_are_paid_once(tmp_path, migrated, monkeypatch) -> None:
    """A second new store is a copy with the same tables, but its default experiment lies beside it."""
    from mlflow.store.db import utils

    cache = tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    opened(tmp_path / "first", cache)
    (ready,) = cache.iterdir()
    monkeypatch.setattr(utils, "_initialize_tables", None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    second = opened(tmp_path / "second", cache)
    assert tables(tmp_path / "second" / "store.db") == tables(tmp_path / "first" / "store.db") == tables(migrated)
    assert Path(second.client().get_experiment("0").artifact_location).parents[1] == tmp_path / "elsewhere"
    with contextlib.closing(sqlite3.connect(ready)) as store:
        assert store.execute("SELECT count(*) FROM experiments").fetchone() == store.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["one", "store.db"]


def test_what_is_no_new_sqlite_file_is_left_alone(tmp_path, migrated) -> None:
    (tmp_path / "there.db").write_bytes(b"somebody's")
    for uri in (f"sqlite:///{tmp_path}/there.db", "sqlite://", "sqlite:///:memory:", "http://127.0.0.1:9", str(tmp_path / "mlruns")):
        copy_migrated_schema(uri, tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["there.db"] and (tmp_path / "there.db").read_bytes() == b"somebody's"
    (tmp_path / "cache").mkdir()
    shutil.copy(migrated, tmp_path / "cache" / f"mlflow-{importlib.metadata.version('mlflow')}.db")
    copy_migrated_schema(f"sqlite:///{tmp_path}/nowhere/new.db", tmp_path / "cache")
    assert not (tmp_path / "nowhere").exists(), "MLflow says what is wrong"


def test_a_locked_sqlite_file_is_waited_for_and_told_once(tmp_path, migrated, caplog) -> None:
    shutil.copy(migrated, tmp_path / "locked.db")
    courier = MlflowSync(Tracking(runs_dir=str(tmp_path), uri=f"sqlite:///{tmp_path}/locked.db?timeout=0.2"))
    run = begin(tmp_path, "waiting")
    write_rows(tmp_path / "waiting", 3)
    other = sqlite3.connect(tmp_path / "locked.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING):
        assert not courier.deliver("waiting") and not courier.deliver("waiting")
    assert [record.message for record in caplog.records if "database is locked" in record.message] == caplog.messages[-1:]
    other.execute("COMMIT")
    end(tmp_path, run)
    assert courier.deliver("waiting")
    assert stored(tmp_path / "locked.db")["waiting"] == logged(tmp_path, "waiting")


@pytest.mark.parametrize("note", ["begun", "lost"])
def test_a_delivery_cut_before_its_note_is_made_good(tmp_path, monkeypatch, migrated, note) -> None:
    """Between MLflow's commit and the note, or with the note gone: nothing is sent twice, also where MLflow would keep both."""
    shutil.copy(migrated, tmp_path / "cut.db")
    courier = MlflowSync(Tracking(runs_dir=str(tmp_path), uri=f"sqlite:///{tmp_path}/cut.db"))
    run = begin(tmp_path, "cut")
    write_rows(tmp_path / "cut", 3)
    log_batch, sent = courier.client().log_batch, []

    def cut_after(run_id, metrics=(), **rest):
        log_batch(run_id, metrics=metrics, **rest)
        sent.extend((point.key, point.step) for point in metrics)
        if metrics:
            raise OSError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(courier.client(), "log_batch", cut_after)
        assert not courier.deliver("cut")
    if note == "lost":
        (tmp_path / "cut" / NOTE).unlink()
    curve_files.cut(tmp_path / "cut", 2)  # the run goes on from a checkpoint: its third line is written again, at another time
    curve_files.append(tmp_path / "cut", {"step": 2, "seconds": 9.0, "train/loss": 1.0 / 3, "lr": 0.2})
    write_rows(tmp_path / "cut", 2, first=3)
    end(tmp_path, run)

    def counted(run_id, metrics=(), **rest):
        log_batch(run_id, metrics=metrics, **rest)
        sent.extend((point.key, point.step) for point in metrics)

    monkeypatch.setattr(courier.client(), "log_batch", counted)
    assert courier.deliver("cut")
    assert Counter(sent) == Counter((key, step) for key, step, _ in logged(tmp_path, "cut"))
    assert stored(tmp_path / "cut.db")["cut"] == logged(tmp_path, "cut")


def empty(database: Path, migrated: Path) -> None:
    with sqlite3.connect(migrated) as source, sqlite3.connect(database) as target:
        source.backup(target)


def test_a_replaced_store_is_filled_again(tmp_path, migrated) -> None:
    shutil.copy(migrated, tmp_path / "store.db")
    section = Tracking(runs_dir=str(tmp_path), uri=f"sqlite:///{tmp_path}/store.db")
    run = begin(tmp_path, "kept")
    write_rows(tmp_path / "kept", 3)
    assert MlflowSync(section).deliver("kept")
    end(tmp_path, run)
    empty(tmp_path / "store.db", migrated)
    assert MlflowSync(section).deliver("kept")
    assert stored(tmp_path / "store.db")["kept"] == logged(tmp_path, "kept")
    empty(tmp_path / "store.db", migrated)  # now all of it was there, and nothing new is
    assert MlflowSync(section).deliver("kept", check=True)
    assert stored(tmp_path / "store.db")["kept"] == logged(tmp_path, "kept")


def test_the_machine_is_sampled_for_runs_at_work_on_it(tmp_path, migrated) -> None:
    shutil.copy(migrated, tmp_path / "store.db")
    for name in ("busy", "gone", "elsewhere"):
        run = begin(tmp_path, name)
    run.process = {"host": "another machine"}
    runs.save(tmp_path, run)
    machine, names = SystemMetrics(tmp_path), ["busy", "gone", "elsewhere", "not there"]
    with runs.held(tmp_path / "busy"), runs.held(tmp_path / "elsewhere"):
        machine.record(names)
        machine.record(names)  # too early for another sample
        assert MlflowSync(Tracking(runs_dir=str(tmp_path), uri=f"sqlite:///{tmp_path}/store.db")).deliver("busy")
    (sample,) = curve_files.samples(tmp_path / "busy")
    assert not list(curve_files.samples(tmp_path / "gone")) and not list(curve_files.samples(tmp_path / "elsewhere"))
    with sqlite3.connect(tmp_path / "store.db") as store:
        points = store.execute("SELECT key, step FROM metrics").fetchall()
    assert {(key, 0) for key in sample if key.startswith("system/")} == set(points) and ("system/cpu_utilization_percentage", 0) in points


def test_sync_takes_each_run_where_it_belongs(tmp_path, migrated, capsys) -> None:
    for name in ("ours", "theirs"):
        shutil.copy(migrated, tmp_path / f"{name}.db")
        run = begin(tmp_path / "runs", name)
        run.config["tracking"] = {"uri": f"sqlite:///{tmp_path}/{name}.db", "experiment": name}
        end(tmp_path / "runs", run)
    assert sync.sync(str(tmp_path / "runs"), None, None) == 0
    assert capsys.readouterr().out.count("1 of 1 runs are up to date") == 2
    assert {name: list(stored(tmp_path / f"{name}.db")) for name in ("ours", "theirs")} == {"ours": ["ours"], "theirs": ["theirs"]}
    run.config["tracking"]["uri"] = "http://***@host"
    runs.save(tmp_path / "runs", run)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD"):
        sync.sync(str(tmp_path / "runs"), None, None)


def test_a_note_of_another_version_is_no_obstacle(tmp_path, migrated) -> None:
    shutil.copy(migrated, tmp_path / "old.db")
    begin(tmp_path, "old")
    (tmp_path / "old" / NOTE).write_text(json.dumps({"uri": "x", "run_id": "y", "colour": "red"}))
    assert MlflowSync(Tracking(runs_dir=str(tmp_path), uri=f"sqlite:///{tmp_path}/old.db")).deliver("old")
    assert "old" in stored(tmp_path / "old.db")
