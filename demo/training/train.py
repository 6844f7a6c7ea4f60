"""Trains the demo model in LLaVA's order: the tower on dense labels, then projector and language, then all.

    python -m demo.training.train --runs demo/training/runs

Every stage is seeded and saves its state; started again, it goes on from there.
"""

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModel, LlavaNextForConditionalGeneration, PreTrainedTokenizerFast
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from demo.training.scene_store import CLASSES, LABELS, NEWLINE, NOTHING, SceneStore
from demo.training.shape import PATCHES, USED_VISION_LAYERS, model_config, vision_config
from demo.training.text import (
    Conversation,
    Conversations,
    draw_exchanges,
    train_tokenizer,
)

TRAIN_SEED: Final = 1_000_000
TOKENIZER_SEEDS: Final = range(2_000_000, 2_003_000)
CHECK_SEED: Final = 3_000_000
"""First seed of the scenes checked during training; evaluation uses seeds below 1,000,000."""
SAVE_EVERY_STEPS: Final = 100
CHECK_EVERY_STEPS: Final = 100
SLOW_SHARE: Final = 0.15
"""Share of the learning rate for a slow part; at the full rate, answers got worse (docs/log.md)."""
BASE_ONLY_SHARE: Final = 0.12
"""Share of training images with the base tile only, as in a job with low detail."""

app = typer.Typer(add_completion=False, no_args_is_help=True)


def normalise(tiles: np.ndarray[Any, Any]) -> Tensor:
    """(tile, height, width, channel) u8 → pixel_values (tile, channel, height, width) f32, as in CLIP."""
    pixels = torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(OPENAI_CLIP_MEAN)[:, None, None]) / torch.tensor(OPENAI_CLIP_STD)[
        :, None, None
    ]


