"""The ledger: attempts with owner, epoch, lease and progress, and what follows from them.

`Ledger` is the database, `decide` the pure rules, `rows` the values, `lease` an attempt's own hold on its work.
"""

from tidegate.durable.ledger.ledger import Beginning, Claim, Ledger, insist
from tidegate.durable.ledger.rows import Attempt, AttemptState, Progress, Recovery, Standing

__all__ = ["Attempt", "AttemptState", "Beginning", "Claim", "Ledger", "Progress", "Recovery", "Standing", "insist"]
