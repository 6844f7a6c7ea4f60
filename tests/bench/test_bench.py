"""The bench without its peers: what it asks, how it takes turns, what it makes of the times."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import LlavaNextForConditionalGeneration
from transformers.image_processing_utils import select_best_resolution

from bench.checkpoint import make_config, make_processor, write_checkpoint
from bench.comparisons import Contest, Contestant, contests, only
from bench.folders import Folders
from bench.peer import Pool, Program
from bench.peers.captionmill import Captionmill, jobs_of
from bench.peers.protocol import Ask, Counts, Reply, Setup, Task
from bench.report import Report
from bench.roofline import Peaks
from bench.rounds import Measurement, Rounds
from bench.sizes import SIZES
from bench.targets import marks
from bench.utilisation import Shape, decode_rate
from bench.workloads import LONE_WORKS, MIXED_SIZES_PX, ONE_SIZE_PX, UNIT_WORKS, make_works
from contract.job import Job
from model_prep.convert import convert
from model_prep.settings import LanguageSettings, PrepSettings

WORKS = make_works(pictures=3, new_tokens=2, text_words=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint of the bench as a model folder, the checkpoint beside it."""
    checkpoint = tmp_path_factory.mktemp("bench") / "checkpoint"
    write_checkpoint(SIZES["tiny"], checkpoint)
    out = checkpoint.parent / "folder"
    convert(str(checkpoint), out, PrepSettings(language=LanguageSettings(weight_format="int8")), name="t")
    return out


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """For fake peers; none of their processes outlives a test."""
    pool = Pool(tmp_path)
    yield pool
    pool.only([])


def fake(name: str, *setups: dict[str, int]) -> Contestant:
    programs = tuple(
        Program("tests.support.fake_peer", sys.executable, Setup(name, {}, dict(options)))
        for options in setups or ({},)
    )
    return Contestant(name, programs, "batch")


def rounds_of(tmp_path: Path, pool: Pool) -> Rounds:
    return Rounds(WORKS, tmp_path, pool, on_turn=lambda _what: None)


def measured(
    contest: str, contestant: str, work: str, *seconds: float, tokens: int = 100
) -> list[Measurement]:
    program = Program("m", "p", Setup("f"))
    return [
        Measurement(contest, contestant, work, "run", run, program, "batch", Reply(Counts(tokens, 2), s, 1))
        for run, s in enumerate(seconds)
    ]


def test_mid_has_the_shape_of_published_models() -> None:
    processor = make_processor(SIZES["mid"])
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(make_config(SIZES["mid"], processor.tokenizer))
    assert 0.63e9 < sum(weight.numel() for weight in model.parameters()) < 0.65e9
    height, width = ONE_SIZE_PX[0]
    inputs = processor(images=Image.new("RGB", (width, height)), text="<image>", return_tensors="np")
    assert np.count_nonzero(inputs["input_ids"] == model.config.image_token_index) == 2340
    assert len(processor.tokenizer) == model.config.text_config.vocab_size


def test_the_checkpoint_has_the_names_that_every_release_reads(folder: Path) -> None:
    names = load_file(folder.parent / "checkpoint" / "model.safetensors").keys()
    vision = [name for name in names if name.startswith("vision_tower.")]
    assert vision
    assert all(name.startswith("vision_tower.vision_model.") for name in vision)


def test_our_engine_does_every_work(folder: Path, tmp_path: Path) -> None:
    engine = Captionmill(Setup(str(folder), {}, {"image_roots": str(tmp_path)}))
    prompts = {}
    for name, work in WORKS.items():
        work = work.first(2)
        task = Task(work.drawn(tmp_path, "test"), work.num_beams, work.detail, "batch")
        counts = engine.answer(task)
        assert counts.new_tokens == work.new_tokens, name
        assert counts.counters["steps"] > 0
        prompts[name] = counts.prompt_tokens
    engine.close()
    assert prompts["low"] < prompts["distinct"]
    assert prompts["one-4"] > prompts["one-1"]


