"""Decoders against bytes of others: `targets` says which, `python -m tests.fuzz` looks for more."""
