"""A policy scored on recorded topics, open loop, before it touches the arm. No ROS."""
