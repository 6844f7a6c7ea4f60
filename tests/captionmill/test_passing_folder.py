"""Commands that keep nothing have a folder each; none removes another's, and none is left behind."""

import os
import subprocess
import sys
from pathlib import Path

from captionmill.local_site import passing_folder
from tests.support.processes import ROOT, spawn, wait_until

SCRIPT = """
import sys
from pathlib import Path
from captionmill.local_site import passing_folder

for _ in range(int(sys.argv[2])):
    with passing_folder(Path(sys.argv[1])) as folder:
        (folder / "run").mkdir()
        for name in range(10):
            (folder / "run" / str(name)).touch()
"""
HELD = """
import sys, time
from pathlib import Path
from captionmill.local_site import passing_folder

with passing_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_commands_side_by_side(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "60"]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [one.communicate()[1] for one in started] == [""] * 4
    assert os.listdir(tmp_path / "local") == ["lock"]


def test_what_a_killed_command_left_goes_with_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log"
    held = spawn([sys.executable, "-c", HELD, str(tmp_path)], log, {})
    wait_until(lambda: log.read_text().endswith("\n"))
    folder = Path(log.read_text().strip())
    with passing_folder(tmp_path):
        assert folder.is_dir(), "its command is alive"
    held.kill()
    held.wait()
    with passing_folder(tmp_path) as own:
        assert not folder.exists()
        assert own.is_dir()
