"""The engine: takes media from sources that fail, and always ends.

It knows nothing of Prefect; use it as a library through `tidegate.stages`.
"""
