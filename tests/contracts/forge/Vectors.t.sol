// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {EpochAnchors} from "contracts/EpochAnchors.sol";
import {Headers} from "contracts/Headers.sol";
import {Quorum} from "contracts/Quorum.sol";
import {Signed} from "contracts/Signed.sol";
import {SlashingManager} from "contracts/SlashingManager.sol";
import {StakingRegistry} from "contracts/StakingRegistry.sol";

/// @dev The cheat codes of forge that are used here.
interface Vm {
    function chainId(uint256 id) external;
    function closeFile(string calldata path) external;
    function deal(address account, uint256 wei_) external;
    function envString(string calldata name) external view returns (string memory);
    function keyExistsJson(string calldata json, string calldata key) external view returns (bool);
    function parseJsonAddress(string calldata json, string calldata key) external pure returns (address);
    function parseJsonAddressArray(string calldata json, string calldata key) external pure returns (address[] memory);
    function parseJsonBool(string calldata json, string calldata key) external pure returns (bool);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonBytes32(string calldata json, string calldata key) external pure returns (bytes32);
    function parseJsonBytesArray(string calldata json, string calldata key) external pure returns (bytes[] memory);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
    function parseJsonStringArray(string calldata json, string calldata key) external pure returns (string[] memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function readLine(string calldata path) external view returns (string memory);
    function sign(uint256 secret, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function startPrank(address who) external;
    function stopPrank() external;
    function toString(uint256 value) external pure returns (string memory);
}

/// @title The golden vectors, read by Solidity
/// @notice The same files as `tests/consensus/test_vectors.py` and `tests/contracts/test_vectors.py` read; one
/// vector a line. `tests/contracts/test_forge.py` runs this where forge is installed.
contract VectorsTest {
    Vm private constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);

    event log_named_uint(string key, uint256 value); // Forge shows it by this name.

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract,bytes32 salt)");

    StakingRegistry private registry;
    SlashingManager private manager;
    EpochAnchors private anchors;
    bytes32 private group;
    bytes32 private council;
    mapping(address member => uint256 secret) private secrets;

    // ------------------------------------------------------------------ the ground: network.json

    function setUp() external {
        vm.readLine(path("network"));
        string memory told = line("network");
        vm.chainId(vm.parseJsonUint(told, ".chainId"));
        address deployer = vm.parseJsonAddress(told, ".deployer");
        group = vm.parseJsonBytes32(told, ".groups[0].salt");
        council = vm.parseJsonBytes32(told, ".groups[1].salt");
        vm.deal(deployer, 100 ether);
        vm.startPrank(deployer);
        registry = new StakingRegistry(StakingRegistry.Terms(1 ether, 1000, 800, 50, 20, 500), address(1), deployer);
        manager = new SlashingManager(registry, address(2));
        require(address(manager) == vm.parseJsonAddress(told, ".verifyingContract"), "the manager lies elsewhere");
        registry.setSlasher(address(manager));
        anchors = new EpochAnchors(registry);
        registry.setRegistrar(address(anchors));
        registry.setCouncil(council);
        for (uint256 i = 0; exists(told, at(".keys", i)); ++i) {
            uint256 secret = uint256(vm.parseJsonBytes32(told, string.concat(at(".keys", i), ".secret")));
            address member = vm.parseJsonAddress(told, string.concat(at(".keys", i), ".member"));
            secrets[member] = secret;
            if (i == 16) continue; // The stranger.
            registry.deposit{value: 1 ether}(member, signed(member, registry.possessionDigest(deployer, 0)));
        }
        for (uint256 i = 0; exists(told, at(".committees", i)); ++i) {
            string memory key = at(".committees", i);
            address[] memory members = vm.parseJsonAddressArray(told, string.concat(key, ".members"));
            sort(members);
            registry.registerCommittee(
                vm.parseJsonBytes32(told, string.concat(key, ".groupId")),
                uint64(vm.parseJsonUint(told, string.concat(key, ".epoch"))),
                members
            );
        }
        vm.stopPrank();
    }

    // ------------------------------------------------------------------ one test a file

    function testDigests() external {
        each("digests", this.checkDigest);
    }

    function testHeaders() external {
        each("headers", this.checkHeader);
    }

    function testCommittees() external {
        each("committees", this.checkCommittee);
    }

    function testSignatures() external {
        each("signatures", this.checkSignature);
    }

    function testCertificates() external {
        each("certificates", this.checkCertificate);
    }

    function testVerdicts() external {
        each("verdicts", this.checkVerdict);
    }

