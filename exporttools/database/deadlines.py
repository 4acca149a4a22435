"""How long to wait for a server's answer: the statement's timeout, which the server keeps, and a grace for the way.

Where the answer is lost in the network, the server's timeout helps nobody: the driver waits for ever. psycopg waits in
Python, where the wait can end. ADBC waits in C, so its calls are made in a thread, which is left behind.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import psycopg

from exporttools.connections.driver_errors import NoAnswer

T = TypeVar("T")

GRACE_S = 5.0
"""How much longer than ``statement_timeout`` to wait for an answer, in seconds: what the network may take."""


def limit_waits(driver: psycopg.Connection[Any], statement_timeout: float | None) -> Callable[[], None]:
    """Let no wait of a connection take longer than that and a grace; one that does closes it and raises :class:`NoAnswer`.

    Returns
    -------
    callable
        Lifts the limit.
    """
    if statement_timeout is None:
        return lambda: None
    connection, wait, timeout_s = weakref.ref(driver), type(driver).wait, statement_timeout + GRACE_S

    def limited(answer: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        waiting = connection()
        assert waiting is not None  # it is what waits
        return wait(waiting, _until(answer, waiting, timeout_s), *args, **options)

    def lift() -> None:
        driver.__dict__.pop("wait", None)

    driver.wait = limited  # type: ignore[method-assign,assignment]
    return lift


def _until(answer: Generator[Any, Any, T], driver: psycopg.Connection[Any], timeout_s: float) -> Generator[Any, Any, T]:
    """One of psycopg's generators, which wait for the socket at each yield, with an end."""
    deadline = time.monotonic() + timeout_s
    ready = None
    while True:
        try:
            wanted = answer.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result
        if time.monotonic() > deadline:
            answer.close()
            driver.close()
            raise _no_answer(timeout_s)
        ready = yield wanted


def _no_answer(timeout_s: float) -> NoAnswer:
    return NoAnswer(
        f"the server did not answer within {timeout_s:g} s, so the read was given up and its connection closed; is the network "
        "or the server overloaded? Try again, or raise statement_timeout"
    )


class Calls:
    """Makes a driver's calls one by one, each with a timeout, in a thread of their own.

    A call that takes longer is left behind in its thread: it cannot be ended from outside. What it uses must not be used
    any more; :meth:`finally_call` closes it if the call ever returns.

    Parameters
    ----------
    statement_timeout : float, optional
        A call may take that and a grace. Without one, calls are made in the caller's thread.
    """

    def __init__(self, statement_timeout: float | None) -> None:
        self._timeout_s = None if statement_timeout is None else statement_timeout + GRACE_S
        self._stuck = False
        self._queue: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] | None = None

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function and return its result.

        Raises
        ------
        NoAnswer
            It took too long, or an earlier call did.
        """
        if self._timeout_s is None:
            return function(*args)
        if self._stuck:
            raise _no_answer(self._timeout_s)
        future = self._put(function, *args)
        try:
            return future.result(self._timeout_s)
        except BaseException as error:
            if not future.done():  # too late, or interrupted
                self._stuck = True
                if isinstance(error, TimeoutError):
                    raise _no_answer(self._timeout_s) from None
            raise

    def finally_call(self, function: Callable[[], object]) -> None:
        """Like a call; but after one that was left behind, it is made when that returns, and not waited for."""
        if self._stuck:
            self._put(function)
        else:
            self(function)

    def end(self) -> None:
        """End the thread, after the calls before."""
        if self._queue is not None:
            self._queue.put(None)

    def _put(self, function: Callable[..., T], *args: Any) -> Future[T]:
        if self._queue is None:
            self._queue = SimpleQueue()
            threading.Thread(target=_make_calls, args=(self._queue,), name="exporttools-adbc", daemon=True).start()
        future: Future[T] = Future()
        self._queue.put((future, function, args))
        return future


def _make_calls(queue: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None]) -> None:
    while (call := queue.get()) is not None:
        future, function, args = call
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 - the caller's
            future.set_exception(error)
        del call, future, function, args  # they would be kept until the next call
