"""Doubles for tests: real servers on real sockets that answer from a script. Nothing here runs in production."""
