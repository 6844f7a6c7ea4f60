"""Qwen2.5-VL's processor without its video part, which needs torchvision; knows no model."""

from typing import Any

from transformers import ProcessorMixin
from transformers.models.qwen2_5_vl import processing_qwen2_5_vl


class Qwen2_5_VLProcessor(processing_qwen2_5_vl.Qwen2_5_VLProcessor):  # type: ignore[misc]  # noqa: N801
    """transformers' processor without video. It has the same name, which goes into processor_config.json.

    transformers reads and writes the parts that the signature names.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None
    ) -> None:
        # The parent passes the video part by position.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.video_token = getattr(tokenizer, "video_token", "<|video_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
