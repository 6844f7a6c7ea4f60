"""The bytes of an image from each kind of reference, and the failure where there are none."""

import hashlib
import importlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from contract.failure import Refusal
from contract.job import ImageInline, ImageMember, ImagePath, ImageReference, ImageStored, ImageUrl, Job
from contract.store import image_key
from tests.support.web_server import BODY, web_server
from worker.delivery.results import ResultStore
from worker.errors import StoreAwayError
from worker.images.download import UrlRules
from worker.images.fetch import ImageFetch
from worker.images.remote import RemoteFiles, RemoteSchemeError

CONTENT = b"an image's bytes"
HASH = hashlib.sha256(CONTENT).hexdigest()
MAX_BYTES = 10_000


def job(image: ImageReference | None, **changes: Any) -> Job:
    question = {"id": "q", "messages": [{"role": "user", "content": "Yes?"}]}
    return Job.model_validate({"run": "r", "index": 1, "image": image, "questions": [question], **changes})


@pytest.fixture
def store(redis_url: str) -> Iterator[ResultStore]:
    made = ResultStore(redis_url)
    yield made
    made.close()


@pytest.fixture
def fetch(images: Path, store: ResultStore) -> Iterator[ImageFetch]:
    rules = UrlRules(private_networks=("127.0.0.0/8",), schemes=("http", "memory"))
    made = ImageFetch((images,), MAX_BYTES, store, rules)
    yield made
    made.close()


def refusal(fetch: ImageFetch, image: ImageReference) -> tuple[str, str]:
    with pytest.raises(Refusal) as refused:
        fetch(job(image))
    return refused.value.failure.code.value, refused.value.failure.message


def test_a_file(fetch: ImageFetch, images: Path) -> None:
    (images / "a.png").write_bytes(CONTENT)
    assert fetch(job(ImagePath.of("a.png"))) == CONTENT
    assert refusal(fetch, ImagePath.of("b.png"))[0] == "image_not_found"


def test_a_member_of_a_shard(fetch: ImageFetch, images: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(CONTENT)
    with tarfile.open(images / "shard.tar", "w") as shard:
        shard.add(tmp_path / "a.png", "other.png")
        shard.add(tmp_path / "a.png", "a.png")
    with tarfile.open(images / "shard.tar") as shard:
        place = shard.getmember("a.png").offset_data
    assert place > 0
    assert fetch(job(ImageMember.of("shard.tar", place, len(CONTENT), "a.png"))) == CONTENT
    size = (images / "shard.tar").stat().st_size
    for offset, size_bytes, name, code, sentence in (
        (size - 5, 6, "a.png", "image_unreadable", "a.png in shard.tar cannot be read: the shard ends"),
        (2**70, 6, "a.png", "image_unreadable", "cannot be read"),
        (0, MAX_BYTES + 1, "a.png", "image_too_large", "a.png in shard.tar has more than the 10000 bytes"),
    ):
        found = refusal(fetch, ImageMember.of("shard.tar", offset, size_bytes, name))
        assert (found[0], sentence in found[1]) == (code, True), found
    assert refusal(fetch, ImageMember.of("gone.tar", 0, 1, "a"))[0] == "image_not_found"
    assert refusal(fetch, ImageMember.of("/etc/passwd", 0, 1, "a"))[0] == "image_not_allowed"


def test_an_image_within_the_job(fetch: ImageFetch) -> None:
    assert fetch(job(ImageInline.of(CONTENT))) == CONTENT
    assert refusal(fetch, ImageInline.of(b""))[0] == "not_an_image"
    assert refusal(fetch, ImageInline.of(bytes(MAX_BYTES + 1)))[0] == "image_too_large"


def test_an_image_in_the_store(fetch: ImageFetch, connection: redis.Redis) -> None:
    image = ImageStored(sha256=HASH)
    code, sentence = refusal(fetch, image)
    assert (code, sentence) == ("image_not_found", f"The image {HASH} is no longer in the store.")
    connection.set(image_key("r", HASH), CONTENT)
    assert fetch(job(image)) == CONTENT
    connection.set(image_key("r", HASH), CONTENT + b"!")
    assert refusal(fetch, image)[0] == "image_unreadable"
    connection.set(image_key("r", HASH), bytes(MAX_BYTES + 1))
    assert refusal(fetch, image)[0] == "image_too_large"


def test_without_its_store_a_job_goes_back(images: Path) -> None:
    away = ResultStore("redis://127.0.0.1:1/0", retries=0)
    with pytest.raises(StoreAwayError):
        ImageFetch((images,), MAX_BYTES, away)(job(ImageStored(sha256=HASH)))


def test_a_url(fetch: ImageFetch) -> None:
    with web_server() as server:
        assert fetch(job(ImageUrl(url=server.url("/image")))) == BODY
        assert refusal(fetch, ImageUrl(url=server.url("/gone")))[0] == "image_not_found"


@pytest.mark.parametrize("url", ["https://example.com/a", "s3://bucket/a", "file:///etc/passwd", "FTP://h/a"])
def test_schemes_that_are_not_offered(fetch: ImageFetch, url: str) -> None:
    code, sentence = refusal(fetch, ImageUrl(url=url))
    assert (code, "this worker fetches http, memory" in sentence) == ("url_not_allowed", True)


def test_other_schemes_by_fsspec(fetch: ImageFetch, images: Path) -> None:
    (images / "a.png").write_bytes(b"a file's")
    fsspec: Any = importlib.import_module("fsspec")
    files = fsspec.filesystem("memory")
    files.pipe("/a.png", CONTENT)
    files.pipe("/large.png", bytes(MAX_BYTES + 1))
    files.pipe("/empty.png", b"")
    assert fetch(job(ImageUrl(url="memory://a.png"))) == CONTENT
    assert refusal(fetch, ImageUrl(url="memory://large.png"))[0] == "image_too_large"
    assert refusal(fetch, ImageUrl(url="memory://empty.png"))[0] == "not_an_image"
    # Chained file systems would lead to local files.
    for url in ("memory://gone.png?secret", f"memory://x::file://{images}/a.png"):
        code, sentence = refusal(fetch, ImageUrl(url=url))
        assert (code, "secret" in sentence) == ("image_not_found", False)


@pytest.mark.parametrize("scheme", ["file", "local", "simplecache", "nothing-known"])
def test_schemes_that_cannot_be_offered(scheme: str) -> None:
    with pytest.raises(RemoteSchemeError, match=f"{scheme}://"):
        RemoteFiles(scheme, MAX_BYTES)
