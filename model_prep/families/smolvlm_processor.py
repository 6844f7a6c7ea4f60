"""SmolVLM's processor without its video part, which needs torchvision and num2words; knows no model."""

from typing import Any

from transformers import ProcessorMixin
from transformers.models.smolvlm import processing_smolvlm


class SmolVLMProcessor(processing_smolvlm.SmolVLMProcessor):  # type: ignore[misc]
    """transformers' processor without video. It has the same name, which goes into processor_config.json.

    transformers reads and writes the parts that the signature names.
    """

    apply_chat_template = ProcessorMixin.apply_chat_template

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_len: int = 169,
        chat_template: str | None = None,
    ) -> None:
        # The parent's __init__ needs num2words.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.image_seq_len = image_seq_len
        self.fake_image_token = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self.global_image_token = getattr(tokenizer, "global_image_token", "<global-img>")
        self.image_token = getattr(tokenizer, "image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token = getattr(tokenizer, "video_token", "<video>")
