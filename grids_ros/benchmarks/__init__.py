"""Benchmarks that other people made, in closed loop: each simulator runs in an environment and a process of its own."""
