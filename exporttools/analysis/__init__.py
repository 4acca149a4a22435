"""Where the money went, what went wrong, what changed: frames in, new frames of the same kind out. No store, no file.

Every function takes a frame of any kind that Narwhals knows (pandas, Polars eager and lazy, pyarrow, DuckDB relations,
Dask, PySpark), a SnapshotTable or an ExportBundle. It does not change it, and returns a frame of the same kind; pyarrow
for a SnapshotTable or an ExportBundle.

====================  ======================================================================
``columns``           what columns are needed for, and the errors of those that do not fit
``frames``            any frame in, its columns checked; a frame of the same kind out
``engines``           what engines do in their own ways: sorting, joining, times, quantiles
``arrow_functions``   functions of Arrow tables, taken to where the rows are
``groups``            groups of rows and their order statistics
``trees``             :func:`step_tree`; steps with each cent, token and millisecond counted once
``step_times``        when steps ran within their traces
``failures``          which steps failed
``sequences``         steps in the order in which they happened
``costs``             :func:`cost_by`, :func:`top_runs`
``cost_periods``      :func:`cost_over_time`
``percentiles``       :func:`percentiles`
``reconciliation``    :func:`reconcile_costs`, :func:`reconciliation_verdict`
``baselines``         :func:`baseline`
``tails``             how improbable a large value is
``judging``           :func:`anomalies`
``run_rows``          :func:`run_totals`, :func:`run_profiles`
``repeats``           :func:`repeated_calls`
``repricing``         :func:`reprice`, :func:`repricing_by`, :func:`repricing_verdict`
``prices``            prices of models, of today and of before
``run_comparison``    :func:`compare_runs`
``changes``           :func:`what_changed`
====================  ======================================================================
"""

from __future__ import annotations

from exporttools.analysis.baselines import baseline
from exporttools.analysis.changes import what_changed
from exporttools.analysis.cost_periods import cost_over_time
from exporttools.analysis.costs import cost_by, top_runs
from exporttools.analysis.judging import anomalies
from exporttools.analysis.percentiles import percentiles
from exporttools.analysis.reconciliation import reconcile_costs, reconciliation_verdict
from exporttools.analysis.repeats import repeated_calls
from exporttools.analysis.repricing import reprice, repricing_by, repricing_verdict
from exporttools.analysis.run_comparison import compare_runs
from exporttools.analysis.run_rows import run_profiles, run_totals
from exporttools.analysis.trees import step_tree

__all__ = [
    "anomalies",
    "baseline",
    "compare_runs",
    "cost_by",
    "cost_over_time",
    "percentiles",
    "reconcile_costs",
    "reconciliation_verdict",
    "repeated_calls",
    "reprice",
    "repricing_by",
    "repricing_verdict",
    "run_profiles",
    "run_totals",
    "step_tree",
    "top_runs",
    "what_changed",
]