    function testAnchors() external {
        each("anchors", this.checkAnchor);
    }

    function testEvidence() external {
        each("evidence", this.checkEvidence);
    }

    function testChains() external {
        each("chains", this.checkChain);
    }

    // ------------------------------------------------------------------ one check a vector

    function checkDigest(string calldata told) external view {
        bytes32 typeHash = keccak256(bytes(vm.parseJsonString(told, ".type")));
        bytes32 structHash = keccak256(abi.encodePacked(typeHash, vm.parseJsonBytes(told, ".words")));
        require(typeHash == vm.parseJsonBytes32(told, ".typeHash"), "type hash");
        require(structHash == vm.parseJsonBytes32(told, ".structHash"), "struct hash");
        bytes32 separator = separatorOf(told);
        require(separator == vm.parseJsonBytes32(told, ".domain.separator"), "separator");
        bytes32 digest = vm.parseJsonBytes32(told, ".digest");
        require(keccak256(abi.encodePacked(hex"1901", separator, structHash)) == digest, "digest");
        bytes memory signature = vm.parseJsonBytes(told, ".signature");
        require(this.signerOf(digest, signature) == vm.parseJsonAddress(told, ".signer"), "signer");
        if (vm.parseJsonUint(told, ".domain.chainId") != block.chainid) return;
        if (vm.parseJsonAddress(told, ".domain.verifyingContract") != address(manager)) return;
        checkDigestOfManager(told, separator, digest);
    }

    function separatorOf(string calldata told) private pure returns (bytes32) {
        return keccak256(
            abi.encode(
                DOMAIN_TYPEHASH,
                keccak256("MPS"),
                keccak256("1"),
                vm.parseJsonUint(told, ".domain.chainId"),
                vm.parseJsonAddress(told, ".domain.verifyingContract"),
                vm.parseJsonBytes32(told, ".domain.salt")
            )
        );
    }

    function checkDigestOfManager(string calldata told, bytes32 separator, bytes32 digest) private view {
        bytes32 salt = vm.parseJsonBytes32(told, ".domain.salt");
        require(manager.domainSeparator(salt) == separator, "the manager's separator");
        uint8 kind = uint8(vm.parseJsonUint(told, ".kind"));
        if (kind == 0) return;
        bytes memory words = vm.parseJsonBytes(told, ".words");
        (bytes32 found,) = manager.equivocationDigests(salt, kind, words, contradiction(words));
        require(found == digest, "the manager's digest");
    }

    function checkHeader(string calldata told) external view {
        Headers.Header memory header = abi.decode(vm.parseJsonBytes(told, ".words"), (Headers.Header));
        bytes32 blockId = vm.parseJsonBytes32(told, ".blockId");
        require(keccak256(abi.encode(header)) == blockId, "block id");
        if (header.version != anchors.HEADER_VERSION()) return;
        (bytes32 found,) = anchors.commitDigest(header, 0);
        require(found == blockId, "the contract's block id");
    }

    function checkCommittee(string calldata told) external view {
        address[] memory members = vm.parseJsonAddressArray(told, ".members");
        uint64 epoch = uint64(vm.parseJsonUint(told, ".epoch"));
        require(anchors.rootOf(epoch, members) == vm.parseJsonBytes32(told, ".root"), "root");
        require(Quorum.least(members.length) == vm.parseJsonUint(told, ".quorum"), "quorum");
        require(Quorum.faulty(members.length) == vm.parseJsonUint(told, ".faultyMax"), "f");
    }

    /// @notice As the first half of evidence whose second half is well signed by who claims to have signed both.
    function checkSignature(string calldata told) external {
        address claimed = vm.parseJsonAddress(told, ".claimed");
        (bool taken, bytes memory answer) = tried(address(manager), withOwnSecond(told, claimed));
        require(taken == vm.parseJsonBool(told, ".valid"), "taken or not");
        if (taken) return;
        string memory reason = vm.parseJsonString(told, ".reason");
        bytes memory expected;
        if (bytes(reason).length == 0) {
            address signer = vm.parseJsonAddress(told, ".signer");
            expected = abi.encodeWithSelector(SlashingManager.SignersDiffer.selector, signer, claimed);
        } else {
            expected = abi.encodeWithSelector(Signed.BadSignature.selector, 0, codeOf(reason));
        }
        require(keccak256(answer) == keccak256(expected), "the reason");
    }

