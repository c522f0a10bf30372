"""A teacher behind a real HTTP server: the loss is that of the teacher in the process, and nothing is made up when it fails."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from longline import LonglineError
from longline.testing import GARBAGE, SILENCE, TOO_MANY, Answer, Server, assert_no_secret, write_tiny_model
from longline_distill.plugin import DistillPlugin

SERVER = Path(__file__).with_name("teacher_server.py")
speaking = runpy.run_path(str(SERVER))["speaking"]
K = 12
ALL = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 32}


def values(outcome, name="loss"):
    return [event[name] for event in outcome.log if name in event]


@pytest.fixture(scope="module")
def process(teacher_dir):
    """The url of a server that is a process of its own."""
    command = [sys.executable, str(SERVER), str(teacher_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        yield started.stdout.readline().strip()
        started.stdin.close()
        started.wait(20)


@pytest.fixture(scope="module")
def speak(teacher_dir):
    return speaking(teacher_dir)


@pytest.fixture
def server(speak):
    """A server in this process, whose behaviour a test scripts."""
    with Server(speak).serving() as serving:
        yield serving


@pytest.fixture
def distill(run_longline):
    def run(url, trainer=None, resume=None, config=None, **options):
        named = {"distill": {"server": {"url": url, "timeout": 5, **options.pop("server", {})}, "top_k": K, **options}}
        if resume:
            return run_longline(resume.parent / "config.yaml", resume=str(resume))
        return run_longline(
            method="distill", plugins=[named], trainer={**ALL, **(trainer or {})}, overwrite=True, **(config or {})
        )

    return run


@pytest.fixture
def local(run_longline, teacher_dir):
    def run(trainer=None, config=None, **options):
        named = {"distill": {"teacher": str(teacher_dir), "top_k": K, **options}}
        return run_longline(
            method="distill", plugins=[named], trainer={**ALL, **(trainer or {})}, overwrite=True, **(config or {})
        )

    return run


@pytest.mark.parametrize("packing", [False, True])
def test_the_server_is_the_teacher(process, distill, local, packing):
    trainer = {"max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    config = {"data": {"packing": packing}}
    ours, theirs = distill(process, trainer, config=config), local(trainer, config)
    for name in ("loss", "kl", "agreement", "grad_norm"):
        assert values(ours, name) == pytest.approx(values(theirs, name), rel=1e-4), name


def test_two_ranks_ask_for_themselves(process, run_process, local):
    trainer = {"max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 8}
    named = {"distill": {"server": {"url": process}, "top_k": K}}
    halves = {**ALL, **trainer, "per_device_train_batch_size": 4}
    both = run_process(method="distill", plugins=[named], trainer=halves, ranks=2, overwrite=True)
    assert both.code == 0, both.err
    assert values(both, "kl") == pytest.approx(values(local(trainer), "kl"), rel=1e-4)


def test_what_was_answered_is_not_asked_again(server, distill, tmp_path):
    once = {"max_steps": 4, "per_device_train_batch_size": 16}  # two epochs of 32 rows
    distill(server.url, once)
    asked = [len(request.json["prompt"]) for request in server.requests if request.method == "POST"]
    assert sum(asked) == 1 + 32
    folder = {"cache": str(tmp_path / "answers")}
    first = distill(server.url, once, server=folder)
    before = len(server.requests)
    again = distill(server.url, once, server=folder)
    assert [request.path for request in server.requests[before:]] == [
        "/v1/models",
        "/v1/completions",
    ]  # who it is, and the probe
    assert values(again, "kl") == values(first, "kl")


def test_a_batch_is_asked_about_before_its_step(server, distill):
    """While a step is trained, the next batch's answers are under way: both are asked for before the first is used."""
    seen = []
    speak = server.default

    def slow(request):
        seen.append(request)
        return Answer(content=speak(request).content, delay=0.05)

    server.default = slow
    outcome = distill(server.url, {"max_steps": 4, "per_device_train_batch_size": 8})
    assert values(outcome, "kl")[0] > 0
    assert len(seen) == 2 + 32 // 4


@pytest.mark.parametrize(
    "faults",
    [[TOO_MANY], [Answer(503), Answer(500, "broken")], [GARBAGE]],
    ids=["429", "5xx", "garbage"],
)
def test_it_is_asked_again(server, distill, local, faults):
    speak = server.default
    expected = values(local(), "kl")
    pending = list(faults)

    def faulty(request):
        return pending.pop() if pending and request.method == "POST" and len(request.json["prompt"]) > 1 else speak(request)

    server.default = faulty
    assert values(distill(server.url), "kl") == pytest.approx(expected, rel=1e-4)
    assert not pending


