"""`make demo`: the three processes, several episodes, and what they leave behind. Not part of the core: needs rclpy."""
