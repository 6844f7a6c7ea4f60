"""LLaVA-OneVision's processor without its video part, which needs torchvision; knows no model."""

from typing import Any

from transformers.models.llava_onevision import processing_llava_onevision


class LlavaOnevisionProcessor(processing_llava_onevision.LlavaOnevisionProcessor):  # type: ignore[misc]
    """transformers' processor without video. It has the same name, which goes into processor_config.json.

    transformers reads and writes the parts that the signature names.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        vision_aspect_ratio: str = "anyres_max_9",
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            None,
            num_image_tokens,
            vision_feature_select_strategy,
            chat_template,
            image_token,
            video_token,
            vision_aspect_ratio,
        )
