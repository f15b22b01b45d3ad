"""The section of evidence from the evaluation: it says what the tests say, no more."""

from heliograph.embedded.evidence_quality import NAMES, PROPERTIES, section, verdict


def score(mean: float, half: float = 0.1) -> dict:
    return {"mean": mean, "low": mean - half, "high": mean + half, "num": 40}


def results(**changed: tuple[float, float]) -> dict:
    """Every metric alike in all folders, but those given by (difference, p)."""
    names = [f"{name} {kind}" for kind in ("seam", "drift") for name in (*PROPERTIES, "picture")]
    names = [name for name in names if name != "picture drift"] + ["sharpness", "prompt following"]
    given = {name.replace("_", " "): values for name, values in changed.items()}
    tests = [
        {"metric": name, "folder": "matched", "difference": score(given.get(name, (0.0, 1))[0]), "p": 0.5}
        | {"p_together": given.get(name, (0.0, 1.0))[1]}
        for name in names
    ]
    folder = {"scores": {name: score(2.0) for name in names}, "frechet_distance": None, "made": None}
    distance = {"value": 3.0, "floor": 1.0, "floor_high": 1.25, "num_videos": 40}
    return {
        "facts": {"commit": "abc"},
        "plan": {"num_prompts": 40, "num_chunks": 4},
        "folders": {name: folder | {"frechet_distance": distance} for name in NAMES},
        "comparison": tests,
    }


def test_the_verdict_counts_what_is_beyond_doubt_either_way() -> None:
    good = verdict(results(brightness_seam=(-3.0, 0.01), picture_seam=(-1.0, 0.04), warmth_seam=(-1.0, 0.2)))
    assert "lowers 2 of 8 seam scores" in good and "warmth" not in good
    assert "raises none" in good and "p < 0.05: none" in good and "does not fall" in good
    bad = verdict(results(contrast_drift=(0.2, 0.001), sharpness=(-1.0, 0.01), noise_seam=(1.0, 0.01)))
    assert "lowers 0 of 8 seam scores at p < 0.05 (none) and raises noise seam" in bad
    assert "p < 0.05: contrast drift" in bad and "sharpness falls" in bad


def test_the_section_has_every_figure_with_its_interval() -> None:
    text = section(results(brightness_seam=(-3.0, 0.01)))
    assert "| brightness seam | 2 [1.9, 2.1] (40) | 2 [1.9, 2.1] (40) | -3 [-3.1, -2.9] | 0.01 |" in text
    assert "| plain | 3 | 1 | 1.25 |" in text and "40 held-out prompts, 4 chunks" in text
    assert "| identity | – | – |" in text  # what is not there is not made up
