"""Holds prompts to the chat template and to what nobody may slip in, and tiles to their grid; no model."""

import numpy as np
import pytest
from PIL import Image

from contract.failure import FailureCode, Refusal
from contract.job import ImagePart, Question, TextPart, Turn
from tests.checkpoints import CHAT_TEMPLATE, make_processor, make_tokenizer
from worker.llava.prompt import PromptWriter, expand_image_token
from worker.llava.tiles import Tiler

IMAGE_TOKEN_ID = 3
LLAVA_MISTRAL_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{{ ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}"
    "{% endif %}{% endfor %}"
)
"""The shape of published LLaVA-NeXT templates: content is a list of parts, and a string is dropped."""
CONVERSATION = (
    Turn(role="system", content="Answer in one word."),
    Turn(role="user", content=(ImagePart(), TextPart(text="Which shape?"))),
    Turn(role="assistant", content="Circle."),
    Turn(role="user", content="Which colour?"),
)


def writer(template: str = CHAT_TEMPLATE) -> PromptWriter:
    return PromptWriter(make_tokenizer(), template, IMAGE_TOKEN_ID)


def text_of(token_ids: np.ndarray) -> str:
    text: str = make_tokenizer().decode(token_ids)
    return text


def ask(messages: tuple[Turn, ...] | str, template: str = CHAT_TEMPLATE, *, with_image: bool = True) -> str:
    question = Question(id="q", messages=messages)
    return text_of(writer(template).token_ids(question, with_image=with_image))


def assert_refused(messages: tuple[Turn, ...] | str, words: str, template: str = CHAT_TEMPLATE) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        ask(messages, template)
    assert refused.value.failure.code == FailureCode.QUESTION_REFUSED


def test_the_short_form_is_one_user_turn_with_the_image_first() -> None:
    assert ask("Which shape?") == "<s>[INST] <image>\nWhich shape? [/INST]"
    assert ask("Which shape?", with_image=False) == "<s>[INST] Which shape? [/INST]"


@pytest.mark.parametrize(
    ("template", "end"),
    [(CHAT_TEMPLATE, "</s>"), (LLAVA_MISTRAL_TEMPLATE, "</s> ")],
    ids=["tiny", "published"],
)
def test_every_turn_reaches_the_prompt(template: str, end: str) -> None:
    expected = (
        "<s><<SYS>>\nAnswer in one word.\n<</SYS>>\n\n[INST] <image>\nWhich shape? [/INST] Circle."
        f"{end}[INST] Which colour? [/INST]"
    )
    assert ask(CONVERSATION, template) == expected


def test_a_template_that_begins_the_text_itself_gets_no_second_beginning() -> None:
    assert ask("Which shape?", "{{ bos_token }}" + CHAT_TEMPLATE) == "<s>[INST] <image>\nWhich shape? [/INST]"


@pytest.mark.parametrize("token", ["<image>", "</s>", "<s>", "<pad>"])
def test_a_text_that_spells_a_control_token_is_refused(token: str) -> None:
    assert_refused(f"What does {token} mean?", f"contains '{token}'")
    spoken = (Turn(role="system", content=token), Turn(role="user", content="Why?"))
    assert_refused(spoken, f"a system turn contains '{token}'")


def test_parts_that_spell_a_control_token_together_are_refused() -> None:
    parts = (TextPart(text="What is <im"), TextPart(text="age> here?"))
    assert_refused((Turn(role="user", content=parts),), "contains '<image>'")


def test_a_template_that_raises_is_a_refusal_in_its_own_words() -> None:
    template = "{{ raise_exception('Conversation roles must alternate') }}"
    assert_refused("Which shape?", "Conversation roles must alternate", template)
    assert_refused("Which shape?", "chat template refuses", "{{ messages[0]['content'] + '!' }}")


def test_a_template_that_drops_a_turn_is_a_refusal() -> None:
    template = CHAT_TEMPLATE.replace(
        "{%- for message in messages %}", "{%- for message in messages[1:] %}", 1
    )
    assert_refused(CONVERSATION, "leaves out text of a system turn", template)


def test_a_template_that_drops_the_image_is_a_refusal() -> None:
    assert_refused("Which shape?", "does not place", CHAT_TEMPLATE.replace("<image>", "picture"))


def test_the_image_token_is_repeated_in_its_place() -> None:
    token_ids = np.array([1, 9, 3, 8], dtype=np.int64)
    assert expand_image_token(token_ids, 3, 4).tolist() == [1, 9, 3, 3, 3, 3, 8]


@pytest.mark.parametrize(
    ("size", "grid"), [((40, 150), (1, 3)), ((150, 40), (3, 1)), ((100, 100), (2, 2)), ((100, 170), (2, 3))]
)
def test_the_grid_is_height_before_width(size: tuple[int, int], grid: tuple[int, int]) -> None:
    tiles = Tiler(make_processor().image_processor)(Image.new("RGB", (size[1], size[0])))
    assert (tiles.grid, tiles.image_size) == (grid, size)
    assert tiles.pixel_values.shape == (1 + grid[0] * grid[1], 3, 56, 56)
