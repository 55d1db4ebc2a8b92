"""Playlists as values: what HLS, DASH and Metalink texts say, without touching the outside.

`transfer.parsing` has each text read by a child (`parse_child`, with `read_hls`, `read_dash` or `read_metalink`), which
says what it read in the words of `written`. What comes of it are the frozen values of `hls`, `dash`, `metalink` and
`media`. `live` tells what is new in a playlist that grows; `plausible`, `timing` and `captions` look into the bytes of
segments. Nothing here keeps anything, so a crash costs nothing.
"""
