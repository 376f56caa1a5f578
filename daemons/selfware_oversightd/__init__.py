"""Decides whether an action may happen, asks a person where it must, and makes it happen exactly once.

The agent proposes on ``agent.sock`` and can do nothing else there; people decide on ``operator.sock``. Between the two
lies the ledger: what was asked, allowed, begun and done, each fact durable before the next one follows from it.

    proposal -> digest -> policy -> (a person) -> intent durable -> tool runner -> result durable -> answer

Owns the ledger, the audit chain and the effect directories. Never runs an action in its own process, never talks to
the model, and takes nothing that came from the model for anything but data.
"""
