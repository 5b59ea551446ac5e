"""One file answers for each family of models: see `grids_ros.policy.backbone`."""
