// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title When two signed structs contradict each other
/// @notice The offences E1 to E6 as a table. Every field of every struct is one 32-byte ABI word, so a struct
/// is its words and its hash is keccak256(type hash || words).
/// @dev Knows nothing of signatures, members or stakes. `consensus/types.py` and `p2pfl/records.py` have the
/// same structs; words 0 and 1 are the epoch and the height in all of them.
library Equivocation {
    struct Pair {
        uint8 offence; // 1 to 6: E1 to E6.
        uint64 epoch;
        uint64 height;
        bytes32 hashA; // EIP-712 hashStruct of each.
        bytes32 hashB;
    }

    error UnknownKind(uint256 kind);
    error WrongLength(uint256 length, uint256 expected);
    error NotCanonical(uint256 word, uint256 value);
    error OtherSlot(uint256 word, uint256 first, uint256 second);
    error NoConflict(uint256 kind);

    // Kinds 1 to 5 are the offences E1 to E5; kinds 6 to 8 are E6.
    uint8 internal constant TWO_PROPOSE = 1;
    uint8 internal constant TWO_PREPARE = 2;
    uint8 internal constant TWO_COMMIT = 3;
    uint8 internal constant TWO_ROUND_CHANGE = 4;
    uint8 internal constant COMMIT_DENIED = 5;
    uint8 internal constant TWO_PARAM_TX = 6;
    uint8 internal constant TWO_SHARE_REQUEST = 7;
    uint8 internal constant TWO_CLOSE = 8;
    uint8 private constant E6 = 6;

    bytes32 internal constant PROPOSE = keccak256("Propose(uint64 epoch,uint64 height,uint32 round,bytes32 blockId)");
    bytes32 private constant PREPARE = keccak256("Prepare(uint64 epoch,uint64 height,uint32 round,bytes32 blockId)");
    bytes32 internal constant COMMIT = keccak256("Commit(uint64 epoch,uint64 height,uint32 round,bytes32 blockId)");
    bytes32 private constant ROUND_CHANGE = keccak256(
        "RoundChange(uint64 epoch,uint64 height,uint32 round,uint32 preparedRoundPlus1,bytes32 preparedBlockId,"
        "bytes32 context)"
    );
    bytes32 private constant PARAM_TX = keccak256(
        "ParamTx(uint64 epoch,uint64 height,address member,bytes32 baseId,bytes32 blobId,uint64 byteLength,"
        "uint64 samples,uint64 saturated,bytes32 dataRoot,uint64 dataLeaves,bytes32 traceRoot,"
        "int64 lossBeforeMicro,int64 lossAfterMicro)"
    );
    bytes32 private constant SHARE_REQUEST =
        keccak256("ShareRequest(uint64 epoch,uint64 height,uint32 round,bytes32 baseId,bytes32 councilBlockId)");
    bytes32 private constant CLOSE = keccak256("Close(uint64 epoch,uint64 height,uint32 round,bytes32 listRoot)");

    uint256 private constant WORD = 32;
    // The places of the words.
    uint256 private constant EPOCH = 0;
    uint256 private constant HEIGHT = 1;
    uint256 private constant ROUND = 2; // Of all but ParamTx.
    uint256 private constant BLOCK_ID = 3; // Of Propose, Prepare, Commit; the root of Close; the base of ShareRequest.
    uint256 private constant PREPARED_ROUND_PLUS_1 = 3; // Of RoundChange.
    uint256 private constant PREPARED_BLOCK_ID = 4; // Of RoundChange; the council's block of ShareRequest.

    /// @notice The two struct hashes and where they belong. Reverts unless one honest member cannot have
    /// signed both. Who signed them is for the caller to find out.
    function check(uint8 kind, bytes calldata a, bytes calldata b) internal pure returns (Pair memory pair) {
        (bytes32 typeA, uint256 fieldsA) = _structOf(kind);
        (bytes32 typeB, uint256 fieldsB) =
            kind == COMMIT_DENIED ? _structOf(TWO_ROUND_CHANGE) : (typeA, fieldsA);
        if (a.length != fieldsA * WORD) revert WrongLength(a.length, fieldsA * WORD);
        if (b.length != fieldsB * WORD) revert WrongLength(b.length, fieldsB * WORD);
        _same(a, b, EPOCH);
        _same(a, b, HEIGHT);
        pair.offence = kind > E6 ? E6 : kind;
        pair.epoch = _uint64(a, EPOCH);
        pair.height = _uint64(a, HEIGHT);
        pair.hashA = keccak256(abi.encodePacked(typeA, a));
        pair.hashB = keccak256(abi.encodePacked(typeB, b));
        if (!_conflict(kind, a, b)) revert NoConflict(kind);
    }

    function _conflict(uint8 kind, bytes calldata a, bytes calldata b) private pure returns (bool) {
        if (kind == COMMIT_DENIED) {
            // a: Commit(r, v). b: RoundChange(r' > r) that claims nothing, a round below r, or r with another block.
            uint256 committed = _word(a, ROUND);
            if (_word(b, ROUND) <= committed) return false;
            uint256 preparedPlus1 = _word(b, PREPARED_ROUND_PLUS_1);
            if (preparedPlus1 <= committed) return true;
            return preparedPlus1 == committed + 1 && _word(b, PREPARED_BLOCK_ID) != _word(a, BLOCK_ID);
        }
        // A member commits to one update a height, whatever else the two say.
        if (kind == TWO_PARAM_TX) return keccak256(a) != keccak256(b);
        _same(a, b, ROUND);
        if (kind == TWO_ROUND_CHANGE || kind == TWO_SHARE_REQUEST) {
            // The context of a RoundChange (its last word) may differ.
            return _word(a, PREPARED_ROUND_PLUS_1) != _word(b, PREPARED_ROUND_PLUS_1)
                || _word(a, PREPARED_BLOCK_ID) != _word(b, PREPARED_BLOCK_ID);
        }
        return _word(a, BLOCK_ID) != _word(b, BLOCK_ID);
    }

    /// @dev The type hash of the first struct of a kind and its number of fields.
    function _structOf(uint8 kind) private pure returns (bytes32 typeHash, uint256 fields) {
        if (kind == TWO_PROPOSE) return (PROPOSE, 4);
        if (kind == TWO_PREPARE) return (PREPARE, 4);
        if (kind == TWO_COMMIT || kind == COMMIT_DENIED) return (COMMIT, 4);
        if (kind == TWO_ROUND_CHANGE) return (ROUND_CHANGE, 6);
        if (kind == TWO_PARAM_TX) return (PARAM_TX, 13);
        if (kind == TWO_SHARE_REQUEST) return (SHARE_REQUEST, 5);
        if (kind == TWO_CLOSE) return (CLOSE, 4);
        revert UnknownKind(kind);
    }

    function _same(bytes calldata a, bytes calldata b, uint256 place) private pure {
        if (_word(a, place) != _word(b, place)) revert OtherSlot(place, _word(a, place), _word(b, place));
    }

    function _uint64(bytes calldata words, uint256 place) private pure returns (uint64) {
        uint256 value = _word(words, place);
        if (value > type(uint64).max) revert NotCanonical(place, value);
        return uint64(value);
    }

    function _word(bytes calldata words, uint256 place) private pure returns (uint256) {
        return uint256(bytes32(words[place * WORD:(place + 1) * WORD]));
    }
}
