"""A policy in closed loop with the simulated arm, without ROS and without waiting."""
