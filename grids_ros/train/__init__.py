"""From bags to a checkpoint."""
