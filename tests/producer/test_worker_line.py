"""The command that starts a worker, as it is said to somebody who has none: complete, without a secret."""

from pathlib import Path

import pytest

from producer.model_choice import LiveModelError, live_model
from producer.worker_line import start_a_worker

HOST = "redis://db.example:6379/0"


@pytest.mark.parametrize(
    ("url", "model", "folders", "line"),
    [
        (
            HOST,
            None,
            (),
            f"--redis {HOST} --model MODEL  (MODEL is the folder of the model that shall answer)",
        ),
        (
            HOST,
            "/m/llava",
            ("/a b", "/c"),
            f"--redis {HOST} --model /m/llava --image-root '/a b' --image-root /c",
        ),
        (HOST, "/m", [f"/data/{n}" for n in range(5)], f"--redis {HOST} --model /m --image-root /data"),
        (
            HOST,
            "/m",
            [f"/{n}" for n in range(5)],
            "--image-root /0 --image-root /1 --image-root /2 --image-root /3",
        ),
        (
            "redis://:geheim@db.example:6379/0",
            "/m",
            (),
            f"--redis {HOST} --redis-password-file PASSWORD_FILE --model /m  "
            "(PASSWORD_FILE is a file whose first line is the server's password)",
        ),
        (
            "rediss://ann:geheim@db.example:6379/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem",
            "/m",
            (),
            "--redis 'rediss://ann@db.example:6379/0?ssl_ca_certs=/ca.pem' --redis-password-file",
        ),
    ],
)
def test_what_is_known_is_filled_in(
    url: str, model: str | None, folders: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAPTIONMILL_REDIS_PASSWORD_FILE", raising=False)
    said = start_a_worker(url, model, [Path(folder) for folder in folders])
    assert said.startswith("captionmill worker --redis ")
    assert line in said
    assert "geheim" not in said


def test_the_password_file_of_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONMILL_REDIS_PASSWORD_FILE", str(tmp_path / "secret"))
    said = start_a_worker("redis://:geheim@db.example:6379/0", "/m")
    assert said == f"captionmill worker --redis {HOST} --redis-password-file {tmp_path / 'secret'} --model /m"


@pytest.mark.parametrize(
    ("asked", "live", "found"),
    [
        ("a", set(), "a"),
        ("a", {"a", "b"}, "a"),
        ("a", {"a+KV=u8", "b"}, "a+KV=u8"),
        ("a", {"a", "a+KV=u8"}, "a"),
        ("a+KV=u8", {"a", "a+KV=u8"}, "a+KV=u8"),
    ],
)
def test_the_model_id_of_jobs(asked: str, live: set[str], found: str) -> None:
    assert live_model(asked, live) == found


@pytest.mark.parametrize(
    ("asked", "live", "sentence"),
    [
        ("a", {"b", "c"}, "No live worker has the model a: they have b, c"),
        ("a+KV=u8", {"a"}, r"No live worker has the model a\+KV=u8: they have a"),
        (
            "a",
            {"a+KV=u8", "a+KV=f16"},
            r"different settings; name one of these with --model: a\+KV=f16, a\+KV=u8",
        ),
    ],
)
def test_a_model_that_nobody_has(asked: str, live: set[str], sentence: str) -> None:
    with pytest.raises(LiveModelError, match=sentence):
        live_model(asked, live)
