"""Loads, makes and uses Ed25519 keys. The only module that imports cryptography. Knows no bundle.

A key's id is the SHA-256 of its public half, as ``openssl`` and ``sha256sum`` print it::

    openssl pkey -pubin -in bundle.key.pub -outform DER | sha256sum
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeAlias

from exporttools.errors import ConfigError, MissingExtra
from exporttools.files.durable import fsync
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# RFC 8410 §4: an Ed25519 SubjectPublicKeyInfo is these octets and the key's 32.
_DER_START = bytes.fromhex("302a300506032b6570032100")
_DER_BYTES = len(_DER_START) + 32

_MAX_FILE_BYTES = 64 << 10  # an Ed25519 key's file has under a kilobyte
_MAX_PASSPHRASE_BYTES = 1023  # OpenSSL's
_BEGIN = re.compile(rb"^-----BEGIN ([A-Z0-9 ]{1,40})-----", re.MULTILINE)  # RFC 7468 §2

TrustedKeySource: TypeAlias = "str | os.PathLike[str] | bytes | Ed25519PublicKey | TrustedKey"
SigningKeySource: TypeAlias = "str | os.PathLike[str] | bytes | Ed25519PrivateKey | SigningKey"

_PRIVATE = "an Ed25519 private key as PKCS#8 PEM"
_PUBLIC = "an Ed25519 public key as PEM"
_MAKE_ONE = "make one with: openssl genpkey -algorithm ed25519 -out bundle.key"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """The public half of a key, with which signatures are checked.

    Attributes
    ----------
    octets : bytes
        The 32 octets of an RFC 8032 public key.
    """

    octets: bytes

    @classmethod
    def from_der(cls, der: bytes) -> Self:
        """Return the key in a DER SubjectPublicKeyInfo.

        Raises
        ------
        ValueError
            The DER is not that of an Ed25519 key.
        """
        if len(der) != _DER_BYTES or not der.startswith(_DER_START):
            raise ValueError("a public key that is not an Ed25519 SubjectPublicKeyInfo")
        return cls(der.removeprefix(_DER_START))

    @property
    def der(self) -> bytes:
        """The SubjectPublicKeyInfo in DER."""
        return _DER_START + self.octets

    @property
    def key_id(self) -> str:
        """SHA-256 of :attr:`der` in lower-case hexadecimal."""
        return hashlib.sha256(self.der).hexdigest()

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the private half of this key made this signature of this data.

        Raises
        ------
        MissingExtra
            cryptography is not installed.
        """
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError as error:
            raise MissingExtra("sign", "checking a signature") from error
        try:
            Ed25519PublicKey.from_public_bytes(self.octets).verify(signature, data)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SigningKey:
    """A private key. It is never shown, pickled or copied."""

    _private: Ed25519PrivateKey

    @property
    def trusted_key(self) -> TrustedKey:
        """The public half, to give to those who verify."""
        return TrustedKey(self._private.public_key().public_bytes_raw())

    @property
    def key_id(self) -> str:
        """The id of the public half."""
        return self.trusted_key.key_id

    def sign(self, data: bytes) -> bytes:
        """Return the signature: 64 octets, the same every time for the same data (RFC 8032)."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.key_id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key cannot be pickled or copied; load it where it signs")


def load_signing_key(
    source: SigningKeySource, *, passphrase: str | bytes | Callable[[], str] | None = None
) -> SigningKey:
    """Load a private key that signs bundles.

    Parameters
    ----------
    source : str, path, bytes, Ed25519PrivateKey or SigningKey
        The path of a PKCS#8 PEM file (what ``openssl genpkey -algorithm ed25519`` writes), the file's bytes, or a key.
    passphrase : str, bytes or callable, optional
        For an encrypted PEM; a str is encoded as UTF-8. A callable is called only if a passphrase is needed.

    Returns
    -------
    SigningKey

    Raises
    ------
    ConfigError
        The file is missing or not PEM, or holds another kind of key or a public key; the passphrase is wrong, missing or
        not needed. No message contains key material or a passphrase.
    MissingExtra
        cryptography is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise MissingExtra("sign", "signing a bundle") from error
    ask = passphrase if callable(passphrase) else None
    secret = None if callable(passphrase) else _passphrase_octets(passphrase)
    if isinstance(source, SigningKey | Ed25519PrivateKey):
        if secret is not None:
            raise ConfigError("a passphrase was given for a key that is loaded already; leave it out")
        return source if isinstance(source, SigningKey) else SigningKey(source)
    where, pem, label = _read_pem(source, _PRIVATE)
    if label not in ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"):
        public = label.endswith("PUBLIC KEY")
        advice = "give the file of the private key, without .pub" if public else _MAKE_ONE
        raise ConfigError(f"{where}: expected {_PRIVATE}; found {label}; {advice}")
    encrypted = label.startswith("ENCRYPTED")
    if encrypted and ask:
        secret = _passphrase_octets(ask())
    if encrypted and secret is None:
        raise ConfigError(f"{where}: the key is encrypted; give its passphrase")
    if secret is not None and not encrypted:
        raise ConfigError(f"{where}: a passphrase was given for a key that is not encrypted; leave it out")
    try:
        key = load_pem_private_key(pem, secret)
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = "the passphrase is wrong, or the key is damaged" if encrypted else "the key is damaged"
        raise ConfigError(f"{where}: expected {_PRIVATE}; {reason}") from error
    if not isinstance(key, Ed25519PrivateKey):
        kind = type(key).__name__.removesuffix("PrivateKey")
        raise ConfigError(f"{where}: expected {_PRIVATE}; found one for {kind}; {_MAKE_ONE}")
    return SigningKey(key)


