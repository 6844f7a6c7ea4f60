"""Drives one search with a small random torch model, and lets transformers generate on the same one.

No engine, runner or OpenVINO is involved: what differs between the two is the search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from contract.job import GenerationParameters
from worker.engine.request import FloatArray, Generations, IntArray, Request
from worker.engine.search import NextRows, Search, search_for
from worker.llava.stop import StopTexts

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = [*LETTERS, *(a + b for a, b in zip(LETTERS, LETTERS[7:] + LETTERS[:7], strict=True)), "abc", "lmn"]
VOCABULARY = len(TOKENS)
PROMPT = np.array([7, 3, 11, 5, 3, 11, 2, 9, 30, 9])
"""Holds repetitions, which no_repeat_ngram_size counts."""


@dataclass
class Walk:
    """Inputs and outputs of a search: the rows of each step, and its Generations."""

    generations: Generations
    rows: list[int]


@cache
def random_model(seed: int) -> MistralForCausalLM:
    """A causal language model whose logits differ clearly, yet leave more than one beam alive."""
    torch.set_num_threads(1)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=None,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MistralForCausalLM(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.4)
    return model


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one to three letters per token; a text is its letters."""
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(TOKENS)}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def text_of(token_ids: Sequence[int]) -> str:
    return "".join(TOKENS[token_id] for token_id in token_ids)


def make_request(
    eos_token_ids: tuple[int, ...] = (), choices: tuple[tuple[int, ...], ...] = (), **parameters: Any
) -> Request:
    """A request about PROMPT; a search never looks at inputs_embeds."""
    asked = GenerationParameters(**parameters)
    return Request(
        inputs_embeds=np.zeros((len(PROMPT), 1), np.float32),
        token_ids=PROMPT,
        eos_token_ids=eos_token_ids,
        parameters=asked,
        choices=choices,
        stops=StopTexts(asked.stop, text_of) if asked.stop else None,
    )


def walk(request: Request, model: MistralForCausalLM, search: Search | None = None) -> Walk:
    """Search from the prefill to the end; the logits must come back as they were given."""
    search = search_for(request) if search is None else search
    past, rows = DynamicCache(), list[int]()
    token_ids: IntArray = request.token_ids[None]
    while True:
        with torch.no_grad():
            output = model(torch.from_numpy(token_ids), past_key_values=past, logits_to_keep=1)
        logits: FloatArray = output.logits[:, -1].numpy()
        given = logits.copy()
        step = search.advance(logits)
        np.testing.assert_array_equal(logits, given)
        if not isinstance(step, NextRows):
            return Walk(step, rows)
        assert step.token_ids.dtype == step.beam_idx.dtype == np.int64
        assert len(step.token_ids) == len(step.beam_idx) <= request.rows
        rows.append(len(step.token_ids))
        past.reorder_cache(torch.from_numpy(step.beam_idx.copy()))
        token_ids = step.token_ids[:, None].copy()


def reference(model: MistralForCausalLM, eos_token_ids: tuple[int, ...], **parameters: Any) -> Any:
    """transformers' generate() on PROMPT, with our names for its options."""
    stop = list(parameters.pop("stop", ()))
    seed = parameters.pop("seed", 0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model.generate(
            torch.from_numpy(PROMPT[None]),
            attention_mask=torch.ones((1, len(PROMPT)), dtype=torch.long),
            eos_token_id=list(eos_token_ids) or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            stop_strings=stop or None,
            tokenizer=tokenizer() if stop else None,
            **{"do_sample": False, **parameters},
        )


def own_log_probs(model: MistralForCausalLM, token_ids: tuple[int, ...]) -> FloatArray:
    """The model's own log-probability of each of these tokens after PROMPT, in one teacher-forced pass."""
    whole = torch.from_numpy(np.concatenate([PROMPT, token_ids])[None])
    with torch.no_grad():
        log_probs = torch.log_softmax(model(whole).logits[0, len(PROMPT) - 1 : -1], dim=-1)
    chosen: FloatArray = log_probs[np.arange(len(token_ids)), list(token_ids)].numpy()
    return chosen
