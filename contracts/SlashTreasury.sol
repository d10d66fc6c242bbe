// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {StakingRegistry} from "./StakingRegistry.sol";

/// @title Where the stakes of the guilty go
/// @notice Nobody owns it and nobody chooses who is paid: a fixed part is burnt, the rest goes to one
/// beneficiary that was named for good at deployment (the RewardTreasury, so that honest work earns it).
/// @dev The burnt part keeps slashing from being a business of those who certify it.
contract SlashTreasury {
    uint256 public constant ALL_BPS = 10_000;
    address private constant NOWHERE = address(0xdead);

    /// @notice Gets what is not burnt.
    address public immutable BENEFICIARY;
    /// @notice The part that is burnt, in 1/10000.
    uint256 public immutable BURN_BPS;

    event Forwarded(uint256 amount, uint256 burnt);

    error ZeroAddress(string what);
    error FractionTooLarge(uint256 bps, uint256 most);
    error NothingToForward(address treasury);
    error TransferFailed(address to, uint256 amount);

    constructor(address beneficiary, uint256 burnBps) {
        if (beneficiary == address(0)) revert ZeroAddress("beneficiary");
        if (burnBps > ALL_BPS) revert FractionTooLarge(burnBps, ALL_BPS);
        BENEFICIARY = beneficiary;
        BURN_BPS = burnBps;
    }

    receive() external payable {}

    /// @notice Take what a registry owes this treasury and pass it on. Anybody may.
    function collect(StakingRegistry registry) external {
        registry.claim(address(this));
        forward();
    }

    /// @notice Pass on whatever is here. Anybody may.
    function forward() public {
        uint256 amount = address(this).balance;
        if (amount == 0) revert NothingToForward(address(this));
        uint256 burnt = (amount * BURN_BPS) / ALL_BPS;
        emit Forwarded(amount - burnt, burnt);
        if (burnt != 0) _send(NOWHERE, burnt);
        if (amount != burnt) _send(BENEFICIARY, amount - burnt);
    }

    function _send(address to, uint256 amount) private {
        (bool sent,) = to.call{value: amount}("");
        if (!sent) revert TransferFailed(to, amount);
    }
}
