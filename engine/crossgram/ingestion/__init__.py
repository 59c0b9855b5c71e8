"""Turning what other tools write into an embedding store: one module per format."""

from crossgram.ingestion.conversion import ingest

__all__ = ["ingest"]
