"""Reads the file of a key: finds its one block, and what the lines before it say. Knows no cryptography.

RFC 7468 §2 lets text stand before a PEM block. Three kinds of lines in it mean something here::

    name: Jane Roe, laptop
    not_before: 2026-01-01
    not_after: 2027-12-31T12:00:00Z

Other lines are passed over. In an OpenSSH public key, which has no text before it, they may stand in comments (``# name: ...``).
"""

from __future__ import annotations

import base64
import binascii
import codecs
import datetime as dt
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporttools.errors import ConfigError
from exporttools.text.inert import one_line
from exporttools.times import parse_time

_MOST_BYTES = 64 << 10  # an Ed25519 key's file has under a kilobyte

_BEGIN = re.compile(rb"^-----BEGIN ([A-Z0-9 ]{1,40})-----", re.MULTILINE)  # RFC 7468 §2
_OPENSSH = re.compile(
    rb"^(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+[ \t]+AAAA[A-Za-z0-9+/=]+(?:[ \t]+([^\r\n]*))?", re.MULTILINE
)
_WORDS = re.compile(r"[#\s]*(name|not[ _-]?before|not[ _-]?after)\s*[:=]\s*(.*?)\s*", re.IGNORECASE)
_WITHOUT_COLON = re.compile(r"[#\s]*not[ _-]?(?:before|after)\s+[0-9].*", re.IGNORECASE)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAY = dt.timedelta(days=1) - dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, repr=False)
class KeyFile:
    """A file with one key in it. Never shown: the key may be private.

    Attributes
    ----------
    where : str
        What messages call it.
    block : bytes
        From the key's beginning to the end of the file.
    kind : str
        The label of its PEM, or ``OPENSSH PUBLIC KEY``.
    encrypted : bool
        Whether it needs a passphrase.
    readable_by_others : bool
        Whether it is a file that others than its owner can read, as far as the system can tell.
    name : str or None
        What the file says, or an OpenSSH key's comment, or else the file's name.
    not_before, not_after : datetime.datetime or None
    """

    where: str
    block: bytes
    kind: str
    encrypted: bool
    readable_by_others: bool
    name: str | None
    not_before: dt.datetime | None
    not_after: dt.datetime | None


def read_key_file(source: Any, expected: str) -> KeyFile:
    """Read a key file, given by its path or its bytes.

    Parameters
    ----------
    source : str, path or bytes
    expected : str
        The kind of key, for messages.

    Raises
    ------
    ConfigError
        It cannot be read, is too large, holds no key or more than one, or a line before the key is not valid. No message
        contains key material.
    """
    file_name, mode = None, 0
    if isinstance(source, bytes):
        where, content = "the key given", source
    elif isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if "\n" in path or "-----" in path:  # a message with the path would show the key
            raise ConfigError(f"expected the path of {expected}; found a key's text; give that as bytes")
        where = one_line(path)
        try:
            with Path(path).open("rb") as file:  # or a pipe: a shell can pass what another program prints
                content = file.read(_MOST_BYTES + 1)
                status = os.fstat(file.fileno())
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ConfigError(f"expected {expected}, but it cannot be read: {one_line(error)}") from error
        if stat.S_ISREG(status.st_mode):
            file_name, mode = Path(path).name, status.st_mode
    else:
        raise ConfigError(f"expected {expected}, as a path, bytes or a key; found {type(source).__name__}")
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{where}: expected {expected}; found more than {_MOST_BYTES:,} bytes")
    content = content.removeprefix(codecs.BOM_UTF8)  # as editors on Windows write
    begins = sorted([*_BEGIN.finditer(content), *_OPENSSH.finditer(content)], key=lambda match: match.start())
    if not begins:
        raise ConfigError(f"{where}: expected {expected}; found no key in it")
    if len(begins) > 1:
        raise ConfigError(f"{where}: expected {expected}; found {len(begins):,} keys; give each its own file")
    (begin,) = begins
    block = content[begin.start() :]
    openssh = not begin[0].startswith(b"-----")
    kind = "OPENSSH PUBLIC KEY" if openssh else begin[1].decode("ascii")
    words = _words(content[: begin.start()], where)
    # A period that is overlooked is one that the caller wrote and nobody keeps.
    end = begin.end() if openssh else max(content.find(b"-----END ", begin.end()), begin.end())
    if late := [line for line in _lines(content[end:]) if _WORDS.fullmatch(line)]:
        raise ConfigError(
            f"{where}: the line {one_line(repr(late[0]), 80)} stands after the key; move it before the key"
        )
    comment = begin[1].decode("utf-8", errors="replace").strip() if openssh and begin[1] else None
    return KeyFile(
        where,
        begin[0] if openssh else block,
        kind,
        kind == "ENCRYPTED PRIVATE KEY" or (kind == "OPENSSH PRIVATE KEY" and _has_cipher(block)),
        os.name == "posix" and bool(mode & (stat.S_IRWXG | stat.S_IRWXO)),
        words.get("name") or comment or file_name,
        *(_moment(words, name, where) for name in ("not_before", "not_after")),
    )


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", errors="replace").splitlines()


def _words(text: bytes, where: str) -> dict[str, str]:
    """What the lines before a key say, by name."""
    words: dict[str, str] = {}
    for line in _lines(text):
        if _WITHOUT_COLON.fullmatch(line):
            raise ConfigError(
                f"{where}: the line {one_line(repr(line), 80)} before the key has no colon before its value"
            )
        if (match := _WORDS.fullmatch(line)) is None:
            continue
        if not match[2]:
            raise ConfigError(f"{where}: the line {one_line(repr(line), 80)} before the key has no value")
        name = re.sub(r"[ _-]", "", match[1].lower()).replace("not", "not_")
        if name in words:
            raise ConfigError(f"{where}: expected one {name} before the key; found two")
        words[name] = match[2]
    return words


def _moment(words: dict[str, str], name: str, where: str) -> dt.datetime | None:
    if name not in words:
        return None
    try:
        moment = parse_time(words[name])
    except ConfigError as error:
        raise ConfigError(f"{where}: {name}: {error}") from error
    whole_day = name == "not_after" and _DATE.fullmatch(words[name])
    return moment + _DAY if whole_day else moment


def _has_cipher(block: bytes) -> bool:
    """Whether an OpenSSH private key is encrypted: after its magic comes the name of its cipher, or ``none``."""
    body = b"".join(block.split(b"-----")[2].split()) if block.count(b"-----") >= 2 else b""
    try:
        octets = base64.b64decode(body)
    except binascii.Error:
        return False  # it is damaged, which loading it says
    return octets.startswith(b"openssh-key-v1\0") and not octets[15:].startswith(b"\0\0\0\x04none")
