"""Exports a fleet from a store into a dataset, window by window, on threads, processes or a cluster."""

from exporttools.export.export_report import ExportPlan, ExportReport, PlannedWindow
from exporttools.export.exporting import export_dataset, plan_export

__all__ = ["ExportPlan", "ExportReport", "PlannedWindow", "export_dataset", "plan_export"]