def failing(server, answer):
    """Answers whoever asks about data with `answer`."""
    speak = server.default
    server.default = lambda request: answer if request.method == "POST" and len(request.json["prompt"]) > 1 else speak(request)


@pytest.mark.parametrize(
    ("answer", "options", "text"),
    [
        (SILENCE, {"retries": 0, "timeout": 0.3}, r"did not answer /v1/completions within 0\.3 s, 1 times"),
        (Answer(500, {"error": {"message": "out of memory"}}), {"retries": 1}, r"with 500: out of memory, 2 times"),
        (Answer(400, {"message": "too long: 9000"}), {}, r"refused /v1/completions with 400: too long: 9000"),
        (GARBAGE, {"retries": 0}, r"did not answer /v1/completions"),
        (Answer(content={"choices": []}), {}, r"answered 0 of 4 texts"),
        (Answer(content={"what": 1}), {}, r"answered /v1/completions with something else"),
    ],
    ids=["silence", "500", "400", "garbage", "none", "other"],
)
def test_a_teacher_that_fails_ends_the_run(server, distill, answer, options, text):
    failing(server, answer)
    with pytest.raises(LonglineError, match=text):
        distill(server.url, server=options)


@pytest.mark.parametrize("change", ["drop", "other", "short", "null"])
def test_a_teacher_that_speaks_of_something_else(server, distill, change):
    speak = server.default

    def lying(request):
        answer = speak(request)
        if request.method == "POST" and len(request.json["prompt"]) > 1:
            for choice in answer.content["choices"]:
                if change == "drop":
                    choice.pop("prompt_logprobs")
                elif change == "other":
                    choice["prompt_logprobs"][5] = {"7": {"logprob": -0.1}}
                elif change == "short":
                    choice["prompt_logprobs"].pop()
                else:
                    choice["prompt_logprobs"][4] = None
        return answer

    server.default = lying
    text = {"drop": "gives no log probabilities of prompts", "short": "spoke of .* tokens of a text of"}
    with pytest.raises(LonglineError, match=text.get(change, "spoke of another token than")):
        distill(server.url)


def test_nobody_is_there(distill):
    with pytest.raises(LonglineError, match=r"http://127\.0\.0\.1:9 did not answer /v1/models"):
        distill("http://127.0.0.1:9", server={"retries": 0})


def test_the_model_that_is_named_is_not_there(server, distill):
    with pytest.raises(LonglineError, match=r"has no model 'tiny-teachr'"):
        distill(server.url, server={"model": "tiny-teachr"})


def test_a_resumed_run_has_the_same_teacher(server, distill, tmp_path, run_longline):
    saving = {
        "max_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
    }
    whole = distill(server.url, saving)
    again = distill(server.url, resume=whole.output_dir / "checkpoint-1")
    assert values(again, "kl")[-1] == pytest.approx(values(whole, "kl")[-1], rel=1e-6)
    write_tiny_model(tmp_path / "other", seed=11, initializer_range=0.3)
    server.default = speaking(tmp_path / "other")
    with pytest.raises(LonglineError, match="answers otherwise under the name tiny-teacher"):
        distill(server.url, resume=whole.output_dir / "checkpoint-1")
    server.default = speaking(tmp_path / "other", name="another")
    with pytest.raises(LonglineError, match="is another now, and was tiny-teacher"):
        distill(server.url, resume=whole.output_dir / "checkpoint-1")


def test_the_key_is_sent_and_nowhere_else(server, distill):
    outcome = distill(server.url, server={"api_key": "sk-very-secret-key"})
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-very-secret-key"}
    assert_no_secret("sk-very-secret-key", outcome.output_dir)


def test_doctor_asks_the_server(server):
    def found(url):
        config = DistillPlugin.Config(server={"url": url})
        return [(finding.level, finding.text) for finding in DistillPlugin(config).doctor()]

    assert found(f"{server.url}/v1/") == [("ok", f"{server.url} has tiny-teacher")]
    [(level, text)] = found("http://127.0.0.1:9")
    assert level == "error"
    assert "did not answer" in text
