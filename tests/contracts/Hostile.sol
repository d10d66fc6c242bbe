// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title An account that behaves badly when it is paid
/// @notice Passes on any call for anybody. When ether arrives it refuses, or calls back into the payer.
contract Hostile {
    bool public refuses;
    address private _target;
    bytes private _callback;
    uint256 public callbacks;
    uint256 public succeeded;

    error Refused();

    constructor() payable {}

    function setRefuses(bool value) external {
        refuses = value;
    }

    /// @notice What to call, and whom, each time ether arrives.
    function setCallback(address target, bytes calldata data) external {
        _target = target;
        _callback = data;
    }

    function pass(address target, bytes calldata data) external payable {
        (bool done, bytes memory answer) = target.call{value: msg.value}(data);
        if (!done) {
            assembly {
                revert(add(answer, 32), mload(answer))
            }
        }
    }

    /// @notice Force ether into an account that has no door for it.
    function explode(address payable heir) external {
        selfdestruct(heir);
    }

    receive() external payable {
        if (refuses) revert Refused();
        if (_callback.length == 0) return;
        ++callbacks;
        (bool done,) = _target.call(_callback);
        if (done) ++succeeded;
    }
}