    function withOwnSecond(string calldata told, address claimed) private view returns (bytes memory) {
        bytes memory words = vm.parseJsonBytes(told, ".words");
        bytes memory other = contradiction(words);
        bytes32 typeHash = keccak256(bytes(vm.parseJsonString(told, ".type")));
        bytes32 structHash = keccak256(abi.encodePacked(typeHash, other));
        bytes memory second = signed(claimed, Signed.digest(manager.domainSeparator(group), structHash));
        bytes memory first = vm.parseJsonBytes(told, ".signature");
        return submission(uint8(vm.parseJsonUint(told, ".kind")), words, first, other, second);
    }

    function submission(uint8 kind, bytes memory a, bytes memory signatureA, bytes memory b, bytes memory signatureB)
        private
        view
        returns (bytes memory)
    {
        return abi.encodeCall(manager.submitEquivocation, (group, kind, a, signatureA, b, signatureB));
    }

    function checkCertificate(string calldata told) external {
        Headers.Header memory header = abi.decode(vm.parseJsonBytes(told, ".words"), (Headers.Header));
        bytes[] memory signatures = vm.parseJsonBytesArray(told, ".signatures");
        uint32 round = uint32(vm.parseJsonUint(told, ".round"));
        (bool taken, bytes memory answer) =
            tried(address(anchors), abi.encodeCall(anchors.requireCertificate, (header, round, signatures)));
        agrees(told, taken, answer);
        if (!taken) return;
        (bytes32 blockId, address[] memory signers) = abi.decode(answer, (bytes32, address[]));
        require(blockId == vm.parseJsonBytes32(told, ".blockId"), "block id");
        address[] memory expected = vm.parseJsonAddressArray(told, ".signers");
        require(keccak256(abi.encode(signers)) == keccak256(abi.encode(expected)), "signers");
    }

    function checkVerdict(string calldata told) external {
        SlashingManager.Verdict memory verdict =
            abi.decode(vm.parseJsonBytes(told, ".words"), (SlashingManager.Verdict));
        require(manager.verdictDigest(council, verdict) == vm.parseJsonBytes32(told, ".digest"), "digest");
        bytes[] memory signatures = vm.parseJsonBytesArray(told, ".signatures");
        (bool taken, bytes memory answer) =
            tried(address(manager), abi.encodeCall(manager.submitVerdict, (verdict, 0, signatures)));
        agrees(told, taken, answer);
    }

    function checkAnchor(string calldata told) external {
        Headers.Header memory header = abi.decode(vm.parseJsonBytes(told, ".words"), (Headers.Header));
        bytes[] memory signatures = vm.parseJsonBytesArray(told, ".signatures");
        address[] memory next = vm.parseJsonAddressArray(told, ".nextMembers");
        (bool taken, bytes memory answer) = tried(
            address(anchors),
            abi.encodeCall(anchors.anchor, (header, uint32(vm.parseJsonUint(told, ".round")), signatures, next))
        );
        agrees(told, taken, answer);
    }

    function checkEvidence(string calldata told) external {
        bytes memory first = vm.parseJsonBytes(told, ".first.words");
        bytes memory second = vm.parseJsonBytes(told, ".second.words");
        bytes memory signatureA = vm.parseJsonBytes(told, ".first.signature");
        bytes memory signatureB = vm.parseJsonBytes(told, ".second.signature");
        uint8 kind = uint8(vm.parseJsonUint(told, ".kind"));
        (bool taken, bytes memory answer) =
            tried(address(manager), submission(kind, first, signatureA, second, signatureB));
        agrees(told, taken, answer);
        if (!taken) return;
        require(abi.decode(answer, (bytes32)) == keyOf(told, first), "the key of the offence");
        (bytes32 a, bytes32 b) = manager.equivocationDigests(group, kind, first, second);
        require(a == vm.parseJsonBytes32(told, ".first.digest"), "the first digest");
        require(b == vm.parseJsonBytes32(told, ".second.digest"), "the second digest");
    }

    function keyOf(string calldata told, bytes memory words) private view returns (bytes32) {
        (uint256 epoch, uint256 height) = abi.decode(words, (uint256, uint256));
        address signer = vm.parseJsonAddress(told, ".signer");
        uint8 offence = uint8(vm.parseJsonUint(told, ".offence"));
        return manager.keyOf(group, uint64(epoch), uint64(height), signer, offence);
    }

