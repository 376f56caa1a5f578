"""The engines that Selfware starts itself: one model over OpenAI-compatible HTTP on a Unix socket, outside every
daemon. Either llama.cpp inside this process (the default) or vLLM as its child.

It is a process of its own so that a crash, a leak or a `kill -9` of a model costs nobody else anything, and
so that its memory and CPU are limited by its own cgroup. It remembers nothing: killed, it starts again (llama.cpp in
about two seconds) and selfware-inferenced repeats what was under way. It never downloads anything.
"""
