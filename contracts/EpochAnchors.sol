// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Equivocation} from "./Equivocation.sol";
import {Headers} from "./Headers.sol";
import {Quorum} from "./Quorum.sol";
import {Signed} from "./Signed.sol";
import {StakingRegistry} from "./StakingRegistry.sol";

/// @title The last block of every epoch, and through it the committee of the next
/// @notice A group's block names the root of the committee that decides after it. The block whose root is that
/// of the next epoch is the last of its own, and its certificate shows that a quorum wanted these successors:
/// so anybody may bring it, and nobody has to be trusted. From then on no history that leads elsewhere passes
/// for this group's, whoever may hold the old keys.
/// @dev The registrar of the registry: it seats a committee after the one that certified it. `consensus/votes.py`
/// has the same certificate, `consensus/committee.py` the same root.
contract EpochAnchors {
    struct Anchor {
        bytes32 blockId; // Zero: this epoch is not anchored.
        uint64 height;
        uint64 anchoredAt; // Seconds, of this chain's clock.
    }

    uint32 public constant HEADER_VERSION = Headers.VERSION;

    StakingRegistry public immutable REGISTRY;
    /// @notice The `verifyingContract` of the members' signatures: the registry's slasher.
    address public immutable SIGNED_FOR;

    mapping(bytes32 group => mapping(uint64 epoch => Anchor)) private _anchors;

    event EpochAnchored(
        bytes32 indexed group, uint64 indexed epoch, bytes32 indexed blockId, uint64 height, address[] nextMembers
    );

    error ZeroAddress(string what);
    error NotSet(string what);
    error AlreadyAnchored(bytes32 group, uint64 epoch, bytes32 blockId);
    error NotTheLastBlock(bytes32 named, bytes32 required);
    error CommitteeExists(bytes32 group, uint64 epoch);
    error NoCommittee(bytes32 group, uint64 epoch);
    error NoQuorum(uint256 signatures, uint256 required);
    error NotAscending(address previous, address next);
    error NotASeat(bytes32 group, uint64 epoch, address account);
    error TooFewBonded(uint256 bonded, uint256 required);

    constructor(StakingRegistry registry) {
        if (address(registry) == address(0)) revert ZeroAddress("registry");
        address slasher = registry.slasher();
        if (slasher == address(0)) revert NotSet("slasher");
        REGISTRY = registry;
        SIGNED_FOR = slasher;
    }

    /// @notice Fix an epoch's last block, and seat the next committee. Anybody may; once for each group and epoch.
    /// @param round the round in which the block was decided
    /// @param signatures the COMMITs of a quorum, in ascending order of their signers
    /// @param nextMembers the committee of the next epoch, ascending. They need no stake at this moment.
    function anchor(Headers.Header calldata header, uint32 round, bytes[] calldata signatures, address[] calldata nextMembers)
        external
    {
        Anchor storage entry = _anchors[header.groupId][header.epoch];
        if (entry.blockId != 0) revert AlreadyAnchored(header.groupId, header.epoch, entry.blockId);
        uint64 next = header.epoch + 1;
        bytes32 required = rootOf(next, nextMembers);
        if (header.nextCommitteeRoot != required) revert NotTheLastBlock(header.nextCommitteeRoot, required);
        (bytes32 blockId,) = requireCertificate(header, round, signatures);

        entry.blockId = blockId;
        entry.height = header.height;
        entry.anchoredAt = uint64(block.timestamp);
        emit EpochAnchored(header.groupId, header.epoch, blockId, header.height, nextMembers);
        // The owner may have seated them before; nobody is seated twice.
        address[] memory seated = REGISTRY.committee(header.groupId, next);
        if (seated.length == 0) REGISTRY.seatCommittee(header.groupId, next, nextMembers);
        else if (rootOf(next, seated) != required) revert CommitteeExists(header.groupId, next);
    }

    // ------------------------------------------------------------------ questions

    /// @notice The last block of a group's epoch; zeros if nobody has brought it.
    function anchorOf(bytes32 group, uint64 epoch) external view returns (Anchor memory) {
        return _anchors[group][epoch];
    }

    /// @notice The id and the signers of a decided block of any epoch whose committee is registered. Reverts
    /// unless at least a quorum of distinct seats signed, ascending, and more than f of them can lose something.
    /// @dev Not every signer needs a stake: up to f may have been slashed in this very epoch, and the block that
    /// consensus decided with them is decided. But f seats alone, and seats that have withdrawn, fix nothing.
    function requireCertificate(Headers.Header calldata header, uint32 round, bytes[] calldata signatures)
        public
        view
        returns (bytes32 blockId, address[] memory signers)
    {
        bytes32 digest;
        (blockId, digest) = commitDigest(header, round);
        address[] memory members = REGISTRY.committee(header.groupId, header.epoch);
        uint256 size = members.length;
        if (size == 0) revert NoCommittee(header.groupId, header.epoch);
        uint256 count = signatures.length;
        if (count < Quorum.least(size)) revert NoQuorum(count, Quorum.least(size));
        signers = new address[](count);
        address previous = address(0);
        uint256 at = 0;
        uint256 bonded = 0;
        for (uint256 i = 0; i < count; ++i) {
            address signer = Signed.signer(digest, signatures[i], i);
            if (signer <= previous) revert NotAscending(previous, signer);
            // Both lists ascend, so one walk over the committee finds every signer.
            while (at < size && members[at] < signer) ++at;
            if (at == size || members[at] != signer) revert NotASeat(header.groupId, header.epoch, signer);
            if (REGISTRY.stakeOf(signer) != 0) ++bonded;
            signers[i] = signer;
            previous = signer;
        }
        uint256 required = Quorum.faulty(size) + 1;
        if (bonded < required) revert TooFewBonded(bonded, required);
    }

    /// @notice A block's id, and what its members sign to commit to it in a round.
    function commitDigest(Headers.Header calldata header, uint32 round) public view returns (bytes32 blockId, bytes32 digest) {
        return Headers.vote(header, Equivocation.COMMIT, round, SIGNED_FOR);
    }

    /// @notice What a header says of a committee: keccak256 over its epoch and its members, a word each.
    function rootOf(uint64 epoch, address[] memory members) public pure returns (bytes32) {
        // Packed arrays keep a whole word for each element.
        return keccak256(abi.encodePacked(uint256(epoch), members));
    }
}