    /// @notice The certificates of a history, up to the first that does not hold.
    function checkChain(string calldata told) external {
        bool valid = vm.parseJsonBool(told, ".valid");
        bool certificate = keccak256(bytes(vm.parseJsonString(told, ".fault"))) == keccak256("certificate");
        uint256 sound = valid ? type(uint256).max : vm.parseJsonUint(told, ".brokenAt");
        for (uint256 i = 0; exists(told, at(".blocks", i)); ++i) {
            if (i == sound && !certificate) return;
            string memory key = at(".blocks", i);
            Headers.Header memory header =
                abi.decode(vm.parseJsonBytes(told, string.concat(key, ".words")), (Headers.Header));
            bytes[] memory signatures = vm.parseJsonBytesArray(told, string.concat(key, ".signatures"));
            uint32 round = uint32(vm.parseJsonUint(told, string.concat(key, ".round")));
            (bool taken,) =
                tried(address(anchors), abi.encodeCall(anchors.requireCertificate, (header, round, signatures)));
            require(taken == (i < sound), string.concat("block ", vm.toString(i)));
            if (i == sound) return;
        }
    }

    // ------------------------------------------------------------------ what the checks need

    /// @dev Every vector of a file; each in a call of its own, whose memory is given back.
    function each(string memory file, function(string memory) external check) private {
        vm.readLine(path(file)); // What the file is about.
        uint256 count = 0;
        for (string memory told = line(file); bytes(told).length > 2; told = line(file)) {
            try check(told) {
                ++count;
            } catch (bytes memory why) {
                string memory name = vm.parseJsonString(told, ".name");
                revert(string.concat(file, ": ", name, ": ", why.length < 68 ? "" : reasonOf(why)));
            }
        }
        vm.closeFile(path(file));
        emit log_named_uint(file, count);
    }

    /// @dev The text of an Error(string).
    function reasonOf(bytes memory why) private pure returns (string memory text) {
        bytes memory rest = new bytes(why.length - 4);
        for (uint256 i = 0; i < rest.length; ++i) rest[i] = why[i + 4];
        text = abi.decode(rest, (string));
    }

    function path(string memory file) private view returns (string memory) {
        return string.concat(vm.envString("VECTORS"), "/", file, ".json");
    }

    /// @dev The next line without the comma at its end.
    function line(string memory file) private view returns (string memory told) {
        told = vm.readLine(path(file));
        uint256 length = bytes(told).length;
        if (length != 0 && bytes(told)[length - 1] == ",") {
            assembly ("memory-safe") {
                mstore(told, sub(length, 1))
            }
        }
    }

    function at(string memory key, uint256 place) private pure returns (string memory) {
        return string.concat(key, "[", vm.toString(place), "]");
    }

    function exists(string memory told, string memory key) private view returns (bool) {
        return vm.keyExistsJson(told, key);
    }

    function signed(address member, bytes32 digest) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(secrets[member], digest);
        return abi.encodePacked(r, s, v);
    }

    function signerOf(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return Signed.signer(digest, signature, 0);
    }

    /// @dev The same words but for the lowest bit of word 3: no two structs of one slot may differ in it.
    function contradiction(bytes memory words) private pure returns (bytes memory other) {
        other = bytes.concat(words);
        other[4 * 32 - 1] ^= 0x01;
    }

    function codeOf(string memory reason) private pure returns (uint256) {
        bytes32 told = keccak256(bytes(reason));
        if (told == keccak256("no signer")) return 1;
        if (told == keccak256("not 65 bytes")) return 2;
        require(told == keccak256("high s"), "an unknown reason");
        return 3;
    }

    /// @dev Taken if the vector names no errors, else refused with one of them.
    function agrees(string calldata told, bool taken, bytes memory answer) private pure {
        string[] memory errors = vm.parseJsonStringArray(told, ".errors");
        require(taken == (errors.length == 0), taken ? "it was taken" : "it was refused");
        if (taken) return;
        for (uint256 i = 0; i < errors.length; ++i) {
            if (bytes4(answer) == bytes4(keccak256(bytes(errors[i])))) return;
        }
        revert("refused for another reason");
    }

    /// @dev What a call would do; it is undone.
    function tried(address target, bytes memory data) private returns (bool taken, bytes memory answer) {
        (, bytes memory told) = address(this).call(abi.encodeCall(this.attempt, (target, data)));
        return abi.decode(told, (bool, bytes));
    }

    function attempt(address target, bytes calldata data) external {
        (bool taken, bytes memory answer) = target.call(data);
        bytes memory told = abi.encode(taken, answer);
        assembly ("memory-safe") {
            revert(add(told, 32), mload(told))
        }
    }

    function sort(address[] memory members) private pure {
        for (uint256 i = 1; i < members.length; ++i) {
            for (uint256 j = i; j > 0 && members[j - 1] > members[j]; --j) {
                (members[j - 1], members[j]) = (members[j], members[j - 1]);
            }
        }
    }
}
