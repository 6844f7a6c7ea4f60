"""The producer's settings from the environment; what a run does is said on the command line instead."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One producer process. The same variable as the worker's, so that one environment serves both."""

    model_config = SettingsConfigDict(env_prefix="CAPTIONMILL_", frozen=True, extra="forbid")

    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="broker and result store",
    )
