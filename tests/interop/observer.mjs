// An observer of a running network, written from docs/wire.md alone.
//
//   node observer.mjs GENESIS.json /ip4/../tcp/../p2p/12D3KooW.. GROUP
//
// Identifies and pings the node, fetches and checks the group's chain and its newest aggregate, hears an announcement.
// Prints one JSON object; exit code 1 and the reason where something is wrong.

import './node20.mjs'
import { readFileSync } from 'node:fs'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { Chain, checkPiece, framed, hex, must, network, pack, unpack } from './proofs.mjs'

const GET_STATUS = 32
const GET_BLOCKS = 33
const GET_PIECE = 34
const STATUS = 48
const BLOCKS = 49
const PIECE_HEAD = 50
const REFUSED = 51
const TIP = 6
const AGGREGATE = 8
const LEAVES = 64
const PATIENCE_MS = 45_000

// Requests one way, answers the other, in the same order.
class Asker {
  constructor (stream) {
    this.stream = stream
    this.kept = new Uint8Array()
    this.chunks = stream[Symbol.asyncIterator]()
  }

  async ask (packed, tag) {
    this.stream.send(framed(packed))
    const length = new DataView((await this.raw(4)).slice().buffer).getUint32(0)
    const answer = unpack(await this.raw(length))
    if (answer.tag === REFUSED) throw new Error(`refused: ${answer.fields[0]}`)
    must(answer.tag === tag, `an answer with tag ${answer.tag}`)
    return answer.fields
  }

  async raw (size) {
    while (this.kept.length < size) {
      const { value, done } = await this.chunks.next()
      if (done) throw new Error('the node ended the stream')
      const chunk = value.subarray()
      const joined = new Uint8Array(this.kept.length + chunk.length)
      joined.set(this.kept)
      joined.set(chunk, this.kept.length)
      this.kept = joined
    }
    const found = this.kept.subarray(0, size)
    this.kept = this.kept.subarray(size)
    return found
  }
}

async function follow (asker, chain) {
  const [groupId, height, blockId] = await asker.ask(pack(GET_STATUS, [chain.group.id]), STATUS)
  must(hex(groupId) === hex(chain.group.id), 'the status of another group')
  let newest = null
  while (chain.ids.length <= height) {
    const [blocks] = await asker.ask(pack(GET_BLOCKS, [chain.group.id, chain.ids.length, 64]), BLOCKS)
    must(blocks.length > 0, 'fewer blocks than it said')
    for (const block of blocks) {
      newest = chain.follow(block)
      if (chain.tip.epochEnds) return newest
    }
  }
  must(newest === null || hex(chain.ids[height]) === hex(blockId), 'the tip is another block')
  return newest
}

async function fetchBlob (asker, blobId) {
  const found = []
  let length = 0
  for (let total = 1; length < total;) {
    const firstLeaf = length / 1024
    const head = await asker.ask(pack(GET_PIECE, [blobId, firstLeaf, LEAVES]), PIECE_HEAD)
    const data = await asker.raw(head[2])
    checkPiece(blobId, firstLeaf, LEAVES, head, data)
    total = head[0]
    length += data.length
    found.push(data.slice())
  }
  return length
}

async function main (genesisPath, address, name) {
  const net = network(JSON.parse(readFileSync(genesisPath, 'utf8')))
  const node = await createLibp2p({
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: {
      identify: identify(),
      ping: ping(),
      pubsub: gossipsub({ globalSignaturePolicy: 'StrictSign' })
    }
  })
  const told = { network: hex(net.id), topic: net.topic }
  try {
    const identified = new Promise((resolve) => {
      node.addEventListener('peer:identify', ({ detail }) => resolve(detail), { once: true })
    })
    const heard = new Promise((resolve) => {
      node.services.pubsub.addEventListener('message', ({ detail }) => {
        const { tag, fields } = unpack(detail.data)
        if (detail.topic === net.topic && tag === TIP) resolve({ author: detail.from.toString(), fields })
      })
    })
    node.services.pubsub.subscribe(net.topic)
    const peer = multiaddr(address)
    const connection = await node.dial(peer)
    told.muxer = connection.multiplexer
    told.encryption = connection.encryption
    told.ping_ms = await node.services.ping.ping(connection.remotePeer)
    const { protocols, agentVersion } = await identified
    told.protocols = protocols
    told.agent = agentVersion

    const chain = new Chain(net, name)
    const newest = await follow(new Asker(await connection.newStream('/mps/requests/1')), chain)
    told.height = chain.ids.length - 1
    told.tip = hex(chain.ids.at(-1) ?? new Uint8Array())
    told.signers = newest?.signers ?? []
    if (newest !== null) {
      const blobId = newest.body[AGGREGATE]
      told.blob = hex(blobId)
      told.blob_bytes = await fetchBlob(new Asker(await connection.newStream('/mps/blobs/1')), blobId)
    }
    const { author, fields: [groupId, height, blockId] } = await heard
    told.announced = { author, group: hex(groupId), height: Number(height), block: hex(blockId) }
    console.log(JSON.stringify(told))
  } finally {
    await node.stop()
  }
}

const tooLate = setTimeout(() => { console.error('no answer in time'); process.exit(1) }, PATIENCE_MS)
main(...process.argv.slice(2)).then(
  () => clearTimeout(tooLate),
  (error) => { console.error(error.stack); process.exit(1) }
)
