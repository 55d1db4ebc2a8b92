"""The gates to the outside: breaker, connections and rate of each origin, shared by all runs of a ledger."""
