"""Tests of the room that learns."""
