"""The gates to the outside: breaker, connections and rate of each origin, shared by all runs of a ledger.

Whoever asks an origin passes `gates.Gates` for the time of one try. A gate (`origin`) holds what one run has of one
origin; `records` is where runs find each other's, the ledger or, while that is away, memory. What a run holds are
leases: after a crash they are free again by themselves.
"""
