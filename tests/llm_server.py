"""A small server of the OpenAI protocol, a process of its own: it draws answers from the metadata in the prompt, and misbehaves on order.

    python tests/llm_server.py --log FILE [--port N] [--faults JSON] [--seed N] [--delay S]

Prints its address. What it answers depends on the request alone; `--faults '{"500": 0.2, "cut": 0.1}'` gives the share of requests,
drawn in the order of their coming, that get a fault (`Handler.FAULTS`). `{"first": {"429 date": 3}}` gives the first three that fault.
The log has a JSON object a request: when it came, what was done, tokens, the hash of the picture.
"""

from __future__ import annotations

import argparse
import base64
import email.utils
import hashlib
import json
import math
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WORDS = {"red", "blue", "green", "yellow", "purple", "orange"}
SHORT_S = 0.05
"""Seconds that Retry-After asks for."""


class Server(ThreadingHTTPServer):
    """Draws faults and keeps the log."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__(("127.0.0.1", given.port), Handler)
        self.faults: dict[str, Any] = json.loads(given.faults)
        self.first = [fault for fault, number in self.faults.pop("first", {}).items() for _ in range(number)]
        self.draw, self.delay = random.Random(given.seed), given.delay
        self.guard = threading.Lock()
        self.log = Path(given.log)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error."""

    def fault(self) -> str:
        """What this request gets instead of an answer, or an empty text."""
        with self.guard:
            if self.first:
                return self.first.pop(0)
            at = self.draw.random()
            for fault, share in self.faults.items():
                at -= share
                if at < 0:
                    return fault
            return ""

    def note(self, **entry: Any) -> None:
        """A line of the log, kept before the answer leaves."""
        with self.guard, self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Handler(BaseHTTPRequestHandler):
    """POST /v1/chat/completions."""

    server: Server
    protocol_version = "HTTP/1.1"
    FAULTS = (
        "429", "429 date", "429 long", "quota", "402", "500", "slow", "cut", "html", "nonsense", "empty", "length", "length empty", "filter",
        "blocked", "bad", "key", "no usage", "quotes", "unsure", "no logprobs",
    )

    def do_POST(self) -> None:
        came = time.time()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        images = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts if part["type"] == "image_url"]
        fault = self.server.fault()
        answer, reason = written(text, fault)
        tokens = {"prompt_tokens": 80 + len(text) // 4, "completion_tokens": max(1, len(answer) // 4)}
        paid = fault not in ("429", "429 date", "429 long", "quota", "402", "500", "html", "blocked", "bad", "key")
        paid = paid and not (fault == "no logprobs" and "logprobs" in body)
        self.server.note(
            came=came, fault=fault, paid=paid, picture=hashlib.sha256(b"".join(images)).hexdigest(), text=text, model=body["model"],
            body={**body, "messages": None},
            authorization=self.headers.get("Authorization"), **(tokens if paid else {}),
        )  # fmt: skip
        time.sleep(self.server.delay + (3.0 if fault == "slow" else 0.0))
        if fault == "cut":
            self.connection.close()
            self.close_connection = True
            return
        error = {
            "429": (429, "rate limit", {"Retry-After": str(SHORT_S)}), "quota": (429, "You exceeded your current quota, please check your plan.", {}),
            "429 date": (429, "rate limit", {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)}),
            "402": (402, "payment required", {}), "429 long": (429, "come back later", {"Retry-After": "150"}), "500": (500, "internal error", {}),
            "no logprobs": (400, "Unknown parameter: logprobs", {}) if "logprobs" in body else None,
            "blocked": (400, "blocked by policy", {}), "bad": (400, "image too odd", {}),
            "key": (401, f"Incorrect API key: {self.headers.get('Authorization')}", {}),
        }.get(fault)  # fmt: skip
        if error is not None:
            code = {"quota": "insufficient_quota", "blocked": "content_policy_violation"}.get(fault, "")
            self.say(error[0], json.dumps({"error": {"message": error[1], "code": code}}), error[2])
        elif fault == "html":
            self.say(200, "<html><body>502 Bad Gateway</body></html>", {}, "text/html")
        else:
            choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": reason}
            made = {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice]}
            if "logprobs" in body and re.fullmatch(r"\([A-Z]\)", answer):
                choice["logprobs"] = {"content": [sure("(", 1.0), sure(answer[1], 0.7, {"B": 0.1, " B": 0.1, "The": 0.05}), sure(")", 1.0)]}
            made |= {} if fault == "no usage" else {"usage": tokens}
            self.say(200, json.dumps(made), {})

    def say(self, status: int, text: str, headers: dict[str, str], kind: str = "application/json") -> None:
        """Answer."""
        data = text.encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client is gone

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def sure(token: str, p: float, others: dict[str, float] | None = None) -> dict[str, Any]:
    """A token that was written with a probability, and those that were likeliest in its place."""
    likely = [{"token": name, "logprob": math.log(each)} for name, each in ({token: p} | (others or {})).items()]
    return {"token": token, "logprob": math.log(p), "top_logprobs": likely}


