"""Tells people that a unit failed for good: systemd starts this when a restart limit is hit (OnFailure=).

Owns /run/selfware/escalations, where the last failure of each unit stays until it runs again. Changes nothing else:
what is left of the suite goes on, every checkpoint is kept, and 'selfwarectl start' brings it back.
"""
