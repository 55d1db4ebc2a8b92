"""One file from the outside onto this host's disk, whole and proven, however often its source breaks off.

Resolvers call `fetch.fetch_file`, and `peek.peek` for a look at the beginning. A file has one or more origins
(`mirrors`, `places`), each spoken to by an `exchange` (`http`); its bytes lie in a `part` with a journal. A transfer
keeps its `state` over its tries; a try (`parallel`) deals out `pieces` to its `connections`, which `receive` bodies.
Beside them a `journal_thread` syncs and hashes (`follow`), a `watch` keeps the clocks and asks the `tuner` how many
connections help, and `source_end` knows when everything is there. After a crash the part goes on from what its journal
vouches for.
"""