def patch_features(tower: nn.Module, pixel_values: Tensor) -> Tensor:
    """(tile, channel, height, width) → (tile, patch, width) of the used layers, without the class token."""
    vision: Any = getattr(tower, "vision_model", tower)
    hidden = vision.pre_layrnorm(vision.embeddings(pixel_values))
    for layer in vision.encoder.layers[:USED_VISION_LAYERS]:
        hidden = layer(hidden, attention_mask=None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    features: Tensor = hidden[:, 1:]
    return features


class Stage:
    """A training loop's state on disk: weights, optimiser and step."""

    def __init__(
        self,
        path: Path,
        parts: dict[str, nn.Module],
        steps: int,
        peak_rate: float,
        warmup: int = 100,
        slow: nn.Module | None = None,
    ) -> None:
        """`slow` is trained with SLOW_SHARE of the learning rate."""
        self.path, self.parts, self.steps = path, parts, steps
        self.peak_rate, self.warmup = peak_rate, warmup
        self.weights = [p for part in parts.values() for p in part.parameters() if p.requires_grad]
        careful = set(slow.parameters()) if slow else set()
        quick = [p for p in self.weights if p not in careful]
        groups = [
            {"params": [p for p in quick if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in quick if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if careful:
            kept = [p for p in self.weights if p in careful]
            groups.append({"params": kept, "weight_decay": 0.0, "share": SLOW_SHARE})
        self.optimizer = torch.optim.AdamW(groups, lr=peak_rate, betas=(0.9, 0.98))
        self.step = 0
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.step = state["step"]
            for name, part in parts.items():
                part.load_state_dict(state[name])
            if "optimizer" in state:
                self.optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": self.step, "optimizer": self.optimizer.state_dict()}
        torch.save(state, self.path.with_suffix(".partial"))
        self.path.with_suffix(".partial").replace(self.path)

    def run(
        self, loss_of: Callable[[int], tuple[Tensor, dict[str, float]]], check: Callable[[], str]
    ) -> None:
        """Train; `loss_of(step)` returns loss and figures, `check()` a line about unseen scenes."""
        started = time.monotonic()
        shown: defaultdict[str, list[float]] = defaultdict(list)
        first = self.step
        while self.step < self.steps:
            rate = self.peak_rate * min(
                (self.step + 1) / self.warmup,
                0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.step / self.steps)),
            )
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("share", 1.0)
            loss, figures = loss_of(self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimizer.step()
            self.step += 1
            for name, figure in {"loss": loss.item(), **figures}.items():
                shown[name].append(figure)
            if self.step % 25 == 0:
                elapsed = time.monotonic() - started
                left = elapsed / (self.step - first) * (self.steps - self.step)
                means = "  ".join(f"{name} {np.mean(values):.4f}" for name, values in shown.items())
                print(
                    f"{self.path.stem} {self.step}/{self.steps}  {means}  {left / 60:.1f} min left",
                    flush=True,
                )
                shown.clear()
            if self.step % SAVE_EVERY_STEPS == 0 or self.step == self.steps:
                self.save()
            if self.step % CHECK_EVERY_STEPS == 0 or self.step == self.steps:
                print(f"  unseen: {check()}", flush=True)


# ---------------------------------------------------------------------------------------------------------
# the tower alone


def dense_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label; empty and other patches have the same total weight."""
    losses = []
    for column, part in enumerate(torch.split(logits, list(CLASSES), dim=-1)):
        target = labels[..., column].reshape(-1).long()
        known = target != NOTHING
        each = functional.cross_entropy(
            part.reshape(-1, part.shape[-1])[known].float(), target[known], reduction="none"
        )
        something = target[known] > 0
        losses.append(0.5 * each[~something].mean() + each[something].sum() / max(1, int(something.sum())))
    return torch.stack(losses).sum()


def train_tower(
    store: SceneStore, check_store: SceneStore, path: Path, steps: int, scenes: int = 56
) -> CLIPVisionModel:
    torch.manual_seed(1)
    tower = CLIPVisionModel(vision_config(USED_VISION_LAYERS))
    tower.set_attn_implementation("eager")  # torch's fused attention takes 60 % of a step on 17 tokens
    heads = nn.Linear(tower.config.hidden_size, sum(CLASSES))
    stage = Stage(path, {"tower": tower, "heads": heads}, steps, peak_rate=1e-3, warmup=150)

    def batch(source: SceneStore, indices: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        tiles, labels = zip(*(source.tiles(int(index)) for index in indices), strict=True)
        return normalise(np.concatenate(tiles)), torch.from_numpy(np.concatenate(labels))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        indices = np.random.default_rng((1, step)).integers(store.count, size=scenes)
        pixels, labels = batch(store, indices)
        with torch.autocast("cpu", torch.bfloat16):
            logits = heads(patch_features(tower, pixels))
        return dense_loss(logits, labels), {}

    @torch.no_grad()
    def check() -> str:
        pixels, labels = batch(check_store, np.arange(150))
        with torch.autocast("cpu", torch.bfloat16):
            logits = heads(patch_features(tower, pixels))
        rights = []
        for column, part in enumerate(torch.split(logits, list(CLASSES), dim=-1)):
            target = labels[..., column].long()
            there = (target != NOTHING) & (target > 0)
            right = (part.argmax(-1) == target)[there].float().mean()
            rights.append(f"{LABELS[column]} {100 * right:.1f}")
        return "  ".join(rights)

    stage.run(loss_of, check)
    return tower


# ---------------------------------------------------------------------------------------------------------
# projector and language, on what the tower sees


class Batches:
    """Batches of conversations about scenes of one store, drawn for each step."""

    TURNS: Final = 9

    def __init__(self, store: SceneStore, conversations: Conversations) -> None:
        self.store, self.conversations = store, conversations

    def one(
        self, index: int, rng: random.Random, base_only: bool
    ) -> tuple[np.ndarray[Any, Any], Any, Conversation]:
        """Tiles, packing order and conversation of a scene."""
        tiles, _ = self.store.tiles(index)
        packing = self.store.packing(index)
        if base_only:
            tiles, packing = tiles[:1], packing[:PATCHES]
            packing = np.append(packing, NEWLINE)
        exchanges = draw_exchanges(self.store.first_seed + index, rng, self.TURNS)
        return tiles, packing, self.conversations.write(exchanges, len(packing))

    def draw(self, step: int, size: int, salt: int) -> list[tuple[Any, Any, Conversation]]:
        rng = random.Random(salt * 1_000_003 + step)
        return [
            self.one(rng.randrange(self.store.count), rng, rng.random() < BASE_ONLY_SHARE)
            for _ in range(size)
        ]


def answer_logits(
    model: LlavaNextForConditionalGeneration, batch: list[tuple[Any, Any, Conversation]], train_tower: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (answer token, vocabulary), right tokens (answer token,), and their (row, turn)."""
    tiles, packings, conversations = zip(*batch, strict=True)
    image_id, pad_id = model.config.image_token_index, model.config.text_config.pad_token_id
    length = max(len(c.ids) for c in conversations)
    ids = np.full((len(batch), length), pad_id, np.int64)
    answer_of = np.zeros_like(ids)
    for row, conversation in enumerate(conversations):
        ids[row, : len(conversation.ids)] = conversation.ids
        answer_of[row, : len(conversation.ids)] = conversation.answer_of_next
    first_patch = np.cumsum([0, *(len(t) * PATCHES for t in tiles)])
    newline_row = int(first_patch[-1])
    order = np.concatenate(
        [
            np.where(p == NEWLINE, newline_row, p + start)
            for p, start in zip(packings, first_patch, strict=False)
        ]
    )
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(train_tower):
            seen = patch_features(model.model.vision_tower, normalise(np.concatenate(tiles)))
        features = model.model.multi_modal_projector(seen).flatten(0, 1)
        table = torch.cat([features, model.model.image_newline[None].to(features.dtype)])
        token_ids = torch.from_numpy(ids)
        embeds = model.get_input_embeddings()(token_ids).to(table.dtype)
        embeds = embeds.masked_scatter((token_ids == image_id)[..., None], table[torch.from_numpy(order)])
        # padding is at the end, where the causal mask hides it
        hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        asked = torch.from_numpy(answer_of) > 0
        logits = model.lm_head(hidden[asked])
    targets = torch.roll(token_ids, -1, dims=1)[asked]
    rows = torch.arange(len(batch))[:, None].expand_as(token_ids)[asked]
    return logits.float(), targets, torch.stack([rows, torch.from_numpy(answer_of)[asked]])


@torch.no_grad()
def right_by_topic(
    model: LlavaNextForConditionalGeneration, batches: Batches, scenes: int, *, base_only: bool
) -> dict[str, float]:
    """Topic → share of answers whose tokens are all most probable, given the true tokens before them."""
    rights: defaultdict[str, list[float]] = defaultdict(list)
    for first in range(0, scenes, 50):
        batch = [
            batches.one(index, random.Random(index), base_only)
            for index in range(first, min(first + 50, scenes))
        ]
        logits, targets, places = answer_logits(model, batch, train_tower=False)
        wrong = {(int(r), int(t)) for r, t in places[:, logits.argmax(-1) != targets].T}
        for row, (_, _, conversation) in enumerate(batch):
            for turn, topic in enumerate(conversation.topics, 1):
                rights[topic].append(float((row, turn) not in wrong))
    return {topic: float(np.mean(values)) for topic, values in sorted(rights.items())}


def train_language(
    store: SceneStore,
    check_store: SceneStore,
    model: LlavaNextForConditionalGeneration,
    conversations: Conversations,
    path: Path,
    steps: int,
    peak_rate: float,
    *,
    tower: Literal["frozen", "trained"],
    scenes: int = 48,
) -> None:
    model.model.vision_tower.requires_grad_(tower == "trained")
    careful = model.model.vision_tower if tower == "trained" else None
    stage = Stage(path, {"model": model}, steps, peak_rate, slow=careful)
    batches = Batches(store, conversations)
    unseen = Batches(check_store, conversations)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batches.draw(step, scenes, salt=sum(path.stem.encode()))
        logits, targets, places = answer_logits(model, batch, train_tower=tower == "trained")
        right = (logits.argmax(-1) == targets).float().mean().item()
        # weigh by answer: a description has ten times the tokens of a short answer
        _, answer, lengths = torch.unique(places, dim=1, return_inverse=True, return_counts=True)
        weights = lengths[answer].float().rsqrt()
        losses = functional.cross_entropy(logits, targets, reduction="none")
        return (losses * weights).sum() / weights.sum(), {"tokens right": right}

    def check() -> str:
        whole = right_by_topic(model, unseen, 300, base_only=False)
        base = right_by_topic(model, unseen, 200, base_only=True)
        return (
            "  ".join(f"{topic} {100 * share:.0f}" for topic, share in whole.items())
            + f"  (base alone: number {100 * base.get('number', 0):.0f})"
        )

    stage.run(loss_of, check)


def assemble(model: LlavaNextForConditionalGeneration, tower: CLIPVisionModel) -> None:
    """Copy the trained layers into the model's tower; its last layer is unused."""
    wanted = model.model.vision_tower.state_dict()
    trained = {name: weight for name, weight in tower.state_dict().items() if name in wanted}
    assert len(trained) == len(tower.state_dict()), "the tower's weights have other names in the model"
    model.model.vision_tower.load_state_dict(wanted | trained)


@app.command()
def train(
    runs: Annotated[Path, typer.Option(help="Folder for scenes and states.")] = Path("demo/training/runs"),
    scenes: Annotated[int, typer.Option(help="Number of training scenes.")] = 60_000,
    tower_steps: int = 2800,
    language_steps: int = 1400,
    joint_steps: int = 1000,
    last_steps: int = 400,
) -> None:
    """Draw the scenes and train every stage, each from its saved state."""
    runs.mkdir(parents=True, exist_ok=True)
    store = SceneStore(runs / "scenes", TRAIN_SEED, scenes)
    check_store = SceneStore(runs / "scenes", CHECK_SEED, SceneStore.SHARD)
    tower = train_tower(store, check_store, runs / "tower.pt", tower_steps)
    if not (runs / "tokenizer").exists():
        train_tokenizer(TOKENIZER_SEEDS).save_pretrained(runs / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(runs / "tokenizer")
    conversations = Conversations(tokenizer)
    torch.manual_seed(2)
    model = LlavaNextForConditionalGeneration(model_config(len(tokenizer)))
    nn.init.normal_(model.model.image_newline, std=0.02)
    assemble(model, tower)
    model.model.vision_tower.set_attn_implementation("eager")
    stages: tuple[tuple[str, int, float, Literal["frozen", "trained"]], ...] = (
        ("language", language_steps, 1e-3, "frozen"),
        ("joint", joint_steps, 6e-4, "trained"),
        ("last", last_steps, 4e-4, "trained"),
    )
    for name, steps, rate, how in stages:
        path = runs / f"{name}.pt"
        train_language(store, check_store, model, conversations, path, steps, rate, tower=how)


if __name__ == "__main__":
    app()
