"""Which steps failed: the one rule on what a step's ``status`` means.

Platforms spell the same end in many ways (``error``, ``ERROR``, ``STATUS_CODE_ERROR``), so spelling is ignored: case,
blanks around the word, whether its parts are joined by ``_``, ``-`` or a blank, and OpenTelemetry's ``STATUS_CODE_`` in front.
What then stands in :data:`FAILED_GROUPS` means that the step failed. Nothing else does: numbers, part of a text and words that say that
a step has not ended (``running``, ``unfinished``), that it was not needed (``skipped``) or that a guardrail did its work
(``blocked``). A platform that uses other words maps them in its layout.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc


class FailedGroup(NamedTuple):
    """Words for one way to fail, as :func:`failed_steps` reads them, and what they mean."""

    words: tuple[str, ...]
    meaning: str


FAILED_GROUPS: tuple[FailedGroup, ...] = (
    FailedGroup(
        ("error", "errored", "exception", "fatal", "internal_error", "crashed"),
        "It raised an error: OpenTelemetry, Phoenix and MLflow (`ERROR`), Langfuse (level `ERROR`), LangSmith (`error`), "
        "Prefect (`CRASHED`).",
    ),
    FailedGroup(
        ("failed", "failure", "upstream_failed"),
        "It ended without doing its work: Temporal, AWS Step Functions and OpenAI (`failed`), Dagster and Celery "
        "(`FAILURE`), Airflow (`failed`; `upstream_failed`: what it needs failed).",
    ),
    FailedGroup(
        ("timeout", "timed_out", "timedout", "deadline_exceeded", "expired"),
        "It took too long: AWS Step Functions (`TIMED_OUT`), Temporal (`TimedOut`), gRPC (`DEADLINE_EXCEEDED`), OpenAI's "
        "Assistants (`expired`).",
    ),
    FailedGroup(
        (
            "rate_limited", "rate_limit", "rate_limit_exceeded", "throttled", "too_many_requests", "quota_exceeded",
            "resource_exhausted", "overloaded", "unavailable",
        ),
        "The service could not take it, and another try may work: model and API providers, gRPC (`RESOURCE_EXHAUSTED`, "
        "`UNAVAILABLE`).",
    ),
    FailedGroup(
        ("denied", "rejected", "permission_denied", "access_denied", "forbidden", "unauthorized", "unauthenticated"),
        "It was not allowed: a person or a policy refused the call, gRPC (`PERMISSION_DENIED`, `UNAUTHENTICATED`).",
    ),
    FailedGroup(
        ("cancelled", "canceled", "aborted", "killed", "terminated", "interrupted", "revoked"),
        "It was stopped before its end: OpenAI (`cancelled`), Temporal (`Canceled`, `Terminated`), AWS Step Functions (`ABORTED`), "
        "MLflow (`KILLED`), Celery (`REVOKED`).",
    ),
)  # fmt: skip
"""The words that mean that a step failed. A word stands in one group."""

FAILED_STATUSES: frozenset[str] = frozenset(word for group in FAILED_GROUPS for word in group.words)
"""The words of all groups, in lower case with ``_`` between their parts."""

FAILED_IN_FORMAT_1: frozenset[str] = frozenset({"error", "failed", "failure", "timeout"})
"""The statuses, spelled exactly so, that bundles of format 1 count as failed."""

STATUS_PREFIX = "status_code_"
"""What OpenTelemetry writes before its words."""

BLANKS = " \t\r\n"
"""What may stand around a status."""

JOINTS = "- "
"""What may stand for the ``_`` between the parts of a status."""


def failed_words(statuses: pa.Array | pa.ChunkedArray) -> list[str]:
    """Return the distinct statuses that mean that a step failed, as they are spelled in the column, sorted.

    Examples
    --------
    >>> failed_words(pa.array(["ok", "STATUS_CODE_ERROR", "Rate limited", None, "Rate limited"]))
    ['Rate limited', 'STATUS_CODE_ERROR']
    """
    spelled = statuses.unique().cast(pa.string())
    words = pc.utf8_lower(pc.utf8_trim(spelled, BLANKS))
    for joint in JOINTS:
        words = pc.replace_substring(words, joint, "_")
    words = pc.replace_substring_regex(words, f"^{STATUS_PREFIX}", "")
    return sorted(spelled.filter(pc.is_in(words, _strings(FAILED_STATUSES))).to_pylist())


def failed_steps(statuses: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return whether each step failed, judging by its status. Never NULL.

    Examples
    --------
    >>> failed_steps(pa.array(["ok", "Timed-Out", None])).to_pylist()
    [False, True, False]
    """
    if not pa.types.is_string(statuses.type):
        statuses = statuses.cast(pa.string())
    return pc.is_in(statuses, _strings(failed_words(statuses)))


def failed_in_format_1(statuses: pa.Array) -> pa.Array:
    """Return whether each step failed by the rule of bundles of format 1: four words, spelled exactly so."""
    return pc.is_in(statuses, _strings(FAILED_IN_FORMAT_1))


def means_failed(status: str | None) -> bool:
    """Return whether one status means that its step failed.

    Examples
    --------
    >>> means_failed("ERROR"), means_failed("blocked"), means_failed(None)
    (True, False, False)
    """
    return bool(failed_words(pa.array([status], pa.string())))


def _strings(words: frozenset[str] | list[str]) -> pa.Array:
    # Not at import: pyarrow loads pandas when it makes an array from a list, and importing this room must not.
    return pa.array(sorted(words), pa.string())
