"""Runs the `captionmill` command for tests in a process of its own, without a second for imports.

A process that has imported the command waits for requests and forks for each. The fork has the folder,
environment and outputs of the request, runs the console script's function and ends as the interpreter does.
Tests of the command's start, of local mode and of signals start a new interpreter instead.
"""

import atexit
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

from tests.support.processes import ROOT, die_with_parent, wait_until

NUMBER: Final = struct.Struct("!i")
Output = IO[bytes] | int


def run_command(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    stdout: Output | None = None,
    stderr: Output | None = None,
) -> subprocess.CompletedProcess[str]:
    """To its end. What goes to no file or descriptor of the caller's is returned as text.

    `cwd` is the repository without it, `env` the environment of the tests. Raises subprocess.TimeoutExpired.
    """
    words = [str(one) for one in arguments]
    request = {"words": words, "cwd": str(cwd or ROOT), "env": dict(os.environ if env is None else env)}
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        open(os.devnull, "rb") as nothing,
        socket.socket(socket.AF_UNIX) as asked,
    ):
        outputs = [nothing, out if stdout is None else stdout, err if stderr is None else stderr]
        asked.connect(_server())
        content = json.dumps(request).encode()
        socket.send_fds(asked, [NUMBER.pack(len(content))], [_number(one) for one in outputs])
        asked.sendall(content)
        process = _receive(asked)
        asked.settimeout(timeout)
        try:
            status = _receive(asked)
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            assert timeout is not None
            raise subprocess.TimeoutExpired(words, timeout) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            words, os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode()
        )


def _number(file: Output) -> int:
    return file if isinstance(file, int) else file.fileno()


def _receive(connection: socket.socket) -> int:
    number: int = NUMBER.unpack(connection.recv(NUMBER.size, socket.MSG_WAITALL))[0]
    return number


@cache
def _server() -> bytes:
    """Its address, in the kernel's own namespace of sockets; it ends with the process of the tests."""
    address = f"\0captionmill-command-{os.getpid()}".encode()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", f"from tests.support.command import serve; serve({address!r})"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    atexit.register(process.kill)

    def listening() -> bool:
        assert process.poll() is None, "the server of commands ended"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(address) == 0

    wait_until(listening)
    return address


def serve(address: bytes) -> None:
    """Fork for each request. Only a process that has run its command returns."""
    from captionmill.__main__ import main
    from captionmill.cli import app

    assert app
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        # The kernel forgets those that ended.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            asked, _ = listener.accept()
            if os.fork() == 0:
                break
            asked.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent()
    _become(asked)
    main()


def _become(asked: socket.socket) -> None:
    """Fork once more: the child returns as the requested process, the parent reports how it ended."""
    first, files, *_ = socket.recv_fds(asked, NUMBER.size, 3)
    if not first:  # only a look whether anybody listens
        os._exit(0)
    request: dict[str, Any] = json.loads(asked.recv(NUMBER.unpack(first)[0], socket.MSG_WAITALL))
    process = os.fork()
    if process:
        asked.sendall(NUMBER.pack(process))
        asked.sendall(NUMBER.pack(os.waitpid(process, 0)[1]))
        os._exit(0)
    die_with_parent()
    asked.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["captionmill", *request["words"]]
