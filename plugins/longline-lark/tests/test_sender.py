"""The thread that sends: order, patience, limits, and the deadline at the end."""

import logging
import threading
import time
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from longline_lark.cards import Card
from longline_lark.credentials import Credentials
from longline_lark.sender import MAX_QUEUE, RateLimit, Sender
from longline_lark.webhook import Webhook

SECRET = "s3cr3t-of-the-bot"


def payload(title: str) -> dict:
    return Card("info", title, (("Run", "demo"),)).payload()


def made_of(title: str):
    return lambda: payload(title)


def sender(url: str, timeout: float = 5, secret: str = SECRET) -> Sender:
    return Sender(Webhook(Credentials(SecretStr(url), SecretStr(secret))), timeout)


def test_messages_arrive_in_order(lark):
    made = sender(lark.url)
    for index in range(4):
        made.put(made_of(f"message {index}"))
    assert made.close().delivered == 4
    assert lark.titles == [f"message {index}" for index in range(4)]


@pytest.mark.parametrize("faults", [["429", "500"], ["garbage"], ["break"], ["silent"], ["wait"], ["busy"]])
def test_a_message_is_tried_again_and_order_is_kept(lark, faults):
    lark.faults = list(faults)
    made = sender(lark.url, timeout=0.5 if "silent" in faults else 5)
    made.put(made_of("first"))
    made.put(made_of("second"))
    lark.wait_for(2)
    delivery = made.close()
    assert lark.titles == ["first", "second"]
    assert (delivery.delivered, delivery.lost) == (2, 0)
    assert len(lark.bodies) == 2 + len(faults)


def test_backoff_grows(lark):
    lark.faults = ["500"] * 3
    begin = time.monotonic()
    made = sender(lark.url)
    made.put(made_of("late"))
    lark.wait_for(1)
    assert 2.5 < time.monotonic() - begin < 6  # 0.5 + 1 + 2 seconds, a fifth more or less
    assert made.close().delivered == 1


def test_a_refused_message_is_not_tried_again_and_the_remedy_is_logged_once(lark, caplog):
    made = sender(lark.url, secret="another-secret")
    for _ in range(3):
        made.put(made_of("never"))
    delivery = made.close()
    assert (delivery.delivered, delivery.lost) == (0, 3)
    assert "19021" in delivery.reason
    assert lark.codes == [19021] * 3
    told = [record.getMessage() for record in caplog.records if record.name == "longline_lark"]
    assert len(told) == 1
    assert "copy the secret again" in told[0]
    assert "another-secret" not in caplog.text


def test_lark_never_has_to_say_that_it_is_too_much(lark):
    """The server counts as Lark does and answers 11232 beyond 5 in a second."""
    made = sender(lark.url, timeout=20)
    for index in range(12):
        made.put(made_of(f"message {index}"))
    lark.wait_for(11)
    made.put(made_of("end"), last=True)
    assert made.close().lost == 0
    assert set(lark.codes) == {0}
    assert lark.titles == [*(f"message {index}" for index in range(12)), "end"]


def test_the_limits_as_numbers():
    limit = RateLimit()
    for _ in range(5):
        assert limit.wait(100.0) == 0
        limit.enter(100.0)
    assert limit.wait(100.0) == pytest.approx(1.2)
    limit = RateLimit()
    for index in range(98):
        limit.enter(100.0 + index / 2)
    assert limit.wait(149.0) == pytest.approx(23.0)
    assert limit.wait(149.0, last=True) == 0  # two of a hundred are kept for the end


def test_the_end_waits_no_longer_than_the_deadline(lark):
    lark.faults = ["silent"] * 50
    made = sender(lark.url, timeout=0.6)
    for _ in range(5):
        made.put(made_of("unheard"))
    begin = time.monotonic()
    delivery = made.close()
    assert 0.4 < time.monotonic() - begin < 1.0
    assert (delivery.delivered, delivery.lost) == (0, 5)


def test_the_end_waits_no_longer_when_nobody_listens(dead_url):
    made = sender(dead_url, timeout=0.6)
    made.put(made_of("unheard"))
    begin = time.monotonic()
    delivery = made.close()
    assert time.monotonic() - begin < 1.0
    assert delivery.lost == 1
    assert "127.0.0.1 cannot be reached" in delivery.reason


def test_the_end_cuts_a_backoff_short(lark):
    """The server is back by the end of the run: what waited for its next attempt goes out at once."""
    lark.faults = ["500"] * 3
    made = sender(lark.url, timeout=5)
    made.put(made_of("patient"))
    until = time.monotonic() + 10
    while len(lark.bodies) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    begin = time.monotonic()
    assert made.close().delivered == 1
    assert time.monotonic() - begin < 1.5  # the fourth attempt was due only after 2 seconds


def test_the_last_message_passes_a_backlog(lark):
    lark.faults = ["silent"]
    made = sender(lark.url, timeout=4)
    for index in range(60):
        made.put(made_of(f"alert {index}"))
    made.put(made_of("the end"), last=True)
    lark.release.set()
    made.close()
    assert lark.titles[-1] == "the end"


def test_what_is_too_much_to_keep_is_dropped_from_the_front(dead_url):
    made = sender(dead_url, timeout=0.2)
    for index in range(MAX_QUEUE + 51):
        made.put(made_of(f"alert {index}"))
    assert 49 <= made.lost <= 51
    assert made.close().lost == MAX_QUEUE + 51


def test_putting_a_message_takes_no_time(dead_url):
    made, message = sender(dead_url, timeout=0.2), made_of("alert")
    made.put(message)
    begin = time.perf_counter()
    for _ in range(1000):
        made.put(message)
    assert (time.perf_counter() - begin) / 1000 < 0.001
    made.close()


def test_the_thread_ends_with_its_sender_and_holds_nothing_up(lark):
    before = set(threading.enumerate())
    made = sender(lark.url)
    made.put(made_of("only"))
    thread = next(thread for thread in threading.enumerate() if thread not in before and thread.name == "longline-lark")
    assert thread.daemon
    made.close()
    thread.join(2)
    assert not thread.is_alive()


def test_after_the_end_nothing_is_taken(lark):
    made = sender(lark.url)
    made.put(made_of("one"))
    assert made.close() == made.close()
    made.put(made_of("two"))
    assert lark.titles == ["one"]


def test_without_a_message_there_is_no_thread(lark):
    begin = time.monotonic()
    assert sender(lark.url).close().delivered == 0
    assert time.monotonic() - begin < 0.1


def test_a_message_that_cannot_be_sent_does_not_stop_the_others(lark, caplog):
    @dataclass
    class Unsendable:
        name: str = "nothing that JSON knows"

    made = sender(lark.url)
    made.put(lambda: {"msg_type": Unsendable()})
    made.put(made_of("fine"))
    with caplog.at_level(logging.WARNING):
        delivery = made.close()
    assert (delivery.delivered, delivery.lost) == (1, 1)
    assert "could not be sent: TypeError" in caplog.text
    assert lark.titles == ["fine"]
