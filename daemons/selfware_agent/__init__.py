"""selfware-agent: turns goals into finished work, one proposed action at a time.

The agent thinks (asks inferenced), proposes (asks oversightd to perform an action) and remembers (appends to
checkpointd's journal before anything has an effect). It cannot approve, execute, or write outside its journal. Its
whole state is a fold over its events, so it may be killed at any instant: the next process folds the same events,
asks the unanswered question again and re-attaches to the unfinished action under the same effect id.

    state.py   what a session is, and how each event changes it (pure)
    plan.py    what to do next, given the state (pure)
    replies.py the schemas a model must answer in, and its reply as an action (pure)
    prompts.py the words (pure)
    memory.py  checkpointd    mind.py  inferenced    hands.py  oversightd    (the edges)
    worker.py  drives one task; foreman.py chooses which; service.py is the gRPC face
"""
