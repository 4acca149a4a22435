"""The made-up world as data: tenants, agents, models and their prices, tools, and when they run. No randomness here.

Everything is invented; prices and latencies are as large as real ones. ``data/README.md`` documents what is written here,
and a test compares the two.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

FIRST_DAY = dt.datetime(2026, 10, 5, tzinfo=dt.UTC)
"""The fixed Monday, midnight UTC, at which the fortnight starts."""

DAYS = 14
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

MODEL_CHANGE_DAY = 8
"""On this day after :data:`FIRST_DAY`, 2026-10-13, one agent switches to the more expensive model."""

MICROCENTS = 1_000_000
"""Costs are summed in whole millionths of a US cent, so that they are exact on every machine."""

RUN_BUDGET_CENTS = 1000


class StepType(IntEnum):
    """The step types; the stored name is the lower-case one."""

    LLM_CALL = 0
    TOOL_CALL = 1
    RETRIEVAL = 2
    GUARDRAIL = 3
    PLAN = 4
    MEMORY = 5


class Status(IntEnum):
    """The statuses; the stored name is the lower-case one."""

    OK = 0
    ERROR = 1
    BLOCKED = 2
    TIMEOUT = 3


class Reason(IntEnum):
    """The termination reasons; the stored name is the lower-case one."""

    COMPLETED = 0
    POLICY_BLOCK = 1
    BUDGET_EXCEEDED = 2
    RATE_LIMITED = 3
    USER_ABORT = 4
    SYSTEM_FAILURE = 5
    TIMEOUT = 6


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its price per million tokens, in whole US cents so that costs are exact."""

    name: str
    input_cents_per_million: int
    output_cents_per_million: int
    ms_per_output_token: float


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: how long a call takes (log-normal) and what it costs."""

    name: str
    median_ms: float
    sigma: float = 0.5
    call_microcents: int = 0


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent and how it behaves.

    Attributes
    ----------
    share : tuple of int
        Each tenant's weight: how many of all runs are this agent's for that tenant.
    steps_median, steps_sigma, steps_most
        The log-normal number of a run's steps, and its maximum.
    prompt_tokens, turn_tokens, window_tokens
        The input of an LLM call: the prompt, what each turn adds, and the size at which the context is compacted.
    answer_tokens : int
        The median output of an LLM call.
    actions : tuple of int
        Weights of tool calls, retrievals, guardrails, plans and memory accesses between LLM calls.
    """

    name: str
    share: tuple[int, int, int]
    rhythm: str
    model: str
    planner: str
    steps_median: float
    steps_sigma: float
    steps_most: int
    prompt_tokens: int
    turn_tokens: int
    window_tokens: int
    answer_tokens: int
    actions: tuple[int, int, int, int, int]
    corpus: str
    tools: tuple[Tool, Tool, Tool, Tool]
    goals: tuple[str, ...]


TENANTS = ("acme-retail", "borealis-bank", "cobalt-health")

MODELS = (
    Model("lark-mini-2", 15, 60, 4.0),
    Model("lark-2", 100, 400, 8.0),
    Model("heron-3", 300, 1500, 14.0),
    Model("condor-1", 1000, 4000, 24.0),
    Model("wren-embed", 2, 0, 0.0),
)
SMALL_MODEL, EMBEDDING_MODEL, DEARER_MODEL = "lark-mini-2", "wren-embed", "heron-3"

