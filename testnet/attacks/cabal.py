"""What colluders tell one another before they commit, and what they make of it.

Members commit before anybody reveals, so nobody sees this round's honest updates in time: the omniscient
attacker of the papers does not exist here. Colluders pool what they learnt honestly from the same base (the
partial knowledge of the papers). Where that is too little to know a deviation, they add the deviations of the
others' updates in the last block of their group, which everybody there holds, around their own mean.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import trio
from numpy.typing import NDArray

from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.params import Update, parse_update
from p2pfl.records import GroupBody, decode_body
from testnet.attacks.lying import Delta, Training

# A deviation estimated from fewer updates is chance.
ROWS_MIN = 3
# Groups are a round or two apart at most; what was told of older bases nobody asks for.
BASES_KEPT = 4
# How often the files of members in other processes are looked for, and for which part of the time that
# training may take they are waited for: the own training took some of it, and a late commitment is none.
POLL_S = 0.1
PATIENCE_SHARE = 0.4


class Cabal:
    """The trainings of those who collude, by the base they started from.

    Members in one process tell one another in memory, without a look at the real clock; those in others
    through files in the run's folder, each written whole.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.names = names
        self.here: set[str] = set()
        self._folder = folder
        self._told: OrderedDict[str, dict[str, Delta]] = OrderedDict()
        self._beat = trio.Event()

    async def share(self, name: str, training: Training, patience_s: float) -> dict[str, Delta]:
        """Tell the others what was learnt; what they have learnt from this base, as far as it is in time."""
        key = sha256(np.ascontiguousarray(training.base).tobytes()).hexdigest()[:16]
        told = self._told.setdefault(key, {})
        self._told.move_to_end(key)
        told[name] = training.delta
        while len(self._told) > BASES_KEPT:
            self._told.popitem(last=False)
        self._beat.set()
        self._beat = trio.Event()
        elsewhere = set(self.names) - self.here
        if elsewhere:
            self._write(key, name, training.delta)
        with trio.move_on_after(patience_s):
            while missing := set(self.names) - told.keys():
                self._read(key, told, missing & elsewhere)
                if set(self.names) <= told.keys():
                    break
                with trio.move_on_after(POLL_S if missing & elsewhere else patience_s):
                    await self._beat.wait()
        return {each: told[each] for each in self.names if each in told}

    def _write(self, key: str, name: str, delta: Delta) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{key}.{name}.npy"
        coming = path.with_suffix(".coming")
        with coming.open("wb") as file:
            np.save(file, delta)
        coming.replace(path)
        mine = sorted(self._folder.glob(f"*.{name}.npy"), key=lambda each: each.stat().st_mtime_ns)
        for old in mine[:-BASES_KEPT]:
            old.unlink(missing_ok=True)

    def _read(self, key: str, told: dict[str, Delta], names: set[str]) -> None:
        for name in names:
            with suppress(OSError):
                told[name] = np.load(self._folder / f"{key}.{name}.npy", allow_pickle=False)


# Those whose members run in this process: experiments run hundreds of nodes, and many networks one by one.
_CABALS: WeakValueDictionary[tuple[Path, tuple[str, ...]], Cabal] = WeakValueDictionary()


class Knowledge:
    """What one colluder knows of a round when it must commit.

    names: the cabal's members, the own one among them or added; by default it is alone.
    """

    def __init__(self, parts: Any, names: Sequence[str] = ()) -> None:
        self._parts = parts
        run = parts.settings.dir.resolve().parent.parent
        members = tuple(sorted({parts.name, *names}))
        self.cabal = _CABALS.setdefault((run, members), Cabal(run / "cabal", members))
        self.cabal.here.add(parts.name)
        self._patience_s = parts.genesis.times.train_ms / 1000 * PATIENCE_SHARE

    async def pooled(self, training: Training, *, waits: bool = True) -> dict[str, Delta]:
        """What the cabal learnt from this base, by member; without waiting, what is here already."""
        return await self.cabal.share(self._parts.name, training, self._patience_s if waits else 0.0)

    async def updates(self, training: Training) -> NDArray[np.float64]:
        """Honest updates of this round, as far as they can be known: float64, shape (updates, coordinates).

        The cabal's own; if those are fewer than ROWS_MIN, the last block's others too, moved so that their
        mean is the cabal's: where they scatter says where this round's will.
        """
        rows = np.stack(list((await self.pooled(training)).values()))
        if len(rows) >= ROWS_MIN:
            return rows
        seen = revealed(self._parts, {*self.cabal.names})
        if len(seen) < 2:
            return rows
        others = np.stack(list(seen.values()))
        return np.concatenate([rows, rows.mean(0) + (others - others.mean(0))])


def revealed(parts: Any, without: set[str]) -> dict[str, Delta]:
    """The updates of the last block of the own group that lie here, by member: float64, (coordinates,)."""
    context = getattr(parts.desk, "context", None)
    if context is None or context.name == COUNCIL or context.chain.height < 0:
        return {}
    decided = context.chain.get(context.chain.height)
    body: GroupBody = decode_body(decided.block.body, GroupBody)
    found: dict[str, Delta] = {}
    for signed in body.txs:
        name = context.name_of(signed.tx.member)
        data = None if name in without else parts.store.blobs.get(signed.tx.blob_id)
        with suppress(PeerFault):
            if data is not None:
                found[name] = floats(parse_update(data, parts.genesis.task.layout, body.exponents))
    return found


def floats(update: Update) -> Delta:
    """An update in floats."""
    values = np.empty(update.layout.size, dtype=np.float64)
    for part, exponent in zip(update.layout.slices(), update.exponents, strict=True):
        values[part] = np.ldexp(update.values[part].astype(np.float64), exponent)
    return values
