"""OpenAI's package in its old and its current version: 2.3.0 of the test environment, and the one beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.harness import Running, running
from tests.serve.test_videos import clip

ROOT = Path(__file__).parents[2]
CURRENT = Path(sys.prefix) / "openai-current"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("studio")) as live:
        yield live


@pytest.mark.parametrize("version", ["2.3.0", "current"])
def test_everything_that_the_client_can_ask_for_videos_succeeds(server: Running, tmp_path: Path, version: str) -> None:
    environment = dict(os.environ)
    if version == "current":
        if not CURRENT.exists():
            pytest.skip("the current client is not installed; make test does it")
        version = (Path(__file__).with_name("openai-current.txt")).read_text().split("==")[1].strip()
        environment["PYTHONPATH"] = os.pathsep.join([str(CURRENT), environment.get("PYTHONPATH", "")])
    command = (sys.executable, "-m", "tests.serve.client_calls", server.url, str(clip(tmp_path / "clip.mp4", 40)))
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["version"] == version
    made = answer["made"]
    assert (made["status"], made["seconds"], made["size"], made["object"]) == ("completed", "4", "64x64", "video")
    lengths = {"started": "1", "remix": "4"}
    if version[0] != "2":
        lengths |= {"edit": "1.667", "extend": "5.667", "extend own": "12"}
    assert {name: answer[name]["seconds"] for name in lengths} == lengths
    assert all(answer[name]["status"] == "completed" for name in lengths)
    assert answer["remix"]["remixed_from_video_id"] == made["id"]
    assert all(size > 60 for size in answer["bytes"].values())
    count, distinct, is_there = answer["listed"]
    assert count == distinct >= len(lengths) + 1 and is_there
    assert answer["deleted"] is True and answer["gone"] == ["NotFoundError", "not_found", None]
    assert answer["size"][0] == "BadRequestError" and answer["size"][2] == "size"
