"""A pgbouncer in transaction mode in front of a test's server, where there is one on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url


@contextmanager
def pgbouncer(url: str, *roles: str, pool_size: int = 20) -> Iterator[str]:
    """Yield the URL of the same database through a pooler that lends a connection for one transaction, as the first role.

    Parameters
    ----------
    url : str
        On a socket of this machine.
    *roles : str
        Who may connect.
    pool_size : int
        How many connections to the server each role shares.
    """
    program = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if program is None:
        pytest.skip("no pgbouncer on PATH or in /usr/sbin")
    socket_directory = Path(str(make_url(url).query["host"]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="et-pgb-") as directory:
        folder = Path(directory)
        folder.chmod(0o755)  # for another user
        (folder / "users.txt").write_text("".join(f'"{role}" ""\n' for role in roles))
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={socket_directory} port=5432\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {folder / 'users.txt'}\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool_size}\n"
            # Nobody reads what it says once it is up, and a full pipe would stop it.
            "log_connections = 0\nlog_disconnections = 0\nlog_pooler_errors = 0\nlog_stats = 0\nmax_client_conn = 1000\n"
        )
        # pgbouncer does not run as root, nor does the server, whose user alone reaches its socket.
        as_user = ["-u", socket_directory.owner()] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            [program, *as_user, str(folder / "pgbouncer.ini")], stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            said = list(_until(process.stderr, "process up"))
            assert "process up" in said[-1], said
            through = make_url(url).set(
                drivername="postgresql+psycopg", username=roles[0], host="127.0.0.1", port=port, query={}
            )
            yield through.render_as_string(hide_password=False)
        finally:
            process.kill()
            process.communicate()


def _until(lines: Iterable[str], text: str) -> Iterator[str]:
    """The lines up to the one that has the text."""
    for line in lines:
        yield line
        if text in line:
            return
