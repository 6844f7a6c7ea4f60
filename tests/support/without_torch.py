"""A process in which torch and nncf are not there, as in a worker's own installation."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT

HIDE = """
import importlib.util, sys

MISSING = ("torch", "nncf", "torchvision")
find_spec = importlib.util.find_spec

class NotInstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled)
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition(".")[0] in MISSING else find_spec(name, package)
)
"""
SCRIPT = (
    HIDE
    + """
from pathlib import Path

import worker.startup
from PIL import Image
from contract.job import Question
from worker.llava.model import LlavaModel

model = LlavaModel.load(Path(sys.argv[1]), "CPU", {})
features = model.encode_image(Image.new("RGB", (120, 80)))
prompt = model.prompt(Question(id="q", messages="Describe the image."), features)
sys.exit(prompt.inputs_embeds.shape[1] != model.hidden or "torch" in sys.modules)
"""
)


def hide_torch(folder: Path) -> dict[str, str]:
    """Environment variables under which Python processes and their children have no torch and no nncf."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def run_without_torch(folder: Path) -> subprocess.CompletedProcess[str]:
    """Make a prompt of an image with the model in `folder`; the exit code tells whether it could."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
