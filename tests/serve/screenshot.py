"""The README's picture of the page, with the embedded model: `python -m tests.serve.screenshot docs/studio.png`."""

import sys
import tempfile
import time
from pathlib import Path

from heliograph.serve.helios import load_maker
from tests.serve.browser import Page, chromium
from tests.serve.harness import running
from tests.waiting import wait_for

PROMPTS = (
    "a big orange balloon floats over a desert by day",
    "a big pink balloon floats over a desert by day",
    "a big pink balloon floats over snowy mountains at sunset",
)
PLAYED = 3
"""Chunks that each prompt is shown for."""


def main(target: Path) -> None:
    """Play, change the prompt twice, pick a chunk, and take the picture."""
    maker = load_maker("tiny", "cpu", "auto")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), maker) as live, chromium() as browser:
        browser.set_window_size(1440, 1250)
        page = Page(browser, live.url)
        if page.run("return document.documentElement.dataset.theme") != "dark":
            page.get("theme").click()
        page.run("document.getElementById('blend').value = '0'")
        page.play(PROMPTS[0], pace=1)
        for number, prompt in enumerate(PROMPTS[1:], 1):
            wait_for(lambda number=number: len(page.cards()) >= PLAYED * number)
            page.write(prompt)
            page.get("go").click()
        wait_for(lambda: len(page.cards()) >= 3 * PLAYED and page.text("caption") == PROMPTS[-1])
        page.cards()[1].click()
        page.run("document.getElementById('toasts').replaceChildren(); document.activeElement.blur()")
        time.sleep(1.5)
        browser.save_screenshot(str(target))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
