"""LLaVA-NeXT-Video's processor without its video part, which needs torchvision; knows no model."""

from typing import Any

from transformers import ProcessorMixin
from transformers.models.llava_next_video import processing_llava_next_video


class LlavaNextVideoProcessor(processing_llava_next_video.LlavaNextVideoProcessor):  # type: ignore[misc]
    """transformers' processor without video. It has the same name, which goes into processor_config.json.

    transformers reads and writes the parts that the signature names.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        video_token: str = "<video>",
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
    ) -> None:
        # The parent passes the video part by position.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.num_additional_image_tokens = num_additional_image_tokens
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.image_token, self.video_token = image_token, video_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(video_token)
