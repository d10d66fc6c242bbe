// What an observer checks: names, blocks, certificates, pieces. Written from docs/wire.md alone; knows no socket.

import { secp256k1 } from '@noble/curves/secp256k1.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { keccak_256 as keccak } from '@noble/hashes/sha3.js'
import { bytesToHex as hex, concatBytes as concat, hexToBytes, utf8ToBytes } from '@noble/hashes/utils.js'
import { decode, encode } from 'cborg'

export { hex, hexToBytes }

const STRICT = { strict: true, allowIndefinite: false, rejectDuplicateMapKeys: true }
const HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141n / 2n

export class Wrong extends Error {}

export function must (holds, what) {
  if (!holds) throw new Wrong(what)
}

const same = (one, two) => hex(one) === hex(two)

// -- packed messages ----------------------------------------------------------

export function pack (tag, fields) {
  return concat(Uint8Array.of(tag), encode(fields))
}

export function framed (packed) {
  const length = new Uint8Array(4)
  new DataView(length.buffer).setUint32(0, packed.length)
  return concat(length, packed)
}

export function unpack (packed) {
  const fields = decode(packed.subarray(1), STRICT)
  must(same(encode(fields), packed.subarray(1)), 'not in canonical form')
  return { tag: packed[0], fields }
}

// -- names --------------------------------------------------------------------

function plain (json) {
  if (Array.isArray(json)) return json.map(plain)
  if (json !== null && typeof json === 'object') return Object.values(json).map(plain)
  return typeof json === 'string' && json.startsWith('0x') ? hexToBytes(json.slice(2)) : json
}

export function network (genesis) {
  const id = keccak(encode(plain(genesis)))
  return { genesis, id, topic: `/mps/${hex(id).slice(0, 16)}/tips` }
}

export function group (net, name) {
  const entry = [...net.genesis.groups, net.genesis.council].find((each) => each.name === name)
  must(entry !== undefined, `no group ${name}`)
  const members = entry.members.map((each) => hexToBytes(each.member_id.slice(2)))
  return { name, id: keccak(concat(net.id, utf8ToBytes(name))), members, separator: separator(net, name) }
}

// -- words --------------------------------------------------------------------

export function word (value) {
  if (value instanceof Uint8Array) return concat(new Uint8Array(32 - value.length), value)
  return hexToBytes(BigInt(value).toString(16).padStart(64, '0'))
}

const words = (values) => concat(...values.map(word))

function separator (net, name) {
  const type = 'EIP712Domain(string name,string version,uint256 chainId,address verifyingContract,bytes32 salt)'
  const { chain_id: chainId, slashing } = net.genesis.chain
  const salt = keccak(concat(net.id, utf8ToBytes(name)))
  const parts = [keccak(utf8ToBytes(type)), keccak(utf8ToBytes('MPS')), keccak(utf8ToBytes('1'))]
  return keccak(words([...parts, chainId, hexToBytes(slashing.slice(2)), salt]))
}

export const committeeRoot = (epoch, members) => keccak(words([epoch, ...members]))

// -- RFC 9162 -----------------------------------------------------------------

const leafHash = (leaf) => sha256(concat(Uint8Array.of(0), leaf))
const nodeHash = (left, right) => sha256(concat(Uint8Array.of(1), left, right))

export function rootOf (hashes) {
  if (hashes.length === 0) return sha256(new Uint8Array())
  if (hashes.length === 1) return hashes[0]
  let split = 1
  while (split * 2 < hashes.length) split *= 2
  return nodeHash(rootOf(hashes.slice(0, split)), rootOf(hashes.slice(split)))
}

function included (node, index, size, path, root) {
  let last = size - 1
  const rest = [...path]
  while (last > 0) {
    if (index % 2 === 1) node = nodeHash(rest.shift() ?? new Uint8Array(), node)
    else if (index < last) node = nodeHash(node, rest.shift() ?? new Uint8Array())
    index = Math.floor(index / 2)
    last = Math.floor(last / 2)
  }
  return rest.length === 0 && same(node, root)
}

// -- blocks -------------------------------------------------------------------

export function signerOf (digest, signature) {
  must(signature.length === 65 && (signature[64] === 27 || signature[64] === 28), 'a signature has another form')
  must(BigInt('0x' + hex(signature.subarray(32, 64))) <= HALF_ORDER, 'high s')
  const recovered = concat(Uint8Array.of(signature[64] - 27), signature.subarray(0, 64))
  const key = secp256k1.Signature.fromBytes(recovered, 'recovered').recoverPublicKey(digest)
  return keccak(key.toBytes(false).subarray(1)).subarray(12)
}

// A chain of epoch 0, from its first block on: `follow` checks the next block and keeps its id.
export class Chain {
  constructor (net, name) {
    this.net = net
    this.group = group(net, name)
    this.ids = []
    this.tip = null
  }

  follow ([[header, body], [round, signatures]]) {
    const [version, networkId, groupId, epoch, height, parentId, proposer, timeMs, appRoot, logRoot, next] = header
    const { members, id, separator: sep } = this.group
    const known = members.map(hex)
    must(version === 1 && same(networkId, this.net.id) && same(groupId, id), 'another chain')
    must(epoch === 0, 'a later epoch: the council says who sits in it')
    must(height === this.ids.length, `height ${height} does not come next`)
    must(same(parentId, this.ids.at(-1) ?? new Uint8Array(32)), 'another parent')
    must(same(logRoot, rootOf(this.ids.map(leafHash))), 'another log of earlier blocks')
    must(known.includes(hex(proposer)), 'the proposer is no member')
    must(this.tip === null || timeMs > this.tip.timeMs, 'not later than its parent')
    must(same(appRoot, rootOf(decode(body, STRICT).map((field) => leafHash(encode(field))))), 'another body')

    const blockId = keccak(words(header))
    const type = keccak(utf8ToBytes('Commit(uint64 epoch,uint64 height,uint32 round,bytes32 blockId)'))
    const struct = keccak(words([type, epoch, height, round, blockId]))
    const digest = keccak(concat(Uint8Array.of(0x19, 0x01), sep, struct))
    const quorum = Math.floor((2 * members.length - 1) / 3) + 1
    must(signatures.length >= quorum && signatures.length <= members.length, 'no quorum')
    const signers = signatures.map((each) => hex(signerOf(digest, each)))
    must(signers.every((each) => known.includes(each)), 'a signature is not a member\'s')
    must(signers.every((each, place) => place === 0 || signers[place - 1] < each), 'the signers are not ascending')

    this.ids.push(blockId)
    this.tip = { height, timeMs, blockId, epochEnds: !same(next, committeeRoot(epoch, members)) }
    return { blockId, digest, signers, body: decode(body, STRICT) }
  }
}

// -- pieces -------------------------------------------------------------------

export function checkPiece (blobId, firstLeaf, leafCount, [total, path, length], data) {
  must(data.length === length && length === Math.min(leafCount * 1024, total - firstLeaf * 1024), 'another length')
  const leaves = []
  for (let place = 0; place < data.length; place += 1024) leaves.push(leafHash(data.subarray(place, place + 1024)))
  const runs = Math.ceil(total / (1024 * leafCount))
  must(included(rootOf(leaves), firstLeaf / leafCount, runs, path, blobId), 'a piece of another blob')
}
