"""When a live session may make its next chunk."""

from hypothesis import given
from hypothesis import strategies as st

from heliograph.serve.pacing import Pace


def test_two_chunks_are_made_before_anything_plays_and_then_none() -> None:
    pace = Pace(1.375)
    for number in range(2):
        assert pace.seconds_to_wait(0.0, 2.0) == 0
        pace.taken()
        pace.delivered(float(number))
    assert pace.seconds_to_wait(100.0, 2.0) is None and pace.head(100.0) == 0


def test_a_chunk_is_made_for_each_that_was_played() -> None:
    pace = Pace(1.375)
    pace.run(0.0)
    for _ in range(2):
        pace.taken()
        pace.delivered(10.0)
    assert pace.seconds_to_wait(10.0, 2.0) == 1.375
    assert pace.seconds_to_wait(10.0, 1.5) == 1.5 * 1.375
    assert pace.seconds_to_wait(11.375, 2.0) == 0


def test_a_pause_stops_the_playhead_where_it_is() -> None:
    pace = Pace(1.0)
    for _ in range(3):
        pace.taken()
        pace.delivered(0.0)
    pace.run(0.0)
    pace.freeze(1.5)
    assert pace.head(99.0) == 1.5
    pace.run(100.0)
    assert pace.head(100.5) == 2.0


def test_time_in_which_nothing_was_there_to_play_does_not_count() -> None:
    pace = Pace(1.0)
    pace.run(0.0)
    pace.taken()
    pace.delivered(5.0)
    assert pace.head(5.5) == 0.5 and pace.head(60.0) == 1.0
    pace.taken()
    pace.delivered(60.0)
    assert pace.head(60.25) == 1.25


def test_another_speed_holds_from_then_on() -> None:
    pace = Pace(1.0)
    for _ in range(9):
        pace.taken()
        pace.delivered(0.0)
    pace.run(0.0)
    pace.set_speed(0.5, 1.0)
    assert pace.head(2.0) == 3.0
    pace.skip(2.0)
    assert pace.head(2.0) == 9.0


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["run", "freeze", "make", "skip"])), max_size=60))
def test_making_never_runs_more_than_two_chunks_ahead(steps: list[tuple[float, str]]) -> None:
    pace, now, made = Pace(1.375), 0.0, 0
    for seconds, step in steps:
        now += seconds
        if step == "make" and pace.seconds_to_wait(now, 2.0) == 0:
            pace.taken()
            pace.delivered(now)
            made += 1
        elif step != "make":
            getattr(pace, step)(now)
        assert made - 2 - 1e-6 <= pace.head(now) <= made
