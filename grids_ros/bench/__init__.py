"""What is promised, measured: one readable entry point for each bench."""
