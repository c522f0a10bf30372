"""The garbage collector: it leaves alone what a run imported, works while it trains, and is given back as it was."""

from __future__ import annotations

import gc

import pytest

from longline import Plugin, hookimpl
from longline.plugins import HookError, PluginConfig
from longline.process import garbage


class Looks(Plugin):
    """Notes in some hooks whether the collector works, and how many objects it leaves alone."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(PluginConfig())
        self.seen: dict[str, tuple[bool, int]] = {}
        self.fails = fails

    def look(self, hook: str) -> None:
        self.seen[hook] = (gc.isenabled(), gc.get_freeze_count())

    @hookimpl
    def pre_tokenizer_load(self):
        self.look("tokenizer")

    @hookimpl
    def post_data_load(self):
        self.look("data")
        if self.fails:
            raise ValueError("bad data")

    @hookimpl
    def on_step_end(self):
        self.look("step")


def test_a_run_collects_nothing_while_it_imports_and_leaves_that_alone_when_it_trains(run_longline):
    garbage.thaw()  # commands that other tests ran have left some out
    looks = Looks()
    run_longline(trainer={"max_steps": 1}, plugins=[looks])
    assert not looks.seen["tokenizer"][0]
    for hook in ("data", "step"):
        enabled, frozen = looks.seen[hook]
        assert enabled
        assert frozen > 100_000
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_run_that_fails_gives_the_collector_back(run_longline):
    with pytest.raises(HookError):
        run_longline(plugins=[Looks(fails=True)])
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    try:
        with garbage.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
        garbage.thaw()
