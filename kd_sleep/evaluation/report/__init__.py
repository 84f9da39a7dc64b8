"""The report of an evaluation or a study: one HTML file, and a table for the terminal."""

from kd_sleep.extras import optional_packages

with optional_packages():
    from kd_sleep.evaluation.report.document import write_report
    from kd_sleep.evaluation.report.night_gallery import report_nights
    from kd_sleep.evaluation.report.opening import table

__all__ = ["report_nights", "table", "write_report"]
