"""Finds the tokens that end an answer, and writes generation_config.json; knows no weights.

A checkpoint's sampling defaults are kept for other readers; a worker uses the parameters of its jobs.
"""

import json
from pathlib import Path
from typing import Any, Final

from transformers import PretrainedConfig

from model_prep.refusal import ConversionError

GENERATION_CONFIG_JSON: Final = "generation_config.json"
EOS: Final = "eos_token_id"
NOT_SAMPLING: Final = (EOS, "bos_token_id", "pad_token_id", "transformers_version", "_from_model_config")


def end_token_ids(source: Path, config: PretrainedConfig, tokenizer: Any) -> int | list[int]:
    """The end-of-sequence tokens of generation_config.json, else the language model, else the tokenizer.

    Raises ConversionError if there are none or the model does not have them.
    """
    said = (
        read_generation_config(source).get(EOS),
        getattr(config.text_config, EOS, None),
        tokenizer.eos_token_id,
    )
    found: Any = next((ends for ends in said if ends is not None and ends != []), None)
    if found is None:
        raise ConversionError(f"{source} names no {EOS}, so no answer could end.")
    vocabulary = config.text_config.vocab_size
    for token_id in found if isinstance(found, list) else [found]:
        if type(token_id) is not int or not 0 <= token_id < vocabulary:
            raise ConversionError(
                f"The {EOS} of {source} is {found!r}; the model's {vocabulary} tokens are numbered from 0."
            )
    ends: int | list[int] = found
    return ends


def write_generation_config(ends: int | list[int], source: Path, folder: Path) -> None:
    """Write the checkpoint's generation_config.json into `folder`, with these end-of-sequence tokens."""
    content = read_generation_config(source) | {EOS: ends}
    (folder / GENERATION_CONFIG_JSON).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sampling_defaults(source: Path) -> dict[str, Any]:
    """The checkpoint's generation parameters, without its tokens."""
    return {
        name: value
        for name, value in read_generation_config(source).items()
        if name not in NOT_SAMPLING and value is not None
    }


def read_generation_config(source: Path) -> dict[str, Any]:
    """The content of generation_config.json; empty if it is missing or unreadable, as in transformers."""
    try:
        content = json.loads((source / GENERATION_CONFIG_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