def test_questions_about_one_picture_are_one_job_and_no_answer_ends_early(tmp_path: Path) -> None:
    def jobs(name: str) -> list[Job]:
        work = WORKS[name]
        return jobs_of(Task(work.drawn(tmp_path, "jobs"), work.num_beams, work.detail, "batch"))

    (job,) = jobs("one-8")
    assert len(job.questions) == 8
    lengths = [(job.parameters.min_new_tokens, job.parameters.max_new_tokens) for job in jobs("long")]
    assert lengths == [(tokens, tokens) for _, _, tokens in WORKS["long"].asks]
    assert len({job.index for job in jobs("long")}) == len(lengths)


def test_pictures_are_new_in_each_run_and_the_same_when_drawn_again(tmp_path: Path) -> None:
    work = WORKS["distinct"]
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    first = work.drawn(tmp_path / "here", "a")
    again = work.drawn(tmp_path / "there", "a")
    other = work.drawn(tmp_path / "here", "b")

    def pixels(asks: tuple[Ask, ...]) -> list[bytes]:
        return [Image.open(ask.picture).tobytes() for ask in asks if ask.picture]

    assert pixels(first) == pixels(again)
    assert not set(pixels(first)) & set(pixels(other))
    assert len(set(pixels(first))) == len(first)
    sizes = [Image.open(ask.picture).size[::-1] for ask in first if ask.picture]
    assert sizes == list(MIXED_SIZES_PX[: len(first)])
    assert WORKS["prefill"].drawn(tmp_path, "a") != WORKS["prefill"].drawn(tmp_path, "b")


def test_the_mixed_pictures_meet_every_pinpoint() -> None:
    pinpoints = SIZES["mid"].pinpoints
    met = {select_best_resolution(size_px, pinpoints) for size_px in MIXED_SIZES_PX}
    assert met == {tuple(pinpoint) for pinpoint in pinpoints}


def test_the_named_sets_of_works_are_as_they_say() -> None:
    assert {name for name, work in WORKS.items() if len(work.asks) == 1} == LONE_WORKS
    assert WORKS.keys() > UNIT_WORKS


def test_contestants_take_turns_and_begin_by_turns(tmp_path: Path, pool: Pool) -> None:
    rounds = rounds_of(tmp_path, pool)
    contest = Contest("c", "", (fake("a"), fake("b"), replace(fake("c"), skips=frozenset({"one-1"}))))
    rounds.hold(contest, WORKS["one-1"], runs=3)
    assert [(m.contestant, m.run) for m in rounds.measurements] == [
        *(("a", 0), ("b", 0)),
        *(("b", 1), ("a", 1)),
        *(("a", 2), ("b", 2)),
    ]
    assert not rounds.breakdowns


def test_who_breaks_down_is_out_of_the_work_and_the_others_go_on(tmp_path: Path, pool: Pool) -> None:
    rounds = rounds_of(tmp_path, pool)
    # Its third task: the warm-up, the first run, the second run.
    contest = Contest("c", "", (fake("dies", {"dies_at": 3}), fake("lives"), fake("rambles", {"extra": 1})))
    rounds.hold(contest, WORKS["one-1"], runs=3)
    assert [m.run for m in rounds.runs("c", "dies", "one-1")] == [0]
    assert [m.run for m in rounds.runs("c", "lives", "one-1")] == [0, 1, 2]
    assert rounds.runs("c", "rambles", "one-1") == []
    said = {b.contestant: b.message for b in rounds.breakdowns}
    assert "it is over" in said["dies"]
    assert said["rambles"] == "3 tokens were generated where 2 were due"
    rounds.hold(contest, WORKS["one-4"], runs=1)
    assert len(rounds.runs("c", "dies", "one-4")) == 1


def test_the_fastest_way_to_set_up_competes(tmp_path: Path, pool: Pool) -> None:
    rounds = rounds_of(tmp_path, pool)
    contest = Contest("c", "", (fake("a", {}, {"dies_at": 99}, {"extra": 1}),))
    for work in ("one-8", "one-4"):
        rounds.hold(contest, WORKS[work], runs=1)
    tries = [m for m in rounds.measurements if m.stage == "try"]
    assert [m.work for m in tries] == ["one-4", "one-4"], "one-8 is set up as one-4, tried once"
    best = min(tries, key=lambda m: m.reply.seconds).program
    assert all(m.program == best for m in rounds.measurements if m.stage == "run")
    assert len(rounds.breakdowns) == 1


