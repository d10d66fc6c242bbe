"""One small PBFT-style consensus (QBFT form), pure: no clock, socket, disk, log or chance.

Knows nothing of learning: an application's word on a block is an opaque body under an app root.
"""
