"""What an operator decides about how much one node keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoreOptions:
    """The settings of section `store`; each default is the setting's default.

    keep_blobs_epochs: blobs that only blocks of earlier epochs name are deleted (0: none is). history: which
    blobs of the past are fetched in the background, "none", "public" or "all". history_kib_s: how fast.
    """

    keep_blobs_epochs: int = 0
    history: str = "none"
    history_kib_s: int = 256


DEFAULT_STORE = StoreOptions()
