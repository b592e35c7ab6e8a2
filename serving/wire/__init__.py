"""Bytes of the two protocols to messages and back; pure, so that they are tested by drawn input."""
