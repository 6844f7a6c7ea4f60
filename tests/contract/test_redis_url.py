"""The URL of the server: what both clients understand, and no secret in what is said about it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from contract.redis_url import complete_url
from producer.settings import Settings, server_url
from worker.settings import SettingsError, load_settings

SECRET = "per/ch#trout@home"


@pytest.mark.parametrize(
    ("url", "complete"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://u:p%2Fw@h/1", "redis://u:p%2Fw@h/1"),
        ("redis://:pw@[::1]:6380", "redis://:pw@[::1]:6380"),
        ("rediss://u:p@h:1/0", "rediss://u:p@h:1/0?ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none"),
        ("rediss://h/0?ssl_ca_certs=/a/b.pem", "rediss://h/0?ssl_cert_reqs=required&ssl_ca_certs=/a/b.pem"),
    ],
)
def test_what_both_clients_understand(url: str, complete: str) -> None:
    assert complete_url(url) == complete


@pytest.mark.parametrize(
    "url",
    [
        f"redis://worker:{SECRET}@host:6379/0",
        "redis://worker:swordfish@host:port/0",
        "redis://worker:swordfish@host:6379/db",
        "http://worker:swordfish@host",
        "swordfish",
        "redis://:swordfish@",
        "redis://:swordfish@host?db=1",
        "redis://:swordfish@host?ssl_ca_certs=/a",
        "rediss://:swordfish@host?ssl_cert_reqs=CERT_REQUIRED",
        "redis://[swordfish",
    ],
)
def test_what_is_refused_is_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"^it") as refused:
        complete_url(url)
    for secret in ("swordfish", "trout", "ch#", "per/"):
        assert secret not in str(refused.value)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    return file


def test_a_password_from_a_file(password_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAPTIONMILL_REDIS_PASSWORD_FILE", str(password_file))
    monkeypatch.setenv("CAPTIONMILL_REDIS_URL", "redis://worker@valkey:6379/0")
    monkeypatch.setenv("CAPTIONMILL_MODEL_FOLDER", str(tmp_path))
    whole = "redis://worker:per%2Fch%23trout%40home@valkey:6379/0"
    assert server_url() == whole
    assert server_url("redis://producer@other") == whole.replace("worker", "producer").replace(
        "valkey:6379/0", "other"
    )
    settings = load_settings()
    assert settings.redis_url.get_secret_value() == whole
    for shown in (repr(settings), str(settings), repr(Settings()), settings.model_dump_json()):
        assert "trout" not in shown


@pytest.mark.parametrize(
    ("url", "content", "said"),
    [
        ("redis://worker:swordfish@h", "other", "it holds a password, and a password file is set too"),
        ("redis://worker@h", "", "is empty"),
        ("redis://worker@h", None, "cannot be read: FileNotFoundError"),
    ],
)
def test_a_password_file_that_does_not_fit(
    url: str, content: str | None, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("CAPTIONMILL_REDIS_PASSWORD_FILE", str(file))
    monkeypatch.setenv("CAPTIONMILL_REDIS_URL", url)
    monkeypatch.setenv("CAPTIONMILL_MODEL_FOLDER", str(tmp_path))
    with pytest.raises(SettingsError, match=f"CAPTIONMILL_REDIS_URL: .*{said}") as refused:
        load_settings()
    assert "swordfish" not in str(refused.value)
    with pytest.raises(ValidationError, match=said):
        server_url()
