"""Writes random-weight LLaVA-NeXT checkpoints of real shapes; knows no OpenVINO and no measurement."""

import json
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from bench.sizes import Size
from bench.workloads import QUESTIONS

PATCH_PX: Final = 14
NEW_VISION_PREFIX: Final = "vision_tower."
PUBLISHED_VISION_PREFIX: Final = "vision_tower.vision_model."
SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
LEARNT_TOKENS: Final = 512
CHAT_TEMPLATE: Final = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ '[INST] ' }}{%- else %}{{ ' ' }}{%- endif %}"
    "{%- if message['content'] is string %}{{ message['content'] }}{%- else %}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{ '<image>\\n' }}{%- else %}{{ part['text'] }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{%- if message['role'] == 'user' %}{{ ' [/INST]' }}{%- else %}{{ eos_token }}{%- endif %}"
    "{%- endfor %}"
)
"""Accepts content as parts, which we and transformers send, and as a string, which GenAI sends."""
SHARD_BYTES: Final = 1 << 30
"""Size of a shard of a published shape."""
BLOCK_NUMBERS: Final = 1 << 24
"""Random numbers that are drawn and repeated for all weights of a published shape."""
WEIGHT_STD: Final = 0.02


def write_checkpoint(size: Size, folder: Path, seed: int = 0) -> None:
    """Write a checkpoint in float16 into `folder`, with weights initialised by transformers from `seed`."""
    processor = make_processor(size)
    tokenizer = processor.tokenizer
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaNextForConditionalGeneration(make_config(size, tokenizer))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.float16).save_pretrained(folder)
    name_as_published(folder)
    processor.save_pretrained(folder)
    # transformers 4 reads the image processor from a separate file.
    processor.image_processor.save_pretrained(folder)


def write_shape(size: Size, folder: Path, seed: int = 0) -> None:
    """Write a checkpoint in bfloat16, in shards of SHARD_BYTES with one shard in memory at a time.

    Each weight repeats one block of random numbers, from a different start.
    """
    processor = make_processor(size)
    config = make_config(size, processor.tokenizer)
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(config)
    folder.mkdir(parents=True)
    block = (
        torch.randn(BLOCK_NUMBERS, generator=torch.Generator().manual_seed(seed)) * WEIGHT_STD
    ).bfloat16()
    weights = model.state_dict()
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    shards = 0

    def write() -> None:
        nonlocal shards
        shards += 1
        name = f"model-{shards:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for start, (name, weight) in enumerate(weights.items()):
        numbers = weight.numel()
        repeated = block.roll(start * 1009).repeat(-(-numbers // BLOCK_NUMBERS))[:numbers]
        shard[name] = repeated.reshape(weight.shape).clone()
        if name.endswith("norm.weight"):
            shard[name].fill_(1.0)
        if sum(weight.nbytes for weight in shard.values()) >= SHARD_BYTES:
            write()
    if shard:
        write()
    index = {"metadata": {"total_size": 2 * sum(w.numel() for w in weights.values())}, "weight_map": places}
    (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index))
    config.architectures = ["LlavaNextForConditionalGeneration"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    tokenizer = processor.tokenizer
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def name_as_published(checkpoint: Path) -> None:
    """Give the vision tower's weights the names of published models, which every release reads.

    optimum-intel uses an older transformers. It does not know the names that ours writes, and would
    initialise the tower anew.
    """
    weights = checkpoint / SAFE_WEIGHTS_NAME
    named = {
        name.replace(NEW_VISION_PREFIX, PUBLISHED_VISION_PREFIX): weight
        for name, weight in load_file(weights).items()
    }
    save_file(named, weights, metadata={"format": "pt"})


def make_config(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlavaNextConfig:
    """The config of a checkpoint of this size."""
    vision = CLIPVisionConfig(
        hidden_size=size.vision_hidden,
        intermediate_size=4 * size.vision_hidden,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=size.tile_px,
        patch_size=PATCH_PX,
    )
    text = MistralConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.text_hidden,
        intermediate_size=size.text_intermediate,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        num_key_value_heads=size.text_kv_heads,
        max_position_embeddings=size.context_tokens,
        sliding_window=None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=size.pinpoints,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(size.tile_px // PATCH_PX) ** 2,
        tie_word_embeddings=False,
    )


def make_processor(size: Size) -> LlavaNextProcessor:
    """A processor with the image cutting of published models, a full tokenizer and a chat template."""
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": size.tile_px},
        crop_size={"height": size.tile_px, "width": size.tile_px},
        image_grid_pinpoints=size.pinpoints,
    )
    return LlavaNextProcessor(
        image_processor=images,
        tokenizer=_tokenizer(size.vocabulary),
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with `vocabulary` tokens that puts <s> before a text.

    It has a few learnt merges. The other tokens are words that no text is cut into, so that every peer can
    decode what a random model generates.
    """
    learner = _byte_level(models.BPE())
    learner.train_from_iterator(
        list(QUESTIONS),
        trainers.BpeTrainer(
            vocab_size=LEARNT_TOKENS,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    learnt = learner.get_vocab()
    spare = {f"Ġw{token}": token for token in range(len(learnt), vocabulary)}
    tokenizer = _byte_level(models.BPE(vocab=learnt | spare, merges=_merges(learner)))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) for merge in merges]
