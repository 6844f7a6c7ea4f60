"""What a person is told of a run: rates and what is left."""

from dataclasses import replace

from producer.progress import LATE_S, Rate, describe
from producer.run import Round


def after(complete: int, tokens: int) -> Round:
    return Round(
        complete=complete,
        failed_questions=0,
        in_flight=1,
        tokens=tokens,
        silent_s=0.0,
        sent_again=0,
        held=None,
    )


class Told:
    """What a Rate of 1,000,000 rows says at one time after the other."""

    def __init__(self, complete: int) -> None:
        self.now = 5000.0
        self._rate = Rate(1_000_000, complete, lambda: self.now)

    def after(self, seconds: float, complete: int, tokens: int) -> tuple[float, float, int | None]:
        self.now += seconds
        told = self._rate.fields(after(complete, tokens))
        return told["images_per_s"], told["tokens_per_s"], told["eta_s"]


def test_rates_are_of_this_process() -> None:
    told = Told(complete=500_000)
    assert told.after(0.0, 500_000, 0) == (0.0, 0.0, None)
    assert told.after(10.0, 500_100, 3000) == (10.0, 300.0, 49_990)


def test_rows_that_were_known_do_not_promise_an_early_end() -> None:
    told = Told(complete=0)
    told.after(60.0, 900_000, 0)
    for second in range(1, int(LATE_S) + 1):
        found = told.after(1.0, 900_000 + 10 * second, 200 * second)
    assert found == (10.0, 200.0, 9_700)


def test_a_run_that_stands_promises_nothing() -> None:
    told = Told(complete=0)
    told.after(10.0, 100, 3000)
    assert told.after(LATE_S, 100, 3000) == (0.0, 0.0, None)


def test_looks_a_second_or_a_millisecond_apart_tell_the_same() -> None:
    seldom, often = Told(complete=0), Told(complete=0)
    for step in range(1, 400_001):
        often_found = often.after(0.001, step // 10, step)
        if step % 10_000 == 0:
            found = seldom.after(10.0, step // 10, step)
    assert found == (100.0, 1000.0, 9_600)
    assert often_found == (100.0, 1000.0, 9_600)


def test_a_rate_is_told_only_where_something_was_asked() -> None:
    rate = Rate(100, 100)
    asked = after(100, 0)
    assert "images/s" in describe(rate, asked)
    assert describe(rate, replace(asked, in_flight=0, asked=False)) == "0 failed, 0 in flight"
