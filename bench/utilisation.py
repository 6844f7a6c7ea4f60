"""Computes operations and bytes per second from times of prefill and decode; measures nothing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rounds import Rounds
from bench.workloads import RATE_TOKENS
from contract.model_folder import CONFIG_JSON, LANGUAGE_XML

KV_BYTES_PER_NUMBER = 1
"""Bytes of a cached number: u8 is every contestant's hint and the plugin's default."""


@dataclass(frozen=True)
class Shape:
    """The dimensions of a language model that determine operations and bytes."""

    layers: int
    layer_weights: int
    """Weights in the matrices of one layer."""
    query_width: int
    kv_width: int
    head_weights: int
    """Weights in the matrix for logits, used for one position of a prompt."""
    weight_bytes: int
    """Bytes of all weights as stored."""

    @classmethod
    def of(cls, folder: Path) -> "Shape":
        text = json.loads((folder / CONFIG_JSON).read_text(encoding="utf-8"))["text_config"]
        hidden: int = text["hidden_size"]
        head_dim: int = text.get("head_dim") or hidden // text["num_attention_heads"]
        query, kv = head_dim * text["num_attention_heads"], head_dim * text["num_key_value_heads"]
        return cls(
            layers=text["num_hidden_layers"],
            layer_weights=hidden * (2 * query + 2 * kv + 3 * text["intermediate_size"]),
            query_width=query,
            kv_width=kv,
            head_weights=hidden * text["vocab_size"],
            weight_bytes=(folder / LANGUAGE_XML).with_suffix(".bin").stat().st_size,
        )

    def prefill_flop(self, tokens: int) -> int:
        """Operations of matrices, causal attention (half the square) and the last position's logits."""
        attention = 2 * tokens * tokens * self.query_width
        return 2 * self.head_weights + self.layers * (2 * self.layer_weights * tokens + attention)

    def decode_bytes(self, past_tokens: int, rows: int) -> int:
        """Bytes read in one step: the weights once, and the cache of each row, even if rows share it."""
        return self.weight_bytes + rows * past_tokens * 2 * self.layers * self.kv_width * KV_BYTES_PER_NUMBER


def decode_rate(rounds: Rounds, contest: str, contestant: str, rows: int) -> float | None:
    """New tokens per second of all rows without their prompts, from two works of different length."""
    few, many = (rounds.seconds(contest, contestant, f"rate-{rows}-{length}") for length in ("few", "many"))
    if few is None or many is None or many <= few:
        return None
    return rows * (RATE_TOKENS[1] - RATE_TOKENS[0]) / (many - few)


def utilisation(rounds: Rounds, contest: str, contestant: str) -> dict[str, Any]:
    """The rates of a contestant; empty if its works were not run."""
    found: dict[str, Any] = {}
    prefill = rounds.runs(contest, contestant, "prefill")
    seconds = rounds.seconds(contest, contestant, "prefill")
    if prefill and seconds is not None:
        shape = Shape.of(Path(prefill[0].program.setup.folder))
        tokens = prefill[0].reply.counts.prompt_tokens
        found["prefill_tokens"] = tokens
        found["prefill_flop_per_s"] = shape.prefill_flop(tokens) / seconds
    for rows in (1, 8):
        rate = decode_rate(rounds, contest, contestant, rows)
        if rate is None:
            continue
        run = rounds.runs(contest, contestant, f"rate-{rows}-many")[0]
        shape = Shape.of(Path(run.program.setup.folder))
        past = run.reply.counts.prompt_tokens // rows + sum(RATE_TOKENS) // 2
        found[f"decode_{rows}_tokens_per_s"] = rate
        found[f"decode_{rows}_bytes_per_s"] = shape.decode_bytes(past, rows) * rate / rows
    return found
