"""Encrypts a private key as PKCS#8 (RFC 5958 §3) with a passphrase, as costly to guess as is advised today.

cryptography itself writes PKCS#8 with 2,048 rounds of PBKDF2 and takes no other number. scrypt would cost those who guess more,
but openssl reads it only with parameters below those that are advised (its limit is 32 MiB). So the structure is PBES2
(RFC 8018 §6.2) with PBKDF2-HMAC-SHA256 and AES-256-CBC, which everybody reads, written here in DER.
"""

from __future__ import annotations

import base64
import hashlib
import os
import textwrap

PBKDF2_ROUNDS = 600_000
"""What OWASP's Password Storage Cheat Sheet advises for PBKDF2-HMAC-SHA256."""

_KEY_BYTES = 32
_BLOCK_BYTES = 16

# Object identifiers in DER.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d0209")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
_NULL = bytes.fromhex("0500")


def encrypted_pem(private_key: bytes, passphrase: bytes) -> bytes:
    """Return a private key, given as PKCS#8 in DER, as a PEM file under a passphrase. Whoever has one has cryptography."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CBC

    salt, start = os.urandom(16), os.urandom(_BLOCK_BYTES)
    secret = hashlib.pbkdf2_hmac("sha256", passphrase, salt, PBKDF2_ROUNDS, _KEY_BYTES)
    padding = _BLOCK_BYTES - len(private_key) % _BLOCK_BYTES  # RFC 8018 §6.1.1
    encryptor = Cipher(AES(secret), CBC(start)).encryptor()
    encrypted = encryptor.update(private_key + bytes([padding]) * padding) + encryptor.finalize()
    rounds = _der(0x02, PBKDF2_ROUNDS.to_bytes(3, "big"))
    derivation = _sequence(_PBKDF2, _sequence(_der(0x04, salt), rounds, _sequence(_HMAC_SHA256, _NULL)))
    scheme = _sequence(_PBES2, _sequence(derivation, _sequence(_AES_256_CBC, _der(0x04, start))))
    text = base64.b64encode(_sequence(scheme, _der(0x04, encrypted))).decode("ascii")
    lines = "\n".join(textwrap.wrap(text, 64))
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{lines}\n-----END ENCRYPTED PRIVATE KEY-----\n".encode("ascii")


def _sequence(*members: bytes) -> bytes:
    return _der(0x30, b"".join(members))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x81, size])  # an Ed25519 key's are all below 256
    return bytes([tag]) + length + content
