"""The checklist of all that a plugin has to be: resume, other plugins, and two ranks among it."""

from __future__ import annotations

from longline_sparsity.plugin import SparsityPlugin


def test_it_is_well_behaved(assert_well_behaved, pruned):
    assert_well_behaved(SparsityPlugin, {"pattern": "2:4"}, model={"path": str(pruned())})
