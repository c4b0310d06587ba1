"""lab serve --run RUN: finished runs behind HTTP, by the OpenAI protocol and by a page. Light until it starts."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths, plugins
from lab.cli import bounded, program, run_cli, set_up_logging
from lab.errors import ConfigError
from lab.host.redaction import hide

if TYPE_CHECKING:
    from lab.serving.guard import Limits

log = logging.getLogger(__name__)

TOKEN = "LAB_SERVE_TOKEN"
SHORTEST_TOKEN = 16
BACKLOG = 4096
"""Connections that wait until they are let in."""
SWITCH = 0.0005
"""Seconds for which a thread that computes keeps the interpreter at most; the default, 5 ms, adds up where each reply waits for many turns."""
NEEDS = ("fastapi", "uvicorn", "multipart", "prometheus_client", "fastapi_offline")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog=program("lab.serve"),
        description="Serve finished runs: /v1/chat/completions and /v1/models of the OpenAI protocol, /predict, /health, /metrics, /docs, and a "
        "page at /. Each run is a model under its identity, asked as lab predict asks it, under its contract; runs of one checkpoint share it.",
        epilog=f"Other KEY=VALUE change how runs compute: evaluation.batch_size=8, trainer.accelerator=cpu. The variable {TOKEN} holds the bearer "
        "token that clients must give; any --host but loopback needs one. SIGTERM answers what is under way, and ends.",
    )
    made.add_argument("--run", action="append", default=[], metavar="RUN", help="a finished run, by its identity or the first digits; again for more")
    made.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: 127.0.0.1, this machine alone)")
    made.add_argument("--port", type=bounded(int, 0, 65535), default=8000, metavar="N", help="port (default: 8000; 0: any that is free)")
    made.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name or address that clients call this server by")
    made.add_argument("--allow-media-domain", action="append", default=[], metavar="NAME", help="a host that pictures may be fetched from")
    made.add_argument("--queue", type=bounded(int, 1), default=256, metavar="N", help="questions that wait at most; more get 429 (default: 256)")
    made.add_argument("--max-body", type=bounded(int, 1, 10**5), default=20, metavar="MB", help="largest request (default: 20)")
    made.add_argument("--max-tokens", type=bounded(int, 1), default=1024, metavar="N", help="longest answer that can be asked for (default: 1024)")
    made.add_argument("--timeout", type=bounded(float, 0.001), default=120, metavar="S", help="seconds until an answer is given up (default: 120)")
    made.add_argument("--runs-dir", type=paths.argument, default=Path("runs"), metavar="DIR", help="where run folders lie (default: runs)")
    made.add_argument("words", nargs="*", metavar="RUN KEY=VALUE", help="runs without --run; keys of how they run")
    return made


def limits_of(given: argparse.Namespace) -> Limits:
    """What the server takes. Raises `ConfigError` for a bind that needs a token, and for a host that is none."""
    from lab.serving.fetching import Fetching
    from lab.serving.guard import Limits

    token = os.environ.get(TOKEN)
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError(f"{TOKEN}: give {SHORTEST_TOKEN} or more printable ASCII characters without spaces, such as `openssl rand -hex 24` writes.")
    if token is None and not loopback(given.host):
        raise ConfigError(f"--host {given.host}: others reach that address, so clients must give a token. Set {TOKEN}=$(openssl rand -hex 24).")
    if token is not None:
        hide(token)
    own = () if loopback(given.host) or given.host in ("0.0.0.0", "::", "") else (given.host,)
    media = tuple(given.allow_media_domain)
    limits = Limits((*own, *given.allow_host), token, given.max_body * 1024 * 1024, given.queue, given.max_tokens, given.timeout, media)
    Fetching(limits.media, limits.body)
    return limits


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_packages() -> None:
    """Raise a `ConfigError` where the extra is not installed."""
    if lacking := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"lab serve: {', '.join(lacking)} are not installed. Install them with `pip install 'vlm-lab[serve]'`.")


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address. Raises `ConfigError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        return bound
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: it cannot listen there ({error.strerror or error}). Give another --port.") from None


def act(given: argparse.Namespace) -> int:
    """Load, listen and answer until SIGTERM or SIGINT."""
    require_packages()
    limits = limits_of(given)
    plugins.load(plugins.named(given.overrides))
    with listen(given.host, given.port) as bound:
        return serve(given, limits, bound)


def serve(given: argparse.Namespace, limits: Limits, bound: socket.socket) -> int:
    """The same, on a socket."""
    import uvicorn

    from lab.host.progress import bars
    from lab.serving import app, connections, guard, served

    models = served.load(given.runs_dir, given.run, given.overrides, bars(), lambda line: print(line, flush=True))
    application, serving = app.build(models, limits)
    guarded = guard.Guard(application, limits, serving.metrics, app.is_open)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))
    config = uvicorn.Config(
        guarded, log_config=None, log_level="error", access_log=False, lifespan="off", server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=int(limits.seconds) + 1, **connections.options(BACKLOG),
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn drains, then raises the signal once more
    host, port = bound.getsockname()[:2]
    print(f"serving {len(models)} models at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    sys.setswitchinterval(SWITCH)
    uvicorn.Server(config).run(sockets=[bound])
    serving.batching.end()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry point; 2 if the user must act."""
    arguments_of = parser()
    given = arguments_of.parse_intermixed_args(arguments)
    given.overrides = [word for word in given.words if "=" in word]
    given.run += [word for word in given.words if "=" not in word]
    if not given.run:
        arguments_of.error(f"no run is named. Type {arguments_of.prog} --run RUN, where RUN is the name of a folder in {given.runs_dir}/.")
    set_up_logging()
    return run_cli(lambda: act(given))


if __name__ == "__main__":
    sys.exit(main())
