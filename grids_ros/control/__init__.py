"""From action chunks to what the arm follows: functions of time and data, with no clock and no ROS of their own."""
