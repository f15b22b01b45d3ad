"""The mix: mostly one large subject, every value now and then, nothing held out; captions that are sometimes empty."""

from collections import Counter

from heliograph.data.diorama.record import is_heldout
from heliograph.embedded.mix import WEIGHTS, is_bright_crossing, mixed_caption, mixed_record, teaching_prompts

RECORDS = [mixed_record(seed) for seed in range(1500)]


def test_records_are_the_same_for_the_same_number():
    assert RECORDS[:20] == [mixed_record(seed) for seed in range(20)]


def test_nothing_held_out_is_trained_on_and_only_that_is_tested():
    assert not any(is_heldout(r.scene, r.kind, r.colour) for r in RECORDS)
    assert all(is_heldout(r.scene, r.kind, r.colour) for r in (mixed_record(seed, "heldout") for seed in range(50)))


def test_every_value_occurs_and_one_large_subject_is_usual():
    for attribute, weights in WEIGHTS.items():
        assert {getattr(record, attribute) for record in RECORDS} == set(weights)
    assert Counter(record.count for record in RECORDS)[1] > 0.7 * len(RECORDS)
    assert Counter(record.size for record in RECORDS)["small"] < 0.1 * len(RECORDS)


def test_captions_differ_between_visits_and_some_are_empty():
    texts = [mixed_caption(RECORDS[0], visit) for visit in range(400)]
    assert 0.04 < texts.count("") / 400 < 0.13
    assert len(set(texts)) > 100


def test_teaching_prompts_are_all_different_and_more_of_them_begin_alike():
    prompts = teaching_prompts(60)
    assert len(set(prompts)) == 60 and all(prompts)
    assert teaching_prompts(20) == prompts[:20]


def test_bright_crossings_go_either_way_in_every_scene_and_are_all_bright_on_dark():
    some = [record for record in map(mixed_record, range(6000)) if is_bright_crossing(record)]
    assert len(some) > 200
    assert {(r.scene, r.motion) for r in some} == {(r.scene, m) for r in some for m in ("left", "right")}
    assert {r.time for r in some} == {"night"} and {r.count for r in some} == {1}
