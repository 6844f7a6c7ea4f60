"""Makes checkpoint, model folders and the peers' environment, once; measures nothing."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args

from bench.checkpoint import write_checkpoint
from bench.sizes import SIZES
from model_prep.convert import convert
from model_prep.settings import LanguageSettings, PrepSettings

PEER_PACKAGES: Final = (
    "torch==2.13.0",
    "optimum-intel[openvino]==2.2.0",
    "openvino==2026.4.1",
    "openvino-genai==2026.4.1",
    "openvino-tokenizers==2026.4.1",
    "protobuf",
    "sentencepiece",
    "pillow",
)
"""Packages of the peers, which need their own environment: optimum-intel wants transformers < 5.6."""
OwnFormat = Literal["fp16", "int8"]
OWN_FORMATS: Final[tuple[OwnFormat, ...]] = get_args(OwnFormat)
OPTIMUM_FORMATS: Final = ("fp16", "int4")
PREPROCESSOR_JSON: Final = "preprocessor_config.json"


@dataclass(frozen=True)
class Folders:
    """Paths of everything for one size of model."""

    work: Path
    size: str

    @property
    def root(self) -> Path:
        return self.work / self.size

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def peers_python(self) -> Path:
        return self.work / "peers-venv" / "bin" / "python"

    def own(self, weight_format: OwnFormat) -> Path:
        return self.root / f"ours-{weight_format}"

    def optimum(self, weight_format: str) -> Path:
        return self.root / f"optimum-{weight_format}"


def make_own(folders: Folders, on_stage: Callable[[str], None]) -> None:
    """Make the checkpoint and our folders of it, unless they exist."""
    if not folders.checkpoint.exists():
        on_stage("random weights")
        _once(folders.checkpoint, lambda stage: write_checkpoint(SIZES[folders.size], stage))
    for weight_format in OWN_FORMATS:
        if not folders.own(weight_format).exists():
            on_stage(f"our {weight_format} folder")
            settings = PrepSettings(language=LanguageSettings(weight_format=weight_format))
            convert(str(folders.checkpoint), folders.own(weight_format), settings, name=folders.size)


def make_peers(
    folders: Folders, on_stage: Callable[[str], None], formats: Sequence[str] = OPTIMUM_FORMATS
) -> None:
    """Make the peers' environment and optimum-intel's exports of the checkpoint, unless they exist.

    Raises subprocess.CalledProcessError; pip and optimum-cli give the reason on stderr.
    """
    if not folders.peers_python.exists():
        on_stage("the peers' environment")
        _once(folders.peers_python.parent.parent, _make_environment)
    for weight_format in formats:
        if not folders.optimum(weight_format).exists():
            on_stage(f"optimum-intel's {weight_format} export")
            _once(folders.optimum(weight_format), partial(_export, folders, weight_format))


def _make_environment(stage: Path) -> None:
    venv.create(stage, with_pip=True)
    pip = [str(stage / "bin" / "python"), "-m", "pip"]
    _run([*pip, "install", "--quiet", *PEER_PACKAGES])
    # It is installed as a dependency, in a build that does not work with this torch.
    _run([*pip, "uninstall", "--quiet", "--yes", "torchvision"])


def _export(folders: Folders, weight_format: str, stage: Path) -> None:
    program: list[str | Path] = [folders.peers_python, "-m", "optimum.commands.optimum_cli"]
    options = ["--task", "image-text-to-text", "--weight-format", weight_format]
    _run([*program, "export", "openvino", "-m", folders.checkpoint, *options, stage])
    # transformers 5 writes another file, and GenAI uses its own sizes without this one.
    shutil.copy(folders.checkpoint / PREPROCESSOR_JSON, stage / PREPROCESSOR_JSON)


def _once(target: Path, make: Callable[[Path], None]) -> None:
    """Make a folder beside `target` and rename it when complete, so that what exists is finished."""
    stage = target.with_name(f"{target.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    stage.parent.mkdir(parents=True, exist_ok=True)
    make(stage)
    stage.rename(target)


def _run(command: Sequence[str | Path]) -> None:
    """Run a command with its output on stderr, as stdout is for the table."""
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
