"""RFC 9162 trees: the published root hashes, and proofs that hold for what they prove and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import merkle

# The leaves and roots that certificate-transparency implementations share as their test data.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_the_published_test_data(size: int) -> None:
    assert merkle.root(LEAVES[:size]).hex() == ROOTS[size]


@given(st.integers(1, 40), st.data())
def test_an_inclusion_proof_holds_for_its_leaf_and_place_only(size: int, data: st.DataObject) -> None:
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(size)]
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1))
    path, root = merkle.inclusion_proof(hashes, index), merkle.root_of_hashes(hashes)
    assert merkle.verify_inclusion(hashes[index], index, size, path, root)
    assert merkle.verify_inclusion(hashes[other], index, size, path, root) == (other == index)
    assert merkle.verify_inclusion(hashes[index], other, size, path, root) == (other == index)
    assert not merkle.verify_inclusion(hashes[index], index, size, (*path, path[0] if path else root), root)
    assert not merkle.verify_inclusion(hashes[index], size, size, path, root)
    if path:
        assert not merkle.verify_inclusion(hashes[index], index, size, path[:-1], root)


@given(st.integers(1, 40), st.data())
def test_a_consistency_proof_holds_for_its_two_trees_only(size: int, data: st.DataObject) -> None:
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(size)]
    old = data.draw(st.integers(1, size))
    proof = merkle.consistency_proof(hashes, old)
    roots = merkle.root_of_hashes(hashes[:old]), merkle.root_of_hashes(hashes)
    assert merkle.verify_consistency(old, roots[0], size, roots[1], proof)
    forked = merkle.root_of_hashes([*hashes[: old - 1], merkle.leaf_hash(b"other")])
    assert not merkle.verify_consistency(old, forked, size, roots[1], proof)
    if old < size:
        assert not merkle.verify_consistency(old, roots[0], size, forked, proof)
        assert not merkle.verify_consistency(old, roots[0], size, roots[1], (*proof, roots[0]))
        assert not merkle.verify_consistency(old, roots[0], size, roots[1], proof[:-1])
    assert not merkle.verify_consistency(0, roots[0], size, roots[1], proof)
    assert not merkle.verify_consistency(3, roots[0], size + 3, roots[1], ())


def test_there_is_no_proof_for_what_is_not_there() -> None:
    with pytest.raises(IndexError):
        merkle.inclusion_proof([], 0)
    with pytest.raises(IndexError):
        merkle.consistency_proof([merkle.leaf_hash(b"")], 2)
