"""What `make run` works on: a small unfinished library with real tasks, each judged by its own pytest
check.

The tasks are data (tasks/*.toml: the goal, the starting files, the check). There is no solution to any of
them in this repository: the model must find it, and the check decides.
"""
