"""RFC 9162 Merkle trees over SHA-256: roots, inclusion and consistency proofs."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from consensus.types import Digest

# Three leaves:      root
#                   /    \
#                  o      2      Section 2.1.1: the left side is always a full tree.
#                 / \
#                0   1


def leaf_hash(leaf: bytes) -> Digest:
    """SHA-256(0x00 || leaf)."""
    return Digest(sha256(b"\x00" + leaf).digest())


def node_hash(left: bytes, right: bytes) -> Digest:
    """SHA-256(0x01 || left || right)."""
    return Digest(sha256(b"\x01" + left + right).digest())


def root(leaves: Sequence[bytes]) -> Digest:
    """The root over the leaves' bytes; of no leaves it is SHA-256 of nothing (section 2.1.1)."""
    return root_of_hashes([leaf_hash(leaf) for leaf in leaves])


def root_of_hashes(hashes: Sequence[bytes]) -> Digest:
    """The root over leaf hashes, level by level: an odd last node moves up as it is."""
    if not hashes:
        return Digest(sha256(b"").digest())
    level = list(hashes)
    while len(level) > 1:
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(Digest(level[-1]))
        level = paired
    return Digest(level[0])


def inclusion_proof(hashes: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """The audit path of leaf `index` (section 2.1.3.1), from the leaf's side upwards."""
    if not 0 <= index < len(hashes):
        raise IndexError(f"no leaf {index} in a tree of {len(hashes)}")
    path: list[Digest] = []
    level = list(hashes)
    while len(level) > 1:
        if index ^ 1 < len(level):
            path.append(Digest(level[index ^ 1]))
        paired = [bytes(node_hash(level[i], level[i + 1])) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level, index = paired, index // 2
    return tuple(path)


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> bool:
    """Whether `leaf` (a leaf hash) is number `index` of `size` leaves under the root (section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, rest = leaf, size - 1, list(path)
    while last:
        if index & 1:
            if not rest:
                return False
            node = node_hash(rest.pop(0), node)
        elif index < last:
            if not rest:
                return False
            node = node_hash(node, rest.pop(0))
        index, last = index >> 1, last >> 1
    return not rest and node == expected_root


def consistency_proof(hashes: Sequence[bytes], old_size: int) -> tuple[Digest, ...]:
    """Proof that the tree of the first `old_size` leaves is a prefix of this one (section 2.1.4.1)."""
    if not 0 < old_size <= len(hashes):
        raise IndexError(f"no tree of {old_size} in a tree of {len(hashes)}")

    def subproof(part: Sequence[bytes], size: int, whole: bool) -> list[Digest]:
        if size == len(part):
            return [] if whole else [root_of_hashes(part)]
        split = 1 << (len(part) - 1).bit_length() - 1
        if size <= split:
            return [*subproof(part[:split], size, whole), root_of_hashes(part[split:])]
        return [*subproof(part[split:], size - split, False), root_of_hashes(part[:split])]

    return tuple(subproof(hashes, old_size, True))


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the tree of `new_size` leaves extends that of `old_size` (section 2.1.4.2)."""
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return False
    number, last = old_size - 1, new_size - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    old = new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            new = node_hash(new, node)
        number, last = number >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root
