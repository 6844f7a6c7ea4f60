"""Which engines are compared on which workloads, as data; runs nothing."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.folders import Folders
from bench.peer import Program
from bench.peers.protocol import Mode, Setup
from bench.workloads import LONE_WORKS, UNIT_WORKS

SAME_HINTS: Final = {
    "INFERENCE_PRECISION_HINT": "bf16",
    "KV_CACHE_PRECISION": "u8",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32",
}
"""Properties for all engines that run the same IR, instead of their own defaults."""
WIDE_OR_TALL: Final = frozenset({"distinct"})
"""Works that optimum-intel 2.2 cannot do: it swaps a grid's width and height, and fails if they differ."""
FEWER_TOKENS: Final = frozenset({"low", "quarter"})
"""Works with detail=low or visual_tokens, which no peer has."""
CACHE_GB: Final = 2
UNLIMITED_TOKENS: Final = 1 << 20
SCHEDULERS: Final[tuple[Mapping[str, Any], ...]] = tuple(
    {"cache_size": CACHE_GB, "enable_prefix_caching": prefix, "max_num_batched_tokens": tokens}
    for prefix in (True, False)
    for tokens in (4096, 256, UNLIMITED_TOKENS)
)
"""Scheduler options that GenAI is tried with; the first is used without tries."""


@dataclass(frozen=True)
class Contestant:
    """One engine with one folder and its possible setups; the fastest setup for each work competes."""

    name: str
    programs: tuple[Program, ...]
    mode: Mode
    skips: frozenset[str] = frozenset()
    """Names of works that it does not do."""


@dataclass(frozen=True)
class Contest:
    """Contestants that take turns; ratios are relative to the first one."""

    name: str
    title: str
    contestants: tuple[Contestant, ...]
    skips: frozenset[str] = frozenset()
    """Names of works that are not part of it."""


def contests(folders: Folders, pictures: Path, *, try_schedulers: bool) -> tuple[Contest, ...]:
    """All contests; with `try_schedulers`, GenAI has a setup for each of SCHEDULERS."""
    schedulers = SCHEDULERS if try_schedulers else SCHEDULERS[:1]

    def own(name: str, folder: Path, properties: Mapping[str, str], **settings: str) -> Contestant:
        options = {"image_roots": str(pictures), **settings}
        setup = Setup(str(folder), dict(properties), options)
        return Contestant(name, (Program("bench.peers.captionmill", sys.executable, setup),), "batch")

    def genai(name: str, folder: Path, properties: Mapping[str, str], mode: Mode) -> Contestant:
        setups = [Setup(str(folder), dict(properties), dict(scheduler)) for scheduler in schedulers]
        python = str(folders.peers_python)
        programs = tuple(Program("bench.peers.genai", python, setup) for setup in setups)
        return Contestant(
            f"{name}-{mode}", programs, mode, FEWER_TOKENS | LONE_WORKS if mode == "single" else FEWER_TOKENS
        )

    same_ir = folders.optimum("fp16")
    stateful = own("stateful", same_ir, SAME_HINTS, attention="stateful")
    optimum = Program("bench.peers.optimum_intel", str(folders.peers_python), Setup(str(same_ir), SAME_HINTS))
    torch = Program("bench.peers.torch_transformers", sys.executable, Setup(str(folders.checkpoint)))
    int4 = folders.optimum("int4")
    return (
        Contest(
            "same-ir",
            "One IR (optimum-intel's fp16 export), the same hints",
            (
                stateful,
                own("paged", same_ir, SAME_HINTS, attention="paged"),
                genai("genai", same_ir, SAME_HINTS, "batch"),
                genai("genai", same_ir, SAME_HINTS, "single"),
            ),
        ),
        Contest(
            "frameworks",
            "The same IR in optimum-intel, the same weights in transformers on torch (bfloat16)",
            (
                stateful,
                Contestant("optimum-intel", (optimum,), "single", WIDE_OR_TALL),
                Contestant("transformers", (torch,), "single"),
            ),
            skips=FEWER_TOKENS | UNIT_WORKS,
        ),
        Contest(
            "defaults",
            "Our default folder (fp16) and settings, GenAI on optimum-cli's int4 export with its defaults",
            (
                own("default", folders.own("fp16"), {}),
                genai("genai-int4", int4, {}, "batch"),
                genai("genai-int4", int4, {}, "single"),
            ),
        ),
    )


def only(every: Sequence[Contest], names: frozenset[str]) -> tuple[Contest, ...]:
    """The contests with contestants in `names` only, without contests that repeat an earlier one."""
    kept: list[Contest] = []
    seen: set[str] = set()
    for contest in every:
        contestants = tuple(c for c in contest.contestants if c.name in names)
        if not {c.name for c in contestants} <= seen:
            kept.append(replace(contest, contestants=contestants))
        seen |= {c.name for c in contestants}
    return tuple(kept)
