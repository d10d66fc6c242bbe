// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title What was signed, and by whom
/// @notice EIP-712 digests in the members' domain, and the recovery of one canonical signature.
/// @dev Knows nothing of members, stakes or offences. `consensus/signing.py` computes the same digests.
library Signed {
    /// @param index which of the signatures of the call, from 0
    /// @param reason 1: nobody's signature (or v is not 27 or 28), 2: not 65 bytes, 3: high s
    error BadSignature(uint256 index, uint256 reason);

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract,bytes32 salt)");
    bytes32 private constant NAME_HASH = keccak256("MPS");
    bytes32 private constant VERSION_HASH = keccak256("1");

    /// @notice The domain separator of a group: one chain, one contract, one group.
    /// @dev Computed anew each time, so that a fork of the chain with another id has other signatures.
    function separator(address verifyingContract, bytes32 group) internal view returns (bytes32) {
        return keccak256(
            abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, verifyingContract, group)
        );
    }

    /// @notice What is signed: keccak256(0x1901 || separator || hashStruct).
    function digest(bytes32 domainSeparator, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainSeparator, structHash));
    }

    /// @notice Who signed this digest. Reverts unless the signature is 65 bytes r, s, v with low s and v 27 or 28.
    function signer(bytes32 digest_, bytes calldata signature, uint256 index) internal pure returns (address) {
        (address who, ECDSA.RecoverError fault,) = ECDSA.tryRecoverCalldata(digest_, signature);
        if (fault != ECDSA.RecoverError.NoError) revert BadSignature(index, uint256(fault));
        return who;
    }
}
