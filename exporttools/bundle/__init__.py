"""Bundles: an incident, its run, trace and steps as files that anyone can verify. Knows no database.

A bundle is a BagIt 1.0 bag (RFC 8493) with SHA-256 manifests, which ``sha256sum -c`` can check. Its payload is one Parquet
file for each part and a description, ``bundle.json``; a signed bundle also has an attestation::

    bagit.txt  bag-info.txt  HOW-TO-VERIFY.txt  manifest-sha256.txt  tagmanifest-sha256.txt  [attestation.dsse.json]
    data/incident.parquet  run.parquet  trace.parquet  trace_steps.parquet  bundle.json

All four Parquet files are always there; the file of a missing part has no rows. A zip file holds the same bag.
"""

from exporttools.bundle.comparison import Comparison, compare_bundles
from exporttools.bundle.keys import (
    Signer,
    SigningKey,
    TrustedKey,
    load_signing_key,
    load_trusted_key,
    load_trusted_keys,
    write_key_pair,
)
from exporttools.bundle.reader import read_bundle, verify_bundle
from exporttools.bundle.verification import Verification
from exporttools.bundle.writer import write_bundle
from exporttools.files.findings import Finding

__all__ = [
    "Comparison",
    "Finding",
    "Signer",
    "SigningKey",
    "TrustedKey",
    "Verification",
    "compare_bundles",
    "load_signing_key",
    "load_trusted_key",
    "load_trusted_keys",
    "read_bundle",
    "verify_bundle",
    "write_bundle",
    "write_key_pair",
]
