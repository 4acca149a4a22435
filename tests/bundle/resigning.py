"""Bundles whose part was replaced by somebody who holds a trusted key: every digest and signature is right again.

So only what looks into the part can refuse it. Written by what the files say, not by our code: manifests are lists of
digests, the attestation a JSON envelope around a JSON statement.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SUBJECT = re.compile(r'\{"name": "([^"]*)", "digest": \{"sha256": "([0-9a-f]{64})"\}\}')


def resigned(bag: Path, octets: bytes, key: Ed25519PrivateKey, part: str = "data/trace_steps.parquet") -> Path:
    """Replace a part of a signed bundle, a directory, and sign the bundle again."""
    (bag / part).write_bytes(octets)
    payload = sorted(path for path in (bag / "data").iterdir())
    oxum = f"{sum(path.stat().st_size for path in payload)}.{len(payload)}"
    info = bag / "bag-info.txt"
    info.write_text(re.sub(r"(?m)^Payload-Oxum: .*$", f"Payload-Oxum: {oxum}", info.read_text()))
    _update_manifest(bag, "manifest-sha256.txt")
    _update_manifest(bag, "tagmanifest-sha256.txt")
    _sign_again(bag, bag / "attestation.dsse.json", key)
    _update_manifest(bag, "tagmanifest-sha256.txt")  # in format 2 it lists the attestation, and is not a subject of it
    return bag


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _update_manifest(bag: Path, name: str) -> None:
    lines = [line.split("  ", 1)[1] for line in (bag / name).read_text().splitlines()]
    (bag / name).write_text("".join(f"{_digest(bag / line)}  {line}\n" for line in lines))


def _sign_again(bag: Path, path: Path, key: Ed25519PrivateKey) -> None:
    envelope = json.loads(path.read_text())
    statement = base64.b64decode(envelope["payload"]).decode("ascii")
    payload = _SUBJECT.sub(
        lambda found: found[0].replace(found[2], _digest(bag / json.loads(f'"{found[1]}"'))), statement
    ).encode("ascii")
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(key.sign(signed)).decode()
    path.write_text(json.dumps(envelope, indent=2) + "\n")
