"""Waits that end: psycopg's in Python, ADBC's in a thread that is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from exporttools.connections.driver_errors import NoAnswer
from exporttools.database import deadlines
from exporttools.database.deadlines import Calls, limit_waits
from exporttools.database.opening import Database

LATE = "^the server did not answer within 0.1 s, so the read was given up and its connection closed; "


@pytest.fixture(autouse=True)
def _without_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "GRACE_S", 0.0)


@pytest.fixture
def driver(postgres_server: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_server, autocommit=True) as driver:
        yield driver


def test_a_wait_that_is_too_long_closes_the_connection(driver: psycopg.Connection[Any]) -> None:
    limit_waits(driver, 0.1)
    assert driver.execute("SELECT 7").fetchall() == [(7,)]
    with pytest.raises(psycopg.errors.UndefinedTable):
        driver.execute("SELECT * FROM nowhere")
    with pytest.raises(NoAnswer, match=LATE):
        driver.execute("SELECT pg_sleep(3)")
    assert driver.closed


@pytest.mark.parametrize("limited_twice", [False, True])
def test_a_limit_is_lifted(driver: psycopg.Connection[Any], limited_twice: bool) -> None:
    lifts = [limit_waits(driver, 0.1) for _ in range(1 + limited_twice)]
    assert "wait" in vars(driver)
    for lift in lifts:
        lift()
        assert "wait" not in vars(driver)


def test_without_a_timeout_nothing_is_limited(driver: psycopg.Connection[Any]) -> None:
    limit_waits(driver, None)()
    assert "wait" not in vars(driver)


@pytest.fixture
def stuck() -> Iterator[Callable[[], str]]:
    """A call that does not return before the test is over, or says so."""
    freed = threading.Event()

    def call() -> str:
        freed.wait(60)
        return "late"

    call.free = freed.set  # type: ignore[attr-defined]
    yield call
    freed.set()


def test_calls_return_and_raise_as_they_would_without_a_thread() -> None:
    for call, elsewhere in ((Calls(60), True), (Calls(None), False)):
        assert call(divmod, 7, 2) == (3, 1)
        assert (call(threading.get_ident) != threading.get_ident()) is elsewhere
        with pytest.raises(ZeroDivisionError):
            call(divmod, 7, 0)
        with pytest.raises(TimeoutError, match="^its own$"):
            call(raise_timeout)
        assert call(max, 1, 2) == 2
        call.end()


def raise_timeout() -> None:
    raise TimeoutError("its own")


def test_a_call_that_is_too_long_is_left_behind(stuck: Any) -> None:
    others, call, closed = threading.enumerate(), Calls(0.1), threading.Event()
    with pytest.raises(NoAnswer, match=LATE):
        call(stuck)
    with pytest.raises(NoAnswer, match=LATE):  # and no other call is made
        call(closed.set)
    call.finally_call(closed.set)
    call.end()
    assert not closed.is_set()
    (thread,) = {*threading.enumerate()} - {*others}
    assert thread.name == "exporttools-adbc"
    assert thread.daemon
    stuck.free()
    thread.join(60)
    assert closed.is_set()
    assert not thread.is_alive()


def test_an_interrupted_call_is_left_behind(stuck: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(deadlines.Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            raise KeyboardInterrupt

    call = Calls(60)
    with monkeypatch.context() as patch:
        patch.setattr(deadlines, "Future", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(stuck)
    with pytest.raises(NoAnswer):
        call(max, 1, 2)
    call.end()


def test_connections_of_ours_notice_a_server_that_is_gone(postgres_server: str) -> None:
    def parameters(url: str) -> dict[str, str]:
        with Database(url).transaction() as connection:
            found: dict[str, str] = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
            return found

    assert parameters(postgres_server).items() >= {
        "application_name": "exporttools", "connect_timeout": "10", "keepalives_idle": "30",
        "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "60000",
    }.items()  # fmt: skip
    separator = "&" if "?" in postgres_server else "?"
    given = parameters(f"{postgres_server}{separator}keepalives_idle=7&tcp_user_timeout=8000&connect_timeout=9")
    assert given.items() >= {
        "keepalives_idle": "7", "tcp_user_timeout": "8000", "connect_timeout": "9", "keepalives_count": "3",
    }.items()  # fmt: skip
