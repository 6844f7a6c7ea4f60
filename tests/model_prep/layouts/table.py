"""The layouts: of each published repository, the facts that a conversion must cope with; knows no test.

A row is named after the repository, or the kind of repository, that has it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from model_prep.conversations import CONVERSATIONS
from model_prep.reading import AS_IT_SAYS, Reading
from tests.model_prep.layouts.edits import (
    KEYS_2023,
    KEYS_2025,
    KEYS_OTHERS_2025,
    KEYS_QWEN_VL,
    Edit,
    change,
    flat_text_config,
    old_processor,
    original,
    renamed,
    sharded,
    template_in,
    text_template,
    without,
    without_tokenizer_json,
)
from tests.model_prep.layouts.models import Model, make_twin
from tests.model_prep.layouts.tokenizers import (
    CHATML,
    GEMMA,
    GRANITE,
    IDEFICS3,
    INTERNVL,
    JOY,
    LLAMA_3,
    PHI_3,
    PIXTRAL,
    QWEN_VL,
    SMOLVLM,
    VIDEO,
    make_sentencepiece,
)

VICUNA = CONVERSATIONS["vicuna_v1"].template
LLAVA_1_5 = CONVERSATIONS["llava_1_5"].template
MISTRAL = CONVERSATIONS["mistral_instruct"].template
CHAT = CONVERSATIONS["chatml"].template
QWEN = CONVERSATIONS["qwen"].template
HEADER = "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
LLAMA_3_ASK = (
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_OWN = (
    "{{ bos_token }}{% for message in messages %}" + HEADER + "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}" + LLAMA_3_ASK
)
"""Llama 3's: text alone, and it begins with the token that its tokenizer puts before a text, too."""
LLAMA_3_LLAVA = (
    "{{ bos_token }}{% for message in messages %}" + HEADER + "{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{{ '<|eot_id|>' }}"
    "{% endfor %}" + LLAMA_3_ASK
)
JOY_IMAGE = "<|reserved_special_token_70|><|reserved_special_token_69|><|reserved_special_token_71|>"
JOY_CAPTION = (
    "{{ bos_token }}{% set first = namespace(user=true) %}{% for message in messages %}"
    + HEADER
    + "{% if message['role'] == 'user' and first.user %}{% set first.user = false %}{{ '"
    + JOY_IMAGE
    + "' }}"
    "{% endif %}{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}" + LLAMA_3_ASK
)
MISTRAL_OWN = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
PIXTRAL_OWN = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% for part in message['content'] %}{{ '[IMG]' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{{ '[/INST]' }}{% endif %}{% endfor %}"
)
INTERNVL_OWN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ '<IMG_CONTEXT>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IDEFICS3_OWN = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}"
    "{{ '<image>' if line['type'] == 'image' else line['text'] }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN_VL_OWN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 1024
FULL_SIGLIP = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}


@dataclass(frozen=True)
class Layout:
    """A model, its template, and what its repository has otherwise than transformers writes today."""

    model: Model
    template: str
    edits: tuple[Edit, ...] = ()
    reading: Reading = AS_IT_SAYS
    form: Literal["parts", "string"] = "parts"
    sentencepiece: bool = False
    context: int = CONTEXT
    sampling: dict[str, Any] = field(default_factory=dict)
    """what its generation_config.json asks for"""
    paged: bool = True
    """the language model can run on paged attention"""

    def make(self, folder: Path) -> tuple[Path, Path]:
        """Twin and checkpoint, in `folder`."""
        tokenizer = make_sentencepiece(folder / "sentencepiece") if self.sentencepiece else None
        twin = make_twin(folder / "twin", self.model, self.template, tokenizer)
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir()
        for path in twin.iterdir():
            (checkpoint / path.name).write_bytes(path.read_bytes())
        for edit in self.edits:
            edit(checkpoint)
        return twin, checkpoint


def given(name: str) -> Reading:
    return Reading(chat_template=name)


BIN_2023 = (renamed(KEYS_2023), template_in("nowhere"), old_processor())
SAMPLING: dict[str, Any] = {"temperature": 0.9, "top_p": 0.6, "max_length": 4096}
"""As LLaVA-1.5 has it; transformers refuses to write it, for do_sample is not set."""
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
NEXT_SIGLIP = {"vision_use_head": False}

