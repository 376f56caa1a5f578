"""checkpointd remembers what the agent knew: an append-only journal per session, and checkpoints of the state.

The idea: state = fold(events). Every event is durable before it is acknowledged; a checkpoint is the folded state after
event N; recovery is the newest intact checkpoint plus the events after N. The rest of this package is ``segment``,
``sealing``, ``reopening`` and ``journal`` (events on disk), ``group_commit`` (many callers, one fdatasync),
``sessions`` (one writer at a time), ``chunking``, ``packs``, ``manifest``, ``catalog`` and ``store`` (checkpoints),
``plans``, ``unpacking`` and ``assembling`` (a state from its pieces), ``hot``, ``coldstub``, ``coldstore``, ``tiering``
and ``tiers`` (where they lie), ``scrub``, ``healing`` and ``mending`` (that they stay right), ``bounds``, ``room``,
``retention``, ``thinning``, ``trimming`` and ``reserve`` (what may go, and that it is enough), ``recovery`` (where to
go on) and ``memory`` (all of it behind one object). The core never logs: it returns sentences.
"""
