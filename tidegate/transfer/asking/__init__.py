"""One question to an origin, and what its answer means.

`conversation` asks it, through the gate and over redirects; `answers` reads status and headers, purely; `ask` does both
for small things (playlists, keys, segments, pages) as often as the retry rule allows, and hands back the body. Files
are asked for by `file.http`. Nothing here is kept over a crash.
"""
