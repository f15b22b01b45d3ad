"""Training within a given time: as many steps as fit, and no figures that are not there yet."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def within() -> ModuleType:
    spec = importlib.util.spec_from_file_location("within", Path(__file__).parents[2] / "runs" / "within.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_steps_and_coming_back_fit_into_what_is_left(within: ModuleType) -> None:
    seen = [(5, 20.0), (10, 24.0), (30, 34.0), (60, 49.0)]  # 20 s until the first figures, then 2 steps a second
    assert within.pace(seen) == pytest.approx(2.0)
    steps = within.steps_that_fit(seen, 320.0)
    assert steps == int(0.92 * 300 * 2)
    assert 20 + steps / 2 <= 320
    assert within.steps_that_fit(seen, 5.0) == within.LOG_EVERY, "too late for any: one line of figures all the same"


def test_a_line_that_is_being_written_does_not_count(within: ModuleType, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert within.last_step(metrics) == 0
    metrics.write_text('{"step": 5}\n{"step": 10}\n{"st')
    assert within.last_step(metrics) == 10


@pytest.mark.parametrize("given", [["400"], ["400", "embedded-even"], ["soon", "embedded-even", "--output", "run"]])
def test_what_cannot_be_run_is_told_at_once_and_how_it_is_called(
    within: ModuleType, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["within.py", *given])
    with pytest.raises(SystemExit, match="SECONDS PRESET --data DATA --output RUN"):
        within.main()
