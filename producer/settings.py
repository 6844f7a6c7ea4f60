"""Reads the producer's settings from the environment; knows none of a run's options."""

from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.redis_url import complete_url

DEFAULT_SERVER: Final = "redis://127.0.0.1:6379/0"


class Settings(BaseSettings):
    """One producer process. The variables have the worker's names, so that one environment serves both."""

    model_config = SettingsConfigDict(env_prefix="CAPTIONMILL_", frozen=True, extra="forbid")

    redis_password_file: Path | None = Field(
        default=None, description="File whose first line is the password of the user in the server's URL."
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description=(
            "Server to use without --redis: redis://USER@HOST:PORT/DATABASE, or the same with rediss:// for "
            "TLS. Without either, a command runs a server and workers of its own (local mode)."
        ),
    )

    @field_validator("redis_url")
    @classmethod
    def _complete(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url is None:
            return None
        return SecretStr(complete_url(url.get_secret_value(), info.data.get("redis_password_file")))


def named_server(given: str | None = None) -> str | None:
    """`given` or the environment's URL, with its password; None if neither names a server.

    Raises pydantic's ValidationError.
    """
    settings = Settings() if given is None else Settings(redis_url=SecretStr(given))
    return None if settings.redis_url is None else settings.redis_url.get_secret_value()


def server_url(given: str | None = None) -> str:
    """The same URL, or that of the server on this machine if none is named."""
    url = named_server(given) or named_server(DEFAULT_SERVER)
    assert url is not None, "the default names one"
    return url


def password_file() -> Path | None:
    """The file that CAPTIONMILL_REDIS_PASSWORD_FILE names."""
    return Settings(redis_url=None).redis_password_file
