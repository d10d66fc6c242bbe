"""Write `tests/vectors/observer.json` and `wire.json`, and the worked example of docs/wire.md, anew.

    python -m tests.interop.record

After a change of the genesis, a record or a message: whatever such a change moves lies in these three files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from consensus.signing import block_id, recover, separator, signing_digest
from consensus.types import Commit
from p2pfl import codec
from p2pfl.genesis import Genesis
from p2pfl.jsonform import from_json, to_json
from p2pfl.net import wire
from tests.audit.chain import Built, build
from tests.net.test_wire import golden

HERE = Path(__file__).parent
VECTORS = HERE.parent / "vectors"
PAGE = HERE.parent.parent / "docs" / "wire.md"
GROUP = "g1"


def observed(built: Built) -> dict[str, Any]:
    """What an observer hears of the first two blocks of a group: observer.json."""
    genesis, first = built.genesis, built.chains[GROUP][0]
    group_id, tip_id = genesis.group_id(GROUP), block_id(first.block.header)
    aggregate_id = built.body(GROUP, 0).aggregate_id
    piece = built.blobs[aggregate_id]
    head = wire.PieceHead(len(piece), (), len(piece))
    return {
        "about": "What an observer hears of one small network: docs/wire.md works through it. Bytes are hex.",
        "genesis": to_json(genesis),
        "network_id": "0x" + genesis.network_id.hex(),
        "group": GROUP,
        "group_id": "0x" + group_id.hex(),
        "status": wire.pack(wire.Status(group_id, 0, tip_id)).hex(),
        "blocks": wire.pack(wire.Blocks(tuple(built.chains[GROUP][:2]))).hex(),
        "tip": wire.pack(wire.Tip(group_id, 0, tip_id)).hex(),
        "aggregate_id": "0x" + aggregate_id.hex(),
        "piece_head": wire.pack(head).hex(),
        "piece": piece.hex(),
    }


def shown(told: dict[str, Any]) -> list[str]:
    """What the page shows of these vectors, always in the same order."""
    genesis: Genesis = from_json(told["genesis"], Genesis)
    answer = wire.unpack(bytes.fromhex(told["blocks"]))
    assert isinstance(answer, wire.Blocks)
    header, certificate = answer.blocks[0].block.header, answer.blocks[0].certificate
    tip_id, domain = block_id(header), genesis.domain(GROUP)
    digest = signing_digest(domain, Commit(header.epoch, header.height, certificate.round, tip_id))
    signature = certificate.signatures[0]
    plain = codec.encode(genesis, Genesis)
    return [
        f"{len(plain):,} bytes of CBOR, {plain[:2].hex()} ",
        told["network_id"][2:],  # The whole before its beginning, so that none is replaced in part.
        told["network_id"][2:18],
        told["group_id"][2:],
        told["aggregate_id"][2:],
        f"{told['aggregate_id'][2:10]}..",
        tip_id.hex(),
        f"{tip_id.hex()[:8]}..",
        separator(domain).hex(),
        digest.hex(),
        signature[:32].hex(),
        signature[32:64].hex(),
        f"            {signature[64]:x}  ",
        recover(digest, signature).hex(),
        f"`{header.app_root.hex()[:8]}..`",
    ]


def main() -> None:
    """Write the three files."""
    path = VECTORS / "observer.json"
    before, after = json.loads(path.read_text(encoding="utf-8")), observed(build())
    page = PAGE.read_text(encoding="utf-8")
    # Only the old file knows what the page shows: it is read before its genesis becomes unreadable.
    for old, new in zip(before.get("shown", []), shown(after), strict=True):
        page = page.replace(old, new)
    PAGE.write_text(page, encoding="utf-8")
    path.write_text(json.dumps({**after, "shown": shown(after)}, indent=1) + "\n", encoding="utf-8")
    packed = {name: wire.pack(message).hex() for name, message in golden().items()}
    text = json.dumps(packed, indent=1)
    (VECTORS / "wire.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
