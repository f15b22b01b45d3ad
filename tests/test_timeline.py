"""The prompt timeline: blends, steering, and the files people write."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.errors import UserError
from heliograph.timeline import (
    CHUNK_SECONDS,
    MAX_TIMELINE_BYTES,
    Cue,
    PromptMix,
    PromptTimeline,
    parse_timeline,
    read_timeline,
)

RED_THEN_BLUE = PromptTimeline((Cue(0, "red"), Cue(7, "blue", 3)))


def weights(timeline: PromptTimeline, chunks: range) -> list[float]:
    return [timeline.at(chunk).weight for chunk in chunks]


CUES = st.dictionaries(st.integers(1, 30), st.integers(0, 9), max_size=5)
"""Start → chunks of the blend, for any valid timeline of up to six cues; blends overlap."""


def timeline_of(cues: dict[int, int]) -> PromptTimeline:
    return PromptTimeline((Cue(0, "prompt 0"), *(Cue(start, f"prompt {start}", cues[start]) for start in sorted(cues))))


def test_a_blend_of_three_chunks_begins_with_the_old_prompt_and_ends_with_the_new_one() -> None:
    assert [RED_THEN_BLUE.at(chunk) for chunk in (7, 8, 9)] == [
        PromptMix("red", "blue", 0.0),
        PromptMix("red", "blue", 0.5),
        PromptMix("red", "blue", 1.0),
    ]


@pytest.mark.parametrize(
    ("transition_chunks", "expected"),
    [(0, [1, 1, 1]), (1, [1, 1, 1]), (2, [0, 1, 1]), (3, [0, 0.5, 1]), (5, [0, 0.25, 0.5])],
)
def test_weights_of_a_blend_are_linspace_from_zero_to_one(transition_chunks: int, expected: list[float]) -> None:
    timeline = PromptTimeline((Cue(0, "red"), Cue(4, "blue", transition_chunks)))
    assert weights(timeline, range(4, 7)) == expected


def test_before_the_first_switch_the_first_prompt_is_alone() -> None:
    assert all(RED_THEN_BLUE.at(chunk) == PromptMix("red", "red", 1.0) for chunk in range(7))


@given(CUES, st.integers(60, 10**9))
def test_the_last_prompt_stays_for_ever(cues: dict[int, int], chunk: int) -> None:
    timeline = timeline_of(cues)
    mix = timeline.at(chunk)
    assert (mix.next, mix.weight) == (timeline.cues[-1].prompt, 1.0)


@given(CUES)
def test_the_next_prompt_is_always_that_of_the_last_cue_begun(cues: dict[int, int]) -> None:
    timeline = timeline_of(cues)
    for cue, following in pairwise(timeline.cues):
        assert all(timeline.at(chunk).next == cue.prompt for chunk in range(cue.chunk, following.chunk))


@given(CUES)
def test_a_blend_leaves_from_the_prompt_shown_most_in_the_chunk_before(cues: dict[int, int]) -> None:
    timeline = timeline_of(cues)
    for cue in timeline.cues[1:]:
        assert timeline.at(cue.chunk).previous == timeline.at(cue.chunk - 1).leading


@given(CUES)
def test_within_a_blend_the_weight_never_falls(cues: dict[int, int]) -> None:
    timeline = timeline_of(cues)
    for cue, following in pairwise(timeline.cues):
        rising = weights(timeline, range(cue.chunk, following.chunk))
        assert rising == sorted(rising)


def test_a_switch_inside_a_blend_leaves_from_the_old_prompt_while_it_still_leads() -> None:
    slow = PromptTimeline((Cue(0, "red"), Cue(10, "blue", 5)))
    assert slow.with_prompt(12, "green", 3).at(12) == PromptMix("red", "green", 0.0)  # chunk 11 was 3/4 red


def test_a_switch_inside_a_blend_leaves_from_the_new_prompt_once_it_leads() -> None:
    slow = PromptTimeline((Cue(0, "red"), Cue(10, "blue", 5)))
    assert slow.with_prompt(13, "green", 3).at(13) == PromptMix("blue", "green", 0.0)  # chunk 12 was half blue


def test_steering_changes_no_chunk_that_was_made_before() -> None:
    steered = RED_THEN_BLUE.with_prompt(8, "green", 3)
    assert [steered.at(chunk) for chunk in range(8)] == [RED_THEN_BLUE.at(chunk) for chunk in range(8)]


def test_steering_drops_later_cues() -> None:
    steered = RED_THEN_BLUE.with_prompt(5, "green")
    assert steered == PromptTimeline((Cue(0, "red"), Cue(5, "green")))


def test_a_second_prompt_for_the_same_chunk_replaces_the_first() -> None:
    steered = RED_THEN_BLUE.with_prompt(9, "green", 3).with_prompt(9, "white", 3)
    assert steered == RED_THEN_BLUE.with_prompt(9, "white", 3)


def test_at_chunk_0_there_is_nothing_to_blend_from() -> None:
    assert RED_THEN_BLUE.with_prompt(0, "green", 3) == PromptTimeline((Cue(0, "green"),))


def test_steering_in_every_chunk_for_hours_still_answers() -> None:
    cues = (Cue(0, "red"), *(Cue(chunk, f"prompt {chunk}", 3) for chunk in range(1, 2000)))
    assert PromptTimeline(cues).at(1999) == PromptMix("red", "prompt 1999", 0.0)


@pytest.mark.parametrize(
    ("cues", "hint"),
    [
        ((), "at least one prompt"),
        ((Cue(1, "red"),), "0:00"),
        ((Cue(0, "red", 2),), "nothing to blend from"),
        ((Cue(0, "red"), Cue(4, "blue"), Cue(4, "green")), "order of time"),
        ((Cue(0, "red"), Cue(4, "blue"), Cue(2, "green")), "order of time"),
    ],
)
def test_cues_that_make_no_timeline_are_refused_with_a_hint(cues: tuple[Cue, ...], hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        PromptTimeline(cues)


@pytest.mark.parametrize(
    ("chunk", "prompt", "transition_chunks"), [(-1, "red", 0), (0, " \t", 0), (0, "red", -1), (0, "\udc00", 0)]
)
def test_a_cue_with_an_impossible_value_is_refused(chunk: int, prompt: str, transition_chunks: int) -> None:
    with pytest.raises(UserError):
        Cue(chunk, prompt, transition_chunks)


def test_lines_are_read_with_times_chunks_blends_and_comments() -> None:
    text = "\ufeff# a story\r\n\r\n0:00 a red fish swims\r\n#todo: more\n#\n8s  +3   the fish turns blue\n"
    assert parse_timeline(text + "#30 +2 the sea is empty") == PromptTimeline(
        (Cue(0, "a red fish swims"), Cue(6, "the fish turns blue", 3), Cue(30, "the sea is empty", 2))
    )


def test_json_says_the_same_as_lines() -> None:
    items = [
        {"time": "0:00", "prompt": "a red fish"},
        {"time": 8.25, "prompt": "a blue fish", "transition_chunks": 3},
        {"chunk": 30, "prompt": "the sea"},
    ]
    lines = "0:00 a red fish\n8.25s +3 a blue fish\n#30 the sea"
    assert parse_timeline(json.dumps(items)) == parse_timeline(lines)


@pytest.mark.parametrize(
    ("start", "chunk"),
    [("0:08", 6), ("0:08.5", 6), ("8s", 6), ("1:06", 48), ("1:00:00", 2618), ("66.0s", 48), ("#48", 48), ("0:02", 1)],
)
def test_a_time_means_the_chunk_whose_start_is_nearest(start: str, chunk: int) -> None:
    assert parse_timeline(f"0:00 red\n{start} blue").cues[1].chunk == chunk


@given(st.integers(1, 60_000))
def test_the_start_of_a_chunk_in_seconds_means_that_chunk(chunk: int) -> None:
    assert parse_timeline(f"#0 red\n{chunk * CHUNK_SECONDS}s blue").cues[1].chunk == chunk


def test_a_prompt_may_hold_signs_of_the_format() -> None:
    cues = parse_timeline("0:00 at 0:08 the #1 fish +3 says # hello\n#9 +3x is a prompt").cues
    assert [cue.prompt for cue in cues] == ["at 0:08 the #1 fish +3 says # hello", "+3x is a prompt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:00 red\n\nthe fish turns blue", "line 3: 'the' is no time"),
        ("0:00 red\n-0:08 blue", "line 2: '-0:08' is no time"),
        ("0:00 red\n0:75 blue", "line 2: '0:75' is no time"),
        ("0:00 red\n0:08", "line 2: there is no prompt"),
        ("0:00 red\n0:08 +3", "line 2: there is no prompt"),
        ("0:00 red\n0:08 blue\n0:04 green", "line 3: this prompt starts at chunk 3, the one before it at chunk 6"),
        ("0:00 red\n0:08 blue\n0:08.2 green", "line 3: .*1.375 seconds.* apart"),
        ("# nothing yet\n0:08 red", "line 2: the first prompt starts at chunk 6; start it at 0:00"),
        ("0:00 +3 red", "line 1: the first prompt has nothing to blend from"),
        ("0:00 red\n9999:00 blue", "line 2: the time .* out of range"),
        ("0:00 red\n#99999999999 blue", "line 2: .* too large"),
        ("0:00 red\n0:08 +99999999999 blue", "line 2: .* too large"),
        ("0:00 red\n0:08 bl\ud800ue", "line 2: .* half a surrogate pair"),
        ("", "the timeline is empty"),
        ("# only a comment\n", "the timeline is empty"),
        ("[", "line 1 is not JSON"),
        ("[\n{,}]", "line 2 is not JSON"),
        ("[" * 100_000, "cannot be read"),
        ('[{"chunk": ' + "9" * 5000 + "}]", "cannot be read"),
        ('{"prompt": "red"}', "no list"),
        ("[]", "the timeline is empty"),
        ('["red"]', "cue 1: this is no object"),
        ('[{"time": 0, "prompt": "red", "blend": 3}]', "cue 1: 'blend' is not known"),
        ('[{"prompt": "red"}]', 'cue 1: give either "time"'),
        ('[{"time": 0, "chunk": 0, "prompt": "red"}]', 'cue 1: give either "time"'),
        ('[{"time": 0}]', "cue 1: the prompt is empty"),
        ('[{"time": 0, "prompt": 5}]', "cue 1: a prompt must be text, not int"),
        ('[{"time": 0, "prompt": "\\ud800"}]', "cue 1: .* half a surrogate pair"),
        ('[{"time": true, "prompt": "red"}]', "cue 1: 'True' is no time"),
        ('[{"time": NaN, "prompt": "red"}]', "cue 1: .* out of range"),
        ('[{"time": 1e300, "prompt": "red"}]', "cue 1: .* out of range"),
        ('[{"time": ' + "9" * 400 + ', "prompt": "red"}]', "cue 1: .* out of range"),
        ('[{"chunk": 0.5, "prompt": "red"}]', "cue 1: chunk='0.5' is not a whole number"),
        ('[{"chunk": -1, "prompt": "red"}]', "cue 1: chunk=-1 is before the video"),
        ('[{"chunk": 0, "prompt": "red"}, {"chunk": 0, "prompt": "blue"}]', "cue 2: .* order of time"),
    ],
)
def test_a_wrong_timeline_is_refused_with_its_place_on_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_timeline(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.text(alphabet='#0123:+.s []{}",eabt\n\ud800', max_size=40).map("0:00 red\n".__add__) | st.text(max_size=20))
def test_any_text_is_a_timeline_or_a_users_mistake(text: str) -> None:
    try:
        assert parse_timeline(text).cues
    except UserError as error:
        assert str(error)


def test_a_file_is_read_as_utf8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes("\ufeff0:00 ein grüner Fisch".encode())
    assert read_timeline(path) == PromptTimeline((Cue(0, "ein grüner Fisch"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0:00 red\n0:08 gr\xfcn", "line 2 is not UTF-8"),
        (b"#" * (MAX_TIMELINE_BYTES + 1), "larger than"),
        (b"0:00 red\nblue", "story.txt: line 2: "),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_timeline(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_timeline(path)
