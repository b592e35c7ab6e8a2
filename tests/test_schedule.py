"""The schedule: epochs where there is time for them, else the whole way in the time there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.schedule import Schedule, rate, tightest


def test_the_clock_has_no_say_while_there_is_time() -> None:
    schedule = Schedule.of(7)
    assert not schedule.replan(2.5, left=1000, pace=100, evaluation=5)
    assert [schedule.share(position) for position in (0, 1, 2.5, 7)] == [0, 1 / 7, 2.5 / 7, 1]


@given(
    looks=st.lists(st.tuples(st.floats(0.01, 0.5), st.floats(1, 1e4), st.floats(0, 1e5)), min_size=1, max_size=20),
    epochs=st.integers(1, 50),
)
def test_plans_go_on_without_a_jump_and_end_at_the_end(looks: list[tuple[float, float, float]], epochs: int) -> None:
    schedule, position, share = Schedule.of(epochs), 0.0, 0.0
    for part, pace, left in looks:
        position += part * (schedule.until - position)
        before = schedule.share(position)
        assert share <= before <= 1 + 1e-9
        schedule.replan(position, left=left, pace=pace, evaluation=pace / 10)
        assert position <= schedule.until <= epochs
        if schedule.until > position:
            assert schedule.share(position) == pytest.approx(before)
        assert schedule.share(schedule.until) == pytest.approx(1)
        share = schedule.share(position) if schedule.until > position else 1.0
        if share == 1.0:
            return


def test_what_there_is_time_for_is_planned() -> None:
    schedule = Schedule.of(100)
    assert schedule.replan(2.0, left=110, pace=9, evaluation=1)
    # 110 s, less a last validation of 1 s, at 10 s an epoch and 2% in reserve.
    assert schedule.until == pytest.approx(2 + (110 - 1.02) / 10.2)
    assert schedule.replan(3.0, left=1e6, pace=9, evaluation=1), "a pace that was misjudged gives epochs back"
    assert schedule.until == 100


def test_a_last_scrap_of_an_epoch_is_left_out() -> None:
    schedule = Schedule.of(100)
    schedule.replan(2.0, left=51.5, pace=10, evaluation=0)
    assert schedule.until == 7.0


def test_the_rate_rises_and_falls_to_a_hundredth() -> None:
    rates = [rate(1.0, share / 100) for share in range(101)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert (rates[0], max(rates), rates[-1]) == (pytest.approx(0.05), pytest.approx(1), pytest.approx(0.01))


def test_the_tightest_limit_is_the_budget() -> None:
    assert tightest(minutes=2).seconds == 120
    money = tightest(minutes=60, money=0.5, price_per_hour=2.0)
    assert (money.seconds, money.named) == (900, "money")
    assert tightest(minutes=60, gpu_hours=0.5).named == "train_minutes", "a CPU spends no GPU-hours"
    hours = tightest(minutes=60, gpu_hours=0.5, gpus=2)
    assert (hours.seconds, hours.named) == (900, "gpu_hours")
    with pytest.raises(ValueError, match="price_per_hour"):
        tightest(minutes=1, money=1.0)
