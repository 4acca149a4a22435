"""The formats that can be imported, and which of them a file is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from exporttools.importing.events import Event
from exporttools.importing.json_records import Records
from exporttools.importing.source_files import SourceFile


@dataclass(frozen=True, slots=True)
class Format:
    """One agent's way to write its sessions.

    Attributes
    ----------
    name : str
        What users type: ``claude-code``.
    title : str
        What they read: ``Claude Code``.
    recognises : callable
        Whether a JSON object is one of this format's: one of a file's first lines, or a whole document.
    events : callable
        What the records of a file say.
    elements : str or None
        Where a file of this format may also be one JSON object: the member that holds its records.
    is_exchange : bool
        Whether other agents' sessions are converted into this format. Where a session is there in its own format too, what
        its conversion says is not counted again.
    """

    name: str
    title: str
    recognises: Callable[[dict[str, Any]], bool]
    events: Callable[[Records, SourceFile], Iterator[Event]]
    elements: str | None = None
    is_exchange: bool = False
