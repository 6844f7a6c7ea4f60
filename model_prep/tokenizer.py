"""Writes a tokenizer in the forms that its readers need, and checks a converted one; knows no weights.

A worker reads tokenizer.json; transformers converts SentencePiece's tokenizer.model to it. OpenVINO GenAI
reads OpenVINO models.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import openvino
import transformers
from transformers import AutoTokenizer, LlamaTokenizer

from contract.installing import install_line
from model_prep.refusal import ConversionError

TOKENIZER_XML: Final = "openvino_tokenizer.xml"
DETOKENIZER_XML: Final = "openvino_detokenizer.xml"
SENTENCEPIECE_MODEL: Final = "tokenizer.model"
TOKENIZER_JSON: Final = "tokenizer.json"
TOKENIZER_CONFIG_JSON: Final = "tokenizer_config.json"
SENTENCEPIECE_PACKAGES: Final = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
SCRIPTS: Final = (
    "What is shown in this image? Answer with 3 words, or 1,234.50 of them.",
    "Don't say “naïve café” — it's Größe, Ærø, fiancée, İstanbul!",
    "Что изображено на картинке? Опишите подробно.",
    "Τι δείχνει η εικόνα; Περιγράψτε την.",
    "ما الذي يظهر في الصورة؟ صفها بالتفصيل.",
    "מה רואים בתמונה? תאר אותה.",
    "इस चित्र में क्या दिख रहा है? विस्तार से बताइए।",
    "এই ছবিতে কী আছে? এক কথায় উত্তর দাও।",
    "ภาพนี้แสดงอะไร โปรดอธิบาย",
    "这张图片里有什么？请详细描述。",
    "この画像には何が写っていますか。カタカナも。",
    "이 이미지에 무엇이 있나요? 자세히 설명해 주세요.",
    "Що на зображенні? Ґанок, їжак, є.",
    "რა არის ამ სურათზე? Ի՞նչ կա նկարում։ ምን ይታያል?",
    "def f(x):\n    return {'a': x ** 2}\t# two  spaces   three",
    "🦊👩‍👩‍👧 ½ ﬁne ① Ⅳ e\u0301 \u200b∑∞≠",
)
"""Texts that every tokenizer must accept; a converted one must cut them into the same pieces."""


def require_sentencepiece(source: str) -> None:
    """Raise ConversionError unless the packages that read tokenizer.model are installed."""
    missing = [name for module, name in SENTENCEPIECE_PACKAGES.items() if not _installed(module)]
    if missing:
        raise ConversionError(
            f"{source} has a {SENTENCEPIECE_MODEL} and no {TOKENIZER_JSON}, "
            f"which needs {' and '.join(missing)}: {install_line('prep')}"
        )


def is_sentencepiece_alone(folder: Path) -> bool:
    """Whether a folder has a tokenizer.model and no other form of tokenizer."""
    return (folder / SENTENCEPIECE_MODEL).is_file() and not (folder / TOKENIZER_JSON).is_file()


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, whatever model is beside it. May raise any exception.

    A lone tokenizer.model is read by its own class: AutoTokenizer chooses by config.json, and makes a LLaVA's
    without the space before a text. Raises ConversionError if the result cuts texts differently.
    """
    if not is_sentencepiece_alone(folder):
        return AutoTokenizer.from_pretrained(folder)
    require_sentencepiece(str(folder))
    named = json.loads((folder / TOKENIZER_CONFIG_JSON).read_text(encoding="utf-8")).get("tokenizer_class")
    kind = getattr(transformers, str(named).removesuffix("Fast"), LlamaTokenizer)
    tokenizer = kind.from_pretrained(folder)
    _require_same_pieces(tokenizer, folder)
    return tokenizer


def _require_same_pieces(tokenizer: Any, folder: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_MODEL))
    for text in SCRIPTS:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if found != pieces.encode(text):
            raise ConversionError(
                f"The tokenizer of {folder} cannot be converted without loss: of {text!r} it makes other "
                f"tokens than its {SENTENCEPIECE_MODEL}; put the checkpoint's {TOKENIZER_JSON} beside it."
            )


def require_openvino_tokenizers() -> None:
    """Raise ConversionError unless the package that converts tokenizers is installed."""
    if find_spec("openvino_tokenizers") is None:
        raise ConversionError(
            "--openvino-tokenizer needs openvino-tokenizers, which is not installed: "
            f"{install_line('interop')}"
        )


def write_openvino_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer and detokenizer into `folder` as OpenVINO models."""
    from openvino_tokenizers import convert_tokenizer

    converted = convert_tokenizer(tokenizer, with_detokenizer=True)
    for model, name in zip(converted, (TOKENIZER_XML, DETOKENIZER_XML), strict=True):
        openvino.save_model(model, folder / name, compress_to_fp16=False)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
