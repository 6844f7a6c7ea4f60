"""Chat templates of published conversations by name, for checkpoints without a template; knows no file.

Each is a prompt format of LLaVA's own code, with the image before the text of its turn. Its Jinja template
accepts content as a list of parts or as text.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    # Help pages show the names, and must not load torch.
    from transformers import PretrainedConfig

    from model_prep.families.family import Family

IMAGE: Final = "<image>"
CURIOUS: Final = (
    "A chat between a curious {} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
)


@dataclass(frozen=True)
class Conversation:
    """The text before and after each kind of turn."""

    user: tuple[str, str]
    assistant: tuple[str, str]
    system: tuple[str, str]
    system_text: str | None = None
    """Text for a conversation without a system turn."""
    image: str = f"{IMAGE}\n"

    @property
    def template(self) -> str:
        """The Jinja template."""
        said = "" if self.system_text is None else self._turn("system", repr(self.system_text))
        return (
            "{%- macro text(content) -%}"
            "{%- if content is string -%}{{ content }}{%- else -%}"
            "{%- for part in content if part['type'] == 'image' -%}{{ "
            + repr(self.image)
            + " }}{%- endfor -%}"
            "{%- for part in content if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
            "{%- endif -%}{%- endmacro -%}"
            "{%- if messages[0]['role'] != 'system' -%}" + said + "{%- endif -%}"
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}"
            + self._turn("system", "text(message['content'])")
            + "{%- elif message['role'] == 'user' -%}"
            + self._turn("user", "text(message['content'])")
            + "{%- else -%}"
            + self._turn("assistant", "text(message['content'])")
            + "{%- endif -%}{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{ " + repr(self.assistant[0].rstrip(" ")) + " }}{%- endif -%}"
        )

    def _turn(self, role: str, text: str) -> str:
        before, after = getattr(self, role)
        return "{{ " + f"{before!r} + {text} + {after!r}" + " }}"


def _chatml(system_text: str | None) -> Conversation:
    return Conversation(
        user=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        system_text=system_text,
    )


def _llama_3(system_text: str | None) -> Conversation:
    return Conversation(
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        system_text=system_text,
    )


CONVERSATIONS: Final = {
    "vicuna_v1": Conversation(
        user=("USER: ", " "),
        assistant=("ASSISTANT: ", "</s>"),
        system=("", " "),
        system_text=CURIOUS.format("user", "user"),
    ),
    "llava_1_5": Conversation(user=("USER: ", " "), assistant=("ASSISTANT: ", "</s>"), system=("", " ")),
    "vip_vicuna": Conversation(
        user=("###Human: ", ""),
        assistant=("###Assistant: ", ""),
        system=("", ""),
        system_text=CURIOUS.format("human", "human"),
    ),
    "mistral_instruct": Conversation(
        user=("[INST] ", " [/INST]"), assistant=(" ", " </s>"), system=("<<SYS>>\n", "\n<</SYS>>\n\n")
    ),
    "llama_3": _llama_3(None),
    "llava_llama_3": _llama_3(
        "You are a helpful language and vision assistant. You are able to understand the visual content that "
        "the user provides, and assist the user with a variety of tasks using natural language."
    ),
    "chatml": _chatml(None),
    "qwen": _chatml("You are a helpful assistant."),
    "phi_3": Conversation(
        user=("<|user|>\n", "<|end|>\n"),
        assistant=("<|assistant|>\n", "<|end|>\n"),
        system=("<|system|>\n", "<|end|>\n"),
    ),
    "gemma": Conversation(
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        system=("<start_of_turn>user\n", "<end_of_turn>\n"),
    ),
    "granite": Conversation(
        user=("<|user|>\n", "\n"),
        assistant=("<|assistant|>\n", "<|end_of_text|>"),
        system=("<|system|>\n", "\n"),
        system_text=CURIOUS.format("user", "user"),
    ),
}
"""vicuna_v1 is that of LLaVA 1.5 and 1.6; llava_1_5 is llava-hf's, without the system text."""
BY_LANGUAGE_MODEL: Final = {
    "mistral": "mistral_instruct",
    "gemma": "gemma",
    "gemma2": "gemma",
    "granite": "granite",
}
BY_TOKEN: Final = {
    "<|start_header_id|>": "llama_3",
    "<|im_start|>": "chatml",
    "<start_of_turn>": "gemma",
    "<|end|>": "phi_3",
}
"""Control token → the conversation that uses it."""


def named_template(name: str, image_token: str) -> str:
    """The template of a conversation, with this image token. Raises KeyError."""
    return CONVERSATIONS[name].template.replace(IMAGE, image_token)


def proposed(family: "Family", config: "PretrainedConfig", tokenizer: Any) -> str | None:
    """The conversation that a checkpoint was trained with, if its parts show it; else None."""
    if family.conversation is not None:
        return family.conversation
    vocabulary = tokenizer.get_vocab()
    by_token = {name for token, name in BY_TOKEN.items() if token in vocabulary}
    if len(by_token) == 1:
        return by_token.pop()
    language = config.text_config.model_type
    if language == "llama" and not by_token:
        return "vicuna_v1"
    return BY_LANGUAGE_MODEL.get(language)
