"""How long to wait before the next attempt: tenacity's exponential ceiling, full jitter, randomness passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_exponential

if TYPE_CHECKING:
    from gateway.model.clock import Randomness

__all__ = ["Backoff"]

#: How much later than asked for the next request may come, so that a fleet does not come back in the same instant.
_LATER_SPREAD: Final = 0.1


class Backoff:
    """Waits of one route. Both methods are pure but for the randomness.

    Full jitter: uniform between 0 and the ceiling, which starts at ``first_s`` and doubles up to ``cap_s``.
    Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (tenacity's ``wait_random_exponential`` is the same,
    but draws from the global generator, so only its ceiling is taken from tenacity).
    """

    def __init__(self, first_s: float, cap_s: float, randomness: Randomness) -> None:
        self._ceiling = wait_exponential(multiplier=first_s, max=cap_s)
        self._call = RetryCallState(Retrying(), None, (), {})
        self._randomness = randomness

    def jitter_s(self, attempt: int) -> float:
        """The wait after the ``attempt``-th failure in a row (1 = the first)."""
        self._call.attempt_number = attempt
        return self._randomness.uniform() * self._ceiling(self._call)

    def told_s(self, after_s: float) -> float:
        """A pause the destination asked for: 0 to 10 % longer, never shorter."""
        return after_s * (1.0 + _LATER_SPREAD * self._randomness.uniform())
