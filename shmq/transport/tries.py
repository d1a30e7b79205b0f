"""Whether something that does not always pay is worth a try: after each try in vain twice as many are left out."""

from __future__ import annotations


class Tries:
    """Concurrency: one thread at a time.

    Args:
        least: chances left out after the first try in vain.
        most: chances left out at most.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._pause = self._left = 0  # chances left out: when that came last, of those still to come

    def is_due(self) -> bool:
        """Is this chance one to take?"""
        if self._left:
            self._left -= 1
            return False
        return True

    def worked(self) -> None:
        """The try paid."""
        self._pause >>= 1

    def was_in_vain(self) -> None:
        """The try did not pay."""
        self._left = self._pause = min(max(2 * self._pause, self._least), self._most)
