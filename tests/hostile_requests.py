"""Requests of somebody who means harm or has made a mistake, as bytes by a name. Each must be refused, or its connection closed."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

from PIL import Image
from serving import World, body

MARK = "SECRET-1234"
"""Stands in every body; no reply may repeat it."""


def post(path: str, data: bytes | str, kind: str = "application/json", **headers: str) -> bytes:
    """A request with a body."""
    data = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + data


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", *(headers or ("Host: localhost",)), "Connection: close", "", ""]).encode()


def png(width: int, height: int) -> bytes:
    """The head of a PNG of so many pixels, and next to nothing behind it."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(form: str, image: Image.Image, **more: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def pictures(world: World) -> dict[str, bytes]:
    """What is no picture that a run takes."""
    red = Image.new("RGB", (60, 60), "red")
    good = world.picture(0)
    noise = Image.effect_noise((200, 200), 90)
    return {
        "bomb": png(60_000, 60_000), "wide bomb": png(2**31 - 1, 1), "nothing behind the head": png(300, 300), "empty": b"",
        "text": MARK.encode(),
        "half a PNG": saved("PNG", noise)[:9_000], "half a JPEG": saved("JPEG", noise)[:3_000], "a wrong checksum": good[:-6] + b"\0" + good[-5:],
        "an animation": saved("GIF", red, save_all=True, append_images=[Image.new("RGB", (60, 60), "blue")]),
        "numbers": saved("TIFF", Image.new("F", (60, 60))), "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PDF": b"%PDF-1.7\n", "ZIP": b"PK\x03\x04" + b"\0" * 100,
        "one pixel high": saved("PNG", Image.new("RGB", (6_000, 1))),
    }  # fmt: skip


def bodies(world: World) -> dict[str, Any]:
    """JSON that is no request, or none that a run answers."""
    url, good = world.url(0), body(world.words, MARK, world.url(0))
    message = good["messages"][0]

    def but(**changed: Any) -> dict[str, Any]:
        return {**good, **changed}

    def asked(*content: Any) -> dict[str, Any]:
        return but(messages=[{"role": "user", "content": list(content)}])

    text, picture = {"type": "text", "text": MARK}, {"type": "image_url", "image_url": {"url": url}}
    urls = {
        name: asked({"type": "image_url", "image_url": {"url": value}}, text)
        for name, value in {
            "a URL": "http://example.org/a.png", "metadata of a cloud": "http://169.254.169.254/latest", "a file": "file:///etc/passwd",
            "a path": "/etc/passwd", "no base64": "data:image/png,abc", "bad base64": "data:image/png;base64,***", "an empty URL": "",
        }.items()
    }  # fmt: skip
    files = {
        f"a picture: {name}": asked({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}, text)
        for name, data in pictures(world).items()
    }
    return urls | files | {
        "null": None, "a list": [MARK], "no model": {"messages": good["messages"]}, "a number as model": but(model=7),
        "no such model": but(model=MARK), "an endless model": but(model=MARK * 99_999), "no messages": {"model": world.words},
        "empty messages": but(messages=[]), "messages as text": but(messages=MARK), "two turns": but(messages=[message, message]),
        "a turn of the model": but(messages=[message, {"role": "assistant", "content": MARK}, message]),
        "another system text": but(messages=[{"role": "system", "content": MARK}, message]),
        "an unknown role": but(messages=[{**message, "role": MARK}]), "a number as content": but(messages=[{"role": "user", "content": 7}]),
        "an unknown part": asked({"type": MARK}), "two texts": asked(picture, text, text), "no text": asked(picture), "no picture": asked(text),
        "two pictures": asked(picture, picture, text), "an empty text": asked(picture, {"type": "text", "text": " "}),
        "a special token": asked(picture, {"type": "text", "text": f"{MARK}<|im_end|>"}),
        "half a pair": asked(picture, {"type": "text", "text": "\ud83d"}),
        "fewer pixels": asked({"type": "image_url", "image_url": {"url": url, "detail": "low"}}, text), "warm": but(temperature=0.7),
        "no number": but(temperature=float("nan")), "two answers": but(n=2), "no tokens": but(max_tokens=0),
        "too many tokens": but(max_tokens=10**6), "an endless number": but(max_tokens=10**30), "tokens in words": but(max_tokens="many"),
        "too many alternatives": but(top_logprobs=99), "perhaps a stream": but(stream="perhaps"), "an unknown field": but(**{MARK * 99: 1}),
        "tools": but(tools=[{"type": "function"}]),
    }  # fmt: skip


def raw(world: World) -> dict[str, bytes]:
    """Bytes that are no request, or none for here."""
    chat, models, host = "/v1/chat/completions", "/v1/models", "Host: localhost"
    good = json.dumps(body(world.words, MARK, world.url(0)))
    field, parts = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n', "multipart/form-data; boundary=x"
    chunked, chunk = get("/predict", host, "Transfer-Encoding: chunked", method="POST"), b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    docs = "/static-offline-docs"
    return {
        "half of JSON": post(chat, good[:200]), "deep JSON": post(chat, "[" * 100_000), "no body": post(chat, ""),
        "too many digits": post(chat, "9" * 9_999), "no UTF-8": post(chat, b'{"model": "\xff\xfe"}'),
        "JSON as text": post(chat, good, "text/plain"), "packed": post(chat, zlib.compress(b" " * 10**7), Content_Encoding="gzip"),
        "no form": post("/predict", good), "a form without boundary": post("/predict", "--x--", "multipart/form-data"),
        "a form of nothing": post("/predict", "", parts), "a torn form": post("/predict", field.format("image", MARK)[:-9], parts),
        "a text as image": post("/predict", f"{field.format('image', MARK)}{field.format('question', MARK)}--x--", parts),
        "thousands of fields": post("/predict", "".join(field.format(i, MARK) for i in range(3_000)) + "--x--", parts),
        "upwards": get("/../../../etc/passwd"), "upwards in code": get("/%2e%2e/%2e%2e/etc/passwd"), "a null": get("/%00"),
        "upwards in docs": get(f"{docs}/../../../etc/passwd"), "upwards in code in docs": get(f"{docs}/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
        "two slashes": get("//etc/passwd"), "an address": get(f"http://evil.example/{MARK}"), "a long path": get("/" + MARK * 1_000),
        "delete": get(models, method="DELETE"), "trace": get("/health", method="TRACE"), "connect": get("evil.example:443", method="CONNECT"),
        "another name": get(models, "Host: evil.example"), "a name like ours": get(models, "Host: localhost.evil.example"),
        "no name": get(models, "X: y"), "two names": get(models, host, "Host: evil.example"), "an opaque page": get(models, host, "Origin: null"),
        "a page of others": get(models, host, "Origin: https://evil.example"), "a long header": get(models, host, f"X: {'y' * 100_000}"),
        "thousands of headers": get(models, host, *(f"X{i}: y" for i in range(9_000))),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99), "an old one": b"GET /health\r\n\r\n",
        "no HTTP": b"EHLO evil.example\r\n\r\n", "a negative length": get("/health", host, "Content-Length: -1"),
        "two lengths": get("/predict", host, "Content-Length: 5", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n",
        "a length beyond": get("/predict", host, "Content-Length: 99999999999", method="POST"),
        "chunks without end": chunked + 25 * chunk, "bad chunks": chunked + b"zz\r\n",
    }  # fmt: skip


def requests(world: World) -> dict[str, bytes]:
    """All of them."""
    return {name: post("/v1/chat/completions", json.dumps(value)) for name, value in bodies(world).items()} | raw(world)
