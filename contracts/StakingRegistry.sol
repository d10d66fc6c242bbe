// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable2Step, Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Signed} from "./Signed.sol";

/// @title Stakes of members, and who sat in which committee
/// @notice Holds all the ether of the system. A member is named by the address of its signing key; its stake
/// belongs to a staker, the account that paid it in. Only the slasher may take from a stake, only its staker
/// may withdraw it. Whatever is owed to somebody (treasury, reporter) waits as a credit until it is claimed.
/// @dev Knows no offence and no verdict: those are in SlashingManager. At any time
/// `address(this).balance >= totalStake + totalCredit`; the difference is ether that was forced in, see `skim`.
contract StakingRegistry is Ownable2Step {
    using SafeCast for uint256;

    struct Terms {
        uint256 stakeAmount; // Wei that a member must have at stake to be given a seat.
        uint64 unbondingSeconds; // From the request to leave until the withdrawal.
        uint64 evidenceAgeSeconds; // How long after a request to leave an offence can still be brought forward.
        uint64 challengeWindowSeconds; // Between a verdict and its execution.
        uint64 marginSeconds; // For slow transactions.
        uint64 verdictLifeSeconds; // From the end of the window until a verdict that nobody executed is void.
    }

    struct Member {
        address staker; // Whose money it is; zero: not registered.
        uint96 stake; // Wei.
        uint64 leavesAt; // When the stake can be withdrawn; zero: the member has not asked to leave.
        uint64 registrations; // How often this key was registered: the nonce of its proof of possession.
        uint32 freezes; // Pending verdicts. While there is one, nothing is withdrawn.
        bool tombstoned; // Caught contradicting itself: never a member again.
    }

    uint256 public constant COMMITTEE_MAX = 16;
    /// @dev A stake that is locked for longer than this would be a stake that is lost.
    uint64 public constant PERIOD_MAX_SECONDS = 365 days;
    uint256 private constant ALL_BPS = 10_000;
    bytes32 private constant POSSESSION_TYPEHASH = keccak256("Possession(address staker,uint64 nonce)");

    uint256 public immutable STAKE_AMOUNT;
    uint64 public immutable UNBONDING_SECONDS;
    uint64 public immutable EVIDENCE_AGE_SECONDS;
    uint64 public immutable CHALLENGE_WINDOW_SECONDS;
    uint64 public immutable MARGIN_SECONDS;
    uint64 public immutable VERDICT_LIFE_SECONDS;
    /// @notice Who is credited with what the guilty lose.
    address public immutable TREASURY;

    /// @notice The one contract that may freeze and take stakes. Set once; no deposit is taken before.
    address public slasher;
    /// @notice The one contract that may seat a committee besides the owner: EpochAnchors. Set once.
    address public registrar;
    /// @notice The group whose committee certifies verdicts. Set once.
    bytes32 public council;
    uint256 public totalStake;
    uint256 public totalCredit;
    mapping(address account => uint256) public creditOf;

    mapping(address member => Member) private _members;
    mapping(bytes32 group => mapping(uint64 epoch => address[])) private _committees;

    event SlasherSet(address indexed slasher);
    event RegistrarSet(address indexed registrar);
    event CouncilSet(bytes32 indexed group);
    event Deposited(address indexed member, address indexed staker, uint256 amount, uint256 stake);
    event UnbondingRequested(address indexed member, uint64 leavesAt);
    event Withdrawn(address indexed member, address indexed staker, address to, uint256 amount);
    event CommitteeRegistered(bytes32 indexed group, uint64 indexed epoch, address[] members);
    event Frozen(address indexed member, uint32 freezes);
    event Unfrozen(address indexed member, uint32 freezes);
    event Slashed(address indexed member, bytes32 indexed key, uint256 amount, uint256 reward, address reporter);
    event Tombstoned(address indexed member, bytes32 indexed key);
    event Credited(address indexed account, uint256 amount);
    event Claimed(address indexed account, uint256 amount);

    error ZeroAddress(string what);
    error ZeroValue(string what);
    error NotAContract(address account);
    error PeriodTooLong(uint64 seconds_, uint64 most);
    error UnbondingTooShort(uint64 unbondingSeconds, uint256 requiredSeconds);
    error AlreadySet(string what);
    error NotSet(string what);
    error NotTheSlasher(address caller);
    error NotTheRegistrar(address caller);
    error NotTheStaker(address member, address caller);
    error NotRegistered(address member);
    error AlreadyRegistered(address member, address staker);
    error IsTombstoned(address member);
    error StakeTooSmall(uint256 sent, uint256 required);
    error WrongPossession(address member, address signer);
    error IsLeaving(address member, uint64 leavesAt);
    error NotLeaving(address member);
    error TooEarly(uint64 from, uint256 now_);
    error IsFrozen(address member, uint32 freezes);
    error CommitteeSize(uint256 size, uint256 most);
    error CommitteeExists(bytes32 group, uint64 epoch);
    error NoCommittee(bytes32 group, uint64 epoch);
    error NotAscending(address previous, address next);
    error NotActive(address member, uint256 stake, uint256 required);
    error NotASeat(bytes32 group, uint64 epoch, address account);
    error NotBonded(address member);
    error NothingToClaim(address account);
    error FractionTooLarge(uint256 bps, uint256 most);
    error TransferFailed(address to, uint256 amount);

    modifier onlySlasher() {
        if (msg.sender != slasher) revert NotTheSlasher(msg.sender);
        _;
    }

    constructor(Terms memory terms, address treasury, address owner_) Ownable(owner_) {
        if (treasury == address(0)) revert ZeroAddress("treasury");
        if (terms.stakeAmount == 0) revert ZeroValue("stakeAmount");
        if (terms.evidenceAgeSeconds == 0) revert ZeroValue("evidenceAgeSeconds");
        if (terms.challengeWindowSeconds == 0) revert ZeroValue("challengeWindowSeconds");
        if (terms.marginSeconds == 0) revert ZeroValue("marginSeconds");
        if (terms.verdictLifeSeconds == 0) revert ZeroValue("verdictLifeSeconds");
        _notTooLong(terms.unbondingSeconds);
        _notTooLong(terms.verdictLifeSeconds);
        // Whoever asks to leave right after an offence must still be there when the verdict is carried out.
        uint256 required =
            uint256(terms.evidenceAgeSeconds) + terms.challengeWindowSeconds + terms.marginSeconds;
        if (terms.unbondingSeconds < required) revert UnbondingTooShort(terms.unbondingSeconds, required);
        STAKE_AMOUNT = terms.stakeAmount.toUint96();
        UNBONDING_SECONDS = terms.unbondingSeconds;
        EVIDENCE_AGE_SECONDS = terms.evidenceAgeSeconds;
        CHALLENGE_WINDOW_SECONDS = terms.challengeWindowSeconds;
        MARGIN_SECONDS = terms.marginSeconds;
        VERDICT_LIFE_SECONDS = terms.verdictLifeSeconds;
        TREASURY = treasury;
    }

    // ------------------------------------------------------------------ set up, once

    function setSlasher(address slasher_) external onlyOwner {
        if (slasher != address(0)) revert AlreadySet("slasher");
        if (slasher_.code.length == 0) revert NotAContract(slasher_);
        slasher = slasher_;
        emit SlasherSet(slasher_);
    }

    function setRegistrar(address registrar_) external onlyOwner {
        if (registrar != address(0)) revert AlreadySet("registrar");
        if (registrar_.code.length == 0) revert NotAContract(registrar_);
        registrar = registrar_;
        emit RegistrarSet(registrar_);
    }

    function setCouncil(bytes32 group) external onlyOwner {
        if (council != 0) revert AlreadySet("council");
        if (group == 0) revert ZeroValue("council");
        council = group;
        emit CouncilSet(group);
    }

    /// @notice Fix who sits in a group in an epoch. Members strictly ascending, each with a full stake.
    function registerCommittee(bytes32 group, uint64 epoch, address[] calldata members) external onlyOwner {
        _seat(group, epoch, members);
        for (uint256 i = 0; i < members.length; ++i) {
            Member storage entry = _members[members[i]];
            if (entry.stake < STAKE_AMOUNT) revert NotActive(members[i], entry.stake, STAKE_AMOUNT);
            if (entry.leavesAt != 0) revert IsLeaving(members[i], entry.leavesAt);
        }
    }

    /// @notice The same for successors whom a committee's own quorum named. They need no stake: a seat that can
    /// lose nothing certifies nothing (`requireBondedSeats`), and a chain that has moved on is not held up.
    function seatCommittee(bytes32 group, uint64 epoch, address[] calldata members) external {
        if (msg.sender != registrar) revert NotTheRegistrar(msg.sender);
        _seat(group, epoch, members);
    }

    // ------------------------------------------------------------------ a staker's doors

    /// @notice Register a member: the caller becomes its staker with what it sends.
    /// @param possession the member's signature over Possession(staker = caller, nonce), group id zero: nobody
    /// can register a key that it does not hold, nor take over a registration that it sees in the mempool.
    function deposit(address member, bytes calldata possession) external payable {
        if (slasher == address(0)) revert NotSet("slasher");
        Member storage entry = _members[member];
        if (entry.staker != address(0)) revert AlreadyRegistered(member, entry.staker);
        if (entry.tombstoned) revert IsTombstoned(member);
        if (msg.value < STAKE_AMOUNT) revert StakeTooSmall(msg.value, STAKE_AMOUNT);
        address signer = Signed.signer(possessionDigest(msg.sender, entry.registrations), possession, 0);
        if (signer != member) revert WrongPossession(member, signer);
        entry.staker = msg.sender;
        entry.registrations += 1;
        _add(member, entry);
    }

    /// @notice Add to the stake of one's own member.
    function topUp(address member) external payable {
        Member storage entry = _ownMember(member);
        if (entry.tombstoned) revert IsTombstoned(member);
        if (entry.leavesAt != 0) revert IsLeaving(member, entry.leavesAt);
        if (msg.value == 0) revert ZeroValue("value");
        _add(member, entry);
    }

    /// @notice Ask to leave. The stake can still be slashed until it is withdrawn.
    function requestUnbonding(address member) external {
        Member storage entry = _ownMember(member);
        if (entry.leavesAt != 0) revert IsLeaving(member, entry.leavesAt);
        entry.leavesAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        emit UnbondingRequested(member, entry.leavesAt);
    }

    /// @notice Take out the whole rest of the stake. The key may be registered again later.
    function withdraw(address member, address to) external {
        Member storage entry = _ownMember(member);
        if (to == address(0)) revert ZeroAddress("to");
        if (entry.leavesAt == 0) revert NotLeaving(member);
        if (block.timestamp < entry.leavesAt) revert TooEarly(entry.leavesAt, block.timestamp);
        if (entry.freezes != 0) revert IsFrozen(member, entry.freezes);
        uint256 amount = entry.stake;
        totalStake -= amount;
        entry.stake = 0;
        entry.staker = address(0);
        entry.leavesAt = 0;
        emit Withdrawn(member, msg.sender, to, amount);
        _send(to, amount);
    }

    // ------------------------------------------------------------------ credits

    /// @notice Pay an account what it is owed. Anybody may call; the ether goes to the account only.
    function claim(address account) external {
        uint256 amount = creditOf[account];
        if (amount == 0) revert NothingToClaim(account);
        creditOf[account] = 0;
        totalCredit -= amount;
        emit Claimed(account, amount);
        _send(account, amount);
    }

    /// @notice Credit the treasury with ether that no door let in (a self-destruct, a block reward).
    function skim() external {
        uint256 excess = address(this).balance - totalStake - totalCredit;
        if (excess == 0) revert ZeroValue("excess");
        _credit(TREASURY, excess);
    }

    // ------------------------------------------------------------------ the slasher's doors

    /// @notice Hold back a member's stake while a verdict is pending.
    function freeze(address member) external onlySlasher {
        uint32 freezes = ++_members[member].freezes;
        emit Frozen(member, freezes);
    }

    /// @notice The verdict was executed, cancelled, or is void.
    function unfreeze(address member) external onlySlasher {
        uint32 freezes = --_members[member].freezes;
        emit Unfrozen(member, freezes);
    }

    /// @notice Take a fraction of a member's stake for the treasury.
    function slash(address member, uint256 bps, bytes32 key) external onlySlasher returns (uint256 amount) {
        return _take(member, bps, key, 0, address(0));
    }

    /// @notice Take the whole stake, part of it for the reporter, and close the door for ever.
    function tombstone(address member, bytes32 key, uint256 rewardBps, address reporter)
        external
        onlySlasher
        returns (uint256 amount)
    {
        _members[member].tombstoned = true;
        emit Tombstoned(member, key);
        return _take(member, ALL_BPS, key, rewardBps, reporter);
    }

    // ------------------------------------------------------------------ questions

    function memberOf(address member) external view returns (Member memory) {
        return _members[member];
    }

    function stakeOf(address member) external view returns (uint256) {
        return _members[member].stake;
    }

    /// @notice The members of a group in an epoch, ascending; empty if none was registered.
    function committee(bytes32 group, uint64 epoch) external view returns (address[] memory) {
        return _committees[group][epoch];
    }

    /// @notice Reverts unless the account sat in that group in that epoch.
    function requireSeat(bytes32 group, uint64 epoch, address account) external view {
        address[] storage members = _committees[group][epoch];
        uint256 low = 0;
        uint256 high = members.length;
        if (high == 0) revert NoCommittee(group, epoch);
        while (low < high) {
            uint256 middle = (low + high) / 2;
            address seat = members[middle];
            if (seat == account) return;
            if (seat < account) low = middle + 1;
            else high = middle;
        }
        revert NotASeat(group, epoch, account);
    }

    /// @notice The size of a committee. Reverts unless the signers, strictly ascending, all sat in it and
    /// still have something at stake: who can lose nothing certifies nothing.
    function requireBondedSeats(bytes32 group, uint64 epoch, address[] calldata signers)
        external
        view
        returns (uint256 size)
    {
        address[] storage members = _committees[group][epoch];
        size = members.length;
        if (size == 0) revert NoCommittee(group, epoch);
        uint256 at = 0;
        address previous = address(0);
        for (uint256 i = 0; i < signers.length; ++i) {
            address signer = signers[i];
            if (signer <= previous) revert NotAscending(previous, signer);
            // Both lists ascend, so one walk over the committee finds every signer.
            while (at < size && members[at] < signer) ++at;
            if (at == size || members[at] != signer) revert NotASeat(group, epoch, signer);
            if (_members[signer].stake == 0) revert NotBonded(signer);
            previous = signer;
        }
    }

    /// @notice What a member's key signs so that `staker` may register it.
    function possessionDigest(address staker, uint64 nonce) public view returns (bytes32) {
        return Signed.digest(
            Signed.separator(slasher, 0), keccak256(abi.encode(POSSESSION_TYPEHASH, staker, nonce))
        );
    }

    // ------------------------------------------------------------------ inside

    function _seat(bytes32 group, uint64 epoch, address[] calldata members) private {
        uint256 size = members.length;
        if (size == 0 || size > COMMITTEE_MAX) revert CommitteeSize(size, COMMITTEE_MAX);
        if (_committees[group][epoch].length != 0) revert CommitteeExists(group, epoch);
        address previous = address(0);
        for (uint256 i = 0; i < size; ++i) {
            if (members[i] <= previous) revert NotAscending(previous, members[i]);
            previous = members[i];
        }
        _committees[group][epoch] = members;
        emit CommitteeRegistered(group, epoch, members);
    }

    function _add(address member, Member storage entry) private {
        entry.stake = (uint256(entry.stake) + msg.value).toUint96();
        totalStake += msg.value;
        emit Deposited(member, msg.sender, msg.value, entry.stake);
    }

    function _take(address member, uint256 bps, bytes32 key, uint256 rewardBps, address reporter)
        private
        returns (uint256 amount)
    {
        if (bps > ALL_BPS) revert FractionTooLarge(bps, ALL_BPS);
        if (rewardBps > ALL_BPS) revert FractionTooLarge(rewardBps, ALL_BPS);
        Member storage entry = _members[member];
        amount = (uint256(entry.stake) * bps) / ALL_BPS;
        uint256 reward = (amount * rewardBps) / ALL_BPS;
        entry.stake -= uint96(amount);
        totalStake -= amount;
        if (reward != 0) _credit(reporter, reward);
        if (amount != reward) _credit(TREASURY, amount - reward);
        emit Slashed(member, key, amount, reward, reporter);
    }

    function _credit(address account, uint256 amount) private {
        creditOf[account] += amount;
        totalCredit += amount;
        emit Credited(account, amount);
    }

    function _ownMember(address member) private view returns (Member storage entry) {
        entry = _members[member];
        if (entry.staker == address(0)) revert NotRegistered(member);
        if (entry.staker != msg.sender) revert NotTheStaker(member, msg.sender);
    }

    function _send(address to, uint256 amount) private {
        (bool sent,) = to.call{value: amount}("");
        if (!sent) revert TransferFailed(to, amount);
    }

    function _notTooLong(uint64 seconds_) private pure {
        if (seconds_ > PERIOD_MAX_SECONDS) revert PeriodTooLong(seconds_, PERIOD_MAX_SECONDS);
    }
}
