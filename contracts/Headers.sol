// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Equivocation} from "./Equivocation.sol";
import {Signed} from "./Signed.sol";

/// @title The header of a block, its id, and what is signed about it
/// @dev `consensus/types.py` has the same header, `consensus/signing.py` the same id.
library Headers {
    /// @dev All fields static: abi.encode(header) is eleven words, and the block's id is their hash.
    struct Header {
        uint32 version;
        bytes32 networkId;
        bytes32 groupId;
        uint64 epoch;
        uint64 height;
        bytes32 parentId;
        address proposer;
        uint64 timeMs;
        bytes32 appRoot;
        bytes32 logRoot;
        bytes32 nextCommitteeRoot;
    }

    uint32 internal constant VERSION = 1;

    error UnknownVersion(uint256 version, uint256 known);

    /// @notice A block's id, and the digest of a vote of this type (Propose, Prepare, Commit) for it in a round.
    /// @param signedFor the `verifyingContract` of the members' signatures
    function vote(Header calldata header, bytes32 typehash, uint32 round, address signedFor)
        internal
        view
        returns (bytes32 blockId, bytes32 digest)
    {
        if (header.version != VERSION) revert UnknownVersion(header.version, VERSION);
        blockId = keccak256(abi.encode(header));
        digest = Signed.digest(
            Signed.separator(signedFor, header.groupId),
            keccak256(abi.encode(typehash, header.epoch, header.height, round, blockId))
        );
    }
}
