"""Measures what fewer image tokens cost the demo model; trains nothing.

    python -m demo.visual_tokens --scenes 240

It compares `visual_tokens` with three other ways to as many tokens: pooling, which shrinks the grid's
features, the grid's tiles cut by `detail`, and tokens chosen at random.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from demo.evaluate import EXACT, MODEL, SUMMARY, Answers, Case, FolderAnswers, held_out, markdown, matches
from demo.evaluate import tally as tally_of
from worker.llava.image_encoder import ImageFeatures
from worker.llava.interpolate import resize_bilinear

SHARES: Final = (0.5, 0.25, 0.12)
BASE_TOKENS: Final = 16
"""Tokens of the demo model's base tile."""

Way = Callable[[Case, float], ImageFeatures]
"""Function that encodes a case's picture to a share of its tokens."""


class Ways:
    """The ways to fewer tokens, on one model."""

    def __init__(self, model: FolderAnswers) -> None:
        self._model = model.model
        self.by_name: dict[str, Way] = {
            "`visual_tokens`": self._chosen,
            "pooled": self._pooled,
            "cut tiles": self._cut,
            "at random": self._random,
        }

    def whole(self, case: Case) -> ImageFeatures:
        return self._model.encode_image(case.image)

    def _chosen(self, case: Case, share: float) -> ImageFeatures:
        tokens = max(2, int(share * len(self.whole(case).packed)))
        return self._model.encode_image(case.image, visual_tokens=tokens)

    def _cut(self, case: Case, share: float) -> ImageFeatures:
        """The most tiles that do not exceed the share, else the base tile alone."""
        most = share * len(self.whole(case).packed)
        looks = (self._model.encode_image(case.image, tiles) for tiles in (4, 3, 2, 1))
        return next(
            (one for one in looks if len(one.packed) <= most), self._model.encode_image(case.image, "low")
        )

    def _random(self, case: Case, share: float) -> ImageFeatures:
        whole = self.whole(case)
        tokens = len(whole.packed)
        chosen = np.random.default_rng(tokens).permutation(tokens)[: max(2, int(share * tokens))]
        kept = np.isin(np.arange(tokens), chosen)
        key = hashlib.sha256(whole.key + kept.tobytes()).digest()
        return replace(whole, packed=whole.packed[kept], key=key, kept=(kept,))

    def _pooled(self, case: Case, share: float) -> ImageFeatures:
        """The base tile, and the grid's features resized to the largest plane that fits beside it."""
        whole = self.whole(case)
        newline = whole.packed[-1]
        rows = np.count_nonzero((whole.packed[BASE_TOKENS:] == newline).all(-1))
        plane = whole.packed[BASE_TOKENS:].reshape(rows, -1, whole.packed.shape[1])[:, :-1]
        height, width = plane.shape[:2]
        left = int(share * len(whole.packed)) - BASE_TOKENS
        scale = next((s for s in np.arange(1, 0, -0.01) if _tokens(height, width, s) <= left), None)
        packed = whole.packed[:BASE_TOKENS]
        if scale is not None:
            small = resize_bilinear(np.ascontiguousarray(plane), _shrunk(height, width, scale))
            lines = np.concatenate([small, np.broadcast_to(newline, (len(small), 1, len(newline)))], axis=1)
            packed = np.concatenate([packed, lines.reshape(-1, len(newline))])
        key = hashlib.sha256(whole.key + f"pooled {len(packed)}".encode()).digest()
        run, all_kept = whole.runs[0][: len(packed)], np.ones(len(packed), np.bool_)
        return replace(whole, packed=packed, key=key, runs=(run,), kept=(all_kept,))


def _shrunk(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, round(height * scale)), max(1, round(width * scale))


def _tokens(height: int, width: int, scale: float) -> int:
    rows, columns = _shrunk(height, width, scale)
    return rows * (columns + 1)


def main(
    scenes: Annotated[int, typer.Option(min=3, help="Number of held-out scenes.")] = 240,
    folder: Annotated[Path, typer.Option(help="Model folder.")] = MODEL / "openvino",
) -> None:
    """Print the table of docs/benchmarks.md."""
    console = Console(stderr=True)
    cases = list(held_out(scenes, 0))
    model = FolderAnswers(folder, EXACT)
    ways = Ways(model)
    expected: Answers = [model.about(ways.whole(case), case) for case in track(cases, "all", console=console)]
    rows = [_row("all tokens", cases, expected, expected, [len(ways.whole(case).packed) for case in cases])]
    for share in SHARES:
        for name, way in ways.by_name.items():
            answers, tokens = [], []
            for case in track(cases, f"{name} {share:.0%}", console=console):
                features = way(case, share)
                tokens.append(len(features.packed))
                answers.append(model.about(features, case))
            rows.append(_row(f"{name}, {share:.0%}", cases, answers, expected, tokens))
    model.close()
    print(markdown(["tokens", "an image", "unchanged, %", *(f"{t}, % right" for t in SUMMARY)], rows))


def _row(
    name: str, cases: Sequence[Case], answers: Answers, expected: Answers, tokens: Sequence[int]
) -> list[str]:
    right = {row[0]: row[1] for row in tally_of(cases, answers).rows()}
    same, asked = matches(answers, expected)
    return [name, f"{np.mean(tokens):.1f}", f"{100 * same / asked:.1f}", *(right[topic] for topic in SUMMARY)]


if __name__ == "__main__":
    typer.run(main)
