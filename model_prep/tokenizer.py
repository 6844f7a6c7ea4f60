"""Writes a tokenizer as OpenVINO models, the form that OpenVINO GenAI reads; knows no other part."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import openvino

from contract.installing import install_line
from model_prep.refusal import ConversionError

TOKENIZER_XML: Final = "openvino_tokenizer.xml"
DETOKENIZER_XML: Final = "openvino_detokenizer.xml"


def require_openvino_tokenizers() -> None:
    """Raise ConversionError unless the package that converts tokenizers is installed."""
    if find_spec("openvino_tokenizers") is None:
        raise ConversionError(
            "--openvino-tokenizer needs openvino-tokenizers, which is not installed: "
            f"{install_line('interop')}"
        )


def write_openvino_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Tokenizer and detokenizer into `folder`."""
    from openvino_tokenizers import convert_tokenizer

    converted = convert_tokenizer(tokenizer, with_detokenizer=True)
    for model, name in zip(converted, (TOKENIZER_XML, DETOKENIZER_XML), strict=True):
        openvino.save_model(model, folder / name, compress_to_fp16=False)
