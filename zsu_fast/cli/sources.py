"""Keyed hashes of the images that were given: who has the key and the images can confirm that these were used."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any


def keyed_hash(digests: Sequence[bytes], key: str) -> dict[str, Any]:
    """How many images, and an HMAC-SHA-256 over their digests in ascending order: names and order do not count.

    key: hexadecimal, of the undo file.
    """
    mac = hmac.new(bytes.fromhex(key), digestmod="sha256")
    for digest in sorted(digests):
        mac.update(digest)
    return {"images": len(digests), "hmac_sha256": mac.hexdigest()}
