"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# how long an example takes says more of what else runs on the machine
settings.register_profile("crossgram", deadline=None)
settings.load_profile("crossgram")
