"""Exports: a fleet from a store into a dataset, window by window, on threads, processes or a cluster."""

from exporttools.export.exporting import export_dataset, plan_export
from exporttools.export.report import ExportPlan, ExportReport, PlannedWindow

__all__ = ["ExportPlan", "ExportReport", "PlannedWindow", "export_dataset", "plan_export"]
