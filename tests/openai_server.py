"""A finished run behind the OpenAI protocol, a thread of the test's own process: whole prompts, token by token, with log-probabilities.

What is wrong with it is said by `Served`: the base in the adapter's place, other pixel limits, no log-probabilities, no base.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image

from lab.model import Vlm


@dataclass
class Served:
    """vlm: with its adapter. name, base: its models; base None: it offers none. bare: the adapter is not applied."""

    vlm: Vlm
    name: str
    base: str | None = "base"
    bare: bool = False
    most_pixels: int | None = None
    logprobs: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def models(self) -> dict[str, Any]:
        own = {"id": self.name, "object": "model", "parent": self.base}
        return {"object": "list", "data": [own, *([{"id": self.base, "object": "model"}] if self.base else [])]}

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A completion by Transformers' own generate."""
        processor, messages, images = self.vlm.processor, [], []
        for message in body["messages"]:
            parts = []
            for part in message["content"]:
                if part["type"] == "image_url":
                    images.append(Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))))
                    parts.append({"type": "image"})
                else:
                    parts.append(part)
            messages.append({"role": message["role"], "content": parts})
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if self.most_pixels is not None:
            images = [image.resize((int(self.most_pixels**0.5),) * 2) for image in images]
        inputs = processor(text=[text], images=images, return_tensors="pt")
        plain = body["model"] == self.base or self.bare
        with torch.inference_mode(), self.vlm.model.disable_adapter() if plain else nullcontext():
            said = self.vlm.model.generate(
                **inputs, do_sample=False, max_new_tokens=body["max_tokens"], output_logits=True, return_dict_in_generate=True
            )
        ids = said.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        content = []
        for token, logits in zip(ids, said.logits, strict=True):
            log_p = logits[0].float().log_softmax(dim=0)
            best = log_p.topk(body.get("top_logprobs", 1))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            alternatives = [{"token": processor.tokenizer.decode([i]), "logprob": p} for i, p in pairs]
            content.append({"token": processor.tokenizer.decode([token]), "logprob": log_p[token].item(), "top_logprobs": alternatives})
        ends = ids[-1:] == [processor.tokenizer.eos_token_id]
        written = processor.tokenizer.decode(ids[: len(ids) - ends], skip_special_tokens=body.get("skip_special_tokens", True))
        choice = {"index": 0, "message": {"role": "assistant", "content": written}}
        choice |= {"finish_reason": "stop", "logprobs": {"content": content} if self.logprobs else None}
        usage = {"prompt_tokens": inputs["input_ids"].shape[1], "completion_tokens": len(ids)}
        return {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}


@contextmanager
def running(served: Served) -> Iterator[str]:
    """Serve until the end of the block: the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.say(200, served.models())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.requests.append(body)
            if not served.logprobs and body.get("logprobs"):
                self.say(400, {"error": {"message": "logprobs are not supported"}})
                return
            with served.guard:
                self.say(200, served.answer(body))

        def say(self, status: int, values: dict[str, Any]) -> None:
            data = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
