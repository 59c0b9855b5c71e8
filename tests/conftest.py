"""Settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# how long an example takes says more of what else runs on the machine
settings.register_profile("crossgram", deadline=None)
settings.load_profile("crossgram")


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """Give the next tests the environment of these: a cluster of Dask's own leaves settings in it.

    Commands that are started with them multiply on one thread, and round otherwise.
    """
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
