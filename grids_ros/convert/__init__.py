"""Checkpoints of lerobot, openpi and the GridS authors, brought into this package's folder format."""