LAYOUTS: dict[str, Layout] = {
    "llava-hf/llava-1.5-7b-hf, 2023": Layout(
        Model(text={"num_key_value_heads": 4}),
        LLAVA_1_5,
        (*BIN_2023, change("generation_config.json", **SAMPLING)),
        given("llava_1_5"),
        sampling=SAMPLING,
    ),
    "llava-hf/llava-1.5-7b-hf, 4.46": Layout(
        Model(text={"num_key_value_heads": 4}),
        LLAVA_1_5,
        (
            renamed(KEYS_2023),
            template_in("chat_template.json"),
            old_processor("patch_size", "vision_feature_select_strategy"),
        ),
    ),
    "llava-hf/llava-1.5-7b-hf, 2025": Layout(
        Model(),
        LLAVA_1_5,
        (
            renamed(KEYS_2023),
            template_in("chat_template.json"),
            old_processor("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"),
            sharded(3),
        ),
    ),
    "llava-hf/bakLlava-v1-hf": Layout(
        Model(language="mistral", text={"sliding_window": 600}),
        LLAVA_1_5,
        BIN_2023,
        given("llava_1_5"),
        context=600,
    ),
    "bczhou/tiny-llava-v1-hf": Layout(
        Model(vocabulary=0),
        VICUNA,
        (*BIN_2023, without("generation_config.json"), change("tokenizer_config.json", eos_token=...)),
        given("vicuna_v1"),
    ),
    "a fine-tune with pytorch_model.bin": Layout(
        Model(dtype=torch.float16),
        LLAVA_1_5,
        (
            renamed(KEYS_2023),
            template_in("tokenizer_config.json"),
            old_processor(null=("patch_size", "vision_feature_select_strategy")),
            sharded(2, pickled=True),
        ),
    ),
    "SpursgoZmy/table-llava-v1.5-7b-hf": Layout(
        Model(), VICUNA, (*BIN_2023, without_tokenizer_json), given("vicuna_v1"), sentencepiece=True
    ),
    "an image token beyond the embeddings": Layout(
        Model(vocabulary=-1), VICUNA, (renamed(KEYS_2023), template_in("chat_template.json"))
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf, 3.2024": Layout(
        Model(family="llava_next", language="mistral", dtype=torch.bfloat16, text={"sliding_window": None}),
        MISTRAL,
        (*BIN_2023, text_template(MISTRAL_OWN), sharded(3)),
        given("mistral_instruct"),
    ),
    "llava-hf/llava-v1.6-vicuna-7b-hf, 4.45": Layout(
        Model(family="llava_next", text={"num_key_value_heads": 4}),
        VICUNA,
        (
            renamed(KEYS_2023),
            template_in("chat_template.json"),
            old_processor(null=("patch_size", "vision_feature_select_strategy")),
        ),
    ),
    "llava-hf/llava-v1.6-34b-hf": Layout(
        Model(family="llava_next", tokens=CHATML, ends=("<|endoftext|>",)),
        CHAT,
        (renamed(KEYS_2023), template_in("tokenizer_config.json"), old_processor("patch_size")),
    ),
    "llava-hf/llama3-llava-next-8b-hf": Layout(
        Model(
            family="llava_next",
            tokens=LLAMA_3,
            ends=("<|end_of_text|>",),
            text={
                "rope_parameters": LLAMA3_ROPE | {"rope_theta": 5e5, "original_max_position_embeddings": 64}
            },
        ),
        LLAMA_3_LLAVA,
        (renamed(KEYS_2023), template_in("chat_template.json"), old_processor("patch_size")),
    ),
    "llava-hf/llava-next-72b-hf": Layout(
        Model(family="llava_next", language="qwen2", tokens=CHATML),
        QWEN,
        (
            renamed(KEYS_2023),
            template_in("chat_template.json"),
            old_processor("patch_size", "vision_feature_select_strategy"),
            sharded(4),
        ),
    ),
    "llava-hf/llava-interleave-qwen-0.5b-hf": Layout(
        Model(language="qwen2", tower="siglip", tokens=CHATML, tied=True, config=FULL_SIGLIP),
        CHAT,
        (renamed(KEYS_2023), template_in("chat_template.json"), old_processor()),
    ),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": Layout(
        Model(
            family="llava_onevision",
            language="qwen2",
            tower="siglip",
            tokens=CHATML,
            tied=True,
            vision=NEXT_SIGLIP,
        ),
        CHAT,
        (
            renamed(KEYS_2023),
            template_in("chat_template.json"),
            old_processor("num_image_tokens", video=True),
        ),
    ),
    "a fine-tune of OneVision": Layout(
        Model(family="llava_onevision", language="qwen2", tower="siglip", tokens=CHATML, vision=NEXT_SIGLIP),
        QWEN,
        (
            renamed(KEYS_2025),
            template_in("tokenizer_config.json"),
            old_processor(null=("num_image_tokens", "vision_feature_select_strategy")),
        ),
    ),
    "xtuner/llava-llama-3-8b-v1_1-transformers": Layout(
        Model(tokens=LLAMA_3),
        CONVERSATIONS["llama_3"].template,
        (*BIN_2023, text_template(LLAMA_3_OWN)),
        given("llama_3"),
    ),
    "xtuner/llava-phi-3-mini-hf": Layout(
        Model(language="phi3", tokens=PHI_3, text={"sliding_window": 512}),
        CONVERSATIONS["phi_3"].template,
        BIN_2023,
        given("phi_3"),
        context=512,
    ),
    "fancyfeast/llama-joycaption-beta-one-hf-llava": Layout(
        Model(tower="siglip", tokens=JOY, config=FULL_SIGLIP | {"vision_feature_layer": -2}),
        JOY_CAPTION,
        (renamed(KEYS_2023), template_in("tokenizer_config.json"), old_processor(), sharded(2)),
        form="string",
    ),
    "ibm-granite/granite-vision-3.2-2b": Layout(
        Model(
            family="llava_next",
            language="granite",
            tower="siglip",
            tokens=GRANITE,
            tied=True,
            vision={"num_hidden_layers": 5},
            config={"vision_feature_layer": [-5, -4, -2, -1], "vision_feature_select_strategy": "full"},
            text={
                "embedding_multiplier": 12.0,
                "attention_multiplier": 0.3,
                "residual_multiplier": 0.22,
                "logits_scaling": 8.0,
            },
        ),
        CONVERSATIONS["granite"].template,
        (
            renamed(KEYS_2023),
            template_in("tokenizer_config.json"),
            old_processor("patch_size", "vision_feature_select_strategy"),
        ),
    ),
    "Intel/llava-gemma-2b": Layout(
        Model(language="gemma", tokens=GEMMA, tied=True, text={"head_dim": 16, "num_key_value_heads": 1}),
        CONVERSATIONS["gemma"].template,
        BIN_2023,
        given("gemma"),
    ),
    "a fine-tune of Gemma 2": Layout(
        Model(
            language="gemma2",
            tokens=GEMMA,
            tied=True,
            ends=("<end_of_turn>",),
            text={"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 700},
        ),
        CONVERSATIONS["gemma"].template,
        (renamed(KEYS_2025), template_in("tokenizer_config.json")),
        context=700,
        paged=False,
    ),
    "a fine-tune of Qwen3": Layout(
        Model(family="llava_next", language="qwen3", tokens=CHATML, text={"head_dim": 16}),
        CHAT,
        (
            renamed(KEYS_2025),
            sharded(2),
            change("generation_config.json", eos_token_id=...),
            change("config.json", text_config={"eos_token_id": ...}),
        ),
    ),
    "llava-hf/vip-llava-7b-hf": Layout(
        Model(
            family="vipllava",
            vision={"num_hidden_layers": 6},
            config={"vision_feature_layer": [-2, -3, -4, -5, 1]},
        ),
        CONVERSATIONS["vip_vicuna"].template,
        BIN_2023,
        given("vip_vicuna"),
    ),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": Layout(
        Model(family="llava_next_video", tokens=VIDEO),
        VICUNA,
        (
            renamed(KEYS_2023),
            template_in("chat_template.json"),
            old_processor("patch_size", "vision_feature_select_strategy", video=True),
        ),
    ),
    "mistral-community/pixtral-12b": Layout(
        Model(
            language="mistral",
            tower="pixtral",
            tokens=PIXTRAL,
            text={"sliding_window": None, "head_dim": 16},
            config=FULL_SIGLIP,
        ),
        PIXTRAL_OWN,
        (renamed(KEYS_2023), template_in("chat_template.json"), old_processor("patch_size")),
    ),
    "OpenGVLab/InternVL3-1B-hf": Layout(
        Model(
            family="internvl",
            language="qwen2",
            tower="internvl",
            tokens=INTERNVL,
            dtype=torch.bfloat16,
            vision={"attention_bias": True},
        ),
        INTERNVL_OWN,
        (
            renamed(KEYS_OTHERS_2025),
            old_processor("image_seq_length"),
            change("preprocessor_config.json", image_processor_type="GotOcr2ImageProcessorFast"),
        ),
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": Layout(
        Model(family="smolvlm", tower="smolvlm", tokens=SMOLVLM, dtype=torch.bfloat16),
        "<|im_start|>" + IDEFICS3_OWN,
        (template_in("chat_template.json"), old_processor("image_seq_len")),
    ),
    "HuggingFaceM4/Idefics3-8B-Llama3": Layout(
        Model(family="idefics3", tower="idefics3", tokens=IDEFICS3),
        "<|begin_of_text|>" + IDEFICS3_OWN,
        (
            template_in("chat_template.json"),
            old_processor("image_seq_len"),
            change("config.json", vision_config={"model_type": "idefics3"}),
            sharded(2),
        ),
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": Layout(
        Model(
            family="qwen2_5_vl",
            language="qwen2_5_vl_text",
            tower="qwen2_5_vl",
            tokens=QWEN_VL,
            dtype=torch.bfloat16,
            text={
                "head_dim": 12,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
            },
        ),
        QWEN_VL_OWN,
        (
            renamed(KEYS_QWEN_VL),
            flat_text_config,
            template_in("chat_template.json"),
            old_processor(),
            change("preprocessor_config.json", size=..., min_pixels=784, max_pixels=19600),
            sharded(2),
        ),
    ),
    "liuhaotian/llava-v1.5-7b": Layout(
        Model(vocabulary=-1, pads=True),
        VICUNA,
        (
            without_tokenizer_json,
            original("LlavaLlamaForCausalLM", "llava_llama", tower_inside=False, image_aspect_ratio="pad"),
            sharded(2, pickled=True),
            change("generation_config.json", **SAMPLING),
        ),
        given("vicuna_v1"),
        sentencepiece=True,
        sampling=SAMPLING,
    ),
    "liuhaotian/llava-v1.6-mistral-7b": Layout(
        Model(family="llava_next", language="mistral", vocabulary=-1, text={"sliding_window": None}),
        MISTRAL,
        (
            original(
                "LlavaMistralForCausalLM",
                "llava_mistral",
                tower_inside=True,
                image_aspect_ratio="anyres",
                mm_patch_merge_type="spatial_unpad",
                image_grid_pinpoints=[
                    [56, 112],
                    [112, 56],
                    [112, 112],
                    [56, 168],
                    [168, 56],
                    [112, 168],
                    [168, 112],
                ],
            ),
            sharded(3),
        ),
        given("mistral_instruct"),
    ),
    "lmms-lab/llava-onevision-qwen2-0.5b-ov": Layout(
        Model(
            family="llava_onevision",
            language="qwen2",
            tower="siglip",
            tokens=CHATML,
            vocabulary=-1,
            config={"vision_feature_layer": -2},
        ),
        QWEN,
        (
            original(
                "LlavaQwenForCausalLM",
                "llava_qwen",
                tower_inside=False,
                image_aspect_ratio="anyres_max_2",
                mm_patch_merge_type="spatial_unpad",
                image_grid_pinpoints="(1x1),...,(4x4)",
            ),
        ),
        given("qwen"),
    ),
}
