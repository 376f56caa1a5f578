"""Facts about the machine: memory, disk, GPU, load, and how much pressure they mean together.

It never commands and calls nobody. It publishes readings and a pressure level; each daemon that watches decides what
it gives up. It holds no state that matters: killed at any instant, it reads the machine again and is right.
"""
