"""Bad paths, and missing, changing or forbidden files: each ends in the right code, and nothing is read.

What must not be read holds the picture SECRET, which no outcome may be.
"""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from contract.failure import FailureCode, Refusal
from contract.job import ImageMember, ImagePath, Job
from tests.faults.bad_images import noise, saved
from worker.delivery.results import ResultStore
from worker.images.fetch import ImageFetch
from worker.images.image_file import read_bytes

GOOD: Final = saved(noise(20, 30), "PNG")
SECRET: Final = saved(noise(9, 9), "PNG")
MAX_BYTES: Final = 100_000
OUTSIDE: Final = FailureCode.IMAGE_NOT_ALLOWED
MISSING: Final = FailureCode.IMAGE_NOT_FOUND
UNREADABLE: Final = FailureCode.IMAGE_UNREADABLE
NOBODY: Final = 65_534
SETRESUID: Final = 117
"""The number of the system call on x86-64; the C library's function of this name changes all threads."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The image root, beside a folder that is none and one whose name begins as the root's does."""
    for name in ("root", "outside", "root-and-more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in.png").write_bytes(GOOD if name == "root" else SECRET)
    (tmp_path / "root" / "below").mkdir()
    (tmp_path / "root" / "below" / "in.png").write_bytes(GOOD)
    return tmp_path / "root"


def link(path: Path, target: str | Path) -> Path:
    path.symlink_to(target)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def unix_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        # A path of a socket has 107 bytes at most.
        folder = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    return path


