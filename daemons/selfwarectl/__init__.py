"""The operator's hand: everything a person can ask of Selfware or tell it, from a terminal.

It owns nothing and remembers nothing. It reads facts from the daemons over gRPC, decides nothing about approvals but
carries a person's word to oversightd over HTTP on operator.sock, and can keep the whole stack up in the foreground
where there is no systemd.
"""
