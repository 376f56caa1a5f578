"""What every Selfware program shares: mechanism only, never policy.

The process skeleton, sockets, configuration, errors, logging and the generated RPC stubs live here. A thing moves
in at its second user. Nothing here decides anything about goals, approvals or storage.
"""

__version__ = "0.1.0"
