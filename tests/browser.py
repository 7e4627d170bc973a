"""Headless Chromium for tests of pages, driven by selenium; what a page logs and asks for is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync"),
)

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason=f"no browser: {CHROMIUM} and {DRIVER} are needed"
)


class Browser:
    """Headless Chromium; what it logs and asks for is kept since the last page was opened."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        options.binary_location = str(CHROMIUM)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        self.driver.set_script_timeout(10)

    def open(self, page: Path | str, *, width: int = 1280, scheme: str = "light", fresh: bool = True) -> None:
        """page: a file or an address.

        fresh: load anew (two seconds) even if the page stands open, where what was done to it matters.
        """
        self.emulate(width=width, scheme=scheme)
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        address = page if isinstance(page, str) else page.as_uri()
        if fresh or self.driver.current_url != address:
            self.driver.get(address)
        self.settle()

    def emulate(self, *, width: int, scheme: str) -> None:
        self.width = width
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme_feature]})

    def settle(self) -> None:
        """Two frames: after them a change of scheme or width has been answered."""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses asked for, cut to their beginnings."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [address[:60] for address in sent]


@contextmanager
def started(guard: Any, profile: Path) -> Iterator[Browser]:
    """For fixtures of a module: they start before, and end after, those of a test, which open the way to loopback."""
    guard.loopback = True
    browser = Browser(profile)
    yield browser
    guard.loopback = True
    browser.driver.quit()
    guard.loopback = False
