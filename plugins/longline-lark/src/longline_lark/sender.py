"""The background thread that sends: in order, within Lark's limits, with patience, and with a deadline at the end."""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import deque
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline_lark.cards import Payload
    from longline_lark.webhook import Answer, Webhook

logger = logging.getLogger("longline_lark")

MAX_QUEUE = 100
AHEAD_OF_LAST = 10
"""How many waiting messages may stand before the last one, which must get out within the deadline."""
PER_SECOND = 5
PER_MINUTE = 100
RESERVE = 2
"""How many of a minute's requests are kept free for the last message."""
MARGIN = 1.2
"""How much longer than a second and a minute the limits are counted over: requests don't all take the same time on their way."""
FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
GIVE_UP = 600.0
"""Seconds after which a message that nobody takes is dropped: it would be no news."""


class RateLimit:
    """Lark's limits over the last second and the last minute."""

    def __init__(self) -> None:
        self._sent: deque[float] = deque(maxlen=PER_MINUTE)

    def enter(self, now: float) -> None:
        """Note a request at `now`, a monotonic time in seconds."""
        self._sent.append(now)

    def wait(self, now: float, *, last: bool = False) -> float:
        """Return the seconds until a request is allowed; the last message may use what others leave free."""
        times = list(self._sent)
        waits = [0.0]
        for limit, span in ((PER_SECOND, 1.0), (PER_MINUTE - (0 if last else RESERVE), 60.0)):
            if len(times) >= limit:
                waits.append(times[-limit] + span * MARGIN - now)
        return max(waits)


@dataclass(slots=True, eq=False)
class _Message:
    make: Callable[[], Payload]
    last: bool
    made: float = field(default_factory=monotonic)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How many messages got through and how many did not, with the reason of the latest failure."""

    delivered: int
    lost: int
    reason: str


class Sender:
    """Takes messages at once and delivers them at least once; nothing here raises into the run or makes it wait."""

    def __init__(self, webhook: Webhook, timeout: float) -> None:
        self._webhook = webhook
        self._timeout = timeout
        self._queue: deque[_Message] = deque()
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)  # a message came, or the end
        self._changed = threading.Condition(lock)  # a message is done, or the end: nothing that happens at every step
        self._sending = False
        self._closing = self._closed = False
        self._end = math.inf
        self._limit = RateLimit()
        self._thread: threading.Thread | None = None
        self._told: set[str] = set()
        self.delivered = 0
        self.lost = 0
        self.reason = ""

    def put(self, make: Callable[[], Payload], *, last: bool = False) -> None:
        """Queue a message; `make` builds it, in the thread and only when its turn comes.

        When too many wait, the oldest ones are dropped and counted as lost.
        """
        with self._arrived:
            if self._closing:
                return
            room = AHEAD_OF_LAST if last else MAX_QUEUE - 1
            while len(self._queue) > room:
                self._queue.popleft()
                self.lost += 1
            self._queue.append(_Message(make, last))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="longline-lark", daemon=True)
                self._thread.start()
            self._arrived.notify()

    def close(self) -> Delivery:
        """Wait until everything is sent, at most `timeout` seconds; what is left then is lost."""
        with self._changed:
            if not self._closing:
                self._closing = True
                self._end = monotonic() + self._timeout
                self._arrived.notify()
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._queue and not self._sending, self._timeout)
                self._end, self._closed = monotonic(), True
                self.lost += len(self._queue) + self._sending
                self._queue.clear()
            return Delivery(self.delivered, self.lost, self.reason)

    # --- in the thread ----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (message := self._next()) is not None:
            arrived = False
            try:
                arrived = self._deliver(message)
            except Exception as error:  # the thread must live on: later messages may well get through
                self._tell(f"a message could not be sent: {type(error).__name__}", "")
            with self._changed:
                if not self._closed:
                    self.delivered += arrived
                    self.lost += not arrived
                self._sending = False
                self._changed.notify_all()

    def _next(self) -> _Message | None:
        with self._arrived:
            self._arrived.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return None
            self._sending = True
            return self._queue.popleft()

    def _deliver(self, message: _Message) -> bool:
        """Try until the message is taken, refused for good, too old, or the run has waited long enough."""
        payload, backoff = message.make(), FIRST_BACKOFF
        while self._may_send(message):
            self._limit.enter(monotonic())
            answer = self._webhook.post(payload, self._patience())
            if answer.outcome == "delivered":
                return True
            self._failed(answer)
            if answer.outcome == "refused" or monotonic() - message.made > GIVE_UP:
                return False
            self._back_off(max(answer.wait, backoff * random.uniform(0.8, 1.2)))  # noqa: S311 - no secret, only spread
            backoff = min(2 * backoff, LONGEST_BACKOFF)
        return False

    def _patience(self) -> float:
        """How long the next request may take."""
        return max(0.1, min(self._timeout, self._end - monotonic()))

    def _may_send(self, message: _Message) -> bool:
        """Wait until Lark's limits allow a request; False when the run waits no longer."""
        until = monotonic() + self._limit.wait(monotonic(), last=message.last)
        with self._changed:
            while (left := min(until, self._end) - monotonic()) > 0:
                self._changed.wait(left)
            return monotonic() < self._end

    def _back_off(self, seconds: float) -> None:
        """Wait before another attempt; the end of the run leaves no time for more than a second."""
        with self._changed:
            if self._closing:
                self._changed.wait(max(0.0, min(seconds, 1.0, self._end - monotonic())))
            else:
                self._changed.wait_for(lambda: self._closing, seconds)  # which leaves one more attempt at once

    def _failed(self, answer: Answer) -> None:
        self.reason = answer.reason
        self._tell(answer.reason, answer.remedy or ("trying again" if answer.outcome == "again" else ""))

    def _tell(self, reason: str, what_next: str) -> None:
        """Log each reason once."""
        self.reason = reason
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("lark: %s", f"{reason}; {what_next}" if what_next else reason)
