"""The doctor's checks of this machine: Python, packages, processor, memory, disk, OpenVINO's devices."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from captionmill.cache import cache_folder
from captionmill.child_call import ChildCallError, call_in_child
from captionmill.finding import Finding, note, ok, size, to_do
from worker.memory import available_bytes

PACKAGE: Final = "captionmill"
EXTRAS: Final[Mapping[str, str]] = {
    "prep": "converting checkpoints: `captionmill convert`",
    "interop": "tokenizers as OpenVINO models, for OpenVINO GenAI",
    "datasets": "data sets of Hugging Face: hf://owner/name, and folders that `datasets` saved",
    "parquet": "Parquet files as source and as sink",
    "heic": "HEIC photos, as phones take them, in runs and in workers",
    "remote": "s3:// and other addresses; each store needs its own package, too, such as s3fs",
    "chat": "a page to try prompts on: `captionmill chat`",
}
"""Extra → its purpose, without extras for developers of this program."""
LITTLE_MEMORY_BYTES: Final = 2 * 2**30
LITTLE_DISK_BYTES: Final = 2**30
CGROUP: Final = Path("/sys/fs/cgroup")


class Feature(NamedTuple):
    """A set of processor instructions, and its effect on speed."""

    name: str
    flags: frozenset[str]
    """Flags in /proc/cpuinfo, any of which is enough."""
    there: str
    missing: str


FEATURES: Final = (
    Feature("AVX2", frozenset({"avx2"}), "needed for a good speed", "everything is several times slower"),
    Feature("AVX-512", frozenset({"avx512f"}), "wider vectors", "not there; vectors are half as wide"),
    Feature(
        "VNNI",
        frozenset({"avx_vnni", "avx512_vnni"}),
        "8-bit models (`--preset fast`) gain speed",
        "not there; 8-bit models (`--preset fast`) gain little beside smaller files",
    ),
    Feature(
        "bfloat16",
        frozenset({"avx512_bf16", "amx_bf16"}),
        "models in 16 bits are computed as such",
        "not there; models in 16 bits are computed in 32",
    ),
    Feature(
        "AMX",
        frozenset({"amx_tile"}),
        "long prompts and images are computed several times as fast",
        "not there; a processor with it computes long prompts and images several times as fast",
    ),
)


def python() -> Iterator[Finding]:
    wanted = importlib.metadata.metadata(PACKAGE)["Requires-Python"] or ">=3.11"
    version = platform.python_version()
    if version in SpecifierSet(wanted):
        yield ok("Python", version)
    else:
        yield to_do("Python", f"{version}, and {wanted} is needed", "make a virtual environment with another")
    system = f"{platform.system()} on {platform.machine()}"
    if system == "Linux on x86_64":
        yield ok("system", system)
    else:
        yield note("system", f"{system}; only Linux on x86_64 was tried")


def packages() -> Iterator[Finding]:
    yield ok(PACKAGE, importlib.metadata.version(PACKAGE))
    for one in _requirements(None):
        found = _version(one.name)
        if found is None:
            yield to_do(one.name, "not installed", f"pip install '{one}'")
        elif found not in one.specifier:
            yield to_do(one.name, f"{found}, and {one.specifier} is needed", f"pip install '{one}'")
        else:
            yield ok(one.name, found)


def extras() -> Iterator[Finding]:
    for extra, purpose in EXTRAS.items():
        wanted = _requirements(extra)
        missing = [one for one in wanted if (_version(one.name) or "0") not in one.specifier]
        if not missing:
            yield ok(extra, purpose)
        else:
            install = " ".join(f"'{one}'" for one in missing)
            yield note(extra, f"not installed; it is for {purpose}", f"to have it: pip install {install}")


def _requirements(extra: str | None) -> list[Requirement]:
    """Requirements of an extra, or of the plain install for None; without markers."""
    found = []
    for text in importlib.metadata.requires(PACKAGE) or []:
        one = Requirement(text)
        plain = one.marker is None or one.marker.evaluate({"extra": ""})
        wanted = plain if extra is None else not plain and one.marker.evaluate({"extra": extra})  # type: ignore[union-attr]
        if wanted:
            one.marker = None
            found.append(one)
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> Iterator[Finding]:
    fields = _cpuinfo()
    yield ok("processor", fields.get("model name", platform.processor() or "unknown"))
    flags = set(fields.get("flags", "").split())
    for feature in FEATURES:
        if feature.flags & flags:
            yield ok(feature.name, feature.there)
        elif feature.name == "AVX2":
            yield to_do(
                feature.name, feature.missing, "in a virtual machine, pass the host's processor through"
            )
        else:
            yield note(feature.name, feature.missing)


def _cpuinfo() -> dict[str, str]:
    """The fields of the first core in /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def cores() -> Iterator[Finding]:
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    told = f"{usable} of {there}" if usable < there else str(usable)
    limit = cpu_limit()
    if limit is not None and limit < usable:
        threads = max(1, int(limit))
        yield to_do(
            "cores",
            f"{told}, of which this container may use {limit:g} at a time",
            f"start workers with --inference-threads {threads}",
        )
    elif usable == 1:
        yield note("cores", f"{told}: OpenVINO computes on one core in f32 alone", "--precision exact")
    else:
        yield ok("cores", told)


def cpu_limit(cgroup: Path = CGROUP) -> float | None:
    """Number of cores that this process's control groups (version 2) allow; None without a limit."""
    limits = []
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].split("\n")[0]
    folder = cgroup / own
    for place in (folder, *folder.parents):
        file = place / "cpu.max"
        if place.is_relative_to(cgroup) and file.is_file():
            quota, period = file.read_text().split()
            if quota != "max":
                limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory() -> Iterator[Finding]:
    free = available_bytes()
    if free < LITTLE_MEMORY_BYTES:
        yield to_do("free memory", size(free), "end other programs, or take a small model")
    else:
        yield ok("free memory", size(free))


def disk() -> Iterator[Finding]:
    for subject, folder in (("this folder", Path.cwd()), ("cache", cache_folder())):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        told = f"{folder}: {size(shutil.disk_usage(there).free)} free"
        if not os.access(there, os.W_OK | os.X_OK):
            remedy = (
                "give runs another folder with --out" if subject == "this folder" else "set XDG_CACHE_HOME"
            )
            yield to_do(subject, f"{folder} cannot be written to", remedy)
        elif shutil.disk_usage(there).free < LITTLE_DISK_BYTES:
            yield to_do(subject, told, "make room")
        else:
            yield ok(subject, told)


def devices() -> Iterator[Finding]:
    """The devices, found in a child process because a driver may crash."""
    try:
        found = call_in_child(_devices)
    except ChildCallError as error:
        yield to_do("OpenVINO", f"it cannot be loaded ({error})", "pip install --force-reinstall openvino")
        return
    for name, box in found.items():
        yield ok(f"device {name}", box)
    if set(found) == {"CPU"}:
        yield note(
            "device GPU",
            "OpenVINO finds none; an Intel GPU needs its driver, and your user in the group render",
        )


def _devices() -> dict[str, str]:
    from worker.device import found_devices

    return found_devices()
