"""Runs one approved action exactly once, in a sandbox, and outlives the daemon that asked for it.

An action (an *effect*) has a directory. selfware-oversightd writes ``request.json`` there and launches this program,
which records ``started`` before anything runs, runs the action under bubblewrap and records ``result.json``. Whoever
looks later can tell from the files alone whether it never began, is running, ended, or began and was lost.

Owns the files of an effect directory and the sandbox. Never decides whether an action is allowed, never talks to a
daemon, never runs anything outside the sandbox.

oversightd uses ``selfware_tool.launcher`` (prepare, launch, wait, cancel), ``selfware_tool.effect`` (inspect) and
``selfware_tool.probe``. The modules that the runner imports (all but launcher, probe and errors) stay small: no grpc,
no dataclasses, no pathlib, because their import is part of the price of every action. NamedTuple stands in for the
frozen dataclass there.
"""
