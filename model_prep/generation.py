"""Says which tokens end an answer, and writes generation_config.json of a model folder; knows no weights.

A checkpoint's defaults for sampling come along as they are, for other readers. A worker's jobs say themselves
how they are generated.
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
    """The ends of sequence: generation_config.json's, else the language model's, else the tokenizer's.

    Raises ConversionError if there are none, or they are no tokens of the model's.
    """
    said = (
        read_generation_config(source).get(EOS),
        getattr(config.text_config, EOS, None),
        tokenizer.eos_token_id,
    )
    found: Any = next((ends for ends in said if ends is not None and ends != []), None)
    if found is None:
        raise ConversionError(f"{source} names no {EOS}, so that no answer could ever end.")
    vocabulary = config.text_config.vocab_size
    for token_id in found if isinstance(found, list) else [found]:
        if type(token_id) is not int or not 0 <= token_id < vocabulary:
            raise ConversionError(
                f"The {EOS} of {source} is {found!r}; the model's {vocabulary} tokens are numbered from 0."
            )
    ends: int | list[int] = found
    return ends


def write_generation_config(ends: int | list[int], source: Path, folder: Path) -> None:
    """The checkpoint's own into `folder`, with these ends of sequence."""
    content = read_generation_config(source) | {EOS: ends}
    (folder / GENERATION_CONFIG_JSON).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sampling_defaults(source: Path) -> dict[str, Any]:
    """What the checkpoint asks its readers to generate with, the tokens apart."""
    return {
        name: value
        for name, value in read_generation_config(source).items()
        if name not in NOT_SAMPLING and value is not None
    }


def read_generation_config(source: Path) -> dict[str, Any]:
    """The file as it is; nothing where there is none that can be read, as transformers has it."""
    try:
        content = json.loads((source / GENERATION_CONFIG_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
