"""The four records' columns as Arrow fields with their units, written out: what the schemas must be."""

from __future__ import annotations

import pyarrow as pa

COLUMNS = {
    "incidents": [
        "id: string not null",
        "tenant_id: string not null",
        "source_run_id: string",
        "severity: string",
        "policy_id: string",
        "policy_name: string",
        "violation_type: string",
        "created_at: timestamp[us, tz=UTC] not null, UTC",
    ],
    "runs": [
        "run_id: string not null",
        "tenant_id: string not null",
        "agent_id: string",
        "goal: string",
        "policy_snapshot_id: string",
        "started_at: timestamp[us, tz=UTC], UTC",
        "completed_at: timestamp[us, tz=UTC], UTC",
        "termination_reason: string",
        "total_cost_cents: int64, US cents",
    ],
    "traces": [
        "trace_id: string not null",
        "run_id: string not null",
        "tenant_id: string not null",
        "violation_step_index: int64",
        "violation_timestamp: timestamp[us, tz=UTC], UTC",
    ],
    "trace_steps": [
        "step_index: int64 not null",
        "timestamp: timestamp[us, tz=UTC] not null, UTC",
        "step_type: string not null",
        "tokens: int64 not null, tokens",
        "cost_cents: double not null, US cents",
        "duration_ms: double not null, ms",
        "status: string not null",
        "content_hash: string",
    ],
}
EXTRA_COLUMNS = {
    "runs": [
        "source_format: string",
        "agent_version: string",
        "parent_run_id: string",
        "project: string",
        "cwd: string",
        "git_branch: string",
    ],
    "trace_steps": [
        "name: string",
        "model: string",
        "error: string",
        "parent_step_index: int64",
        "cost_source: string",
        "price_basis: string",
        "input_tokens: int64, tokens",
        "output_tokens: int64, tokens",
        "cache_read_tokens: int64, tokens",
        "cache_write_tokens: int64, tokens",
        "cache_write_1h_tokens: int64, tokens",
        "reasoning_tokens: int64, tokens",
        "subagent: string",
        "project: string",
    ],
}
STORED_COLUMNS = COLUMNS | {
    "trace_steps": ["tenant_id: string not null", "trace_id: string not null", *COLUMNS["trace_steps"]]
}
"""Those of a table or file: a step says whose it is, which a bundle says once."""


def shown(schema: pa.Schema) -> list[str]:
    """Each field as in the lists above."""
    return [_shown(field) for field in schema]


def _shown(field: pa.Field) -> str:
    unit = (field.metadata or {}).get(b"unit", b"").decode()
    return f"{field.name}: {field.type}{'' if field.nullable else ' not null'}{f', {unit}' if unit else ''}"
