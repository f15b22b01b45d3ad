"""Arms: the same videos for each, and a table that says what differs and nothing more."""

import pytest

from heliograph.embedded.arms import ArmPlan, measure_arm
from heliograph.embedded.endurance import KEPT, METRICS
from heliograph.embedded.evidence_arms import DISTILLATION, DRIFTS, MEMORY, SHARES, sections, verdict
from heliograph.pipeline import HeliosPipeline

DRIFTING = [1.0, 2.0, 1.5, 0.5, 1.2, 0.8, 1.1, 0.9]


def arm(more: float = 0.0) -> dict:
    """Stored figures of an arm whose drifts are all larger by `more`; the first subject is lost at the end."""
    count = len(DRIFTING)
    kept = {name: [[True, name != "kind" or i > 0] for i in range(count)] for name in KEPT}
    return {
        "steps": [6, 6, 6],
        "guidance_scale": 2.5,
        "trained_steps": 500,
        "num_chunks": 87,
        "metrics": {name: [value + more for value in DRIFTING] for name in METRICS},
        "kept": kept,
        "shares": dict.fromkeys(SHARES, 0.75),
        "counts": dict.fromkeys(SHARES, 40),
        "seconds_per_chunk": 0.2,
    }


def test_an_arm_that_drifts_more_is_told_from_one_that_does_not():
    whole, worse = arm(), arm(0.5)
    assert verdict(whole, arm()).startswith("no drift's interval")
    told = verdict(whole, worse)
    assert all(f"{name} +0.5" in told for name in DRIFTS)
    assert told.endswith("least p after Holm 0.047")  # 6 metrics, 8 pairs: 6 · 2 / 2⁸


def test_shares_are_told_apart_where_their_intervals_have_nothing_in_common():
    whole = arm()
    for count, said in ((16, "; shares whose intervals lie apart: count 75 to 40 %"), (20, "")):
        other = whole | {"shares": whole["shares"] | {"count": count / 40}}
        assert verdict(whole, other).endswith(f"least p after Holm 1{said}")


def test_the_sections_show_every_arm_that_was_measured_and_no_other():
    arms = {MEMORY.whole: arm(), "arm-no-anchor": arm(0.5), "arm-no-pyramid": arm() | {"steps": [18]}}
    lines = "\n".join(sections(arms))
    assert "no pyramid 18 steps" in lines and "| no anchor | 1.62: +0.5 [0.5, 0.5], p 0.0078 |" in lines
    assert "| whole | 0.20 | 8 of 8, 7 of 8 | 75 % [60, 86]" in lines
    assert "positions" not in lines and "stage 3" not in lines


def test_ideas_of_stage_3_are_a_section_of_their_own():
    arms = {DISTILLATION.whole: arm(), "distil-no-ode": arm(0.5)}
    lines = sections({MEMORY.whole: arm()} | arms)
    heads = [line.partition("\n")[0] for line in lines if line.startswith("## ")]
    assert heads == [f"## {MEMORY.title}", f"## {DISTILLATION.title}"]
    assert any(line.startswith(f"| {DISTILLATION.claims['distil-no-ode']} | interval without zero") for line in lines)
    assert sections(arms) == lines[len(sections({MEMORY.whole: arm()})) :]


@pytest.fixture(scope="module")
def pipeline() -> HeliosPipeline:
    return HeliosPipeline.from_pretrained("tiny")


def test_figures_depend_on_the_plan_alone(pipeline):
    plan = ArmPlan((1, 1, 1), 1.0, 500, num_videos=2, num_chunks=2, num_prompts=1)
    first, again = (measure_arm(pipeline, plan, lambda line: None) for _ in range(2))
    assert {name: len(values) for name, values in first["metrics"].items()} == dict.fromkeys(METRICS, 2)
    assert set(first["kept"]) == set(KEPT) and first["steps"] == [1, 1, 1]
    assert first.pop("seconds_per_chunk") > 0 < again.pop("seconds_per_chunk")
    measured, repeated = first.pop("metrics"), again.pop("metrics")
    assert first == again
    for name in METRICS:
        assert measured[name] == pytest.approx(repeated[name], rel=1e-6, nan_ok=True)
