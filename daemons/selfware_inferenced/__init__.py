"""Text from a model: one admission queue in front of engines that may come and go.

An engine is another process that speaks OpenAI-compatible HTTP. selfware-inferenced decides who may talk to it, in
which order and for how long, and repeats a request when the engine was lost in the middle of it, so that a caller
sees a wait instead of an error. It remembers nothing: killed, it starts again and its callers ask again.

It never starts or stops an engine, never imports one, and never judges what a model says.
"""
