"""The producer's settings from the environment; what a run does is said on the command line instead."""

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.redis_url import complete_url


class Settings(BaseSettings):
    """One producer process. The same variables as the worker's, so that one environment serves both."""

    model_config = SettingsConfigDict(env_prefix="CAPTIONMILL_", frozen=True, extra="forbid")

    redis_password_file: Path | None = Field(
        default=None, description="its first line is the password of the user in redis_url"
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        validate_default=True,
        description="broker and result store",
    )

    @field_validator("redis_url")
    @classmethod
    def _complete(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        return SecretStr(complete_url(url.get_secret_value(), info.data.get("redis_password_file")))


def server_url(given: str | None = None) -> str:
    """`given` or the environment's URL, complete with its password. Raises pydantic's ValidationError."""
    settings = Settings() if given is None else Settings(redis_url=SecretStr(given))
    return settings.redis_url.get_secret_value()