def test_a_contest_that_would_repeat_another_is_left_out(tmp_path: Path) -> None:
    every = contests(Folders(tmp_path, "tiny"), tmp_path, try_schedulers=True)
    assert [c.name for c in only(every, frozenset({"stateful", "genai-batch"}))] == ["same-ir"]
    kept = only(every, frozenset({"stateful", "transformers"}))
    assert [[c.name for c in contest.contestants] for contest in kept] == [
        ["stateful"],
        ["stateful", "transformers"],
    ]


def test_arithmetic_counts_the_matrices_of_the_checkpoint(folder: Path) -> None:
    shape = Shape.of(folder)
    weights = load_file(folder.parent / "checkpoint" / "model.safetensors")
    layers = [
        w.size
        for name, w in weights.items()
        if "language_model" in name and ".layers." in name and w.ndim == 2
    ]
    assert shape.layers * shape.layer_weights == sum(layers)
    assert shape.head_weights == weights["language_model.lm_head.weight"].size
    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert shape.query_width == text["hidden_size"]
    assert shape.decode_bytes(10, 2) - shape.decode_bytes(10, 1) == 10 * 2 * 3 * 2 * 32
    tokens = 7
    per_token = 2 * shape.layers * shape.layer_weights
    attention = shape.layers * 2 * tokens * tokens * shape.query_width
    assert shape.prefill_flop(tokens) == tokens * per_token + attention + 2 * shape.head_weights


def test_marks_compare_medians_with_the_better_peer(tmp_path: Path, pool: Pool) -> None:
    rounds = rounds_of(tmp_path, pool)
    rounds.measurements = [
        *measured("same-ir", "stateful", "one-8", 9.0, 1.0, 2.0),
        *measured("same-ir", "genai-batch", "one-8", 14.0),
        *measured("same-ir", "genai-single", "one-8", 6.0),
        *measured("same-ir", "stateful", "rate-1-few", 1.0),
        *measured("same-ir", "stateful", "rate-1-many", 3.0),
    ]
    found = {mark.what: mark for mark in marks(rounds)}
    one_call = found["8 questions, stateful, over GenAI in one call"]
    best = found["8 questions, stateful, over GenAI's best"]
    assert (one_call.measured, one_call.met) == (7.0, True)
    assert (best.measured, best.met) == (3.0, False)
    assert found["4 beams over greedy, stateful"].met is None
    assert decode_rate(rounds, "same-ir", "stateful", 1) == 64.0


def test_the_report_holds_every_run_and_the_medians(tmp_path: Path, pool: Pool) -> None:
    rounds = rounds_of(tmp_path, pool)
    rounds.measurements = [
        *measured("c", "ours", "one-4", 1.0, 5.0, 2.0),
        *measured("c", "theirs", "one-4", 3.0),
    ]
    contest = Contest("c", "A contest", (fake("ours"), fake("theirs"), fake("absent")))
    machine = {"cpu": "A chip", "cores": 2, "memory_bytes": 2 << 30, "commit": "c0ffee", "command": "bench"}
    peaks = Peaks({"f32": 3e9}, 5e9)
    report = Report(machine, peaks, (contest,), (WORKS["one-4"], WORKS["one-1"]), rounds)
    report.write(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "| 1 picture, 4 questions | 2.00 (1.00 ×) | 3.00 (1.50 ×) | – |" in text
    assert "1 picture, 1 question " not in text, "a work that nobody did has no line"
    content = json.loads((tmp_path / "report.json").read_text())
    assert [m["reply"]["seconds"] for m in content["measurements"]] == [1.0, 5.0, 2.0, 3.0]
    assert content["medians_s"]["c"]["one-4"] == {"ours": 2.0, "theirs": 3.0, "absent": None}
