"""Where a source ends, as the answers of one try tell it: some say how long it is, some only end.

The receiver asks after each answer, `ParallelTry` at the end of the try. It decides from what it is given and keeps
nothing over a crash; what is complete is written into the part's journal.
"""

from __future__ import annotations

from tidegate.errors import TruncatedBody
from tidegate.transfer.file.exchange import Body
from tidegate.transfer.file.pieces import Piece
from tidegate.transfer.file.state import TransferState


class SourceEnd:
    """What one try knows of the end."""

    def __init__(self, state: TransferState) -> None:
        self._state = state
        self._all_was_sent = False
        """Whether a body has ended that says nothing of the size: what is here is everything."""
        self._is_certain = True
        self.asks_on = False
        """Whether the last question was what follows the end of an answer that told no size."""
        self._scraps = 0
        """How many such answers in a row have brought next to nothing."""

    def is_before_what_is_here(self, body: Body) -> bool:
        """Whether an answer says that the source is shorter than what came of it."""
        return body.partial and body.total_bytes is not None and body.total_bytes < self._state.part.spans.end

    def require_continuation(self, body: Body) -> None:
        """Of a source whose size is not known: can more of it be trusted?

        Raises:
            TruncatedBody: more does follow, but nothing shows that it belongs to what is here: the next try compares.
        """
        nothing_follows = body.total_bytes == body.start
        has_validator = self._state.source.identity.has_validator
        if body.partial and self.asks_on and not nothing_follows and not has_validator:
            raise TruncatedBody("The source's answer ended early", evidence=self._state.evidence)

    def is_told_by(self, body: Body) -> bool:
        """Whether the end of this answer says anything about the end of the source."""
        return not (body.partial and body.total_bytes is None and self._state.source.size_bytes is None)

    def must_ask_on(self, piece: Piece, gained_bytes: int) -> bool:
        """A part of a source of unknown size has ended. It may be less than was asked for (RFC 9110 §15.3.7), so its
        end says nothing: only the next answer does, with a 416, the size, or everything.

        Raises:
            TruncatedBody: answers bring next to nothing.
        """
        if piece.stop is not None and piece.at >= piece.stop:
            return False
        self._scraps = 0 if gained_bytes >= self._state.limits.gain_bytes else self._scraps + 1
        if self._scraps > 1:
            message = "The source answers with next to nothing, and does not say how long it is"
            raise TruncatedBody(message, evidence=self._state.evidence)
        self.asks_on = True
        return True

    def check(self, piece: Piece, body: Body) -> bool:
        """The body has ended, or was left: is the piece here? And is it the last one?

        Raises:
            TruncatedBody: the piece is not here as a whole.
        """
        known = self._state.source.size_bytes
        total = body.total_bytes if body.total_bytes is not None else known
        # An answer without length still belongs to a source whose size is known.
        self._is_certain = body.end_is_certain or (body.total_bytes is None and known is not None)
        if total is None:
            # Nobody has said how long it is: it ends where the body does, even before what was to be looked at.
            is_last = piece.stop is None or piece.at < piece.stop
        else:
            self._require_whole(piece, total)
            is_last = piece.at == total
        self._all_was_sent = self._all_was_sent or is_last
        return is_last

    def _require_whole(self, piece: Piece, total: int) -> None:
        stop = total if piece.stop is None else min(piece.stop, total)
        if piece.at < stop and not piece.taken_over:
            received = self._state.part.received_bytes
            message = f"The body ended after {received} of {total} bytes"
            raise TruncatedBody(message, evidence=self._state.evidence)

    def finish_part(self) -> None:
        """The connections are done: if the source is here as a whole, the part says so."""
        total, part = self._state.source.size_bytes, self._state.part
        if self._all_was_sent if total is None else part.prefix_bytes >= total:
            part.finish(end_is_certain=self._is_certain)
