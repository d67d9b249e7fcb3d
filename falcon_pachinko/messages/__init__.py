"""Bytes to methods and back, without I/O."""
