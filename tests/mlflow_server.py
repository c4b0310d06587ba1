"""MLflow's own server on a SQLite store, in a process that can be killed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


class Server:
    """store: a database with its tables made, of which the server gets a copy. python: what runs `tracking_server`."""

    def __init__(self, folder: Path, store: Path, python: Path) -> None:
        self.folder = folder
        self.python = python
        self.store = folder / "server.db"
        shutil.copy(store, self.store)
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [self.python, "-m", "tracking_server", str(self.port), self.store, self.folder / "artifacts"]
        with (self.folder / "server.log").open("a") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)

    def wait(self) -> None:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).read()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
