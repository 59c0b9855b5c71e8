"""extract: images through networks into embedding stores, resumable, over any number of workers."""

from __future__ import annotations

from crossgram.errors import InputError

try:
    import torch  # noqa: F401
except ImportError as error:
    raise InputError(
        "extract: needs PyTorch and Pillow; pip install 'crossgram[extract]'"
    ) from error

from crossgram.extraction.options import Options
from crossgram.extraction.running import ExtractionReport, extract, extract_with_report
from crossgram.extraction.streaming import accumulate_images

__all__ = ["ExtractionReport", "Options", "accumulate_images", "extract", "extract_with_report"]
