"""The page in a browser on the same machine: how soon it shows a picture, whether it stalls, how fast it obeys."""

import statistics
import time
from typing import Any

from server import OTHER, PROMPT, Server
from tests.serve.browser import Page, chromium
from tests.serve.harness import wait_for

NUM_PRESSES = 5
CHANGES_AT = (30.0, 75.0, 120.0)
"""Seconds of play after which the prompt is changed."""

PRESS = """
    const video = document.getElementById('video');
    window.first = null;
    const began = performance.now();
    video.requestVideoFrameCallback(() => { window.first = (performance.now() - began) / 1000; });
    document.getElementById('go').click();
"""
WATCH = """
    const video = document.getElementById('video');
    window.seen = { waiting: 0, seeking: 0, held: 0, longest: 0, began: performance.now(), at: video.currentTime };
    let time = video.currentTime, since = performance.now();
    setInterval(() => {
        const now = performance.now();
        if (video.currentTime !== time) {
            const still = (now - since) / 1000;
            if (still > 0.15) window.seen.held += 1;
            window.seen.longest = Math.max(window.seen.longest, still);
            time = video.currentTime; since = now;
        }
    }, 20);
    for (const name of ['waiting', 'seeking']) video.addEventListener(name, () => { window.seen[name] += 1; });
"""
SEEN = """
    const video = document.getElementById('video'), seen = window.seen, quality = video.getVideoPlaybackQuality();
    return { seconds: (performance.now() - seen.began) / 1000, played: video.currentTime - seen.at,
             waiting: seen.waiting, seeking: seen.seeking, held: seen.held, longest: seen.longest,
             shown: quality.totalVideoFrames, dropped: quality.droppedVideoFrames };
"""
CHANGE = "document.getElementById('prompt').value = arguments[0]; document.getElementById('go').click();"
PLAYING = "return Math.floor(document.getElementById('video').currentTime / (33 / 24) + 0.01);"


def measure_page(server: Server, seconds: float) -> dict[str, Any]:
    """First pictures, then one session of so many seconds whose prompt is changed three times."""
    with chromium() as browser:
        page = Page(browser, server.url)
        page.run("document.getElementById('blend').value = '0'")
        firsts = [_first_picture(page) for _ in range(NUM_PRESSES)]
        page.run(WATCH)
        changes = _play(page, server, seconds)
        seen = page.run(SEEN)
    return {
        "first_picture_seconds": firsts,
        "first_picture_seconds_median": statistics.median(firsts),
        "play": {name: round(value, 3) for name, value in seen.items()},
        "stalled_seconds": round(max(0.0, seen["seconds"] - seen["played"]), 3),
        "changes": changes,
    }


def _first_picture(page: Page) -> float:
    """Seconds from the press of the button to the first frame on the screen."""
    if page.session():
        page.get("new").click()
        time.sleep(1.0)
    page.write(PROMPT)
    page.run(PRESS)
    return round(wait_for(lambda: page.run("return window.first")), 3)


def _play(page: Page, server: Server, seconds: float) -> list[dict[str, Any]]:
    """Watch, and change the prompt in between; how many chunks after the one that played the new picture begins."""
    changes, prompts = [], [OTHER, PROMPT, OTHER]
    began = time.monotonic()
    for at, prompt in zip(CHANGES_AT, prompts, strict=True):
        if at + 10 > seconds:
            break
        time.sleep(max(0.0, began + at - time.monotonic()))
        plays, pressed = page.run(PLAYING), time.monotonic()
        page.run(CHANGE, prompt)
        wait_for(lambda prompt=prompt: page.text("caption") == prompt)
        shown = {"chunks": page.run(PLAYING) - plays, "seconds": round(time.monotonic() - pressed, 2)}
        changes.append(shown | _brightness(server, page.session(), prompt))
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return changes


def _brightness(server: Server, session: str, prompt: str) -> dict[str, float]:
    """Of the last chunk before the change and the first one after it: the picture itself has changed."""
    rows = server.http.get(f"/v1/live/{session}/chunks?limit=1000").json()["data"]
    first = max(
        place for place, row in enumerate(rows) if row["prompt"] == prompt and rows[place - 1]["prompt"] != prompt
    )
    return {"luma_before": rows[first - 1]["figures"]["luma"], "luma_after": rows[first]["figures"]["luma"]}
