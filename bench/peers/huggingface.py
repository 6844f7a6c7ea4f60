"""Asks a model with transformers' generate(); knows not what the model runs on."""

from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, LlavaNextProcessor

from bench.peers.protocol import Ask, Counts, Task, ask_each


class Conversation:
    """A model and the processor of its folder."""

    def __init__(self, model: Any, folder: str) -> None:
        self._model = model
        self._processor = _processor(folder)

    def answer(self, task: Task) -> Counts:
        """One ask after another, whatever the mode."""
        with torch.inference_mode():
            return ask_each(task, lambda ask: self._generate(ask, task.num_beams))

    def _generate(self, ask: Ask, num_beams: int) -> tuple[int, int]:
        content = [{"type": "text", "text": ask.question}]
        if ask.picture:
            content.insert(0, {"type": "image"})
        prompt = self._processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        pictures = [Image.open(ask.picture).convert("RGB")] if ask.picture else None
        inputs = self._processor(images=pictures, text=prompt, return_tensors="pt")
        output = self._model.generate(
            **inputs,
            max_new_tokens=ask.new_tokens,
            min_new_tokens=ask.new_tokens,
            num_beams=num_beams,
            do_sample=False,
        )
        prompt_tokens = inputs["input_ids"].shape[1]
        return prompt_tokens, output.shape[1] - prompt_tokens


def _processor(folder: str) -> LlavaNextProcessor:
    """The processor, made by hand: AutoProcessor needs torchvision, which neither environment has."""
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(folder)
    images = LlavaNextImageProcessorPil.from_pretrained(folder)
    return LlavaNextProcessor.from_pretrained(folder, image_processor=images, tokenizer=tokenizer)
