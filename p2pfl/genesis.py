"""What all members must share before they can agree on anything; its hash is the network's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from consensus.committee import Committee
from consensus.signing import Domain, keccak256
from consensus.types import Digest, MemberId
from p2pfl import codec
from p2pfl.errors import UserError
from p2pfl.jsonform import from_json, loads, to_json
from p2pfl.params import Layout, TensorSpec

GENESIS_VERSION = 1
COUNCIL = "council"


@dataclass(frozen=True)
class MemberEntry:
    """One member or council seat: a name for people, its keys, where it listens.

    member_id: address of the signing key. peer_id: libp2p peer id (base58). address: multiaddr without /p2p.
    """

    name: str
    member_id: MemberId
    peer_id: str
    address: str


@dataclass(frozen=True)
class GroupEntry:
    """A group (or the council) and its committee of epoch 0, in the order of their turns.

    location: members are shuffled among the groups of one location only.
    """

    name: str
    members: tuple[MemberEntry, ...]
    location: str = ""


@dataclass(frozen=True)
class Task:
    """What is learnt, and how. Rates are in millionths, so that the canonical bytes hold integers only.

    dataset: name in the table; root_size public samples by root_seed train the root update.
    optimizer: name in the table. Its momentum (Adam's first decay) is momentum_micro; second_moment_micro and
    epsilon_nano (in 1e-9) are Adam's. local_steps: steps of a training; 0: local_epochs passes instead.
    gradient_norm_max_micro: a longer gradient is shortened to it, so that one odd batch makes no odd update.
    proximal_micro: FedProx' mu. held_out_percent: what a member keeps out of its training to judge by.
    class_names: what a table of data calls its classes, in the order of their numbers (none: by numbers).
    """

    model: str
    dataset: str
    input_shape: tuple[int, ...]
    classes: int
    tensors: tuple[TensorSpec, ...]
    local_epochs: int
    batch_size: int
    learning_rate_micro: int
    momentum_micro: int
    trace_every: int
    root_size: int
    root_seed: int
    gradient_norm_max_micro: int = 2_000_000
    optimizer: str = "momentum"
    local_steps: int = 0
    second_moment_micro: int = 999_000
    # A thousand times the paper's: Adam makes whole steps of gradients that are rounding, and other machines
    # round otherwise. Replays of the residual network were up to 12 % away (docs/performance.md).
    epsilon_nano: int = 10_000
    proximal_micro: int = 0
    held_out_percent: int = 10
    class_names: tuple[str, ...] = ()

    @property
    def layout(self) -> Layout:
        """The tensors as a layout."""
        return Layout(self.tensors)

    def steps(self, samples: int) -> int:
        """How many steps a training on so many samples has."""
        return self.local_steps or self.local_epochs * -(-samples // self.batch_size)


@dataclass(frozen=True)
class Times:
    """Milliseconds. council_ms: how long Ci waits for the council's block; open_ms: for a ShareRequest to
    arrive; train_ms and collect_ms: training and gathering of commits; reveal_ms: fetching of the blobs;
    propose_ms: T0 of consensus (check, recompute, three delays). Doubled each round up to 2^double_max.
    gather_ms: how long the council waits for slower groups once the first one has decided.
    """

    council_ms: int
    open_ms: int
    train_ms: int
    collect_ms: int
    reveal_ms: int
    propose_ms: int
    gather_ms: int
    double_max: int
    clock_skew_ms: int


@dataclass(frozen=True)
class Rules:
    """The thresholds everybody judges by. Ratios in millionths.

    weight_cap: the most samples that count. group_cos_min_micro: a group whose delta's cosine to the
    others' is below stands apart. duplicate_max_micro: relative distance below which two updates are one.
    norm_ratio_max_micro: above it, or below its inverse, an update is out of bounds. replay_max_ppm: relative
    distance of a replayed segment above which a seat measures guilt. case_blocks: council blocks that an
    accused has.
    filter_rate_ppb: false-positive rate of the Bloom filters, in parts per billion. council_every: K.
    row_root: 1 if a group's block names the row tree (`rules.rows`), 0 if not.

    audit_share_ppm: share of the members that is drawn for audit in a round. harmful_max_ppm: a reference
    model may disagree with so many more of the opened labels than it is expected to; harmful_error_max_ppm:
    one that is wrong of more of the public samples judges no labels. harmful_blocks: council blocks for which
    a member with harmful data is left out; harmful_times: after so many exclusions it loses its seat.

    alarm_rate_ppm: p-value of a member's round at which a case is opened: the share of honest rounds that are
    suspected. leave_out_rate_ppm: p-value at which it is left out of the round, which accuses nobody.
    look_back: rounds of the group in which an update may not have been seen before.
    ballots: 1 if members say of each block of their group whether their held-out data are served by it.
    """

    aggregator: str
    weight_cap: int
    group_cos_min_micro: int
    duplicate_max_micro: int
    norm_ratio_max_micro: int
    replay_max_ppm: int
    case_blocks: int
    filter_rate_ppb: int
    council_every: int
    row_root: int = 0
    audit_share_ppm: int = 20_000
    harmful_max_ppm: int = 400_000
    harmful_error_max_ppm: int = 250_000
    harmful_blocks: int = 20
    harmful_times: int = 3
    alarm_rate_ppm: int = 300
    leave_out_rate_ppm: int = 10_000
    look_back: int = 3
    ballots: int = 1


@dataclass(frozen=True)
class Epochs:
    """When committees change. blocks: council blocks of an epoch (0: the first one never ends).

    stall_ms: a group of which the council counted nothing for so long is closed, and its living members are
    given other seats at once. It is far above what a round may take, round changes included.
    """

    blocks: int = 0
    stall_ms: int = 600_000


@dataclass(frozen=True)
class ChainEntry:
    """The EVM chain and contracts; chain_id 0 and zero addresses: a network without stake."""

    chain_id: int
    registry: MemberId
    slashing: MemberId


@dataclass(frozen=True)
class Genesis:
    """The whole. seed: 32 bytes of public chance. rounds: heights of learning each group runs (0: no end).

    initial_base_id, initial_exponents: where learning starts; the base's bytes lie beside the file, or are
    drawn again from the model's name and the seed. pool: founding rows of honest rounds (`rules.pool`).
    """

    version: int
    name: str
    seed: Digest
    chain: ChainEntry
    task: Task
    times: Times
    rules: Rules
    groups: tuple[GroupEntry, ...]
    council: GroupEntry
    rounds: int
    initial_base_id: Digest
    initial_exponents: tuple[int, ...]
    start_time_ms: int
    epochs: Epochs = Epochs()
    pool: bytes = b""

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names) or COUNCIL in names:
            raise ValueError("group names must differ, and 'council' is taken")
        ids = [entry.member_id for group in (*self.groups, self.council) for entry in group.members]
        if len(set(ids)) != len(ids):
            raise ValueError("a signing key may have one seat only")
        if len(self.initial_exponents) != len(self.task.tensors):
            raise ValueError("one exponent for each tensor")

    @cached_property
    def network_id(self) -> Digest:
        """keccak256 of the canonical bytes: white space in the file does not change it."""
        return keccak256(codec.encode(self, Genesis))

    def group_id(self, name: str) -> Digest:
        """The salt of every signature of this group (or of "council")."""
        return keccak256(self.network_id + name.encode())

    @cached_property
    def group_names(self) -> dict[Digest, str]:
        """Group id to name, the council's too."""
        return {self.group_id(entry.name): entry.name for entry in (*self.groups, self.council)}

    def entry(self, name: str) -> GroupEntry:
        """The group (or the council) of this name."""
        for group in (*self.groups, self.council):
            if group.name == name:
                return group
        raise KeyError(name)

    def committee(self, name: str) -> Committee:
        """The committee of a group in epoch 0; of later epochs the roster knows."""
        return Committee(0, tuple(entry.member_id for entry in self.entry(name).members))

    def domain(self, name: str) -> Domain:
        """Where the signatures of this group count."""
        return Domain(self.chain.chain_id, self.chain.slashing, self.group_id(name))

    def group_of(self, member: MemberId) -> str:
        """The group (or "council") in which this member sits in epoch 0. KeyError for a stranger."""
        for group in (*self.groups, self.council):
            if any(entry.member_id == member for entry in group.members):
                return group.name
        raise KeyError("0x" + member.hex())

    def member(self, member: MemberId) -> MemberEntry:
        """The entry of a member or seat. KeyError for a stranger."""
        for group in (*self.groups, self.council):
            for entry in group.members:
                if entry.member_id == member:
                    return entry
        raise KeyError("0x" + member.hex())

    def round_seed(self, group: Digest, epoch: int, height: int) -> bytes:
        """The public seed of one round: 32 bytes that order every member's batches."""
        return sha256(
            b"MPS round" + self.seed + group + epoch.to_bytes(8, "big") + height.to_bytes(8, "big")
        ).digest()


def save(genesis: Genesis, path: Path) -> None:
    """Write the genesis as a JSON file."""
    path.write_text(json.dumps(to_json(genesis), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Genesis:
    """Read a genesis file. Raises UserError that says what is wrong with it."""
    fix = "copy the genesis file of your network again, or make one with `p2pfl testnet up`"
    try:
        raw = loads(path.read_text(encoding="utf-8"))
        genesis = from_json(raw, Genesis)
    except OSError as error:
        raise UserError(f"the genesis file {path} cannot be read", because=str(error), fix=fix) from error
    except ValueError as error:
        raise UserError(f"the genesis file {path} is not valid", because=str(error), fix=fix) from error
    if genesis.version != GENESIS_VERSION:
        raise UserError(
            f"the genesis file {path} has version {genesis.version}",
            because=f"this program reads version {GENESIS_VERSION}",
            fix="use the release of p2pfl-mps that your network names",
        )
    return genesis
