// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Equivocation} from "./Equivocation.sol";
import {Headers} from "./Headers.sol";
import {Quorum} from "./Quorum.sol";
import {RowProof} from "./RowProof.sol";
import {Signed} from "./Signed.sol";
import {StakingRegistry} from "./StakingRegistry.sol";

/// @title What makes a member lose its stake
/// @notice Three ways. Equivocation: two signed structs that contradict each other; anybody brings them, the
/// contract decides alone and at once, the whole stake is lost and the key never returns. Aggregate fraud: a
/// signed proposal of a block with one wrong number in its aggregate; the same consequence. Verdict: a
/// certificate of the council's quorum; the accused's withdrawal is frozen, a veto body may cancel it during
/// the challenge window, afterwards anybody executes it, and it is void when nobody did in time.
/// @dev Every offence counts once, by (group, epoch, height, accused, offence), however it was signed.
/// Its address is the `verifyingContract` of every signature of the members.
contract SlashingManager {
    enum State {
        None,
        Pending,
        Executed,
        Cancelled,
        Expired
    }

    struct Verdict {
        bytes32 group;
        uint64 epoch; // Epoch and height of the accused's round in `group`.
        uint64 height;
        address accused;
        uint8 offence;
        bytes32 caseId;
    }

    /// @dev One storage word.
    struct Judgement {
        address accused;
        uint40 epoch;
        uint40 submittedAt;
        uint8 offence;
        State state;
    }

    uint256 public constant CERTIFYING_COMMITTEE_MIN = 4;
    uint256 public constant ALL_BPS = 10_000;
    /// @dev A tenth: whoever reports itself through another account still loses nine tenths.
    uint256 public constant REPORTER_BPS = 1_000;
    // What a verdict takes from one culprit, before the multiplier.
    uint256 public constant REPLAY_MISMATCH_BPS = 3_000;
    uint256 public constant WRONG_FIELD_BPS = 2_000;
    uint256 public constant NO_OPENING_BPS = 200;

    // Offence codes; `p2pfl/records.py` has the same.
    uint8 private constant AGGREGATE_FRAUD = 7;
    uint8 private constant REPLAY_MISMATCH = 16;
    uint8 private constant WRONG_FILTER = 17;
    uint8 private constant WRONG_AGGREGATE = 20;
    uint8 private constant NO_OPENING = 32;

    bytes32 private constant VERDICT_TYPEHASH = keccak256(
        "Verdict(bytes32 group,uint64 epoch,uint64 height,address accused,uint8 offence,bytes32 caseId)"
    );

    StakingRegistry public immutable REGISTRY;
    /// @notice May cancel a verdict during its window, and nothing else.
    address public immutable VETO;
    uint64 public immutable CHALLENGE_WINDOW_SECONDS;
    uint64 public immutable VERDICT_LIFE_SECONDS;

    mapping(bytes32 key => Judgement) private _judgements;
    /// @dev Correlation: how many different members stand accused of rounds of one epoch, and how often each.
    mapping(uint64 epoch => uint256) public accusedInEpoch;
    mapping(uint64 epoch => mapping(address member => uint256)) private _accusations;

    event VerdictSubmitted(
        bytes32 indexed key,
        bytes32 indexed group,
        address indexed accused,
        uint64 epoch,
        uint64 height,
        uint8 offence,
        bytes32 caseId,
        uint64 executableAt,
        uint64 expiresAt
    );
    event VerdictCancelled(bytes32 indexed key, address indexed accused);
    event VerdictExpired(bytes32 indexed key, address indexed accused);
    event VerdictExecuted(bytes32 indexed key, address indexed accused, uint256 bps, uint256 amount);
    event ExecutionSkipped(bytes32 indexed key, bytes reason);
    event EquivocationProven(
        bytes32 indexed key,
        bytes32 indexed group,
        address indexed accused,
        uint64 epoch,
        uint64 height,
        uint8 offence,
        address reporter,
        uint256 amount
    );

    event AggregateFraudProven(
        bytes32 indexed key,
        bytes32 indexed group,
        address indexed accused,
        uint64 epoch,
        uint64 height,
        address reporter,
        uint256 amount
    );

    error ZeroAddress(string what);
    error VetoNotSeparate(address veto);
    error NotTheVeto(address caller);
    error UnknownOffence(uint256 offence);
    error CouncilNotSet(address registry);
    error CommitteeTooSmall(uint256 size, uint256 required);
    error NoQuorum(uint256 signatures, uint256 required);
    error AccusedSigned(address accused);
    error AlreadyJudged(bytes32 key, State state);
    error NotPending(bytes32 key, State state);
    error TooEarly(bytes32 key, uint64 from, uint256 now_);
    error TooLate(bytes32 key, uint64 until, uint256 now_);
    error TooManySignatures(uint256 count, uint256 most);
    error SignersDiffer(address first, address second);
    error NotTheProposer(address signer, address proposer);

    constructor(StakingRegistry registry, address veto) {
        if (address(registry) == address(0)) revert ZeroAddress("registry");
        if (veto == address(0)) revert ZeroAddress("veto");
        if (veto == registry.owner() || veto == registry.TREASURY()) revert VetoNotSeparate(veto);
        REGISTRY = registry;
        VETO = veto;
        CHALLENGE_WINDOW_SECONDS = registry.CHALLENGE_WINDOW_SECONDS();
        VERDICT_LIFE_SECONDS = registry.VERDICT_LIFE_SECONDS();
    }

    // ------------------------------------------------------------------ verdicts

    /// @notice Bring a verdict with the signatures of a quorum of the council's committee of `councilEpoch`,
    /// in ascending order of their signers. Anybody may; the signatures are what counts.
    function submitVerdict(Verdict calldata verdict, uint64 councilEpoch, bytes[] calldata signatures)
        external
        returns (bytes32 key)
    {
        bytes32 council = REGISTRY.council();
        if (council == 0) revert CouncilNotSet(address(REGISTRY));
        penaltyOf(verdict.offence, 1); // Reverts for an offence that a council does not judge.
        key = keyOf(verdict.group, verdict.epoch, verdict.height, verdict.accused, verdict.offence);
        _requireNew(key);
        REGISTRY.requireSeat(verdict.group, verdict.epoch, verdict.accused);
        address[] memory signers = _signersOf(verdict, council, signatures);
        uint256 size = REGISTRY.requireBondedSeats(council, councilEpoch, signers);
        if (size < CERTIFYING_COMMITTEE_MIN) revert CommitteeTooSmall(size, CERTIFYING_COMMITTEE_MIN);
        if (signers.length < quorum(size)) revert NoQuorum(signers.length, quorum(size));

        _judge(key, verdict.accused, verdict.epoch, verdict.offence, State.Pending);
        if (verdict.offence != NO_OPENING && _accusations[verdict.epoch][verdict.accused]++ == 0) {
            accusedInEpoch[verdict.epoch] += 1;
        }
        REGISTRY.freeze(verdict.accused);
        uint64 executableAt = uint64(block.timestamp) + CHALLENGE_WINDOW_SECONDS;
        emit VerdictSubmitted(
            key,
            verdict.group,
            verdict.accused,
            verdict.epoch,
            verdict.height,
            verdict.offence,
            verdict.caseId,
            executableAt,
            executableAt + VERDICT_LIFE_SECONDS
        );
    }

    /// @notice The veto body cancels a verdict during its challenge window. It is final.
    function cancelVerdict(bytes32 key) external {
        if (msg.sender != VETO) revert NotTheVeto(msg.sender);
        Judgement storage judgement = _pending(key);
        (uint64 executableAt,) = _times(judgement);
        if (block.timestamp >= executableAt) revert TooLate(key, executableAt, block.timestamp);
        _drop(judgement, State.Cancelled);
        emit VerdictCancelled(key, judgement.accused);
    }

    /// @notice Carry out a verdict after its window. Needs no permission.
    function executeVerdict(bytes32 key) external returns (uint256 amount) {
        Judgement storage judgement = _pending(key);
        (uint64 executableAt, uint64 expiresAt) = _times(judgement);
        if (block.timestamp < executableAt) revert TooEarly(key, executableAt, block.timestamp);
        if (block.timestamp >= expiresAt) revert TooLate(key, expiresAt, block.timestamp);
        judgement.state = State.Executed;
        uint256 bps = penaltyOf(judgement.offence, accusedInEpoch[judgement.epoch]);
        REGISTRY.unfreeze(judgement.accused);
        amount = REGISTRY.slash(judgement.accused, bps, key);
        emit VerdictExecuted(key, judgement.accused, bps, amount);
    }

    /// @notice Carry out many; one that would be refused alone is skipped and told.
    function executeVerdicts(bytes32[] calldata keys) external returns (uint256 amount) {
        for (uint256 i = 0; i < keys.length; ++i) {
            try this.executeVerdict(keys[i]) returns (uint256 one) {
                amount += one;
            } catch (bytes memory reason) {
                emit ExecutionSkipped(keys[i], reason);
            }
        }
    }

    /// @notice Release the accused of a verdict that nobody executed in time. It is final.
    function expireVerdict(bytes32 key) external {
        Judgement storage judgement = _pending(key);
        (, uint64 expiresAt) = _times(judgement);
        if (block.timestamp < expiresAt) revert TooEarly(key, expiresAt, block.timestamp);
        _drop(judgement, State.Expired);
        emit VerdictExpired(key, judgement.accused);
    }

    // ------------------------------------------------------------------ equivocation

    /// @notice Show two structs, signed by one member of `group`, that contradict each other.
    /// @param kind 1 two Propose, 2 two Prepare, 3 two Commit, 4 two RoundChange, 5 a Commit and then a
    /// RoundChange that denies it, 6 two ParamTx, 7 two ShareRequest, 8 two Close
    /// @param wordsA the ABI words of the first struct, 32 bytes a field
    function submitEquivocation(
        bytes32 group,
        uint8 kind,
        bytes calldata wordsA,
        bytes calldata signatureA,
        bytes calldata wordsB,
        bytes calldata signatureB
    ) external returns (bytes32 key) {
        Equivocation.Pair memory pair = Equivocation.check(kind, wordsA, wordsB);
        address accused = _signerOfBoth(group, pair, signatureA, signatureB);
        uint256 amount;
        (key, amount) = _prove(group, pair.epoch, pair.height, accused, pair.offence);
        emit EquivocationProven(
            key, group, accused, pair.epoch, pair.height, pair.offence, msg.sender, amount
        );
    }

    // ------------------------------------------------------------------ aggregate fraud

    /// @notice Show that a block that its proposer signed has a wrong number in its aggregate.
    /// @param round in which it was proposed
    /// @param proposal the signature over Propose(epoch, height, round, blockId) of the header's proposer
    function submitAggregateFraud(
        Headers.Header calldata header,
        uint32 round,
        bytes calldata proposal,
        RowProof.Rows calldata rows
    ) external returns (bytes32 key) {
        (, bytes32 digest) = Headers.vote(header, Equivocation.PROPOSE, round, address(this));
        address signer = Signed.signer(digest, proposal, 0);
        if (signer != header.proposer) revert NotTheProposer(signer, header.proposer);
        RowProof.requireWrong(header.appRoot, rows);
        uint256 amount;
        (key, amount) = _prove(header.groupId, header.epoch, header.height, signer, AGGREGATE_FRAUD);
        emit AggregateFraudProven(key, header.groupId, signer, header.epoch, header.height, msg.sender, amount);
    }

    // ------------------------------------------------------------------ questions

    /// @notice The name of an offence, whoever shows it and however it was signed.
    function keyOf(bytes32 group, uint64 epoch, uint64 height, address accused, uint8 offence)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(group, epoch, height, accused, offence));
    }

    function judgementOf(bytes32 key)
        external
        view
        returns (State state, address accused, uint8 offence, uint64 submittedAt, uint64 executableAt, uint64 expiresAt)
    {
        Judgement storage judgement = _judgements[key];
        if (judgement.state != State.None) (executableAt, expiresAt) = _times(judgement);
        return (
            judgement.state, judgement.accused, judgement.offence, judgement.submittedAt, executableAt, expiresAt
        );
    }

    /// @notice Of n members: (2n - 1) / 3 + 1, so that any two quorums share an honest member.
    function quorum(uint256 size) public pure returns (uint256) {
        return Quorum.least(size);
    }

    /// @notice The part of a stake, in 1/10000, that a verdict takes when `culprits` members stand accused of
    /// rounds of the same epoch. Many at once lose more: it is multiplied by their number, up to everything.
    function penaltyOf(uint8 offence, uint256 culprits) public pure returns (uint256 bps) {
        // Silence is not guilt: a fixed small part, however many are silent.
        if (offence == NO_OPENING) return NO_OPENING_BPS;
        if (offence == REPLAY_MISMATCH) bps = REPLAY_MISMATCH_BPS;
        else if (offence >= WRONG_FILTER && offence <= WRONG_AGGREGATE) bps = WRONG_FIELD_BPS;
        else revert UnknownOffence(offence);
        bps *= culprits;
        if (bps > ALL_BPS) bps = ALL_BPS;
    }

    function domainSeparator(bytes32 group) external view returns (bytes32) {
        return Signed.separator(address(this), group);
    }

    /// @notice What a council seat signs, in the domain of `group`.
    function verdictDigest(bytes32 group, Verdict calldata verdict) public view returns (bytes32) {
        return Signed.digest(
            Signed.separator(address(this), group), keccak256(abi.encode(VERDICT_TYPEHASH, verdict))
        );
    }

    /// @notice What the signers of the two structs of an equivocation signed. Reverts if they do not conflict.
    function equivocationDigests(bytes32 group, uint8 kind, bytes calldata wordsA, bytes calldata wordsB)
        external
        view
        returns (bytes32 first, bytes32 second)
    {
        Equivocation.Pair memory pair = Equivocation.check(kind, wordsA, wordsB);
        bytes32 domain = Signed.separator(address(this), group);
        return (Signed.digest(domain, pair.hashA), Signed.digest(domain, pair.hashB));
    }

    // ------------------------------------------------------------------ inside

    function _signersOf(Verdict calldata verdict, bytes32 council, bytes[] calldata signatures)
        private
        view
        returns (address[] memory signers)
    {
        uint256 count = signatures.length;
        if (count > REGISTRY.COMMITTEE_MAX()) revert TooManySignatures(count, REGISTRY.COMMITTEE_MAX());
        bytes32 digest = verdictDigest(council, verdict);
        signers = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            address signer = Signed.signer(digest, signatures[i], i);
            if (signer == verdict.accused) revert AccusedSigned(signer);
            signers[i] = signer;
        }
    }

    function _signerOfBoth(
        bytes32 group,
        Equivocation.Pair memory pair,
        bytes calldata signatureA,
        bytes calldata signatureB
    ) private view returns (address signer) {
        bytes32 domain = Signed.separator(address(this), group);
        signer = Signed.signer(Signed.digest(domain, pair.hashA), signatureA, 0);
        address other = Signed.signer(Signed.digest(domain, pair.hashB), signatureB, 1);
        if (signer != other) revert SignersDiffer(signer, other);
    }

    function _prove(bytes32 group, uint64 epoch, uint64 height, address accused, uint8 offence)
        private
        returns (bytes32 key, uint256 amount)
    {
        REGISTRY.requireSeat(group, epoch, accused);
        key = keyOf(group, epoch, height, accused, offence);
        _requireNew(key);
        _judge(key, accused, epoch, offence, State.Executed);
        amount = REGISTRY.tombstone(accused, key, REPORTER_BPS, msg.sender);
    }

    function _requireNew(bytes32 key) private view {
        State state = _judgements[key].state;
        if (state != State.None) revert AlreadyJudged(key, state);
    }

    function _judge(bytes32 key, address accused, uint64 epoch, uint8 offence, State state) private {
        _judgements[key] =
            Judgement(accused, SafeCast.toUint40(epoch), SafeCast.toUint40(block.timestamp), offence, state);
    }

    function _pending(bytes32 key) private view returns (Judgement storage judgement) {
        judgement = _judgements[key];
        if (judgement.state != State.Pending) revert NotPending(key, judgement.state);
    }

    function _times(Judgement storage judgement) private view returns (uint64 executableAt, uint64 expiresAt) {
        executableAt = uint64(judgement.submittedAt) + CHALLENGE_WINDOW_SECONDS;
        expiresAt = executableAt + VERDICT_LIFE_SECONDS;
    }

    /// @dev A verdict that was not carried out does not count against others either.
    function _drop(Judgement storage judgement, State state) private {
        judgement.state = state;
        uint64 epoch = judgement.epoch;
        if (judgement.offence != NO_OPENING && --_accusations[epoch][judgement.accused] == 0) {
            accusedInEpoch[epoch] -= 1;
        }
        REGISTRY.unfreeze(judgement.accused);
    }
}
