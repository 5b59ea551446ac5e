"""What runs in the benchmark's own Python environment; imports nothing of grids_ros but its siblings."""