def holding(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


TABLE: Final[dict[str, tuple[Callable[[Path], str | bytes | Path], FailureCode]]] = {
    "absolute": (lambda root: root.parent / "outside" / "in.png", OUTSIDE),
    "absolute-missing": (lambda root: root.parent / "outside" / "gone.png", OUTSIDE),
    "passwd": (lambda _: "/etc/passwd", OUTSIDE),
    "shadow": (lambda _: "/etc/shadow", OUTSIDE),
    "the-root's-root": (lambda _: "/", OUTSIDE),
    "dots": (lambda _: "../outside/in.png", OUTSIDE),
    "dots-behind-a-folder": (lambda _: "below/../../outside/in.png", OUTSIDE),
    "dots-behind-nothing": (lambda _: "nothing/../../outside/in.png", OUTSIDE),
    "dots-absolute": (lambda root: f"{root}/../outside/in.png", OUTSIDE),
    "dots-without-end": (lambda _: "../" * 50 + "etc/passwd", OUTSIDE),
    "dots-beyond-a-file": (lambda _: "in.png/../../outside/in.png", OUTSIDE),
    "slashes": (lambda _: "//etc//passwd", OUTSIDE),
    "the-root's-name-and-more": (lambda root: f"{root}-and-more/in.png", OUTSIDE),
    "home": (lambda _: "~/../etc/passwd", MISSING),
    "variable": (lambda _: "$HOME/in.png", MISSING),
    "percent": (lambda _: "%2e%2e/outside/in.png", MISSING),
    "backslashes": (lambda _: "..\\outside\\in.png", MISSING),
    "file-url": (lambda _: "file:///etc/passwd", MISSING),
    "link-to-a-file": (lambda root: link(root / "link", root.parent / "outside" / "in.png"), OUTSIDE),
    "link-relative": (lambda root: link(root / "link", "../outside/in.png"), OUTSIDE),
    "link-to-a-folder": (lambda root: link(root / "link", "../outside") / "in.png", OUTSIDE),
    "link-to-a-link": (lambda root: link(root / "b", link(root / "a", "../outside/in.png")), OUTSIDE),
    "link-to-the-root's-root": (lambda root: link(root / "link", "/") / "etc/passwd", OUTSIDE),
    "link-to-this-process": (lambda root: link(root / "link", "/proc/self/environ"), OUTSIDE),
    "link-to-a-descriptor": (lambda root: link(root / "link", "/dev/stdin"), OUTSIDE),
    "link-to-itself": (lambda root: link(root / "link", "link"), UNREADABLE),
    "links-in-a-circle": (lambda root: link(root / "b", link(root / "a", root / "b")), UNREADABLE),
    "link-to-nothing": (lambda root: link(root / "link", "gone.png"), MISSING),
    "device": (lambda _: "/dev/zero", OUTSIDE),
    "device-by-link": (lambda root: link(root / "link", "/dev/zero"), OUTSIDE),
    "memory": (lambda _: "/proc/self/mem", OUTSIDE),
    "environment": (lambda _: "/proc/self/environ", OUTSIDE),
    "descriptor": (lambda _: "/proc/self/fd/0", OUTSIDE),
    "kernel-log": (lambda _: "/proc/kmsg", OUTSIDE),
    "folder": (lambda root: root / "below", OUTSIDE),
    "the-root-itself": (lambda root: root, OUTSIDE),
    "dot": (lambda _: ".", OUTSIDE),
    "fifo": (lambda root: fifo(root / "fifo"), OUTSIDE),
    "socket": (lambda root: unix_socket(root / "socket"), UNREADABLE),
    "missing": (lambda _: "gone.png", MISSING),
    "below-a-file": (lambda _: "in.png/in.png", MISSING),
    "below-nothing": (lambda _: "gone/in.png", MISSING),
    "long-name": (lambda _: "x" * 256, UNREADABLE),
    "long-path": (lambda _: "x/" * 3000 + "in.png", UNREADABLE),
    "nul": (lambda _: "in.png\0.jpg", UNREADABLE),
    "nul-before-dots": (lambda _: "\0/../../outside/in.png", UNREADABLE),
    "bytes-that-are-no-text": (lambda _: b"\xff\xfe.png", MISSING),
    "half-a-character": (lambda _: "\ud800.png".encode("utf-8", "surrogatepass"), MISSING),
    "control-characters": (lambda _: "\n\x1b[31m.png", MISSING),
    "empty": (lambda root: holding(root / "empty.png", b""), FailureCode.NOT_AN_IMAGE),
    "large": (lambda root: holding(root / "large.png", bytes(MAX_BYTES + 1)), FailureCode.IMAGE_TOO_LARGE),
    "large-and-sparse": (lambda root: sparse(root / "sparse.png"), FailureCode.IMAGE_TOO_LARGE),
}


def sparse(path: Path) -> Path:
    """A file of a terabyte that takes no place."""
    with path.open("wb") as file:
        file.truncate(2**40)
    return path


def job(image: ImagePath | ImageMember) -> Job:
    questions = [{"id": "q", "messages": "What?"}]
    return Job.model_validate({"run": "r", "index": 1, "image": image, "questions": questions})


@pytest.fixture
def fetch(root: Path) -> Iterator[ImageFetch]:
    store = ResultStore("redis://127.0.0.1:1/0", retries=0)
    made = ImageFetch((root.resolve(),), MAX_BYTES, store)
    yield made
    made.close()
    store.close()


def refusal(fetch: ImageFetch, image: ImagePath | ImageMember) -> tuple[FailureCode, str]:
    with pytest.raises(Refusal) as refused:
        fetch(job(image))
    failure = refused.value.failure
    assert failure.message.isprintable(), failure.message
    failure.model_dump_json()
    return failure.code, failure.message


@pytest.mark.parametrize("name", TABLE)
def test_what_must_not_be_read(fetch: ImageFetch, root: Path, name: str) -> None:
    """Alone, and as a shard that holds the image."""
    make, code = TABLE[name]
    path = make(root)
    path = os.fsdecode(path) if isinstance(path, bytes) else path
    assert refusal(fetch, ImagePath.of(path))[0] == code
    if code not in (FailureCode.NOT_AN_IMAGE, FailureCode.IMAGE_TOO_LARGE):
        assert refusal(fetch, ImageMember.of(path, 0, 9, "a.png"))[0] == code


def test_what_may_be_read(fetch: ImageFetch, root: Path) -> None:
    inside = link(root / "link", "below/in.png")
    strange = holding(root / os.fsdecode(b"\xe9 \n.png"), GOOD)
    for path in ("in.png", "below/in.png", "below/../in.png", "in.png/.", root / "in.png", inside, strange):
        assert fetch(job(ImagePath.of(path))) == GOOD


def as_nobody(call: Callable[[], object]) -> None:
    """Call it in a thread of its own, which alone gives up its rights."""

    def called() -> None:
        assert ctypes.CDLL(None, use_errno=True).syscall(SETRESUID, -1, NOBODY, -1) == 0
        call()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(called).result()


@pytest.mark.skipif(os.getuid() != 0 or os.uname().machine != "x86_64", reason="gives up rights it must have")
def test_without_permission_by_one_who_has_all(fetch: ImageFetch, root: Path) -> None:
    (root / "in.png").chmod(0o600)
    as_nobody(lambda: check_forbidden(fetch, "in.png"))


@pytest.mark.skipif(os.getuid() == 0, reason="to root nothing is forbidden")
@pytest.mark.parametrize("part", ["in.png", "below"])
def test_without_permission(fetch: ImageFetch, root: Path, part: str) -> None:
    (root / part).chmod(0)
    check_forbidden(fetch, "in.png" if part == "in.png" else "below/in.png")
    (root / part).chmod(0o700)


def check_forbidden(fetch: ImageFetch, path: str) -> None:
    code, sentence = refusal(fetch, ImagePath.of(path))
    assert (code, "Permission denied" in sentence) == (UNREADABLE, True), sentence


def test_a_file_that_grows_while_it_is_read(root: Path) -> None:
    """Never more than one byte above the limit, however long somebody appends."""
    path, done = root / "grows.png", threading.Event()
    path.write_bytes(bytes(MAX_BYTES))

    def grow() -> None:
        with path.open("ab") as file:
            while not done.is_set():
                file.write(bytes(10_000))
                file.flush()
                if file.tell() > 50_000_000:
                    file.truncate(MAX_BYTES)

    thread = threading.Thread(target=grow)
    thread.start()
    outcomes: set[int | FailureCode] = set()
    try:
        for _ in range(300):
            try:
                outcomes.add(len(read_bytes(path, (root.resolve(),), MAX_BYTES)))
            except Refusal as refused:
                outcomes.add(refused.failure.code)
    finally:
        done.set()
        thread.join()
    assert outcomes <= {MAX_BYTES, FailureCode.IMAGE_TOO_LARGE}
    assert FailureCode.IMAGE_TOO_LARGE in outcomes


@pytest.mark.parametrize("evil", ["link-to-a-file", "link-to-a-folder", "fifo", "device-by-link"])
def test_a_file_exchanged_between_the_check_and_the_opening(root: Path, evil: str) -> None:
    """A race: whoever wins it, no secret comes out and nothing waits."""
    place, good = root / "place", root / "good"
    (good).mkdir()
    holding(good / "in.png", GOOD)
    bad = root / "bad"
    if evil == "link-to-a-folder":
        link(bad, "../outside")
    else:
        bad.mkdir()
        made = {"link-to-a-file": "../../outside/in.png", "device-by-link": "/dev/zero"}.get(evil)
        fifo(bad / "in.png") if made is None else link(bad / "in.png", made)
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            for one in (good, bad):
                one.rename(place)
                place.rename(one)

    thread = threading.Thread(target=exchange)
    thread.start()
    outcomes: set[bytes | FailureCode] = set()
    try:
        for attempt in range(100_000):
            if attempt >= 2000 and {GOOD, OUTSIDE} <= outcomes:
                break
            try:
                outcomes.add(read_bytes(place / "in.png", (root.resolve(),), MAX_BYTES))
            except Refusal as refused:
                outcomes.add(refused.failure.code)
    finally:
        done.set()
        thread.join()
    assert {GOOD, OUTSIDE} <= outcomes
    assert outcomes <= {GOOD, OUTSIDE, MISSING, UNREADABLE}


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes device files")
def test_a_device_file_below_the_root(fetch: ImageFetch, root: Path) -> None:
    made = subprocess.run(["mknod", root / "zero.png", "c", "1", "5"], check=False)
    if made.returncode:
        pytest.skip("no device files here")
    assert refusal(fetch, ImagePath.of("zero.png"))[0] == OUTSIDE


def test_proc_is_no_place_of_images_even_as_a_root() -> None:
    """Files that are regular by name, have no size and may have no end: the limit is what counts."""
    for name in ("self/status", "self/maps", "kallsyms"):
        with pytest.raises(Refusal) as refused:
            read_bytes(Path("/proc") / name, (Path("/proc"),), 100)
        assert refused.value.failure.code == FailureCode.IMAGE_TOO_LARGE
