"""Requests and answers as bytes: JSON, JSON with binary tensors, protobuf. Nothing here knows what is asked."""
