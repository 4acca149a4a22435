"""An incident as one HTML page: the investigation notebook, executed, its code left out. The only room that runs notebooks."""

from exporttools.report.writing import ReportOutcome, write_report, write_reports

__all__ = ["ReportOutcome", "write_report", "write_reports"]
