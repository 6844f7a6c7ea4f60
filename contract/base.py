"""The base class of contract types, and text that JSON can carry; knows no type by name."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _whole_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds bytes that are no characters") from None
    return text


Text = Annotated[str, AfterValidator(_whole_text)]
"""Unicode without lone surrogates, which Python uses for undecodable bytes."""


class Contract(BaseModel):
    """A value that travels between processes: immutable, compared by content, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