AGENTS = (
    Agent(
        "support-triage", (44, 10, 16), "wide", "lark-mini-2", "lark-2",
        22, 0.45, 150, 1_800, 260, 12_000, 140, (60, 26, 6, 2, 6), "help_centre",
        (Tool("get_order", 160), Tool("get_customer", 120), Tool("send_reply", 240), Tool("issue_refund", 420)),
        (
            "Answer the customer who asks where order {n} is and offer a refund if it is late",
            "Find out why the payment for order {n} was declined and tell the customer what to do",
            "Sort the complaint in ticket {n} and hand it to the right team with a summary",
            "Change the delivery address of order {n} if it has not left the warehouse",
            "Explain to the customer of ticket {n} how to return a damaged item",
        ),
    ),
    Agent(
        "code-assistant", (14, 12, 6), "office", "heron-3", "condor-1",
        84, 0.7, 640, 4_500, 620, 32_000, 260, (82, 8, 2, 3, 5), "code_index",
        (Tool("read_file", 120), Tool("search_code", 280), Tool("apply_patch", 190), Tool("run_tests", 900, 0.6)),
        (
            "Fix the failing test in pull request {n} without changing the public interface",
            "Review pull request {n} for mistakes and missing tests",
            "Find the cause of the memory growth described in issue {n}",
            "Update the dependency named in issue {n} and repair what breaks",
        ),
    ),
    Agent(
        "data-analyst", (10, 34, 12), "office", "lark-2", "lark-2",
        43, 0.5, 260, 2_600, 380, 20_000, 220, (72, 12, 4, 4, 8), "table_catalogue",
        (Tool("run_sql", 900, 0.7), Tool("describe_table", 140), Tool("draw_chart", 380), Tool("check_figures", 210)),
        (
            "Compare this week's card disputes with the same week last year and explain report {n}",
            "Find out why the figure in dashboard {n} fell on Monday",
            "Prepare the monthly liquidity table for request {n} and check it against the ledger",
            "List the ten customers behind the change in report {n}",
        ),
    ),
    Agent(
        "research-scout", (16, 10, 10), "office", "heron-3", "heron-3",
        62, 0.45, 220, 2_400, 330, 18_000, 240, (66, 18, 3, 5, 8), "saved_articles",
        (
            Tool("web_search", 650, call_microcents=500_000),
            Tool("fetch_page", 820, 0.6),
            Tool("read_pdf", 1_100, 0.6),
            Tool("save_note", 70),
        ),
        (
            "Collect what competitors announced this week and write a one-page brief for request {n}",
            "Find three primary sources for the claim in question {n} and say how far they agree",
            "Summarise the new guidance named in request {n} and list what changes for us",
            "Check the figures quoted in draft {n} against their sources",
        ),
    ),
    Agent(
        "invoice-clerk", (12, 20, 6), "night", "lark-mini-2", "lark-mini-2",
        26, 0.4, 160, 1_500, 180, 10_000, 110, (78, 8, 8, 1, 5), "vendor_records",
        (Tool("parse_invoice", 1_300), Tool("lookup_vendor", 130), Tool("match_order", 260), Tool("post_ledger", 310)),
        (
            "Match invoice {n} with its purchase order and post it to the ledger",
            "Check the tax on invoice {n} and put it aside if it does not add up",
            "Find out whether invoice {n} was paid twice",
        ),
    ),
    Agent(
        "ops-responder", (16, 14, 18), "always", "lark-2", "lark-2",
        34, 0.5, 240, 2_200, 300, 16_000, 150, (76, 10, 6, 3, 5), "runbooks",
        (
            Tool("query_metrics", 340),
            Tool("fetch_logs", 760),
            Tool("describe_service", 150),
            Tool("restart_service", 1_900),
        ),
        (
            "Find out why alert {n} fired and follow the runbook",
            "Check whether the deployment in change {n} raised the error rate and roll it back if so",
            "Collect logs and metrics around alert {n} for the engineer on call",
            "Free disk space on the host named in alert {n} without touching databases",
        ),
    ),
)  # fmt: skip

CHECKS = ("check_input", "check_output", "check_policy")

NAMES: tuple[str, ...] = (
    *(tool.name for agent in AGENTS for tool in agent.tools),
    *(agent.corpus for agent in AGENTS),
    *CHECKS,
)
"""The values of ``name``: tools, then corpora, then guardrail checks; steps hold positions in this tuple."""

FAULTS = (
    "HTTP 502 from upstream",
    "connection reset by peer",
    "invalid arguments: a required field is missing",
    "no such record",
    "model overloaded, try again",
)
"""What goes wrong in any fleet; the last is an error of models, the others are errors of tools."""

_OFFICE = (1, 1, 1, 1, 1, 2, 5, 14, 34, 48, 52, 46, 34, 44, 50, 48, 40, 26, 13, 8, 5, 3, 2, 1)
_WIDE = (4, 3, 2, 2, 2, 4, 9, 18, 30, 38, 41, 40, 37, 38, 38, 36, 34, 33, 35, 34, 29, 21, 13, 7)
_NIGHT = (18, 60, 88, 70, 40, 16, 6, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 8, 12)
_ALWAYS = (17, 15, 14, 14, 14, 15, 17, 20, 24, 28, 30, 30, 28, 29, 30, 29, 27, 25, 23, 22, 21, 20, 19, 18)
_WEEKDAYS = {
    "office": (10, 11, 11, 10, 8, 1, 1),
    "wide": (10, 9, 9, 9, 10, 7, 6),
    "night": (10, 10, 10, 10, 10, 4, 3),
    "always": (10, 10, 10, 10, 10, 8, 8),
}
_HOURS = {"office": _OFFICE, "wide": _WIDE, "night": _NIGHT, "always": _ALWAYS}


def hour_weights(rhythm: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How likely a run is to start in each hour of the fortnight, as whole weights."""
    days = np.tile(np.array(_WEEKDAYS[rhythm], np.int64), DAYS // 7)
    return np.outer(days, np.array(_HOURS[rhythm], np.int64)).ravel()


def model_number(name: str) -> int:
    """The position of a model in :data:`MODELS`."""
    return [model.name for model in MODELS].index(name)


def agent_number(name: str) -> int:
    """The position of an agent in :data:`AGENTS`."""
    return [agent.name for agent in AGENTS].index(name)
