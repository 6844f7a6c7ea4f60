"""The demo as a newcomer runs it: right answers, and nothing left behind however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from demo.samples import COUNT
from tests.support.family import alive, descendants, listening_ports, listens, wait_for


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "captionmill", "demo", "--out", str(out), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@contextmanager
def one_core() -> Iterator[None]:
    """What is started within has one core; the tests' other threads keep theirs."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("cores", [nullcontext, one_core])
def test_demo_captions_its_images(tmp_path: Path, cores: Callable[[], AbstractContextManager[None]]) -> None:
    with cores():
        demo = start(tmp_path / "out")
    printed, _ = demo.communicate()
    assert demo.returncode == 0, printed
    right = re.search(rf"Right: (\d+) of {COUNT} descriptions, (\d+) of {COUNT} numbers", printed)
    assert right is not None, printed
    assert int(right[1]) >= 20
    assert int(right[2]) >= 20
    records = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert len(records) == COUNT
    assert all(len(record["answers"]) == 2 for record in records)
    page = (tmp_path / "out" / "contact_sheet.html").read_text()
    assert page.count('"answers":[') == COUNT


def test_a_precision_that_one_core_cannot_compute_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONMILL_PRECISION", "default")
    with one_core():
        demo = start(tmp_path / "out")
    printed, _ = demo.communicate()
    assert demo.returncode == 2
    assert "With one CPU thread OpenVINO needs CAPTIONMILL_PRECISION=exact" in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["server", "worker", "run"])
def test_killing_the_demo_leaves_no_process_and_no_port(
    tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    demo = start(tmp_path / "out")
    moments = {
        "server": lambda: len(descendants(demo.pid)) >= 1,
        "worker": lambda: len(descendants(demo.pid)) >= 2,
        "run": lambda: (tmp_path / "out" / "answers.jsonl").exists(),
    }
    wait_for(moments[moment], f"there is a {moment}")
    children = descendants(demo.pid)
    ports = [port for child in children for port in listening_ports(child)]
    os.kill(demo.pid, number)
    demo.communicate()
    assert demo.returncode in (130, -signal.SIGKILL)
    wait_for(lambda: not any(alive(child) for child in children), "its processes are gone")
    # a server's first thread can be gone while its others still close the sockets
    wait_for(lambda: not any(listens(port) for port in ports), "its ports are free")


def test_demo_stops_when_its_parent_dies(tmp_path: Path) -> None:
    """As under make: with --stop-with-parent nothing outlives the process that started the demo."""
    out = tmp_path / "out"
    script = (
        "import subprocess, sys;"
        "subprocess.run([sys.executable, '-m', 'captionmill', 'demo', "
        f"'--out', {str(out)!r}, '--stop-with-parent'])"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    wait_for(lambda: len(descendants(parent.pid)) >= 3, "demo, server and worker run")
    family = descendants(parent.pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(alive(child) for child in family), "the demo and its processes are gone")
