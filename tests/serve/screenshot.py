"""The picture of the page for the README: `python -m tests.serve.screenshot docs/studio.png [MODEL]`.

Without a model, clips of the procedural world that the embedded model learns from stand in for what it makes.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heliograph.data.diorama import caption, sample_record
from heliograph.data.diorama.render import render
from heliograph.shapes import CHUNK_FRAMES
from tests.serve.browser import Page, chromium
from tests.serve.fakes import FakeMaker
from tests.serve.harness import running, wait_for

RECORDS = {caption(record, 0): record for record in (sample_record(seed, "train") for seed in (4, 23, 8))}


class WorldMaker(FakeMaker):
    """Shows the clip that a caption belongs to."""

    name = "tiny"
    size = (64, 128)

    def __init__(self) -> None:
        super().__init__()
        self.clips: dict[tuple[int, int], np.ndarray] = {}
        for number, record in enumerate(RECORDS.values()):  # drawing takes longer than playing
            for place in range(3 * number, 3 * number + 4):
                self.clip(record, place)

    def clip(self, record: Any, place: int) -> np.ndarray:
        """A chunk of the world, drawn once."""
        key = id(record), place
        if key not in self.clips:
            frames = render([record], [CHUNK_FRAMES * place], CHUNK_FRAMES, *self.size, torch.device("cpu")).frames[0]
            self.clips[key] = frames.permute(0, 2, 3, 1).contiguous().numpy()
        return self.clips[key]

    def make(self, reels: Any) -> Any:
        """The caption's next chunk."""
        frames = []
        for reel, _painted in zip(reels, super().make(reels), strict=True):
            record = RECORDS.get(reel.prompts[-1], next(iter(RECORDS.values())))
            frames.append(self.clip(record, reel.num_chunks - 1))
        return frames


def main(target: Path, model: str | None) -> None:
    """Play, change the prompt, go back, change it again, and take the picture."""
    maker: Any = WorldMaker()
    if model is not None:
        from heliograph.serve.helios import load_maker

        maker = load_maker(model, "cpu", "auto")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), maker) as live, chromium() as browser:
        browser.set_window_size(1440, 1130)
        page = Page(browser, live.url)
        if page.run("return document.documentElement.dataset.theme") != "dark":
            page.get("theme").click()
        page.run("document.getElementById('blend').value = '0'")
        first, second, third = RECORDS
        page.play(first, pace=1)
        for num, prompt in ((3, second), (6, third)):
            wait_for(lambda num=num: len(page.cards()) >= num, 60)
            page.write(prompt)
            page.get("go").click()
        wait_for(lambda: len(page.cards()) >= 10, 60)
        page.cards()[7].click()
        page.run("document.getElementById('toasts').replaceChildren(); document.activeElement.blur()")
        time.sleep(1.5)
        browser.save_screenshot(str(target))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
