"""The options: what is refused before anything is imported, and what each set of them claims."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from longline.cli import run_cli
from longline.testing import assert_import_is_light
from longline_liger import release
from longline_liger.config import LigerConfig, options_of
from longline_liger.plugin import LigerPlugin


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rms_nrom": True}, "plugins.liger.rms_nrom: unknown key (did you mean `rms_norm`?)"),
        ({"rope": "yes please"}, 'plugins.liger.rope: expected true or false, got "yes please"'),
        ({"rope": 1}, "plugins.liger.rope: expected true or false, got 1"),
        ({"cross_entropy": True, "fused_linear_cross_entropy": True}, "are two ways to the same loss: set one of them"),
        ({"glu_activation": True, "swiglu": True}, "glu_activation and swiglu name the same kernel"),
        ({"use_token_scaling": True}, "use_token_scaling is done by one kernel: set fused_linear_cross_entropy: true"),
    ],
)
def test_check_refuses_options(run_config, capsys, options, what):
    assert run_cli(["check", str(run_config(plugins=[{"liger": options}]))]) == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "claims"),
    [
        ({}, {"loss"}),
        ({"rope": False}, {"loss"}),
        ({"rope": True}, set()),
        ({"rms_norm": True, "cross_entropy": False}, set()),
        ({"cross_entropy": True}, {"loss"}),
        ({"fused_linear_cross_entropy": True}, {"loss"}),
        ({"cross_entropy": False, "fused_linear_cross_entropy": False}, set()),
    ],
)
def test_the_loss_is_claimed_when_it_may_be_replaced(options, claims):
    assert LigerPlugin(LigerConfig(**options)).claims == claims


def test_the_release_tells_its_kernels():
    assert set(release.offered()) >= {"rope", "rms_norm", "swiglu", "geglu", "layer_norm", "relu_squared", "cross_entropy"}
    assert set(release.offered()) <= set(LigerConfig.model_fields)


def test_a_kernel_of_a_newer_release_is_an_option():
    newer = options_of([*release.offered(), "attn_res"])
    assert newer(attn_res=True, rope=True).wanted() == ("rope", "attn_res")
    with pytest.raises(ValidationError):
        LigerConfig(attn_res=True)


def test_importing_costs_nothing():
    assert_import_is_light("longline_liger.plugin", "triton", "liger_kernel")
