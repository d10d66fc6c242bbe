"""The rules of the core, one sentence a test."""
