"""A Python that has the laboratory imported: `python -m MODULE ...` answered by a fork of the test's own process.

A new interpreter pays seconds for its imports before it does anything. `start` forks a server from a test process before its first
test; the executable that it writes, to be `sys.executable`, connects to it and hands over arguments, folder, environment and standard
streams. The server forks a child that becomes the module. Anything but `-m MODULE`, and the modules of `REAL`, is left to the real
Python. The executable ends as the child does, passes signals on, and takes the child along when it is killed. `.ci/run` starts every
door as users do.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import NoReturn

REAL = ["submitit.local._local"]
"""Modules that know their process by its id, and are light."""
CLIENT = '''#!{python} -IS
import array, json, os, signal, socket, sys
arguments = [each for each in sys.argv[1:] if each != "-u"]
if arguments[:1] != ["-m"] or arguments[1] in {real}:
    os.execv("{python}", ["{python}", *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.connect("{address}")
request = json.dumps([arguments[1:], os.getcwd(), dict(os.environ)]).encode()
streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
server.sendmsg([len(request).to_bytes(4, "big")], streams)
server.sendall(request)
child = int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
for stream in (0, 1, 2):
    os.close(stream)
code = int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
'''


def start(folder: Path) -> Path:
    """Fork the server, which lives as long as this process; returns the executable."""
    address, executable = folder / "server", folder / "python"
    executable.write_text(CLIENT.format(python=sys.executable, address=address, real=REAL))
    executable.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(address))
    listener.listen()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later, of every fork beside threads
        server = os.fork()
    if server == 0:
        serve(listener)
    listener.close()
    return executable


def serve(listener: socket.socket) -> NoReturn:
    """Fork a child for each request; pass on how it ended, and kill it when the executable that asked is gone."""
    import atexit

    from lab.host.forks import die_with

    die_with(os.getppid())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    atexit._clear()  # what the test process does at its end
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    listener = socket.socket(fileno=os.dup2(listener.detach(), 3))
    os.closerange(4, 1 << 16)  # the test runner waits until nobody holds its pipes
    living: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, *living.values()], [], [], 0.02 if living else None)
        if listener in ready:
            asking, _ = listener.accept()
            child = request(asking, [listener, *living.values()])
            living[child] = asking
        for child, asking in list(living.items()):
            if asking in ready:  # it says nothing more: it is gone
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                with contextlib.suppress(OSError):
                    asking.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
                asking.close()
                del living[child]


def request(asking: socket.socket, others: list[socket.socket]) -> int:
    """Fork the child that a request asks for; its process id, which the executable is told."""
    head, streams, _, _ = socket.recv_fds(asking, 4, 3)
    arguments, folder, environment = json.loads(asking.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
    child = os.fork()
    if child == 0:
        for each in (asking, *others):
            each.close()
        for stream, given in enumerate(streams):
            os.dup2(given, stream)
            os.close(given)
        become(arguments, folder, environment)
    for given in streams:
        os.close(given)
    asking.sendall(child.to_bytes(4, "big"))
    return child


def become(arguments: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """Be `python -m` with these arguments."""
    import atexit
    import logging
    import multiprocessing.util
    import runpy
    import traceback

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name, mode, stream in (("stdin", "r", 0), ("stdout", "w", 1), ("stderr", "w", 2)):
        setattr(sys, name, open(stream, mode, buffering=1, closefd=False))  # noqa: SIM115 (it is open until the end)
    sys.argv, sys.path[0], code = arguments, folder, 0
    logging.root.handlers.clear()
    warnings.resetwarnings()
    for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", ignored)
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    except BaseException:  # as the interpreter does with whatever a program ends with
        code = 1
        sys.excepthook(*sys.exc_info()) if sys.excepthook is not sys.__excepthook__ else traceback.print_exc()
    finally:
        multiprocessing.util._exit_function()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
