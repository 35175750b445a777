"""What a dry run estimates: the formulas, worked out by hand."""

import pytest

from zooadapt import costs
from zooadapt.job import estimate
from zooadapt.job.estimate import Estimate

MiB = 2**20


def test_a_small_model_is_sent_and_read_back_whole_for_each_variant() -> None:
    small = estimate.of_model(MiB, 4, composes=True)
    assert (small.bytes_in, small.bytes_sent, small.bytes_back) == (MiB, 4 * MiB, 4 * MiB)
    assert (small.lookups, small.source_reads) == (1, 1)
    assert small.writes == 4 * 2 + 2, "weights and config of each, the stem, the record"
    assert small.stored == 4 * MiB


def test_of_a_large_one_the_store_copies_what_the_variants_share() -> None:
    size = 320 * MiB
    large = estimate.of_model(size, 4, composes=True)
    assert large.bytes_sent == size + 3 * estimate.SENT
    assert large.bytes_back == size + 3 * (estimate.SENT + 2 * 2 * MiB), "two seams each"
    assert large.source_reads == 20
    assert large.writes == (10 + 2) + 3 * (3 + 2) + 4 + 2
    assert large.stored == 4 * size


def test_a_store_that_cannot_copy_is_sent_all() -> None:
    size = 320 * MiB
    whole = estimate.of_model(size, 4, composes=False)
    assert whole.bytes_sent == whole.bytes_back == 4 * size
    assert whole.writes == 4 * (10 + 2) + 4 + 2


def test_a_gpu_builds_five_models_and_runs_seven_images() -> None:
    operations = 400 * 25e6 * 7
    assert costs.gpu_seconds(100_000_000, 4) == pytest.approx(0.1 * 5 + operations / 1e13)


def test_the_time_is_that_of_what_takes_longest() -> None:
    cost = estimate.of_model(10**9, 4, composes=False)
    assert cost.cpu_seconds == pytest.approx(1 + 0.8 + 4 * 2.2)
    assert cost.proof_seconds == pytest.approx(0.2 * 5 + 400 * 0.25e9 * 7 / 8e10)
    alone = estimate.wall(cost, cpus=1, gpus=0, bandwidth=1e6)
    assert alone.seconds == pytest.approx(cost.cpu_seconds + cost.proof_seconds)
    assert alone.bound_by == "the CPUs"
    assert estimate.wall(cost, cpus=10**4, gpus=1, bandwidth=1e6).bound_by == "the GPUs"
    slow = estimate.wall(cost, cpus=10**4, gpus=0, bandwidth=1)
    assert (slow.seconds, slow.bound_by) == (9000, "the network")


def test_prices() -> None:
    prices = estimate.Prices(cpu_hour=0.05, gpu_hour=2, gb_month=0.023)
    assert prices.run(7200, cpus=10, gpus=2) == pytest.approx(2 * (0.5 + 4))
    assert prices.month(10**12) == pytest.approx(23)
    assert estimate.Prices().run(7200, 10, 2) is None
    assert estimate.Prices(gpu_hour=1).month(10**12) is None


def test_all_together_and_the_hours() -> None:
    both = estimate.total([Estimate(lookups=1, bytes_in=5 * 10**9), Estimate(bytes_sent=10**9)])
    assert (both.lookups, both.moved) == (1, 6 * 10**9)
    assert both.seconds(bandwidth=125) == 48
    assert estimate.total([]) == Estimate()
