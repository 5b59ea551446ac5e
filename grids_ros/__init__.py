"""GridS-pruned vision-language-action policies on a robot arm, in real time, with ROS 2."""
