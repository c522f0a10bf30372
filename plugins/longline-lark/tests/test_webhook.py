"""One request: its signature, and what each answer comes to."""

import json
import time
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from longline_lark.cards import Card
from longline_lark.credentials import Credentials
from longline_lark.webhook import Webhook, sign

PAYLOAD = Card("start", "demo: started", (("Run", "demo"),)).payload()
SECRET = "s3cr3t-of-the-bot"


def webhook(url: str, secret: str | None = SECRET) -> Webhook:
    return Webhook(Credentials(SecretStr(url), SecretStr(secret) if secret else None))


def test_the_signature_is_the_one_that_openssl_computes():
    # printf '' | openssl dgst -sha256 -mac HMAC -macopt hexkey:$(printf '1599360473\ndemo' | xxd -p) -binary | base64
    assert sign(1599360473, "demo") == "l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8="


def test_a_signed_message_is_accepted(lark):
    assert webhook(lark.url).post(PAYLOAD, 5).outcome == "delivered"
    assert lark.titles == ["demo: started"]
    sent = json.loads(lark.bodies[0])
    assert abs(int(sent["timestamp"]) - time.time()) < 5
    assert lark.headers[0]["Content-Type"].startswith("application/json")


def test_without_a_secret_nothing_is_signed(lark):
    lark.secret = None
    assert webhook(lark.url, None).post(PAYLOAD, 5).outcome == "delivered"
    assert set(json.loads(lark.bodies[0])) == {"msg_type", "card"}


def test_a_wrong_secret_is_refused_and_the_remedy_names_secret_and_clock(lark):
    answer = webhook(lark.url, "another-secret").post(PAYLOAD, 5)
    assert answer.outcome == "refused"
    assert "code 19021: sign match fail" in answer.reason
    assert "LARK_SECRET" in answer.remedy
    assert "clock" in answer.remedy


@pytest.mark.parametrize(("ahead", "outcome"), [(3590, "delivered"), (3700, "refused"), (-3700, "refused")])
def test_the_server_refuses_a_signature_that_is_more_than_an_hour_off(lark, ahead, outcome):
    lark.clock = ahead
    assert webhook(lark.url).post(PAYLOAD, 5).outcome == outcome


def test_a_missing_signature_is_refused(lark):
    assert "19021" in webhook(lark.url, None).post(PAYLOAD, 5).reason


def test_a_keyword_that_no_message_holds(lark):
    lark.keyword = "deploy"
    answer = webhook(lark.url).post(PAYLOAD, 5)
    assert (answer.outcome, "keywords" in answer.remedy) == ("refused", True)


def test_an_unknown_token(lark):
    answer = webhook(lark.url + "x").post(PAYLOAD, 5)
    assert (answer.outcome, "copy the webhook again" in answer.remedy) == ("refused", True)


def test_a_message_that_lark_cannot_read(lark):
    assert "9499" in webhook(lark.url).post({"msg_type": "interactive", "card": {}}, 5).reason


@pytest.mark.parametrize("fault", ["429", "busy", "500", "garbage", "list", "break"])
def test_what_may_pass_is_worth_another_attempt(lark, fault):
    lark.faults = [fault]
    hook = webhook(lark.url)
    answer = hook.post(PAYLOAD, 5)
    assert answer.outcome == "again", answer
    assert answer.reason
    assert hook.post(PAYLOAD, 5).outcome == "delivered"


def test_the_server_says_how_long_to_wait(lark):
    lark.faults = ["wait"]
    assert webhook(lark.url).post(PAYLOAD, 5).wait == 1.0


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_server_that_says_nothing_or_little_is_left_in_time(lark, fault):
    lark.faults = [fault]
    begin = time.monotonic()
    answer = webhook(lark.url).post(PAYLOAD, 0.3)
    assert time.monotonic() - begin < 1.5
    assert (answer.outcome, answer.reason) == ("again", "127.0.0.1 did not answer in time")


def test_nobody_listens(dead_url):
    answer = webhook(dead_url).post(PAYLOAD, 5)
    assert answer.outcome == "again"
    assert answer.reason.startswith("127.0.0.1 cannot be reached: ")


def test_an_unknown_host_is_named():
    answer = webhook("https://lark.invalid/open-apis/bot/v2/hook/abcdef").post(PAYLOAD, 5)
    assert answer.outcome == "again"
    assert "lark.invalid" in answer.reason
    assert "abcdef" not in answer.reason


