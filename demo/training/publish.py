"""Writes the trained demo model as a Hugging Face checkpoint in fp16; trains nothing.

python -m demo.training.publish --runs demo/training/runs --out demo/model/checkpoint
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor, PreTrainedTokenizerFast
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from demo.training.shape import BOS, EOS, IMAGE, PAD, PATCH_PX, PINPOINTS, TILE_PX, model_config
from demo.training.text import CHAT_TEMPLATE


def publish(
    runs: Annotated[Path, typer.Option(help="Folder of the training's states.")] = Path("demo/training/runs"),
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")] = Path("demo/model/checkpoint"),
    stage: Annotated[str, typer.Option(help="State to publish.")] = "last",
) -> None:
    """Save weights, config, processor and tokenizer."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(runs / "tokenizer")
    model = LlavaNextForConditionalGeneration(model_config(len(tokenizer)))
    model.load_state_dict(torch.load(runs / f"{stage}.pt", weights_only=True)["model"])
    model.generation_config.bos_token_id = tokenizer.convert_tokens_to_ids(BOS)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(EOS)
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids(PAD)
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": TILE_PX},
            crop_size={"height": TILE_PX, "width": TILE_PX},
            image_grid_pinpoints=PINPOINTS,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    processor.image_processor.save_pretrained(out)  # readers of older layouts want a separate file


if __name__ == "__main__":
    typer.run(publish)
