"""What a person is shown of the sampled coordinates: drawn on images, or placed in space. No ROS."""
