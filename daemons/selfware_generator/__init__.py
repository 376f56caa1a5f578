"""Turns selfware.toml into what systemd does: the supervision strategy, restart limits, delays, watchdog and time
limits as drop-ins beside the shipped units, the engine that the model needs, and what checkpointd may open: its keys, a
network, a directory.

systemd runs it at boot and at every `systemctl daemon-reload` (systemd.generator(7)). It writes below the directory
that systemd names and nowhere else, starts nothing and remembers nothing. Of selfware.toml only numbers get into a
unit, plain paths, and the model's name, escaped; a file that is wrong never keeps the machine from booting.
"""
