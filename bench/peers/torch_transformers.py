"""transformers on torch in bfloat16; runs in the bench's own environment."""

import torch
from transformers import LlavaNextForConditionalGeneration

from bench.peers.huggingface import Conversation
from bench.peers.protocol import Counts, Setup, Task, serve


class Transformers:
    """One model; one ask per call."""

    def __init__(self, setup: Setup) -> None:
        model = LlavaNextForConditionalGeneration.from_pretrained(
            setup.folder, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        model.eval()
        self._conversation = Conversation(model, setup.folder)

    def answer(self, task: Task) -> Counts:
        return self._conversation.answer(task)


if __name__ == "__main__":
    serve(Transformers)
