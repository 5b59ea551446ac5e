"""A fault driver: a table of faults, injected over real DDS into a follower in full motion. See __main__.py."""
