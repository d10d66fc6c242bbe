"""Whole networks of real processes on real sockets, as a user starts them. They want a quiet machine."""
