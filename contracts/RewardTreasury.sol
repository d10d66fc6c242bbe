// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable2Step, Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";

/// @title Fees, unclaimed rewards and what slashing left over
/// @notice Its owner spends it, and everybody sees each payment coming: it is announced, waits for
/// DELAY_SECONDS, and can be called back until it is released. No stake, escrow or reward of a member is here.
contract RewardTreasury is Ownable2Step {
    struct Payment {
        address to;
        uint96 amount; // Wei; zero: none, released or called back.
        uint64 releasableAt;
    }

    /// @dev Longer than this would be a treasury that cannot act.
    uint64 public constant DELAY_MAX_SECONDS = 90 days;

    uint64 public immutable DELAY_SECONDS;
    uint256 public payments;
    mapping(uint256 payment => Payment) public paymentOf;

    event Received(address indexed from, uint256 amount);
    event Announced(uint256 indexed payment, address indexed to, uint256 amount, uint64 releasableAt);
    event CalledBack(uint256 indexed payment);
    event Released(uint256 indexed payment, address indexed to, uint256 amount);

    error ZeroAddress(string what);
    error ZeroValue(string what);
    error DelayTooLong(uint64 seconds_, uint64 most);
    error NoSuchPayment(uint256 payment);
    error TooEarly(uint64 from, uint256 now_);
    error NotEnough(uint256 balance, uint256 amount);
    error TransferFailed(address to, uint256 amount);

    constructor(address owner_, uint64 delaySeconds) Ownable(owner_) {
        if (delaySeconds == 0) revert ZeroValue("delaySeconds");
        if (delaySeconds > DELAY_MAX_SECONDS) revert DelayTooLong(delaySeconds, DELAY_MAX_SECONDS);
        DELAY_SECONDS = delaySeconds;
    }

    receive() external payable {
        emit Received(msg.sender, msg.value);
    }

    /// @notice Say who is to be paid how much. The ether need not be here yet.
    function announce(address to, uint96 amount) external onlyOwner returns (uint256 payment) {
        if (to == address(0)) revert ZeroAddress("to");
        if (amount == 0) revert ZeroValue("amount");
        payment = ++payments;
        uint64 releasableAt = uint64(block.timestamp) + DELAY_SECONDS;
        paymentOf[payment] = Payment(to, amount, releasableAt);
        emit Announced(payment, to, amount, releasableAt);
    }

    /// @notice Take an announced payment back.
    function callBack(uint256 payment) external onlyOwner {
        if (paymentOf[payment].amount == 0) revert NoSuchPayment(payment);
        delete paymentOf[payment];
        emit CalledBack(payment);
    }

    /// @notice Pay what was announced long enough ago. Anybody may.
    function release(uint256 payment) external {
        Payment memory entry = paymentOf[payment];
        if (entry.amount == 0) revert NoSuchPayment(payment);
        if (block.timestamp < entry.releasableAt) revert TooEarly(entry.releasableAt, block.timestamp);
        if (address(this).balance < entry.amount) revert NotEnough(address(this).balance, entry.amount);
        delete paymentOf[payment];
        emit Released(payment, entry.to, entry.amount);
        (bool sent,) = entry.to.call{value: entry.amount}("");
        if (!sent) revert TransferFailed(entry.to, entry.amount);
    }
}
