"""Small tokenizers with the control tokens of published ones; knows no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from model_prep.tokenizer import SCRIPTS
from tests.support.checkpoints import TEXTS

IMAGE = "<image>"


@dataclass(frozen=True)
class Tokens:
    """The special tokens of a tokenizer. With `adds_bos` it puts that before a text."""

    special: Sequence[str]
    eos: str
    bos: str | None = None
    pad: str | None = None
    image: str = IMAGE
    adds_bos: bool = False
    image_last: bool = True
    """as after the language model's own tokens; else among them"""
    names: Mapping[str, str] = field(default_factory=dict)
    """special tokens that tokenizer_config.json names beside those three"""


LLAMA = Tokens(["<unk>", "<s>", "</s>", "<pad>"], "</s>", "<s>", "<pad>", adds_bos=True)
LLAMA_3 = Tokens(
    ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "<|eot_id|>",
    "<|begin_of_text|>",
    adds_bos=True,
)
JOY = Tokens(
    [*LLAMA_3.special, *(f"<|reserved_special_token_{number}|>" for number in (69, 70, 71))],
    "<|eot_id|>",
    "<|begin_of_text|>",
    image="<|reserved_special_token_69|>",
    adds_bos=True,
    image_last=False,
)
CHATML = Tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", pad="<|endoftext|>")
VIDEO = Tokens(
    ["<unk>", "<s>", "</s>", "<pad>", "<video>"], "</s>", "<s>", "<pad>", image_last=True, adds_bos=True
)
GEMMA = Tokens(
    ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"], "<eos>", "<bos>", "<pad>", adds_bos=True
)
PHI_3 = Tokens(
    ["<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
    "<|endoftext|>",
    "<s>",
    "<|endoftext|>",
    adds_bos=True,
)
GRANITE = Tokens(["<|end_of_text|>", "<fim_prefix>"], "<|end_of_text|>", pad="<|end_of_text|>")
PIXTRAL = Tokens(
    ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<pad>"],
    "</s>",
    "<s>",
    "<pad>",
    image="[IMG]",
    adds_bos=True,
    image_last=False,
)

INTERNVL = Tokens(
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
    "<|im_end|>",
    pad="<|endoftext|>",
    image="<IMG_CONTEXT>",
    image_last=False,
    names={
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
)

SMOLVLM = Tokens(
    [
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>"),
        *("<end_of_utterance>", "<global-img>"),
        *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
    ],
    "<end_of_utterance>",
    "<|im_start|>",
    "<|im_end|>",
    image_last=False,
)
IDEFICS3 = Tokens(
    [*LLAMA_3.special[:2], "<fake_token_around_image>", "<image>", "<end_of_utterance>"],
    "<end_of_utterance>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    adds_bos=True,
    image_last=False,
)
"""Without a token for a tile's place, which is then a text."""

QWEN_VL = Tokens(
    [
        *CHATML.special,
        *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    ],
    "<|im_end|>",
    pad="<|endoftext|>",
    image="<|image_pad|>",
    image_last=False,
)


def make_bpe(tokens: Tokens) -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 330 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=list(tokens.special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if tokens.image_last:
        tokenizer.add_special_tokens([AddedToken(tokens.image, special=True, normalized=False)])
    if tokens.adds_bos and tokens.bos is not None:
        begin = (tokens.bos, tokenizer.token_to_id(tokens.bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens.bos} $A", special_tokens=[begin]
        )
    named = {"bos_token": tokens.bos, "eos_token": tokens.eos, "pad_token": tokens.pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=dict(tokens.names),
        **{name: token for name, token in named.items() if token is not None},
    )


def make_sentencepiece(folder: Path) -> PreTrainedTokenizerFast:
    """Llama's: tokenizer.model in `folder`, and what transformers makes of it, <image> added."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = folder / "texts"
    texts.write_text("\n".join([*TEXTS * 9, *SCRIPTS]), encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(texts),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=700,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    texts.unlink()
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",'
        ' "pad_token": "<unk>", "add_bos_token": true, "add_eos_token": false, "legacy": false}'
    )
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    return tokenizer
