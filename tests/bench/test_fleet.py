"""The simulated fleet against what can be reckoned by hand, and its costs against a real one."""

import dataclasses

import pytest

from bench.fleet import DETECT_S, Fleet, limits, simulate
from bench.fleet_costs import Costs, site

COSTS = Costs(
    server_s_per_job=1e-4,
    server_s_per_worker_s=1e-4,
    producer_s_per_job=2e-4,
    worker_s_per_job=1e-3,
    connections_per_worker=10,
    ledger_bytes_per_job=1000,
    store_bytes_per_open_job=2000,
)
FLEET = Fleet(images=10_000, workers=10, images_per_worker_s=2.0, slots=4, alone_s=1.0)


def test_workers_that_nothing_holds_up_take_as_long_as_they_must() -> None:
    found = simulate(FLEET, COSTS, step_s=1.0)
    assert found.seconds == found.ideal_s == 500
    assert (found.limit, found.worker_deaths, found.executed_again) == ("workers", 0, 0)
    assert found.producer_use == pytest.approx(10_000 * 2e-4 / 500)
    assert found.server_use == pytest.approx((10_000 * 1e-4 + 500 * 10 * 1e-4) / 500)
    assert found.connections == 100
    assert found.ledger_bytes == 1e7


@pytest.mark.parametrize(
    ("workers", "limit", "rate"),
    [(1000, "workers", 2000.0), (4000, "producer", 5000.0), (8000, "server", 2000.0)],
)
def test_what_limits_many_workers(workers: int, limit: str, rate: float) -> None:
    fleet = dataclasses.replace(FLEET, workers=workers, images=1e6)
    found = simulate(fleet, COSTS, step_s=1.0)
    assert found.limit == limit
    assert 1e6 / found.seconds == pytest.approx(rate, rel=0.01)


def test_polling_alone_may_be_too_much() -> None:
    fleet = dataclasses.replace(FLEET, workers=10_000)
    assert limits(fleet, COSTS, 10_000)["server"] == 0
    with pytest.raises(ValueError, match="of 10000 images are done"):
        simulate(fleet, COSTS, step_s=1.0)


def test_deaths_cost_time_and_no_image() -> None:
    fleet = dataclasses.replace(FLEET, worker_mtbf_s=400.0, worker_restart_s=100.0)
    found = simulate(fleet, COSTS, seed=3, step_s=1.0)
    assert found.worker_deaths > 4
    assert found.executed_again > 0
    assert found.seconds > found.ideal_s * 1.1
    assert simulate(fleet, COSTS, seed=3, step_s=1.0) == found
    assert simulate(fleet, COSTS, seed=4, step_s=1.0) != found


def test_the_last_death_is_waited_for() -> None:
    fleet = dataclasses.replace(FLEET, images=40, workers=1, worker_mtbf_s=4.0, worker_restart_s=1.0)
    assert max(simulate(fleet, COSTS, seed=seed, step_s=0.5).seconds for seed in range(9)) > 20 + DETECT_S


@pytest.mark.parametrize(
    "broken",
    [
        dataclasses.replace(FLEET, server_mtbf_s=100.0, server_down_s=50.0),
        dataclasses.replace(FLEET, producer_mtbf_s=100.0, producer_restart_s=150.0),
    ],
    ids=["server", "producer"],
)
def test_outages_cost_what_they_last(broken: Fleet) -> None:
    found = simulate(broken, COSTS, seed=1, step_s=1.0)
    assert found.seconds > found.ideal_s * 1.05


def test_poison_kills_each_time_it_is_tried() -> None:
    found = simulate(dataclasses.replace(FLEET, poison=1e-3, worker_restart_s=1.0), COSTS, step_s=1.0)
    assert 10 <= found.worker_deaths <= 60


def test_real_processes_can_be_measured() -> None:
    with site() as here:
        here.start_worker(4)
        made = here.planned(50, 0.001)
        here.run(made)
        assert made.ledger.answered_questions() == 50
        assert here.server_s() > 0
        assert here.worker_s() > 0
        assert here.connections() > 3
