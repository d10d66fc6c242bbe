// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title How many of n are enough
/// @dev Knows no member. `consensus/committee.py` counts the same.
library Quorum {
    /// @notice Of n members: (2n - 1) / 3 + 1, so that any two quorums share an honest member.
    function least(uint256 size) internal pure returns (uint256) {
        return (2 * size - 1) / 3 + 1;
    }

    /// @notice Of n members: how many may be Byzantine, (n - 1) / 3.
    function faulty(uint256 size) internal pure returns (uint256) {
        return (size - 1) / 3;
    }
}
