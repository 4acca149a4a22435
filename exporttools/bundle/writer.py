"""Writes a bundle: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from exporttools.bundle import attestation, description
from exporttools.bundle.archive import write_archive
from exporttools.bundle.bag import write_tag_files, write_tag_manifest
from exporttools.bundle.description import PART_FILES, describe
from exporttools.bundle.keys import Signer, SigningKeySource, TrustedKey, load_signers
from exporttools.bundle.parts import MOST_PART_BYTES, PartRefused, write_part
from exporttools.errors import BundleError, BundleExists, ConfigError
from exporttools.files.durable import new_directory, new_file, scratch_directory
from exporttools.records.export_bundle import ExportBundle
from exporttools.text.inert import one_line


def write_bundle(
    bundle: ExportBundle,
    path: str | os.PathLike[str],
    *,
    signing_key: SigningKeySource | Iterable[SigningKeySource] | None = None,
    archive: bool = False,
    redact: Iterable[str] | str = (),
) -> Path:
    """Save a bundle as files that anyone can verify.

    Parameters
    ----------
    bundle : ExportBundle
    path : str or path
        Must not exist; its parent directory must.
    signing_key : one or more of path, PEM bytes, Signer or cryptography's Ed25519PrivateKey, optional
        Sign the bundle with these Ed25519 keys (extra ``sign``). For a key under a passphrase, use
        :func:`load_signing_key`; for one that a KMS or a token holds, write a :class:`Signer`.
    archive : bool
        Write one zip file instead of a directory. It holds the same bag, uncompressed; equal bags give equal bytes.
    redact : str or iterable of str
        Nullable text columns to replace by NULL, such as ``goal`` or ``runs.goal``; see :meth:`ExportBundle.redact`.
        The bundle lists them.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    BundleExists
        `path` already exists; it was left unchanged.
    ConfigError
        The parent is not a directory, the bundle is empty, a column cannot be redacted, or a key is not valid.
    MissingExtra
        A key is given, and the extra ``sign`` is not installed.
    BundleError
        The file system refused, a signer failed, or the bundle is too large; nothing was left behind.

    Notes
    -----
    The bundle appears under its name when it is complete and on disk, never before.

    Examples
    --------
    >>> import tempfile
    >>> from exporttools import ExportBundle, RunSnapshot, read_bundle, write_bundle
    >>> bundle = ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme", goal="save Jane Roe's account"))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     read_bundle(write_bundle(bundle, f"{directory}/r1.zip", archive=True)) == bundle
    ...     read_bundle(write_bundle(bundle, f"{directory}/r1", redact=["goal"])).run.goal is None
    True
    True
    """
    if not isinstance(bundle, ExportBundle):
        raise ConfigError(f"expected an ExportBundle; found {type(bundle).__name__}")
    if bundle.tenant_id is None:
        raise ConfigError("the bundle has no incident, run or trace; there is nothing to save")
    target = Path(path)
    if "\0" in str(target):
        raise ConfigError(f"the path {one_line(target)} contains a NUL character, which file names cannot contain")
    if not os.path.isdir(target.parent):  # unlike Path.is_dir, never an error: a name may be too long  # noqa: PTH112
        raise ConfigError(f"{one_line(target.parent)} is not a directory; create it first")
    signers = {} if signing_key is None else load_signers(signing_key)
    columns = [redact] if isinstance(redact, str) else list(redact)
    if columns:
        bundle = bundle.redact(*columns)
    try:
        if archive:
            with new_file(target) as file, scratch_directory(target) as bag:
                _fill(bag, bundle, signers)
                write_archive(bag, file, base=target.name.removesuffix(".zip"))
        else:
            with new_directory(target) as bag:
                _fill(bag, bundle, signers)
    except FileExistsError as error:
        raise BundleExists(
            f"{one_line(target)} already exists and was left unchanged. Remove it or choose another name"
        ) from error
    except OSError as error:
        raise BundleError(
            f"{one_line(target)} could not be written: {one_line(error)}. Nothing was left behind"
        ) from error
    return target


def _fill(bag: Path, bundle: ExportBundle, signers: Mapping[TrustedKey, Signer]) -> None:
    (bag / "data").mkdir()
    for part, table in bundle.tables.items():
        # The file is opened here: given a path, pyarrow removes what was there when it fails.
        with (bag / PART_FILES[part]).open("x+b") as file:
            try:
                write_part(table, file)
            except PartRefused as error:
                raise BundleError(
                    f"the rows of the {part} cannot be written: readers would refuse them: {error}. Nothing was left behind"
                ) from error
            if (size := file.seek(0, os.SEEK_END)) > MOST_PART_BYTES:
                raise BundleError(
                    f"the rows of the {part} take {size:,} bytes; expected at most {MOST_PART_BYTES:,}. "
                    "Nothing was left behind"
                )
    described = describe(bundle, bundle.row_totals, signed_by=[key.key_id for key in signers])
    with (bag / description.PATH).open("xb") as file:
        file.write(description.to_bytes(described))
    digests = write_tag_files(bag, described)
    if signers:
        with (bag / attestation.FILE_NAME).open("xb") as file:
            file.write(attestation.attest(digests, described, signers))
    write_tag_manifest(bag)
