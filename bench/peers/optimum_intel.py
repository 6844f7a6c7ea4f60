"""optimum-intel's OVModelForVisualCausalLM; runs in the peers' own environment."""

from optimum.intel import OVModelForVisualCausalLM

from bench.peers.huggingface import Conversation
from bench.peers.protocol import Counts, Setup, Task, serve


class OptimumIntel:
    """One model; one ask per call."""

    def __init__(self, setup: Setup) -> None:
        model = OVModelForVisualCausalLM.from_pretrained(setup.folder, ov_config=setup.properties)
        self._conversation = Conversation(model, setup.folder)

    def answer(self, task: Task) -> Counts:
        return self._conversation.answer(task)


if __name__ == "__main__":
    serve(OptimumIntel)