def load_trusted_key(source: TrustedKeySource) -> TrustedKey:
    """Load a public key whose signatures you trust.

    Parameters
    ----------
    source : str, path, bytes, Ed25519PublicKey or TrustedKey
        The path of a PEM file (what ``openssl pkey -in bundle.key -pubout`` writes), the file's bytes, or a key.

    Returns
    -------
    TrustedKey

    Raises
    ------
    ConfigError
        The file is missing or not PEM, or holds another kind of key or a private key.
    MissingExtra
        cryptography is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise MissingExtra("sign", "checking a signature") from error
    if isinstance(source, TrustedKey):
        return source
    if isinstance(source, Ed25519PublicKey):
        return TrustedKey(source.public_bytes_raw())
    where, pem, label = _read_pem(source, _PUBLIC)
    if label != "PUBLIC KEY":
        private = label.endswith("PRIVATE KEY")
        advice = "; never share a private key: give its .pub file" if private else ""
        raise ConfigError(f"{where}: expected {_PUBLIC}; found {label}{advice}")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{where}: expected {_PUBLIC}; the key is damaged") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{where}: expected {_PUBLIC}; found one for {type(key).__name__.removesuffix('PublicKey')}")
    return TrustedKey(key.public_bytes_raw())


def write_key_pair(path: str | os.PathLike[str], *, passphrase: str | bytes | None = None) -> SigningKey:
    """Make a new key: the private half at `path`, the public half beside it with ``.pub`` added to the name.

    Parameters
    ----------
    path : str or path
        Neither it nor the ``.pub`` file may exist; the directory must.
    passphrase : str or bytes, optional
        Encrypts the private half. Choose a long one: whoever has the file can try many (PBKDF2, 2,048 rounds).

    Returns
    -------
    SigningKey
        The new key. `path` is a PKCS#8 PEM that nobody but its owner can read.

    Raises
    ------
    ConfigError
        One of the files already exists and was left unchanged, or the file system refused; nothing was left behind.
    MissingExtra
        cryptography is not installed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     key = write_key_pair(f"{directory}/bundle.key")
    ...     load_trusted_key(f"{directory}/bundle.key.pub") == key.trusted_key
    True
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise MissingExtra("sign", "making a key") from error
    secret = _passphrase_octets(passphrase)
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    encryption = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    target = Path(path)
    made: list[Path] = []
    try:
        for file, content, mode in ((target, private, 0o600), (Path(f"{target}.pub"), public, 0o644)):
            # The file has its mode from the start: before a later chmod, others could open it.
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(file)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        fsync(target.parent)
    except BaseException as error:
        for file in made:
            file.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            raise ConfigError(
                f"{one_line(error.filename)} already exists and was left unchanged. Choose another name"
            ) from error
        if isinstance(error, OSError | ValueError):  # ValueError: a NUL in the path
            raise ConfigError(f"the key could not be written: {one_line(error)}. Nothing was left behind") from error
        raise
    return SigningKey(key)


def _passphrase_octets(passphrase: str | bytes | None) -> bytes | None:
    if passphrase is None:
        return None
    try:
        octets = passphrase.encode("utf-8") if isinstance(passphrase, str) else passphrase
    except UnicodeEncodeError:
        raise ConfigError("the passphrase cannot be encoded as UTF-8; give it as bytes") from None
    if not 1 <= len(octets) <= _MAX_PASSPHRASE_BYTES:
        raise ConfigError(f"a passphrase has 1 to {_MAX_PASSPHRASE_BYTES:,} bytes; found {len(octets):,}")
    return octets


def _read_pem(source: Any, expected: str) -> tuple[str, bytes, str]:
    """Where a key comes from, its PEM, and the label of the PEM."""
    if isinstance(source, bytes):
        where, pem = "the key given", source
    elif isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if "\n" in path or "-----" in path:  # a message with the path would show the key
            raise ConfigError(f"expected the path of {expected}; found a key's text; give that as bytes")
        where = one_line(path)
        try:
            with Path(path).open("rb") as file:  # or a pipe: a shell can pass what another program prints
                pem = file.read(_MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ConfigError(f"expected {expected}, but it cannot be read: {one_line(error)}") from error
    else:
        raise ConfigError(f"expected {expected}, as a path, bytes or a key; found {type(source).__name__}")
    if len(pem) > _MAX_FILE_BYTES:
        raise ConfigError(f"{where}: expected {expected}; found more than {_MAX_FILE_BYTES:,} bytes")
    begin = _BEGIN.search(pem)
    if begin is None:
        raise ConfigError(f"{where}: expected {expected}; found no PEM block")
    return where, pem, begin[1].decode("ascii")
