"""Base class of the records that are written to disk or cross a process."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """An immutable, strictly checked record. Field docstrings become the schema's descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def digest(*parts: bytes | str, length: int = 16) -> str:
    """Hex SHA-256 over length-prefixed parts, cut to `length` characters: stable across processes."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "big") + data)
    return sha.hexdigest()[:length]
