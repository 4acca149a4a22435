"""An incident as one HTML page: the investigation notebook, executed, without its code. The only room that runs notebooks."""

from exporttools.report.writing import ReportOutcome, write_report, write_reports

__all__ = ["ReportOutcome", "write_report", "write_reports"]
