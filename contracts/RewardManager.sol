// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Quorum} from "./Quorum.sol";
import {Signed} from "./Signed.sol";
import {StakingRegistry} from "./StakingRegistry.sol";

/// @title What honest work earns
/// @notice A client opens a job: it pays BASE_FEE and, into escrow, a price for each epoch of training. The
/// council certifies, epoch by epoch, how much each member contributed (a Merkle root) and how accurate the
/// model has become. Then each member's staker has its share credited, and collects it. When the target
/// accuracy is reached, or the epochs are used up, or the network falls silent, what is left of the escrow is
/// the client's again. No account can pay itself, and one that refuses ether holds up nobody but itself.
/// @dev `address(this).balance >= totalEscrow + totalOpen + totalCredit` at any time; see `skim`.
contract RewardManager {
    using SafeCast for uint256;

    enum State {
        None,
        Open,
        Reached, // The target accuracy was certified.
        UsedUp, // All epochs that were paid for are settled.
        Expired // Nobody settled in time.
    }

    struct Job {
        address client; // Whose the rest of the escrow is.
        uint96 pricePerEpoch; // Wei.
        bytes32 task; // What is to be learnt: the network's id, as the genesis file gives it.
        uint64 nextEpoch; // The epoch of the network that is settled next: each in its turn, none left out.
        uint64 settleBy; // After this time the job can be ended by anybody.
        uint32 epochsLeft; // Paid for and not settled.
        uint32 targetMicro; // Accuracy in millionths at which the job is done; above 1,000,000: never.
        State state;
    }

    /// @notice What the council certifies for a job and an epoch, in its own domain.
    struct Contribution {
        address manager; // This contract: beside one registry there may be several.
        uint256 job;
        uint64 epoch;
        bytes32 root; // Over a leaf for each member that earned something, see `leafOf`.
        uint256 totalWeight; // Sum of their weights.
        uint32 accuracyMicro; // Of the council's base at the end of the epoch, on the public test set.
    }

    struct Settlement {
        bytes32 root;
        uint256 totalWeight;
        uint96 left; // Wei that nobody has claimed yet.
        uint96 price; // Wei that were shared out.
        uint64 claimBy;
    }

    uint256 public constant CERTIFYING_COMMITTEE_MIN = 4;
    /// @dev A job that no one could live to see the end of is a mistake.
    uint32 public constant EPOCHS_MAX = 100_000;
    /// @dev Money that is locked for longer than this would be money that is lost.
    uint64 public constant PERIOD_MAX_SECONDS = 365 days;
    bytes32 private constant CONTRIBUTION_TYPEHASH = keccak256(
        "Contribution(address manager,uint256 job,uint64 epoch,bytes32 root,uint256 totalWeight,uint32 accuracyMicro)"
    );

    StakingRegistry public immutable REGISTRY;
    /// @notice The `verifyingContract` of every signature of the members: the SlashingManager.
    address public immutable SIGNED_FOR;
    /// @notice Gets the fees, and what nobody claims.
    address public immutable TREASURY;
    /// @notice Wei for opening a job; never refunded.
    uint256 public immutable BASE_FEE;
    uint64 public immutable SETTLE_SECONDS;
    uint64 public immutable CLAIM_SECONDS;

    uint256 public jobs;
    uint256 public totalEscrow;
    uint256 public totalOpen;
    uint256 public totalCredit;
    mapping(address account => uint256) public creditOf;
    mapping(uint256 job => Job) private _jobs;
    mapping(uint256 job => mapping(uint64 epoch => Settlement)) private _settlements;
    mapping(uint256 job => mapping(uint64 epoch => mapping(address member => bool))) public claimed;

    event JobOpened(
        uint256 indexed job,
        address indexed client,
        bytes32 indexed task,
        uint256 pricePerEpoch,
        uint32 epochs,
        uint32 targetMicro,
        uint64 firstEpoch
    );
    event EpochSettled(
        uint256 indexed job, uint64 indexed epoch, bytes32 root, uint256 totalWeight, uint32 accuracyMicro
    );
    event JobEnded(uint256 indexed job, State state, uint256 refund);
    event Rewarded(
        uint256 indexed job, uint64 indexed epoch, address indexed member, address staker, uint256 amount
    );
    event ClaimSkipped(uint256 indexed job, uint64 indexed epoch, address indexed member, bytes reason);
    event Swept(uint256 indexed job, uint64 indexed epoch, uint256 amount);
    event Credited(address indexed account, uint256 amount);
    event Collected(address indexed account, uint256 amount);

    error ZeroAddress(string what);
    error ZeroValue(string what);
    error NotAContract(address account);
    error PeriodTooLong(uint64 seconds_, uint64 most);
    error WrongPayment(uint256 sent, uint256 required);
    error TooManyEpochs(uint32 epochs, uint32 most);
    error CouncilNotSet(address registry);
    error JobNotOpen(uint256 job, State state);
    error NotTheNextEpoch(uint64 epoch, uint64 next);
    error OtherManager(address manager, address here);
    error ClaimTooShort(uint64 claimSeconds, uint256 moreThan);
    error CommitteeTooSmall(uint256 size, uint256 required);
    error NoQuorum(uint256 signatures, uint256 required);
    error TooManySignatures(uint256 count, uint256 most);
    error TooEarly(uint64 from, uint256 now_);
    error TooLate(uint64 until, uint256 now_);
    error NotSettled(uint256 job, uint64 epoch);
    error AlreadyClaimed(uint256 job, uint64 epoch, address member);
    error NotInRoot(address member, uint256 weight);
    error MoreThanAll(uint256 amount, uint256 left);
    error NotRegistered(address member);
    error IsTombstoned(address member);
    error IsFrozen(address member, uint32 freezes);
    error LengthsDiffer(uint256 members, uint256 weights, uint256 proofs);
    error NothingToCollect(address account);
    error TransferFailed(address to, uint256 amount);

    constructor(
        StakingRegistry registry,
        address signedFor,
        address treasury,
        uint256 baseFee,
        uint64 settleSeconds,
        uint64 claimSeconds
    ) {
        if (address(registry).code.length == 0) revert NotAContract(address(registry));
        if (signedFor.code.length == 0) revert NotAContract(signedFor);
        if (treasury == address(0)) revert ZeroAddress("treasury");
        if (settleSeconds == 0) revert ZeroValue("settleSeconds");
        if (claimSeconds == 0) revert ZeroValue("claimSeconds");
        if (settleSeconds > PERIOD_MAX_SECONDS) revert PeriodTooLong(settleSeconds, PERIOD_MAX_SECONDS);
        if (claimSeconds > PERIOD_MAX_SECONDS) revert PeriodTooLong(claimSeconds, PERIOD_MAX_SECONDS);
        // Whoever is accused wrongly must still be able to claim when the verdict is void.
        uint256 pending = uint256(registry.CHALLENGE_WINDOW_SECONDS()) + registry.VERDICT_LIFE_SECONDS();
        if (claimSeconds <= pending) revert ClaimTooShort(claimSeconds, pending);
        REGISTRY = registry;
        SIGNED_FOR = signedFor;
        TREASURY = treasury;
        BASE_FEE = baseFee;
        SETTLE_SECONDS = settleSeconds;
        CLAIM_SECONDS = claimSeconds;
    }

    // ------------------------------------------------------------------ a client's doors

    /// @notice Open a job, for exactly BASE_FEE + pricePerEpoch * epochs.
    /// @param task the id of the network that is to learn
    /// @param firstEpoch of the network: work that was done before is not paid by this job
    function openJob(bytes32 task, uint96 pricePerEpoch, uint32 epochs, uint32 targetMicro, uint64 firstEpoch)
        external
        payable
        returns (uint256 job)
    {
        if (task == 0) revert ZeroValue("task");
        if (pricePerEpoch == 0) revert ZeroValue("pricePerEpoch");
        if (epochs == 0) revert ZeroValue("epochs");
        if (targetMicro == 0) revert ZeroValue("targetMicro");
        if (epochs > EPOCHS_MAX) revert TooManyEpochs(epochs, EPOCHS_MAX);
        uint256 escrow = uint256(pricePerEpoch) * epochs;
        if (msg.value != BASE_FEE + escrow) revert WrongPayment(msg.value, BASE_FEE + escrow);
        job = ++jobs;
        _jobs[job] = Job({
            client: msg.sender,
            pricePerEpoch: pricePerEpoch,
            task: task,
            nextEpoch: firstEpoch,
            settleBy: uint64(block.timestamp) + SETTLE_SECONDS,
            epochsLeft: epochs,
            targetMicro: targetMicro,
            state: State.Open
        });
        totalEscrow += escrow;
        if (BASE_FEE != 0) _credit(TREASURY, BASE_FEE);
        emit JobOpened(job, msg.sender, task, pricePerEpoch, epochs, targetMicro, firstEpoch);
    }

    /// @notice End a job that nobody has settled in time: the rest is the client's. Anybody may.
    function expireJob(uint256 job) external {
        Job storage entry = _open(job);
        if (block.timestamp <= entry.settleBy) revert TooEarly(entry.settleBy + 1, block.timestamp);
        _end(job, entry, State.Expired);
    }

    // ------------------------------------------------------------------ settlement

    /// @notice Share out one epoch's price by a certificate of the council's committee of that very epoch:
    /// signatures of a quorum of bonded seats, in ascending order of the signers. Anybody may bring it.
    function settle(Contribution calldata contribution, bytes[] calldata signatures) external {
        uint256 job = contribution.job;
        Job storage entry = _open(job);
        uint64 epoch = contribution.epoch;
        if (block.timestamp > entry.settleBy) revert TooLate(entry.settleBy, block.timestamp);
        // Whoever brings a later certificate first must not cancel what the earlier epochs earned.
        if (epoch != entry.nextEpoch) revert NotTheNextEpoch(epoch, entry.nextEpoch);
        if (contribution.manager != address(this)) revert OtherManager(contribution.manager, address(this));
        _requireCertified(contribution, signatures);

        uint96 price = entry.pricePerEpoch;
        uint64 now_ = uint64(block.timestamp);
        entry.nextEpoch = epoch + 1;
        entry.settleBy = now_ + SETTLE_SECONDS;
        entry.epochsLeft -= 1;
        totalEscrow -= price;
        if (contribution.totalWeight == 0) {
            _credit(entry.client, price); // Nobody earned anything.
        } else {
            totalOpen += price;
            _settlements[job][epoch] = Settlement(
                contribution.root, contribution.totalWeight, price, price, now_ + CLAIM_SECONDS
            );
        }
        emit EpochSettled(job, epoch, contribution.root, contribution.totalWeight, contribution.accuracyMicro);
        if (contribution.accuracyMicro >= entry.targetMicro) _end(job, entry, State.Reached);
        else if (entry.epochsLeft == 0) _end(job, entry, State.UsedUp);
    }

    /// @notice Credit a member's share of a settled epoch to its staker. Anybody may; the ether is the staker's.
    /// @dev While a verdict is pending the share waits; of whoever was caught contradicting itself it is lost.
    function claim(uint256 job, uint64 epoch, address member, uint256 weight, bytes32[] calldata proof)
        public
        returns (uint256 amount)
    {
        Settlement storage entry = _settlements[job][epoch];
        if (entry.claimBy == 0) revert NotSettled(job, epoch);
        if (block.timestamp > entry.claimBy) revert TooLate(entry.claimBy, block.timestamp);
        if (claimed[job][epoch][member]) revert AlreadyClaimed(job, epoch, member);
        if (!MerkleProof.verifyCalldata(proof, entry.root, leafOf(job, epoch, member, weight))) {
            revert NotInRoot(member, weight);
        }
        StakingRegistry.Member memory who = REGISTRY.memberOf(member);
        if (who.tombstoned) revert IsTombstoned(member);
        if (who.staker == address(0)) revert NotRegistered(member);
        if (who.freezes != 0) revert IsFrozen(member, who.freezes);
        amount = (uint256(entry.price) * weight) / entry.totalWeight;
        if (amount > entry.left) revert MoreThanAll(amount, entry.left);
        claimed[job][epoch][member] = true;
        entry.left -= uint96(amount);
        totalOpen -= amount;
        _credit(who.staker, amount);
        emit Rewarded(job, epoch, member, who.staker, amount);
    }

    /// @notice Many claims of one epoch; one that would be refused alone is skipped and told.
    function claimMany(
        uint256 job,
        uint64 epoch,
        address[] calldata members,
        uint256[] calldata weights,
        bytes32[][] calldata proofs
    ) external returns (uint256 amount) {
        if (members.length != weights.length || members.length != proofs.length) {
            revert LengthsDiffer(members.length, weights.length, proofs.length);
        }
        for (uint256 i = 0; i < members.length; ++i) {
            try this.claim(job, epoch, members[i], weights[i], proofs[i]) returns (uint256 one) {
                amount += one;
            } catch (bytes memory reason) {
                emit ClaimSkipped(job, epoch, members[i], reason);
            }
        }
    }

    /// @notice After the time for claims: what is left of an epoch's price goes to the treasury.
    function sweep(uint256 job, uint64 epoch) external returns (uint256 amount) {
        Settlement storage entry = _settlements[job][epoch];
        if (entry.claimBy == 0) revert NotSettled(job, epoch);
        if (block.timestamp <= entry.claimBy) revert TooEarly(entry.claimBy + 1, block.timestamp);
        amount = entry.left;
        if (amount == 0) revert ZeroValue("left");
        entry.left = 0;
        totalOpen -= amount;
        _credit(TREASURY, amount);
        emit Swept(job, epoch, amount);
    }

    // ------------------------------------------------------------------ credits

    /// @notice Pay an account what it is owed. Anybody may call; the ether goes to the account only.
    function collect(address account) external {
        uint256 amount = creditOf[account];
        if (amount == 0) revert NothingToCollect(account);
        creditOf[account] = 0;
        totalCredit -= amount;
        emit Collected(account, amount);
        (bool sent,) = account.call{value: amount}("");
        if (!sent) revert TransferFailed(account, amount);
    }

    /// @notice Credit the treasury with ether that no door let in.
    function skim() external {
        uint256 excess = address(this).balance - totalEscrow - totalOpen - totalCredit;
        if (excess == 0) revert ZeroValue("excess");
        _credit(TREASURY, excess);
    }

    // ------------------------------------------------------------------ questions

    function jobOf(uint256 job) external view returns (Job memory) {
        return _jobs[job];
    }

    function settlementOf(uint256 job, uint64 epoch) external view returns (Settlement memory) {
        return _settlements[job][epoch];
    }

    /// @notice A leaf under a contribution root. Hashed twice, so that no inner node can pass for one.
    function leafOf(uint256 job, uint64 epoch, address member, uint256 weight) public pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(job, epoch, member, weight))));
    }

    /// @notice What a council seat signs.
    function contributionDigest(Contribution calldata contribution) public view returns (bytes32) {
        return Signed.digest(
            Signed.separator(SIGNED_FOR, REGISTRY.council()),
            keccak256(abi.encode(CONTRIBUTION_TYPEHASH, contribution))
        );
    }

    // ------------------------------------------------------------------ inside

    function _open(uint256 job) private view returns (Job storage entry) {
        entry = _jobs[job];
        if (entry.state != State.Open) revert JobNotOpen(job, entry.state);
    }

    function _requireCertified(Contribution calldata contribution, bytes[] calldata signatures) private view {
        bytes32 council = REGISTRY.council();
        if (council == 0) revert CouncilNotSet(address(REGISTRY));
        uint256 count = signatures.length;
        if (count > REGISTRY.COMMITTEE_MAX()) revert TooManySignatures(count, REGISTRY.COMMITTEE_MAX());
        bytes32 digest = contributionDigest(contribution);
        address[] memory signers = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            signers[i] = Signed.signer(digest, signatures[i], i);
        }
        uint256 size = REGISTRY.requireBondedSeats(council, contribution.epoch, signers);
        if (size < CERTIFYING_COMMITTEE_MIN) revert CommitteeTooSmall(size, CERTIFYING_COMMITTEE_MIN);
        if (count < Quorum.least(size)) revert NoQuorum(count, Quorum.least(size));
    }

    function _end(uint256 job, Job storage entry, State state) private {
        uint256 refund = uint256(entry.pricePerEpoch) * entry.epochsLeft;
        entry.state = state;
        entry.epochsLeft = 0;
        totalEscrow -= refund;
        if (refund != 0) _credit(entry.client, refund);
        emit JobEnded(job, state, refund);
    }

    function _credit(address account, uint256 amount) private {
        creditOf[account] += amount;
        totalCredit += amount;
        emit Credited(account, amount);
    }
}
