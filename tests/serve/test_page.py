"""The page in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from heliograph.serve.settings import Limits
from heliograph.shapes import CHUNK_FRAMES, FPS
from tests.serve.browser import Page
from tests.serve.harness import HTTP, Running, running
from tests.serve.test_videos import frames_of, png
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("studio"), limits=Limits(min_free_bytes=1, max_live=50, max_live_per_client=50)
    ) as s:
        yield s


@pytest.fixture
def page(server: Running, browser: Chrome) -> Iterator[Page]:
    browser.get("about:blank")
    browser.get_log("browser")
    yield Page(browser, server.url)
    browser.get("about:blank")


def test_pressing_play_shows_a_picture_that_moves_on(page: Page) -> None:
    page.play()
    start = page.time()
    wait_for(lambda: page.time() > start + 2 and len(page.cards()) >= 4)
    size = page.run("const v = document.getElementById('video'); return [v.videoWidth, v.videoHeight, v.error]")
    assert size == [64, 64, None]
    wait_for(lambda: page.text("caption") == "a red fish" and page.text("f-first").endswith("s"))
    assert page.run("return document.querySelector('.chunk img').naturalWidth") > 0
    assert page.complaints() == []


def test_a_new_prompt_shows_on_the_timeline_and_in_the_picture(page: Page) -> None:
    page.play()
    page.run("document.getElementById('blend').value = '0'")
    page.write("a blue whale")
    page.get("prompt").send_keys(Keys.ENTER)
    wait_for(lambda: "It changes at" in page.toasts())
    wait_for(lambda: any("a blue whale" in name for name in page.names()))
    wait_for(lambda: page.text("caption") == "a blue whale")
    turns = page.run("return [...document.querySelectorAll('.chunk.turn .says')].map(s => s.textContent)")
    assert turns == ["a red fish", "a blue whale"]


def test_a_click_on_the_timeline_goes_back_and_leaves_a_branch(page: Page, server: Running) -> None:
    page.play()
    wait_for(lambda: len(page.cards()) >= 4)
    page.cards()[1].click()
    page.get("rewind").click()
    wait_for(lambda: page.browser.find_elements(By.CSS_SELECTOR, "#branches button"))
    rows = server.studio.store.chunks(page.session())
    wait_for(lambda: sum(chunk.place == 2 for chunk in server.studio.store.chunks(page.session())) == 2)
    start = page.time()
    wait_for(lambda: page.time() > start + 1)
    assert rows and len(page.cards()) >= 2


def test_a_branch_becomes_a_session_of_its_own(page: Page) -> None:
    page.play()
    wait_for(lambda: len(page.cards()) >= 3)
    before = page.session()
    page.cards()[0].click()
    page.get("fork").click()
    wait_for(lambda: page.session() != before and page.time() > 0)
    assert HTTP.get(f"{page.run('return location.origin')}/v1/live/{page.session()}").json()["forked_from"] == before


def test_the_keyboard_pauses_and_goes_on(page: Page, server: Running) -> None:
    page.play()
    body = page.browser.find_element(By.TAG_NAME, "body")
    page.run("document.activeElement.blur()")
    body.send_keys(" ")
    wait_for(lambda: page.text("status") == "Paused" and page.run("return document.getElementById('video').paused"))
    made = len(server.studio.store.chunks(page.session()))
    body.send_keys(" ")
    wait_for(lambda: len(server.studio.store.chunks(page.session())) > made + 1)
    # Back is to before what is being watched: on a busy machine that may still be the first chunk.
    wait_for(lambda: page.run("return document.getElementById('video').currentTime") > 2 * CHUNK_FRAMES / FPS)
    body.send_keys(Keys.ARROW_LEFT)
    wait_for(lambda: page.browser.find_elements(By.CSS_SELECTOR, "#branches button"))
    page.cards()[0].click()
    assert page.get("pick").is_displayed()
    page.run("document.activeElement.blur()")
    body.send_keys(Keys.ESCAPE)
    assert not page.get("pick").is_displayed()


def test_a_dropped_picture_is_where_the_next_session_starts(page: Page, server: Running, tmp_path: Path) -> None:
    page.run(
        """
        const bytes = Uint8Array.from(arguments[0]), files = new DataTransfer();
        files.items.add(new File([bytes], "boat.png", {type: "image/png"}));
        const drop = new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true});
        document.getElementById("stage").dispatchEvent(drop);
        """,
        list(png()),
    )
    assert "boat.png" in page.text("dropzone")
    page.play("the boat sails on")
    record = server.studio.store.session(page.session())
    assert record is not None and record.plan.order.start == "image"


def test_mistakes_are_told_in_words(page: Page, server: Running, tmp_path: Path) -> None:
    damaged = tmp_path / "broken.png"
    damaged.write_bytes(png()[:60])
    page.get("file").send_keys(str(damaged))
    page.get("go").click()
    wait_for(lambda: "damaged" in page.toasts())
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    page.get("file").send_keys(str(notes))
    assert "neither a picture nor a clip" in page.toasts()
    page.get("unfile").click()
    page.play()
    HTTP.delete(f"{server.url}/v1/live/{page.session()}")
    wait_for(lambda: "stopped" in page.toasts())
    assert page.get("welcome").is_displayed()


def test_settings_reach_the_session_and_stay_as_they_were_started(page: Page, server: Running) -> None:
    page.run(
        """
        for (const [id, value] of Object.entries(arguments[0])) document.getElementById(id).value = value;
        document.querySelector('[name=speed][value=fine]').click();
        """,
        {"motion": "0.8", "seed": "7", "negative": "rain", "guidance": "3", "size": "128x128"},
    )
    page.play()
    record = server.studio.store.session(page.session())
    assert record is not None
    order = record.plan.order
    assert (order.motion, order.seed, order.negative_prompt, order.guidance_scale) == (0.8, 7, "rain", 3.0)
    assert (order.size, order.steps) == ("128x128", (4, 4, 4))
    assert page.get("at-start").is_displayed() and not page.get("motion").is_enabled()
    production = server.studio.lives.running(page.session())
    assert production is not None
    page.run(
        "const s = document.getElementById('guidance'); s.value = 5; s.dispatchEvent(new Event('change'));"
        "const p = document.getElementById('pace'); p.value = 1.5; p.dispatchEvent(new Event('change'))"
    )
    wait_for(lambda: production.said.guidance_scale == 5 and production.record.plan.pace == 1.5)
    page.get("new").click()
    assert page.get("motion").is_enabled()


def test_what_is_recorded_and_what_is_downloaded_are_videos(page: Page) -> None:
    page.play()
    page.run(
        "const make = URL.createObjectURL; URL.createObjectURL = (it) => { window.kept = it; return make(it); };"
        "HTMLAnchorElement.prototype.click = () => {};"
    )
    page.get("record").click()
    seen = len(page.cards())
    wait_for(lambda: len(page.cards()) >= seen + 3)
    page.get("record").click()
    recorded = page.browser.execute_async_script(
        "window.kept.arrayBuffer().then((data) => arguments[0]([...new Uint8Array(data)]))"
    )
    assert len(frames_of(bytes(recorded))) in range(33, 33 * 20, 33)
    address = page.get("download").get_attribute("href")
    assert address and len(frames_of(HTTP.get(address).content)) >= 33 * 3


def test_drift_since_the_start_is_drawn(page: Page) -> None:
    page.play()
    wait_for(lambda: len(page.cards()) >= 3)
    colours = page.run(
        "const c = document.getElementById('plot'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const seen = new Set(); for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255)"
        " seen.add(`${d[i]},${d[i + 1]},${d[i + 2]}`); return seen.size"
    )
    assert colours >= 4, "an axis and three lines"


def test_a_saved_session_is_opened_again_from_the_library(page: Page) -> None:
    page.play()
    before = page.session()
    page.get("save").click()
    page.get("question-field").clear()
    page.get("question-field").send_keys("my fish" + Keys.ENTER)
    wait_for(lambda: "Saved" in page.text("save"))
    page.get("new").click()
    assert not page.session() and page.get("welcome").is_displayed()
    page.get("tab-library").click()
    wait_for(lambda: "my fish" in page.text("sessions"))
    tile = next(t for t in page.browser.find_elements(By.CSS_SELECTOR, "#sessions .tile") if "my fish" in t.text)
    tile.find_element(By.XPATH, ".//button[text()='Open']").click()
    wait_for(lambda: page.session() == before and page.time() > 0 and len(page.cards()) >= 2)


def test_two_tabs_watch_one_session(page: Page, server: Running) -> None:
    page.play()
    first = page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    page.browser.get(f"{server.url}/#{page.run('return location.hash') or ''}")
    page.browser.switch_to.window(first)
    address = page.run("return location.href")
    page.browser.switch_to.window(page.browser.window_handles[-1])
    page.browser.get("about:blank")
    page.browser.get(address)
    wait_for(lambda: page.time() > 0 and len(page.cards()) >= 2)
    name = page.session()
    production = server.studio.lives.running(name)
    assert production is not None and len(production.channel.viewers) == 2
    page.browser.close()
    page.browser.switch_to.window(first)
    start = page.time()
    wait_for(lambda: page.time() > start + 0.5)


def test_the_library_makes_plays_and_deletes_videos(page: Page) -> None:
    page.get("tab-library").click()
    page.get("order-prompt").send_keys("a yellow bird" + Keys.ENTER)
    wait_for(lambda: "4 s" in page.text("videos"))
    page.browser.find_element(By.CSS_SELECTOR, "#videos .tile > button").click()
    wait_for(lambda: page.run("return document.getElementById('cinema-video').currentTime") > 0)
    page.get("cinema-close").click()
    buttons = page.browser.find_elements(By.CSS_SELECTOR, "#videos .tile:first-child .do button")
    next(button for button in buttons if button.text == "Delete").click()
    wait_for(lambda: "a yellow bird" not in page.text("videos"))
    assert page.complaints() == []


def test_it_fits_a_phone_and_both_themes_differ(page: Page) -> None:
    page.play()
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        page.get("tab-library").click()
        assert page.run("return document.documentElement.scrollWidth") == 390
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.get("tab-live").click()
    before = page.run("return getComputedStyle(document.body).backgroundColor")
    page.get("theme").click()
    assert page.run("return getComputedStyle(document.body).backgroundColor") != before


def test_with_a_key_the_page_asks_for_it(browser: Chrome, tmp_path: Path) -> None:
    with running(tmp_path, api_key="open sesame") as live:
        browser.get(live.url)
        field = browser.find_element(By.NAME, "key")
        field.send_keys("wrong" + Keys.ENTER)
        wait_for(lambda: "not right" in browser.page_source)
        browser.find_element(By.NAME, "key").send_keys("open sesame" + Keys.ENTER)
        wait_for(lambda: browser.find_elements(By.ID, "prompt"))
        Page(browser, live.url).play()
        browser.get("about:blank")
