"""Describes the machine and software of a measurement, and writes its figures; measures nothing."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.peer import ROOT

OWN_PACKAGES: Final = ("openvino", "torch", "transformers", "nncf", "numpy")
PEER_PACKAGES: Final = ("openvino", "openvino-genai", "optimum-intel", "torch", "transformers", "nncf")
FLAGS: Final = ("avx2", "avx512", "avx_vnni", "amx")
"""Prefixes of the CPU flags that determine speed."""


def describe(peers_python: Path | None) -> dict[str, Any]:
    """Machine, package versions (also the peers', unless None), commit and command line."""
    cpu = _cpu()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", "bench", *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain").splitlines()),
        "cpu": cpu.get("model name", platform.processor()),
        "cpu_flags": [flag for flag in cpu.get("flags", "").split() if flag.startswith(FLAGS)],
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in OWN_PACKAGES},
        "peer_packages": _peer_versions(peers_python) if peers_python else {},
    }


def write_figures(out: Path, name: str, figures: dict[str, Any]) -> None:
    """Write `figures` and the machine as JSON to `out`/NAME-TIME.json, and print the path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(figures | {"machine": describe(None)}, indent=1) + "\n")
    print(f"Figures: {path}")


def _cpu() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty without that file."""
    path = Path("/proc/cpuinfo")
    first = path.read_text(encoding="utf-8").partition("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, check=False, capture_output=True, text=True)
    return run.stdout.strip()


def _peer_versions(python: Path) -> dict[str, str]:
    script = "import json, sys; from importlib.metadata import version as v; " + (
        "print(json.dumps({p: v(p) for p in sys.argv[1:]}))"
    )
    run = subprocess.run(
        [str(python), "-c", script, *PEER_PACKAGES], check=True, capture_output=True, text=True
    )
    versions: dict[str, str] = json.loads(run.stdout)
    return versions
