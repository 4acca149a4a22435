"""What a child process does with the connections of its parent: nothing. Opens and reads nothing.

A connection that two processes use gives each the other's answers. So after a fork the child leaves its parent's
connections as they are, neither using nor closing them, and opens its own.

SQLite needs more. Its locks on a file belong to the process and are counted in its memory: a child whose memory says
"locked" reads without a lock, beside a writer, and waits for ever for a mutex that another thread held at the fork
(https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_). So a fork waits until no other thread
is in a transaction of SQLite, and where one still is, the child refuses to read.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from exporttools.errors import StoreError

T = TypeVar("T")

_renewals: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_closings: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def renew_after_fork(owner: T, renew: Callable[[T], None]) -> None:
    """Call ``renew(owner)`` in every child process that is forked while `owner` lives."""
    _renewals[owner] = renew


def close_before_fork(owner: T, close: Callable[[T], None]) -> None:
    """Call ``close(owner)`` before each fork while `owner` lives."""
    _closings[owner] = close


def leave_to_parent(connection: object) -> None:
    """Keep a connection of the parent, or what holds one, until the child ends: to delete it may send the parent's goodbye."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


class Opener:
    """The process that opened something, which no other may use."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_this_process(self) -> bool:
        """Whether this process is it, and not a child of it."""
        return os.getpid() == self._process

    def require_this_process(self, label: str) -> None:
        """Raise in a child of it.

        Raises
        ------
        StoreError
            This process is a child.
        """
        if not self.is_this_process:
            raise StoreError(
                f"{label}: this read or snapshot was begun before the process was forked, and belongs to the parent; begin it "
                "again in the child, outside of the parent's block"
            )


class _SqliteReads:
    """The SQLite transactions of this process."""

    def __init__(self, *, usable: bool) -> None:
        self.usable = usable
        self.changed = threading.Condition()
        self.threads: dict[object, int] = {}
        self.forking = False

    def stop(self) -> None:
        """Let no transaction begin, and wait for those of other threads to end."""
        deadline, this_thread = time.monotonic() + FORK_WAIT_S, threading.get_ident()
        with self.changed:
            self.forking = True
            while any(thread != this_thread for thread in self.threads.values()):
                if not self.changed.wait(deadline - time.monotonic()):
                    return

    def go_on(self) -> None:
        with self.changed:
            self.forking = False
            self.changed.notify_all()


FORK_WAIT_S = 5.0
"""How long a fork waits for other threads' transactions of SQLite to end."""

_sqlite_reads = _SqliteReads(usable=True)


@contextmanager
def sqlite_read(label: str) -> Iterator[None]:
    """A transaction of SQLite, with the opening and closing of its connection: forks wait for it, and it waits for them.

    Raises
    ------
    StoreError
        This process was forked in the middle of one.
    """
    reads, read = _sqlite_reads, object()
    if not reads.usable:
        raise StoreError(
            f"{label}: this process was forked while SQLite was being read, which SQLite's locks do not survive; fork outside "
            "of snapshots and scans, or start processes by 'spawn'"
        )
    with reads.changed:
        reads.changed.wait_for(lambda: not reads.forking)
        reads.threads[read] = threading.get_ident()
    try:
        yield
    finally:
        if reads is _sqlite_reads:  # not in a child
            with reads.changed:
                del reads.threads[read]
                reads.changed.notify_all()


def _before() -> None:
    _sqlite_reads.stop()
    for owner, close in list(_closings.items()):
        close(owner)


def _in_parent() -> None:
    _sqlite_reads.go_on()


def _in_child() -> None:
    global _sqlite_reads
    _sqlite_reads = _SqliteReads(usable=_sqlite_reads.usable and not _sqlite_reads.threads)
    for owner, renew in list(_renewals.items()):
        renew(owner)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
