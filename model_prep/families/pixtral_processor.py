"""Pixtral's processor without torchvision, which transformers' own imports; knows no model."""

from typing import Any

from transformers import ProcessorMixin


class PixtralProcessor(ProcessorMixin):  # type: ignore[misc]
    """Pixtral's processor with transformers' name, which goes into processor_config.json.

    transformers reads and writes the parts that the signature names. An image becomes rows of image tokens,
    with a break token after each row and the end token after the last.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: str | None = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.spatial_merge_size = spatial_merge_size
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.image_break_token = image_break_token
        self.image_end_token = image_end_token

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """The text of all tokens of an image."""
        height, width = (int(side) // self.patch_size for side in image_inputs["image_sizes"][image_idx])
        row = self.image_token * width
        return self.image_break_token.join([row] * height) + self.image_end_token

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]
