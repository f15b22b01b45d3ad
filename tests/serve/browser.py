"""Headless Chromium, and the page in it as a person uses it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.waiting import wait_for

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1440,1000",
    "--force-color-profile=srgb",
)


@contextmanager
def chromium(theme: str = "dark") -> Iterator[webdriver.Chrome]:
    """A browser; the test is skipped where there is none."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    if theme == "dark":
        options.add_argument("--force-dark-mode")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


class Page:
    """The page as a person uses it."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)
        wait_for(lambda: "x" in self.text("model"))

    def run(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def get(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.get(name).text

    def write(self, text: str) -> None:
        self.get("prompt").clear()
        self.get("prompt").send_keys(text)

    def play(self, prompt: str = "a red fish", pace: float = 2) -> None:
        self.run(
            "const p = document.getElementById('pace'); p.value = arguments[0]; p.dispatchEvent(new Event('input'))",
            pace,
        )
        self.write(prompt)
        self.get("go").click()
        wait_for(lambda: self.time() > 0 and self.cards())

    def time(self) -> float:
        return self.run("return document.getElementById('video').currentTime")

    def cards(self) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, ".chunk")

    def names(self) -> list[str]:
        return self.run("return [...document.querySelectorAll('.chunk')].map(c => c.getAttribute('aria-label'))")

    def toasts(self) -> str:
        return self.run("return [...document.querySelectorAll('.toast')].map(t => t.textContent).join(' ')")

    def session(self) -> str:
        return self.run("return location.hash.slice(1)")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
