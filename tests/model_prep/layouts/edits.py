"""What makes a published layout of a twin's files; each edit changes one fact of a checkpoint's folder."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Edit = Callable[[Path], None]
Names = tuple[tuple[str, str], ...]

KEYS_2023: Names = (
    (r"^model\.", ""),
    (r"^language_model\.(embed_tokens|layers|norm)\b", r"language_model.model.\1"),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^vision_tower\.(?!vision_model|patch_conv|ln_pre|transformer)", "vision_tower.vision_model."),
)
"""As transformers wrote them up to 4.51, a tower's own prefix in them."""
KEYS_OTHERS_2025: Names = KEYS_2023[:3]
"""The same, of towers without a prefix of their own."""
KEYS_QWEN_VL: Names = ((r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual."))
"""As in Qwen's own repositories."""
KEYS_2025: Names = (
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^(vision_tower|multi_modal_projector|image_newline)", r"model.\1"),
)
"""As from 4.52 on."""
ORIGINAL: Names = (
    (r"^language_model\.", ""),
    (r"^multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^image_newline$", "model.image_newline"),
    (r"^vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
)
"""As in LLaVA's own repositories."""


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def change(name: str, **values: Any) -> Edit:
    """Set fields of a JSON file; a dictionary is merged, and ... takes a field away."""

    def edit(folder: Path) -> None:
        write_json(folder / name, merged(read_json(folder / name), values))

    return edit


def merged(content: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        if value is ...:
            content.pop(key, None)
        elif isinstance(value, dict) and isinstance(content.get(key), dict):
            content[key] = merged(content[key], value)
        else:
            content[key] = value
    return content


def without(*names: str) -> Edit:
    def edit(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return edit


def old_processor(*keeps: str, null: tuple[str, ...] = (), video: bool = False) -> Edit:
    """The image processor in a file of its own; of the processor's fields those kept, or no file at all."""

    def edit(folder: Path) -> None:
        path = folder / "processor_config.json"
        content = read_json(path)
        images = content.pop("image_processor")
        write_json(
            folder / "preprocessor_config.json", images | {"processor_class": content["processor_class"]}
        )
        if video:
            write_json(
                folder / "video_preprocessor_config.json",
                {"video_processor_type": "LlavaNextVideoVideoProcessor"},
            )
        path.unlink()
        kept = {key: content[key] for key in keeps} | dict.fromkeys(null)
        if kept:
            write_json(path, kept | {"processor_class": content["processor_class"]})

    return edit


def template_in(place: str) -> Edit:
    """Move the template to chat_template.json, or into tokenizer_config.json; or take it away."""

    def edit(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        template = path.read_text(encoding="utf-8")
        path.unlink()
        if place != "nowhere":
            write_json(folder / place, read_json(folder / place) | {"chat_template": template})

    return edit


def text_template(template: str) -> Edit:
    """The text model's own template in tokenizer_config.json, which knows no image."""
    return change("tokenizer_config.json", chat_template=template)


def renamed(*names: Names) -> Edit:
    """Weights under other names."""

    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        for rules in names:
            weights = {_rename(name, rules): weight for name, weight in weights.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def sharded(shards: int, *, pickled: bool = False) -> Edit:
    """Weights in several files with an index, or in one without; pickled ones as pytorch_model.bin."""

    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(weights)
        stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
        placed: dict[str, str] = {}
        for number in range(shards):
            of = f"-{number + 1:05}-of-{shards:05}" if shards > 1 else ""
            part = {name: weights[name].clone() for name in names[number::shards]}
            path = folder / f"{stem}{of}.{suffix}"
            torch.save(part, path) if pickled else save_file(part, path, metadata={"format": "pt"})
            placed |= dict.fromkeys(part, path.name)
        if shards > 1:
            total = sum(weight.nbytes for weight in weights.values())
            write_json(
                folder / f"{stem}.{suffix}.index.json",
                {"metadata": {"total_size": total}, "weight_map": placed},
            )

    return edit


def without_tokenizer_json(folder: Path) -> None:
    """tokenizer.model alone, as the twin's tokenizer was made of it; <image> in added_tokens_decoder."""
    source = folder.parent / "sentencepiece"
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes((source / "tokenizer.model").read_bytes())
    content = read_json(source / "tokenizer_config.json")
    token = {"content": "<image>", "special": True, "normalized": False}
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    image_token_id = read_json(folder / "config.json")["image_token_index"]
    content["added_tokens_decoder"] = {str(image_token_id): token | flags}
    write_json(folder / "tokenizer_config.json", content)


def flat_text_config(folder: Path) -> None:
    """The language model's fields beside the model's own, and its rotary embeddings as of 2025."""
    config = read_json(folder / "config.json")
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    config["vision_config"]["model_type"] = config["model_type"]
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    write_json(
        folder / "config.json", text | config | {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    )


def original(architecture: str, model_type: str, *, tower_inside: bool, **fields: Any) -> Edit:
    """LLaVA's own layout: one flat config, other names, the tower in a folder beside, no <image> anywhere."""

    def edit(folder: Path) -> None:
        config = read_json(folder / "config.json")
        vision = config["vision_config"]
        write_json(
            folder / "config.json",
            config["text_config"]
            | {
                "architectures": [architecture],
                "model_type": model_type,
                "mm_vision_tower": "../tower",
                "mm_projector_type": "mlp2x_gelu",
                "mm_vision_select_layer": config["vision_feature_layer"],
                "mm_vision_select_feature": "patch",
                "mm_hidden_size": vision["hidden_size"],
                "mm_use_im_start_end": False,
                "mm_use_im_patch_token": False,
                "tie_word_embeddings": config["tie_word_embeddings"],
            }
            | fields,
        )
        _move_tower(folder, vision, inside=tower_inside)
        images = read_json(folder / "processor_config.json")["image_processor"]
        kept = ("image_mean", "image_std", "resample", "rescale_factor")
        write_json(folder.parent / "tower" / "preprocessor_config.json", {key: images[key] for key in kept})
        (folder / "processor_config.json").unlink()
        (folder / "chat_template.jinja").unlink()
        _forget_image_token(folder)

    return edit


def _move_tower(folder: Path, vision: dict[str, Any], *, inside: bool) -> None:
    tower = folder.parent / "tower"
    tower.mkdir()
    kind = vision["model_type"].removesuffix("_vision_model")
    write_json(tower / "config.json", {"model_type": kind, "vision_config": vision, "text_config": {}})
    weights = load_file(folder / "model.safetensors")
    own = {name: weight for name, weight in weights.items() if name.startswith("vision_tower.")}
    kept = {name: weight for name, weight in weights.items() if inside or name not in own}
    save_file(
        {_rename(name, ORIGINAL): weight for name, weight in kept.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    moved = {f"vision_model.{name.removeprefix('vision_tower.')}": weight for name, weight in own.items()}
    moved["text_model.embeddings.token_embedding.weight"] = torch.zeros(3, 4)
    if inside:
        # A fine-tuned tower goes before the one that it was made of.
        moved = {name: torch.randn_like(weight) for name, weight in moved.items()}
    torch.save(moved, tower / "pytorch_model.bin")


def _forget_image_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    if not path.exists():
        change("tokenizer_config.json", added_tokens_decoder=...)(folder)
        return
    content = read_json(path)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<image>"]
    write_json(path, content)


def _rename(name: str, rules: Names) -> str:
    for pattern, other in rules:
        name = re.sub(pattern, other, name)
    return name
