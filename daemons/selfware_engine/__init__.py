"""The embedded engine: llama.cpp serving one model over OpenAI-compatible HTTP on a Unix socket, in its own
process.

It is a process of its own so that a crash, a leak or a `kill -9` of a model costs nobody else anything, and
so that its memory and CPU are limited by its own cgroup. It remembers nothing: killed, it starts again in
about two seconds and selfware-inferenced repeats what was under way. It never downloads anything.
"""
