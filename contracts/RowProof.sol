// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title One wrong number of an aggregate, shown from the block alone
/// @notice A group's block names, under its app root, the factors by which each accepted update was multiplied
/// and the root of the row tree: leaf k holds coordinates 32 k to 32 k + 31 of every accepted update and then of
/// the aggregate. One leaf with its path shows whether a coordinate is what the factors make of the updates.
/// @dev Trees are those of RFC 9162 with SHA-256. `p2pfl/rules/rows.py` has the same rows and arithmetic,
/// `p2pfl/records.py` the same order of fields. Knows nothing of signatures, members or stakes.
library RowProof {
    struct Rows {
        bytes factors; // The field's canonical CBOR: an array of unsigned integers, the divisor last.
        bytes32[] factorsPath;
        bytes32 rowRoot;
        bytes32[] rowRootPath;
        bytes leaf; // 64 bytes for each factor, and 64 of the aggregate: little-endian int16.
        uint256 index;
        uint256 leaves;
        bytes32[] path;
        uint8 coordinate; // 0 to 31, within the leaf.
    }

    // Places among the fields of a group's body.
    uint256 internal constant FIELDS = 19;
    uint256 internal constant FACTORS = 6;
    uint256 internal constant ROW_ROOT = 9;
    uint256 private constant ROW_BYTES = 64;
    uint256 private constant UPDATES_MAX = 16;
    int256 private constant INT16_BOUND = 32_767;

    error WrongPath(string what);
    error WrongLength(uint256 length, uint256 expected);
    error NotCbor(uint256 at, uint256 value);
    error AggregateIsRight(int256 value);

    /// @notice Reverts unless the aggregate's coordinate is not what follows from the updates' and the factors.
    function requireWrong(bytes32 appRoot, Rows calldata rows) internal view {
        _requireField(appRoot, FACTORS, rows.factors, rows.factorsPath, "factors");
        _requireField(appRoot, ROW_ROOT, abi.encodePacked(hex"5820", rows.rowRoot), rows.rowRootPath, "rowRoot");
        bytes32 hashed = sha256(abi.encodePacked(hex"00", rows.leaf));
        if (!_isIncluded(hashed, rows.index, rows.leaves, rows.path, rows.rowRoot)) revert WrongPath("leaf");
        if (rows.coordinate >= ROW_BYTES / 2) revert WrongLength(rows.coordinate, ROW_BYTES / 2);

        (int256 told, int256 due) = _weigh(rows);
        if (told == due) revert AggregateIsRight(told);
    }

    /// @dev What the leaf says of the aggregate, and what the factors make of the updates.
    function _weigh(Rows calldata rows) private pure returns (int256 told, int256 due) {
        uint256[] memory factors = _factors(rows.factors);
        uint256 updates = factors.length - 1;
        bytes calldata leaf = rows.leaf;
        if (leaf.length != (updates + 1) * ROW_BYTES) revert WrongLength(leaf.length, (updates + 1) * ROW_BYTES);
        int256 sum = 0;
        uint256 at = uint256(rows.coordinate) * 2;
        for (uint256 i = 0; i < updates; ++i) {
            sum += int256(factors[i]) * _int16(leaf, at + i * ROW_BYTES);
        }
        told = _int16(leaf, at + updates * ROW_BYTES);
        due = _divideHalfEven(sum, int256(factors[updates]));
        if (due > INT16_BOUND) due = INT16_BOUND;
        if (due < -INT16_BOUND) due = -INT16_BOUND;
    }

    function _int16(bytes calldata data, uint256 at) private pure returns (int256) {
        bytes2 octets = bytes2(data[at:at + 2]);
        return int256(int16(uint16(octets) >> 8 | uint16(octets) << 8));
    }

    /// @dev Rounded to the nearest, ties to the even. divisor > 0.
    function _divideHalfEven(int256 sum, int256 divisor) private pure returns (int256 quotient) {
        quotient = sum / divisor;
        int256 rest = sum % divisor;
        if (rest < 0) {
            rest += divisor;
            quotient -= 1;
        }
        if (2 * rest > divisor || (2 * rest == divisor && quotient % 2 != 0)) quotient += 1;
    }

    /// @dev RFC 8949: an array of 1 to 17 unsigned integers, the last above 0.
    function _factors(bytes calldata data) private pure returns (uint256[] memory values) {
        if (data.length == 0) revert WrongLength(0, 1);
        uint256 count = uint256(uint8(data[0])) ^ 0x80;
        if (count == 0 || count > UPDATES_MAX + 1) revert NotCbor(0, uint8(data[0]));
        values = new uint256[](count);
        uint256 at = 1;
        for (uint256 i = 0; i < count; ++i) {
            uint256 first = uint8(data[at++]);
            if (first < 24) {
                values[i] = first;
                continue;
            }
            if (first > 27) revert NotCbor(at - 1, first);
            uint256 size = 1 << (first - 24);
            values[i] = uint256(bytes32(data[at:at + size])) >> (256 - 8 * size);
            at += size;
        }
        if (at != data.length) revert WrongLength(data.length, at);
        if (values[count - 1] == 0) revert NotCbor(at - 1, 0);
    }

    function _requireField(
        bytes32 appRoot,
        uint256 place,
        bytes memory field,
        bytes32[] calldata path,
        string memory what
    ) private view {
        bytes32 hashed = sha256(abi.encodePacked(hex"00", field));
        if (!_isIncluded(hashed, place, FIELDS, path, appRoot)) revert WrongPath(what);
    }

    /// @dev RFC 9162, section 2.1.3.2. One buffer of 65 bytes serves all nodes: 0x01, left, right.
    function _isIncluded(bytes32 node, uint256 index, uint256 size, bytes32[] calldata path, bytes32 root)
        private
        view
        returns (bool)
    {
        if (index >= size) return false;
        uint256 last = size - 1;
        uint256 used = 0;
        bytes memory pair = new bytes(65);
        pair[0] = 0x01;
        while (last != 0) {
            bool isRight = index & 1 == 1;
            if (isRight || index < last) {
                if (used == path.length) return false;
                bytes32 other = path[used++];
                node = isRight ? _hash(pair, other, node) : _hash(pair, node, other);
            }
            index >>= 1;
            last >>= 1;
        }
        return used == path.length && node == root;
    }

    /// @dev SHA-256 of the buffer with these halves. The precompile at address 2 fails only without gas.
    function _hash(bytes memory pair, bytes32 left, bytes32 right) private view returns (bytes32 hashed) {
        assembly ("memory-safe") {
            mstore(add(pair, 33), left)
            mstore(add(pair, 65), right)
            if iszero(staticcall(gas(), 2, add(pair, 32), 65, 0, 32)) { revert(0, 0) }
            hashed := mload(0)
        }
    }
}
