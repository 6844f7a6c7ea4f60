"""InternVL's processor without its video part, which needs torchvision; knows no model."""

from typing import Any

from transformers.models.internvl import processing_internvl


class InternVLProcessor(processing_internvl.InternVLProcessor):  # type: ignore[misc]
    """transformers' processor without video. It has the same name, which goes into processor_config.json.

    transformers reads and writes the parts that the signature names.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, None, image_seq_length, chat_template)
