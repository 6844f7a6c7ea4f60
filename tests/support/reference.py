"""A checkpoint in transformers, in float32, with the same inputs as a worker: the expected answers.

Knows no OpenVINO and no engine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, Idefics3Processor, LlavaNextProcessor, LlavaProcessor
from transformers.image_processing_utils import select_best_resolution

from contract.answer import FinishReason
from contract.job import GenerationParameters
from model_prep.families.internvl_processor import InternVLProcessor
from model_prep.families.next_video_processor import LlavaNextVideoProcessor
from model_prep.families.onevision_processor import LlavaOnevisionProcessor
from model_prep.families.pixtral_processor import PixtralProcessor
from model_prep.families.qwen2_5_vl_processor import Qwen2_5_VLProcessor
from model_prep.families.smolvlm_processor import SmolVLMProcessor

PROCESSORS = {
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "idefics3": Idefics3Processor,
    "smolvlm": SmolVLMProcessor,
    "internvl": InternVLProcessor,
    "llava": LlavaProcessor,
    "llava_next": LlavaNextProcessor,
    "llava_next_video": LlavaNextVideoProcessor,
    "llava_onevision": LlavaOnevisionProcessor,
    "pixtral": PixtralProcessor,
    "vipllava": LlavaProcessor,
}
SEARCH_OPTIONS = {
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "num_return_sequences",
    "length_penalty",
    "early_stopping",
    "repetition_penalty",
    "no_repeat_ngram_size",
}


@dataclass(frozen=True)
class Expected:
    """One sequence that transformers found: new tokens, end included, as the engine's Generation has them."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    score: float
    mean_log_prob: float


class Reference:
    """The checkpoint's model with the processor that it ships."""

    def __init__(self, checkpoint: Path, form: Literal["parts", "string"] = "parts") -> None:
        """`form` says whether the chat template takes a turn's content as a list of parts or as text."""
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
        config = self.model.config
        kind = "pixtral" if config.vision_config.model_type == "pixtral" else config.model_type
        self.processor = PROCESSORS[kind].from_pretrained(checkpoint)
        self._form = form
        table = self.model.get_input_embeddings()
        # An image token beyond the embeddings: its place is the image's.
        table.register_forward_pre_hook(lambda _, given: (given[0].clamp(max=table.num_embeddings - 1),))

    @property
    def grids(self) -> list[tuple[int, int]]:
        """(height, width) in tiles of every pinpoint."""
        tile_px = self.model.config.vision_config.image_size
        pinpoints = self.processor.image_processor.image_grid_pinpoints
        return [(height // tile_px, width // tile_px) for height, width in pinpoints]

    def grid_of(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Grid of the pinpoint by which an image of this size is cut."""
        pinpoints = self.processor.image_processor.image_grid_pinpoints
        best = list(select_best_resolution((height_px, width_px), pinpoints))
        return self.grids[[list(pinpoint) for pinpoint in pinpoints].index(best)]

    def inputs(self, image: Image.Image | list[Image.Image], question: str) -> Any:
        """What generate() takes of one user turn, with one image or several before its text."""
        several = image if isinstance(image, list) else [image]
        content: Any = [*([{"type": "image"}] * len(several)), {"type": "text", "text": question}]
        if self._form == "string":
            content = question
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        bos = self.processor.tokenizer.bos_token
        begun = bos is not None and text.startswith(bos)
        # Nested, as processors tell the images of one question from those of several.
        return self.processor(
            images=image if isinstance(image, Image.Image) else [image],
            text=text,
            return_tensors="pt",
            add_special_tokens=not begun,
        )

    def generate(
        self,
        image: Image.Image | list[Image.Image],
        question: str,
        eos_token_ids: tuple[int, ...],
        parameters: GenerationParameters,
    ) -> tuple[Expected, ...]:
        """generate() with the options of a search without sampling."""
        assert not parameters.do_sample, "another generator draws other tokens"
        options = parameters.model_dump(include=SEARCH_OPTIONS)
        if parameters.num_beams == 1:
            del options["length_penalty"], options["early_stopping"]
        inputs = self.inputs(image, question)
        found = self.model.generate(
            **inputs,
            **options,
            do_sample=False,
            eos_token_id=list(eos_token_ids),
            stop_strings=list(parameters.stop) or None,
            tokenizer=self.processor.tokenizer if parameters.stop else None,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
        prompt_tokens = inputs["input_ids"].shape[1]
        rows = found.sequences[:, prompt_tokens:].tolist()
        if parameters.num_beams == 1:
            return (self._expected(found, rows[0], [0] * len(rows[0]), None, eos_token_ids, parameters),)
        return tuple(
            self._expected(found, token_ids, beams, score, eos_token_ids, parameters)
            for token_ids, beams, score in zip(
                rows, found.beam_indices.tolist(), found.sequences_scores.tolist(), strict=True
            )
        )

    def _expected(
        self,
        found: Any,
        token_ids: list[int],
        beams: list[int],
        score: float | None,
        eos_token_ids: tuple[int, ...],
        parameters: GenerationParameters,
    ) -> Expected:
        """Of a row of transformers' output, padded to the longest, and the beams its tokens continued."""
        length = sum(beam >= 0 for beam in beams)
        log_prob = sum(
            torch.log_softmax(logits[beam], dim=-1)[token_id].item()
            for logits, beam, token_id in zip(found.logits, beams[:length], token_ids[:length], strict=False)
        )
        new = tuple(token_ids[:length])
        text = self.processor.tokenizer.decode(new)
        stopped = new[-1] in eos_token_ids or any(stop in text for stop in parameters.stop)
        return Expected(
            token_ids=new,
            finish_reason="stop" if stopped else "length",
            # transformers scores nothing without beams.
            score=log_prob / length**parameters.length_penalty if score is None else score,
            mean_log_prob=log_prob / length,
        )
