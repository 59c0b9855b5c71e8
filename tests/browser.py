"""A real browser, without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUIET = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@contextmanager
def browser() -> Iterator[Browser]:
    """Give a Chromium; where there is none, skip, but not where all tests must run."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        assert not os.environ.get("CI"), "no Chromium, which this test needs: .ci/run installs it"
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        # as root there is no sandbox
        arguments = [*_QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        opened = playwright.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()
