"""From the messages of asynchronous topics to one observation, on the robot, in replay and in training."""
