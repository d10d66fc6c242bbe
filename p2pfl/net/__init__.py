"""The only room that knows libp2p: messages, requests and blobs between members; members are keys here.

`interface` is what other rooms rely on, `wire` the table of messages, `host` the sockets, `memory` the same
without sockets. Nothing here is imported eagerly: libp2p costs 83 MB and a second.
"""
