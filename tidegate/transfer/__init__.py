"""Bytes from a source onto this host's disk: identified, resumed, never spliced, verified.

The probe and download stages ask a resolver (`resolvers/`) of the source's kind, and give it an `outside.Outside`. It
brings segments (`segments/`) or one file (`file/`), reads playlists in a child (`parsing`, `playlists/`), asks by
`asking/` and goes out through a gate (`gates/`) on a connection (`transport/`); tools that connect by themselves go
through the `tool_proxy`. `request` and `paths` check what people ask for before any of it. What came is journaled where
it lies, so a run that was killed goes on from there.
"""
