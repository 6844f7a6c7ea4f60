"""The demo model's tokenizer and chat template, and conversations about scenes as token ids."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from demo.scenes import make_scene
from demo.training.shape import BOS, EOS, IMAGE, PAD, SPECIAL_TOKENS, UNK
from demo.truth import TOPICS, Exchange, Topic, ask

Array = np.ndarray[Any, np.dtype[Any]]
VOCABULARY_TOKENS: Final = 440

CHAT_TEMPLATE: Final = """\
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set images = 0 -%}{%- set text = message['content'] -%}
{%- else -%}
{%- set images = message['content'] | selectattr('type', 'equalto', 'image') | list | length -%}
{%- set texts = message['content'] | selectattr('type', 'equalto', 'text') -%}
{%- set text = texts | map(attribute='text') | join('') -%}
{%- endif -%}
{%- if message['role'] == 'system' -%}{{ '<<SYS>>\\n' + text + '\\n<</SYS>>\\n\\n' }}
{%- elif message['role'] == 'user' -%}{{ '[INST] ' + '<image>\\n' * images + text + ' [/INST]' }}
{%- elif message['role'] == 'assistant' -%}{{ ' ' + text + '</s> ' }}
{%- else -%}{{ raise_exception('roles are system, user and assistant') }}
{%- endif -%}
{%- endfor -%}"""
"""llava-v1.6-mistral's conversation, for content as a string or as a list of parts."""


def train_tokenizer(seeds: range) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, learnt from the exchanges of scenes."""

    def corpus() -> Any:
        for seed in seeds:
            rng = random.Random(seed)
            scene = make_scene(seed)
            for topic in TOPICS:
                if exchange := ask(scene, topic, rng):
                    yield f"[INST] \n{exchange.question} [/INST] {exchange.answer}"
                    yield f" [INST] {exchange.question} [/INST]"

    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_TOKENS,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=PAD,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        extra_special_tokens={"image_token": IMAGE},
    )


SHORT_TOPICS: Final[Mapping[Topic, float]] = {
    "count": 2, "colour": 2, "shape": 1, "size": 2, "position": 6, "yes-no": 3, "background": 0.5,
}  # fmt: skip
"""Topic → its weight in the choice of questions."""


@dataclass(frozen=True)
class Conversation:
    """Token ids of a picture and turns about it."""

    ids: Array
    """(position,) i64."""
    answer_of_next: Array
    """(position,) i64: the turn whose answer contains the next position, 0 for none."""
    topics: tuple[Topic, ...]


class Conversations:
    """Encodes conversations by the chat template, with one image token per packed image feature."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        found = self._cache.get(text)
        if found is None:
            found = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            self._cache[text] = found
        return found

    def write(self, exchanges: list[Exchange], image_tokens: int) -> Conversation:
        ids = [*self.ids(BOS), *self.ids("[INST] "), *self.ids(IMAGE) * image_tokens]
        answer_of = [0] * len(ids)
        for number, exchange in enumerate(exchanges, 1):
            opening = "\n" if number == 1 else " [INST] "
            asked = self.ids(f"{opening}{exchange.question} [/INST]")
            answered = [*self.ids(f" {exchange.answer}"), *self.ids(EOS)]
            ids += asked + answered
            answer_of += [0] * len(asked) + [number] * len(answered)
        return Conversation(
            np.array(ids, np.int64),
            np.array([*answer_of[1:], 0], np.int64),
            tuple(exchange.topic for exchange in exchanges),
        )


def draw_exchanges(seed: int, rng: random.Random, turns: int) -> list[Exchange]:
    """At most `turns` different questions about a scene, always with the description.

    The description mostly comes last: short answers after it could be copied from it, and would teach little.
    """
    scene = make_scene(seed)
    topics: list[Topic] = ["number"] if rng.random() < 0.8 else []
    topics += rng.choices(list(SHORT_TOPICS), list(SHORT_TOPICS.values()), k=turns - 1 - len(topics))
    rng.shuffle(topics)
    topics.insert(len(topics) if rng.random() < 0.8 else rng.randrange(turns), "description")
    drawn = [exchange for topic in topics if (exchange := ask(scene, topic, rng))]
    return list({exchange.question: exchange for exchange in drawn}.values())
