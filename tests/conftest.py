"""What the whole suite shares."""

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from heliograph.cli import main
from heliograph.tiny import write_random_fast, write_random_tiny

# Examples are the same in every run, and none is timed: a busy machine is no failure.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.load_profile("suite")

# A suite that was started in the background ignores Ctrl-C, and so would every program that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model of the distilled variant. Do not write into it: copy it first."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_random_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def fast_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model with this package's own autoencoder, which decodes much faster; diffusers cannot load it."""
    folder = tmp_path_factory.mktemp("models") / "fast"
    write_random_fast(folder)
    return folder


@pytest.fixture(scope="session")
def model(fast_folder: Path) -> tuple[str, str]:
    """The option that names the random tiny model."""
    return "--model", str(fast_folder)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command line in `tmp_path` and give the one line that a mistake is answered with.

    In this process, which has loaded its libraries already; nothing new may be left in the folder.
    """

    def answer(*arguments: str) -> str:
        before = sorted(tmp_path.iterdir())
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["heliograph", *arguments])
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner keeps its own
        with pytest.raises(SystemExit) as leave:
            main()
        message = capfd.readouterr().err
        assert leave.value.code == 2, message
        assert len(message.strip().splitlines()) == 1, message
        assert sorted(tmp_path.iterdir()) == before
        return message

    return answer


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """What a test draws without a seed of its own is the same in any order of tests."""
    torch.manual_seed(0)
