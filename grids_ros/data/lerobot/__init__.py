"""LeRobot data sets, v2.0, v2.1 and v3.0, by pyarrow and PyAV: lerobot's own package cannot live beside our torch."""