@pytest.mark.parametrize(("fault", "what"), [("redirect", "redirects"), ("404", "HTTP 404")])
def test_what_will_not_change_is_refused(lark, fault, what):
    lark.faults = [fault]
    answer = webhook(lark.url).post(PAYLOAD, 5)
    assert (answer.outcome, answer.remedy) == ("refused", "check webhook_url")
    assert what in answer.reason
    assert len(lark.bodies) == 1  # a redirect is not followed


def test_what_goes_to_this_machine_passes_no_proxy(lark, dead_url, monkeypatch):
    monkeypatch.setenv("http_proxy", dead_url)
    assert webhook(lark.url).post(PAYLOAD, 5).outcome == "delivered"


def test_a_proxy_is_used_for_the_world_outside(lark, monkeypatch):
    monkeypatch.setenv("http_proxy", lark.url.partition("/open-apis")[0])
    webhook("http://lark.invalid/open-apis/bot/v2/hook/abcdef").post(PAYLOAD, 5)
    assert lark.headers[0]["Host"] == "lark.invalid"


def test_nothing_shows_url_or_secret(lark, dead_url):
    hook = webhook(dead_url)
    shown = f"{hook!r} {vars(hook)} {hook.post(PAYLOAD, 1)} {webhook(lark.url, 'wrong-one').post(PAYLOAD, 5)}"
    assert "hook/" not in shown
    assert SECRET not in shown
    assert "wrong-one" not in shown


LONG = "x" * 10_000_000
ANSWERS = {
    "the code first": json.dumps({"code": 0, "data": LONG}),
    "the code last": json.dumps({"data": {"a": [LONG]}, "msg": "", "code": 0}),
    "an older bot's": json.dumps({"StatusCode": 0, "StatusMessage": LONG}),
    "much white space": '{"code" : 0 }' + " " * 10_000_000,
    "a code at the place where it is looked first": '{"msg": "'
    + "x" * (64 * 1024 - 20)
    + '", "code": 0, "data": "'
    + LONG
    + '"}',
    "nested deeper than can be read": '{"code": 0, "data": ' + "[" * 100_000,
}


@pytest.mark.parametrize("body", ANSWERS.values(), ids=list(ANSWERS))
def test_an_answer_may_be_long(lark, body):
    lark.says = body.encode()
    assert webhook(lark.url).post(PAYLOAD, 20).outcome == "delivered"
    assert len(lark.cards) == 1


def test_a_long_refusal_is_a_refusal(lark):
    lark.says = json.dumps({"msg": LONG, "code": 19021}).encode()
    answer = webhook(lark.url).post(PAYLOAD, 20)
    assert (answer.outcome, "code 19021: xxx" in answer.reason, len(answer.reason) < 400) == ("refused", True, True)


def test_what_never_says_a_code_is_given_up_and_not_sent_again(lark):
    lark.says = b"<html>" + b"x" * (33 * 1024 * 1024)
    answer = webhook(lark.url).post(PAYLOAD, 30)
    assert (answer.outcome, answer.remedy) == ("refused", "check webhook_url")


@pytest.mark.parametrize("before", ["", "x" * 150, "x" * 190])
@pytest.mark.parametrize("change", [str, lambda text: text.replace("/", "\\/"), lambda text: quote(text, safe="")])
def test_a_server_that_sends_back_url_and_secret_shows_neither(lark, before, change):
    lark.says = json.dumps({"code": 9, "msg": f"{before} {change(lark.url)} {change(SECRET)} \x1b[2J\n{SECRET}"}).encode()
    reason = webhook(lark.url).post(PAYLOAD, 5).reason
    assert "code 9: " in reason
    token = lark.url.rpartition("/")[2]
    for part in (SECRET, token, token[:9], SECRET[:9], "\x1b", "\n"):
        assert part not in reason


def test_the_key_of_another_server_is_masked_wherever_it_stands():
    url = "https://chat.example/services/T0001/B0002/k3yk3yk3yk3y?token=t0kent0ken"
    shown = Credentials(SecretStr(url)).mask(f"{url} k3yk3yk3yk3y and t0kent0ken of chat.example/services")
    assert "k3y" not in shown
    assert "t0ken" not in shown
    assert "chat.example/services" in shown
