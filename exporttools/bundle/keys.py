"""Loads, makes and uses Ed25519 keys. Only it and :mod:`.encrypted_keys` import cryptography. Knows no bundle.

A key's id is the SHA-256 of its public half, as ``openssl`` and ``sha256sum`` print it::

    openssl pkey -pubin -in bundle.key.pub -outform DER | sha256sum
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TypeAlias, runtime_checkable

from exporttools.bundle.encrypted_keys import encrypted_pem
from exporttools.bundle.key_files import KeyFile, read_key_file
from exporttools.errors import ConfigError, MissingExtra
from exporttools.files.durable import fsync
from exporttools.text.inert import one_line, shown_name

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# RFC 8410 §4: an Ed25519 SubjectPublicKeyInfo is these octets and the key's 32.
_DER_START = bytes.fromhex("302a300506032b6570032100")
_KEY_BYTES = 32
_DER_BYTES = len(_DER_START) + _KEY_BYTES

SIGNATURE_BYTES = 64
"""The length of an Ed25519 signature (RFC 8032 §5.1.6)."""

MOST_SIGNERS = 16
"""The most keys that one bundle is signed with."""

_MAX_PASSPHRASE_BYTES = 1023  # OpenSSL's
_NAME_CHARACTERS = 60

TrustedKeySource: TypeAlias = "str | os.PathLike[str] | bytes | Ed25519PublicKey | TrustedKey"
SigningKeySource: TypeAlias = "str | os.PathLike[str] | bytes | Ed25519PrivateKey | Signer"

_PRIVATE = "an Ed25519 private key as PEM"
_PUBLIC = "an Ed25519 public key as PEM or in OpenSSH's format"
_MAKE_ONE = "make one with: openssl genpkey -algorithm ed25519 -out bundle.key"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """The public half of a key, with which signatures are checked. Equal to another with the same octets.

    Attributes
    ----------
    octets : bytes
        The 32 octets of an RFC 8032 public key.
    name : str or None
        Whose key it is, for people: what its file says, or else the file's name.
    not_before, not_after : datetime.datetime or None
        The first and the last moment at which a bundle can have been written for its signature to count.

    Raises
    ------
    ConfigError
        There are not 32 octets, a time is without a time zone, or `not_after` is before `not_before`.
    """

    octets: bytes
    name: str | None = field(default=None, compare=False)
    not_before: dt.datetime | None = field(default=None, compare=False)
    not_after: dt.datetime | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if len(self.octets) != _KEY_BYTES:
            raise ConfigError(f"an Ed25519 public key has {_KEY_BYTES} octets; found {len(self.octets):,}")
        for name, moment in (("not_before", self.not_before), ("not_after", self.not_after)):
            if moment is not None and moment.tzinfo is None:
                raise ConfigError(f"{name} is {moment}, without a time zone; give one such as datetime.UTC")
        if self.not_before is not None and self.not_after is not None and self.not_after < self.not_before:
            raise ConfigError(
                f"the key {self.label} is never valid: not_after {self.not_after} is before not_before {self.not_before}"
            )

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

    @property
    def label(self) -> str:
        """What to call the key beside a verdict: its name, quoted if it is not plain words, or else the start of its id."""
        return shown_name(self.name, _NAME_CHARACTERS) if self.name else f"{self.key_id[:16]}…"

    def valid_at(self, moment: dt.datetime) -> bool:
        """Whether a bundle that was written at this moment can be signed with this key."""
        return (self.not_before is None or self.not_before <= moment) and (
            self.not_after is None or moment <= self.not_after
        )

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


@runtime_checkable
class Signer(Protocol):
    """Anything that signs: a :class:`SigningKey`, or a class of your own around a KMS, an HSM or a PKCS#11 token.

    Attributes
    ----------
    key_id : str
        The id of the public key, :attr:`TrustedKey.key_id`.
    public_key : TrustedKey
        With which every signature is verified before a bundle appears.
    """

    @property
    def key_id(self) -> str:
        """The id of the public key."""

    @property
    def public_key(self) -> TrustedKey:
        """The public key that verifies what is signed."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the Ed25519 signature of `data`: 64 bytes, over the data itself and not over a hash of it."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SigningKey:
    """A private key. It is never shown, pickled or copied."""

    _private: Ed25519PrivateKey

    @property
    def trusted_key(self) -> TrustedKey:
        """The public half, to give to those who verify."""
        return TrustedKey(self._private.public_key().public_bytes_raw())

    @property
    def public_key(self) -> TrustedKey:
        """The same, by the name that every :class:`Signer` has for it."""
        return self.trusted_key

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
        The path of a PEM file in PKCS#8 (what ``openssl genpkey -algorithm ed25519`` writes) or OpenSSH's format (what
        ``ssh-keygen -t ed25519`` writes), the file's bytes, or a key.
    passphrase : str, bytes or callable, optional
        For an encrypted PEM; a str is encoded as UTF-8. A callable is called only if a passphrase is needed.

    Returns
    -------
    SigningKey

    Raises
    ------
    ConfigError
        The file is missing or not PEM, or holds another kind of key, a public key or more than one key; the passphrase is
        wrong, missing or not needed. No message contains key material or a passphrase.
    MissingExtra
        cryptography is not installed.

    Warns
    -----
    UserWarning
        Others than its owner can read the file.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
    except ImportError as error:
        raise MissingExtra("sign", "signing a bundle") from error
    ask = passphrase if callable(passphrase) else None
    secret = None if callable(passphrase) else _passphrase_octets(passphrase)
    if isinstance(source, SigningKey | Ed25519PrivateKey):
        if secret is not None:
            raise ConfigError("a passphrase was given for a key that is loaded already; leave it out")
        return source if isinstance(source, SigningKey) else SigningKey(source)
    file = read_key_file(source, _PRIVATE)
    where = file.where
    if file.kind not in ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY"):
        public = file.kind.endswith("PUBLIC KEY")
        advice = "give the file of the private key, without .pub" if public else _MAKE_ONE
        raise ConfigError(f"{where}: expected {_PRIVATE}; found {file.kind}; {advice}")
    if file.readable_by_others:
        warnings.warn(f"{where}: others than its owner can read this private key; run: chmod 600 {where}", stacklevel=2)
    if file.encrypted and ask:
        secret = _passphrase_octets(ask())
    if file.encrypted and secret is None:
        raise ConfigError(f"{where}: the key is encrypted; give its passphrase")
    if secret is not None and not file.encrypted:
        raise ConfigError(f"{where}: a passphrase was given for a key that is not encrypted; leave it out")
    load = load_ssh_private_key if file.kind.startswith("OPENSSH") else load_pem_private_key
    try:
        key = load(file.block, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if "bcrypt" in str(error):
            raise ConfigError(
                f"{where}: OpenSSH's passphrases need the package bcrypt, which is not installed: pip install bcrypt"
            ) from error
        reason = "the passphrase is wrong, or the key is damaged" if file.encrypted else "the key is damaged"
        raise ConfigError(f"{where}: expected {_PRIVATE}; {reason}") from error
    if not isinstance(key, Ed25519PrivateKey):
        kind = type(key).__name__.removesuffix("PrivateKey")
        raise ConfigError(f"{where}: expected {_PRIVATE}; found one for {kind}; {_MAKE_ONE}")
    return SigningKey(key)


def load_signers(sources: SigningKeySource | Iterable[SigningKeySource]) -> dict[TrustedKey, Signer]:
    """Load what a bundle is to be signed with.

    Parameters
    ----------
    sources : one or more of path, bytes, Ed25519PrivateKey or Signer

    Returns
    -------
    dict of TrustedKey to Signer
        By public key, in the order given.

    Raises
    ------
    ConfigError
        There are none or more than 16, one is given twice or is not a valid key, or a signer's key id is not that of its
        public key.
    MissingExtra
        cryptography is not installed.
    """
    one = isinstance(sources, str | bytes | os.PathLike | Signer) or not isinstance(sources, Iterable)
    listed: list[Any] = [sources] if one else list(sources)  # type: ignore[arg-type]
    if not 1 <= len(listed) <= MOST_SIGNERS:
        advice = "; for a bundle without a signature, leave signing_key out" if not listed else ""
        raise ConfigError(f"signing_key has {len(listed):,} keys; expected 1 to {MOST_SIGNERS}{advice}")
    signers: dict[TrustedKey, Signer] = {}
    for source in listed:
        signer: Signer = source if isinstance(source, Signer) else load_signing_key(source)
        key, key_id = signer.public_key, signer.key_id
        if not isinstance(key, TrustedKey):
            raise ConfigError(
                f"a signer's public_key is a {type(key).__name__}; expected a TrustedKey (load_trusted_key)"
            )
        if key_id != key.key_id:
            raise ConfigError(
                f"a signer's key_id is {one_line(repr(key_id))}; expected the id of its public key, {key.key_id}"
            )
        if key in signers:
            raise ConfigError(f"the signing key {key.key_id} is given twice; give each key once")
        signers[key] = signer
    return signers


def load_trusted_key(source: TrustedKeySource) -> TrustedKey:
    """Load a public key whose signatures you trust.

    Parameters
    ----------
    source : str, path, bytes, Ed25519PublicKey or TrustedKey
        The path of a PEM file (what ``openssl pkey -in bundle.key -pubout`` writes) or of an OpenSSH public key, the file's
        bytes, or a key.

    Returns
    -------
    TrustedKey
        With the name, ``not_before`` and ``not_after`` that lines before the key say, such as ``name: Jane Roe`` or
        ``not_after: 2027-12-31``. Without such a line, its name is an OpenSSH key's comment, or else the file's name.

    Raises
    ------
    ConfigError
        The file is missing or not a key, or holds another kind of key, a private key or more than one key, or a line before
        the key is not valid.
    MissingExtra
        cryptography is not installed.

    Examples
    --------
    >>> pem = b'''name: Jane Roe, laptop
    ... not_after: 2027-12-31
    ... -----BEGIN PUBLIC KEY-----
    ... MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=
    ... -----END PUBLIC KEY-----
    ... '''
    >>> key = load_trusted_key(pem)
    >>> key.label, key.not_after.isoformat()
    ('"Jane Roe, laptop"', '2027-12-31T23:59:59.999999+00:00')
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key
    except ImportError as error:
        raise MissingExtra("sign", "checking a signature") from error
    if isinstance(source, TrustedKey):
        return source
    if isinstance(source, Ed25519PublicKey):
        return TrustedKey(source.public_bytes_raw())
    file = read_key_file(source, _PUBLIC)
    if file.kind not in ("PUBLIC KEY", "OPENSSH PUBLIC KEY"):
        private = file.kind.endswith("PRIVATE KEY")
        advice = "; never share a private key: give its .pub file" if private else ""
        raise ConfigError(f"{file.where}: expected {_PUBLIC}; found {file.kind}{advice}")
    load = load_ssh_public_key if file.kind.startswith("OPENSSH") else load_pem_public_key
    try:
        key = load(file.block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file.where}: expected {_PUBLIC}; the key is damaged") from error
    if not isinstance(key, Ed25519PublicKey):
        kind = type(key).__name__.removesuffix("PublicKey")
        raise ConfigError(f"{file.where}: expected {_PUBLIC}; found one for {kind}")
    return _with_words(key.public_bytes_raw(), file)


def _with_words(octets: bytes, file: KeyFile) -> TrustedKey:
    try:
        return TrustedKey(octets, file.name, file.not_before, file.not_after)
    except ConfigError as error:
        raise ConfigError(f"{file.where}: {error}") from None


def load_trusted_keys(sources: TrustedKeySource | Iterable[TrustedKeySource]) -> list[TrustedKey]:
    """Load the public keys that you trust.

    Parameters
    ----------
    sources : one or more of path, bytes, Ed25519PublicKey or TrustedKey
        A path may be that of a directory: every file in it that is not hidden must be a key.

    Returns
    -------
    list of TrustedKey
        Each once, in the order given, or of the files' names.

    Raises
    ------
    ConfigError
        There is no key at all; a file in a directory is not a key; a key is given twice with different periods; or as
        :func:`load_trusted_key` does.
    MissingExtra
        cryptography is not installed.
    """
    one = isinstance(sources, str | bytes | os.PathLike) or not isinstance(sources, Iterable)
    listed: list[Any] = [sources] if one else list(sources)  # type: ignore[arg-type]
    keys: dict[TrustedKey, TrustedKey] = {}
    for source in listed:
        for file in _files_of(source):
            key = load_trusted_key(file)
            first = keys.setdefault(key, key)
            if (first.not_before, first.not_after) != (key.not_before, key.not_after):
                raise ConfigError(
                    f"the key {key.key_id} is given twice, as {first.label} and {key.label}, with different not_before or "
                    "not_after; remove one"
                )
    if not keys:
        raise ConfigError("no trusted key was given; give at least one, or leave trusted_keys out to demand none")
    return list(keys)


def _files_of(source: TrustedKeySource) -> list[TrustedKeySource]:
    """The files of a directory that are not hidden; anything else is itself."""
    if not isinstance(source, str | os.PathLike) or not os.path.isdir(source):  # noqa: PTH112
        return [source]
    try:
        entries = sorted(path for path in Path(source).iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"expected a directory of public keys, but it cannot be read: {one_line(error)}") from error
    if not entries:
        raise ConfigError(f"{one_line(source)}: expected a directory of public keys; found no key in it")
    for path in entries:
        if not path.is_file():
            raise ConfigError(
                f"{one_line(path)}: expected a public key; found something that is not a file; move it away"
            )
    return list(entries)


def write_key_pair(path: str | os.PathLike[str], *, passphrase: str | bytes | None = None) -> SigningKey:
    """Make a new key: the private half at `path`, the public half beside it with ``.pub`` added to the name.

    Parameters
    ----------
    path : str or path
        Neither it nor the ``.pub`` file may exist; the directory must.
    passphrase : str or bytes, optional
        Encrypts the private half (PBKDF2-HMAC-SHA256, 600,000 rounds; AES-256). Choose a long one: whoever has the file can
        try many.

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
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    if secret is None:
        private = key.private_bytes(pem, form, plain)
    else:
        private = encrypted_pem(key.private_bytes(serialization.Encoding.DER, form, plain), secret)
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
