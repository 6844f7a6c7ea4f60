"""The base of every contract type: frozen, and unknown fields are refused; and text that JSON can carry."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _whole_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds bytes that are no characters") from None
    return text


Text = Annotated[str, AfterValidator(_whole_text)]
"""Unicode without lone surrogates, by which Python stands for undecodable bytes."""


class Contract(BaseModel):
    """A value that crosses a process border. Two of the same content are equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")
