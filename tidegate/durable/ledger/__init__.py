"""The ledger: attempts with owner, epoch, lease and progress, and what follows from them.

`Ledger` is the database, `decide` the pure rules, `rows` the values, `lease` an attempt's own hold on its work.
"""

from tidegate.durable.ledger.ledger import Claim, Ledger, NewAttempt, insist
from tidegate.durable.ledger.rows import Attempt, AttemptProgress, AttemptState, LeaseState, Recovery

__all__ = [
    "Attempt",
    "AttemptProgress",
    "AttemptState",
    "Claim",
    "LeaseState",
    "Ledger",
    "NewAttempt",
    "Recovery",
    "insist",
]
