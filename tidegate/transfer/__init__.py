"""Bytes from a source onto this host's disk: identified, resumed, never spliced, verified."""
