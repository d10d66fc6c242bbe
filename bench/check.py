"""What a member does before it votes for a proposal, beside the reading of the updates' blobs alone.

The blobs lie in a store, none of them in its memory. The check is that of a node: every blob is read and
checked against its id, the body is derived again and compared, the aggregate and its id are kept. Reading is
the same store's: each blob's bytes, checked against its id; bare reading is that of the files, after which
nobody knows whose bytes they are. Processor seconds of one thread, in turns, medians; what a disk keeps
waiting is not in it, and the files are in the kernel's memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench import made
from consensus.types import ZERO_MEMBER
from p2pfl.errors import UserError
from p2pfl.genesis import ChainEntry, Genesis
from p2pfl.keys import load_signing_key
from p2pfl.params import Update, parse_update
from p2pfl.records import GroupBody
from p2pfl.rules.validate import GroupInputs, check_group_body, derive_group_body
from p2pfl.store.blobs import BlobStore
from testnet import plan
from testnet.scenarios import Scenario, Shape

GROUP = "g0"
MEMBERS_MAX = 16


def add_parser(commands: Any) -> None:
    """Add `check`."""
    parser = commands.add_parser("check", help="a member's check of a proposal", description=__doc__)
    parser.add_argument("--members", type=int, default=16, metavar="N", help="of the group (16)")
    parser.add_argument("--model", choices=("logistic", "cnn", "mlp"), default="mlp")
    parser.add_argument("--row-root", action="store_true", help="the genesis asks for the row tree")
    parser.add_argument("--times", type=int, default=5, metavar="N", help="each is timed so often (5)")
    parser.set_defaults(measure=measure)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """members, coordinates; check_s, read_s, ratio; bare_read_s; derive_s: the check without the reading."""
    if not 4 <= arguments.members <= MEMBERS_MAX or arguments.times < 1:
        raise UserError(
            "such a check cannot be measured",
            because=f"a group has 4 to {MEMBERS_MAX} members, and something must be timed",
            fix="see --members and --times",
        )
    taken: dict[str, list[float]] = {"check": [], "read": [], "bare_read": [], "derive": []}
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        inputs = _inputs(arguments, Path(folder))
        body = derive_group_body(inputs).body
        stored = BlobStore(Path(folder) / "blobs")
        for update in inputs.updates.values():
            stored.put(update.to_bytes(), durable=False)
        for _ in range(arguments.times):
            # A store of its own remembers nothing of the turn before.
            works: dict[str, Callable[[BlobStore], object]] = {
                "bare_read": lambda blobs: [blobs.path(s.tx.blob_id).read_bytes() for s in inputs.txs],
                "read": lambda blobs: [blobs.get(signed.tx.blob_id) for signed in inputs.txs],
                "derive": lambda _: check_group_body(body, inputs),
                "check": lambda blobs: _check(blobs, body, inputs),
            }
            for name, work in works.items():
                blobs = BlobStore(stored.folder)
                begun_s = time.process_time()
                work(blobs)
                taken[name].append(time.process_time() - begun_s)
            stored.path(body.aggregate_id).unlink()
    found = {f"{name}_s": round(median(each), 4) for name, each in taken.items()}
    pairs = zip(taken["check"], taken["read"], strict=True)
    return {
        "members": arguments.members,
        "coordinates": inputs.layout.size,
        "row_root": arguments.row_root,
        **found,
        "ratio": round(median(check / read for check, read in pairs), 2),
    }


def _check(blobs: BlobStore, body: GroupBody, inputs: GroupInputs) -> None:
    """As `rounds.proposal` does it, without the event loop and with everything fetched."""
    updates: dict[Any, Update] = {}
    leaves: dict[Any, bytes] = {}
    for signed in body.txs:
        data = blobs.get(signed.tx.blob_id)
        assert data is not None
        updates[signed.tx.member] = parse_update(data, inputs.layout, inputs.exponents)
        leaves[signed.tx.member] = blobs.leaves(signed.tx.blob_id)
    derived = check_group_body(body, dataclasses.replace(inputs, updates=updates, leaves=leaves))
    blobs.put(derived.aggregate.to_bytes(), derived.body.aggregate_id)


def _inputs(arguments: argparse.Namespace, folder: Path) -> GroupInputs:
    """A round of so many members, with an aggregate before it and a root update to compare with."""
    shape = Shape(groups=1, members=arguments.members, seats=1, model=arguments.model, chain=False)
    scenario = Scenario(name="bench", title="", claim="", culprits=(), holds={}, network=shape)
    ground = plan.break_ground(scenario, folder)
    genesis: Genesis = plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER)).genesis
    rules = dataclasses.replace(genesis.rules, row_root=int(arguments.row_root))
    genesis = dataclasses.replace(genesis, rules=rules)
    seats = [seat for seat in ground.seats if seat.group == GROUP]
    keys = {seat.entry.member_id: load_signing_key(seat.folder.signing_key).secret for seat in seats}
    inputs = made.inputs_of_a_round(genesis, GROUP, keys)
    chance = np.random.default_rng(2)
    before, root = (
        Update(
            inputs.layout,
            inputs.exponents,
            chance.normal(0, 400, inputs.layout.size).astype(np.int16),
        )
        for _ in range(2)
    )
    return dataclasses.replace(inputs, previous_aggregate=before, root_update=root)
