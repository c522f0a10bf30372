"""A config of axolotl with Liger's kernels, by `longline convert`."""

from __future__ import annotations

LISTED = "plugins: [axolotl.integrations.liger.LigerPlugin]\n"


def test_the_kernels_that_are_on(convert_axolotl):
    plugins, told = convert_axolotl(
        LISTED + "liger_rope: true\nliger_rms_norm: true\nliger_glu_activation: true\nliger_layer_norm: true\n"
        "liger_fused_linear_cross_entropy: true\nliger_cross_entropy: false\n"
    )
    assert plugins == {"liger": {"rope": True, "rms_norm": True, "glu_activation": True, "fused_linear_cross_entropy": True}}
    assert "liger_layer_norm: true; left out" in told
    assert "no equal" not in told


def test_without_kernels_there_is_no_plugin(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "liger_rope: false\nliger_rms_norm_gated: true\n")
    assert plugins is None
    assert "no kernel is asked for" in told
    assert "liger_rms_norm_gated: true; nearest: the kernels" in told


def test_the_older_name_of_a_kernel(convert_axolotl):
    assert convert_axolotl(LISTED + "liger_swiglu: true\n")[0] == {"liger": {"glu_activation": True}}
