"""What pruning costs, measured: every variant trained alike, then scored on the same scenes."""
