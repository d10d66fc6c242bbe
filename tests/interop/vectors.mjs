// tests/vectors/observer.json, and each number of the worked example in docs/wire.md, by proofs.mjs.
//
//   node vectors.mjs ../vectors/observer.json

import { readFileSync } from 'node:fs'
import { Chain, checkPiece, framed, hex, hexToBytes, network, pack, unpack, must } from './proofs.mjs'

const told = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const net = network(told.genesis)
const chain = new Chain(net, told.group)
const first = unpack(hexToBytes(told.blocks)).fields[0]
const [one] = first.map((block) => chain.follow(block))
const [, height, blockId] = unpack(hexToBytes(told.status)).fields
must(height === 0 && hex(blockId) === hex(one.blockId), 'the status names another block')
must(hex(one.body[8]) === told.aggregate_id.slice(2), 'another aggregate')
const head = unpack(hexToBytes(told.piece_head)).fields
checkPiece(one.body[8], 0, 64, head, hexToBytes(told.piece))

const spoilt = structuredClone(first[0])
spoilt[1][1][0][5] ^= 1
let refused = ''
try {
  new Chain(net, told.group).follow(spoilt)
} catch (error) {
  refused = error.message
}
console.log(JSON.stringify({
  network: hex(net.id),
  group: hex(chain.group.id),
  topic: net.topic,
  separator: hex(chain.group.separator),
  ids: chain.ids.map(hex),
  digest: hex(one.digest),
  signers: one.signers,
  get_status: hex(framed(pack(32, [chain.group.id]))),
  get_blocks: hex(framed(pack(33, [chain.group.id, 0, 1]))),
  get_piece: hex(framed(pack(34, [one.body[8], 0, 64]))),
  refused
}))
