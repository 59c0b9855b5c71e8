"""Reports: an atlas as one HTML page."""

from crossgram.reporting.page import check_report, write_report

__all__ = ["check_report", "write_report"]
