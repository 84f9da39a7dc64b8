"""The report of an evaluation or a study: a section a file, put together in `document`."""

from kd_sleep.extras import optional_packages

with optional_packages():
    from kd_sleep.evaluation.report.chosen_nights import ReportNight, Snippet, report_nights
    from kd_sleep.evaluation.report.document import write_report
    from kd_sleep.evaluation.report.terminal import table

__all__ = ["ReportNight", "Snippet", "report_nights", "table", "write_report"]
