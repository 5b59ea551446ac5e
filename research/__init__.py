"""The study of pruning: GridS beside the dense model and other samplers. Not installed on a robot."""
