"""Ed25519 signatures over a result, by the `cryptography` package (extra "sign")."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zsu_fast.extras import require

LIMITS = (
    "a signature proves that whoever held the key signed this result and that it has not changed since; not who that "
    "was, not the time (it is the signer's clock), and not where the images came from"
)


def canonical(content: dict[str, Any]) -> bytes:
    """The signed bytes: the result without its signature, as JSON with sorted keys and no spaces."""
    unsigned = {name: value for name, value in content.items() if name != "signature"}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sign(content: dict[str, Any], key: Path) -> dict[str, str]:
    """{"algorithm", "public_key", "signature"} in hexadecimal. ValueError if the file holds no Ed25519 private key."""
    private = check_key(key)
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    public = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    # What json gives back is what is signed: numbers and tuples as a reader will find them.
    return {
        "algorithm": "Ed25519",
        "public_key": public.hex(),
        "signature": private.sign(canonical(json.loads(json.dumps(content, allow_nan=False)))).hex(),
    }


def signer(key: Path) -> Callable[[dict[str, Any]], dict[str, str]]:
    """`sign` with a key that is checked now."""
    check_key(key)
    return lambda content: sign(content, key)


def check_before_signing(content: dict[str, Any], key: Path, source: Path, note: Callable[[str], None]) -> None:
    """Of what an earlier run wrote, and is now to be signed as a whole. ValueError if it was changed since its
    signature; `note` is told where nobody, or another key, has signed it.
    """
    signature = content.get("signature")
    if signature is None:
        note(f"{source} was not signed: what it says of earlier requests is signed as it stands")
        return
    given = signature.get("public_key") if isinstance(signature, dict) else None
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", "sign")
    try:
        public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(given)))
    except ValueError:
        public = None
    if public is None or not _holds(content, public):
        raise ValueError(f"--sign: {source} was changed after it had been signed; what it says now is not signed")
    if sign({}, key)["public_key"] != given:
        note(f"{source} was signed by another key, {given}: what it says of earlier requests is signed as it stands")


def check_key(key: Path) -> Any:
    """The private key in a PEM file, read before the work."""
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", "sign")
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise ValueError(f"--sign: {key} holds no Ed25519 private key (openssl genpkey -algorithm ed25519 makes one)")
    return private


def signed_by(content: dict[str, Any], key: Path) -> bool:
    """Whether the result carries a valid signature of the public key in a PEM file."""
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", "sign")
    try:
        public = serialization.load_pem_public_key(key.read_bytes())
    except (ValueError, TypeError):
        public = None
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise ValueError(f"--public-key: {key} holds no Ed25519 public key (openssl pkey -in KEY -pubout makes it)")
    return _holds(content, public)


def _holds(content: dict[str, Any], public: Any) -> bool:
    """Whether its signature is of this public key, and of what it says."""
    invalid = require("cryptography.exceptions", "sign").InvalidSignature
    try:
        public.verify(bytes.fromhex(content["signature"]["signature"]), canonical(content))
    except (KeyError, TypeError, ValueError, invalid):
        return False
    return True