def written(text: str, fault: str) -> tuple[str, str]:
    """What the model writes, and why it stops: questions about the attributes, some of them bad, the same for the same prompt."""
    if fault == "nonsense":
        return "I am sorry, as a language model I cannot see, pictures\n{\"oops\": [}\n<b>no</b>", "stop"
    if fault in ("empty", "length empty"):
        return "", "length" if fault == "length empty" else "stop"
    if fault == "filter":
        return "", "content_filter"
    if (judged := re.search(r"<correct>\n(.*?)\n</correct>\n\n<answer>\n(.*?)\n</answer>", text, re.DOTALL)) is not None:
        verdict = f"Score: {int(judged[2].strip().lower() in judged[1].lower().splitlines())}"
        return (f"{verdict}, I think" if fault == "unsure" else f"It says so.\n{verdict}\n"), "stop"
    if (options := re.findall(r"^([A-Z])\. ", text, re.MULTILINE)) and "bullet_point" not in text:
        return f"({options[0]})", "length" if fault == "length" else "stop"
    lines = [line.partition(": ") for line in text.splitlines()]
    known = {name: value.split(", ")[0].lower() for name, _, value in lines if re.fullmatch(r"[a-z_]+", name) and name != "product_type"}
    draw = random.Random(hashlib.sha256(text.encode()).hexdigest())
    made = [f"What {name.removeprefix('item_')} do the things have?,{value}" for name, value in known.items() if " " not in value]
    if "bullet_point" in known:
        made.append(f"How many things are there?,{known['bullet_point'].split()[-1]}")
    if (colour := known.get("color", "")) in WORDS:
        other = draw.choice(sorted(WORDS - {colour}))
        made += [f"Are they {colour}?,yes", f"Are they {other}?,no"]
    made.append(draw.choice(["What is it made of?,solid wood", "Is it nice?,splendid", "Which tint is it?,red", "Here are the questions, as asked:"]))
    if fault == "quotes":
        numbered = ('{}. "{}", "{}"'.format(at, *line.split(",", 1)) for at, line in enumerate(made, 1) if "?," in line)
        made = ["Sure! Here they are:", "```csv", "question, answer", *numbered, "```"]
    if fault == "length":
        return "\n".join([*made, "What material is it made of, wo"]), "length"
    return "\n".join(made), "stop"


@contextmanager
def running(folder: Path, faults: dict[str, Any] | None = None, seed: int = 0, delay: float = 0.0) -> Iterator[tuple[str, Path]]:
    """A server at work: its base URL and its log."""
    log = folder / f"server-{time.monotonic_ns()}.jsonl"
    log.touch()
    command = [sys.executable, __file__, "--log", str(log), "--faults", json.dumps(faults or {}), "--seed", str(seed), "--delay", str(delay)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), log
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def read(log: Path) -> list[dict[str, Any]]:
    """The entries of a log."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", default="{}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0)
    server = Server(parser.parse_args())
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
