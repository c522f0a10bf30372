"""Signal and noise: the claims of the docs, against matrices of which both are known, and against another way to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from planting import noise, planted

from longline_spectrum.edge import measure, median

SHAPES = [(300, 300), (400, 100), (100, 400), (64, 2048)]


def measured(matrix, threshold="edge"):
    return measure(np.linalg.svd(matrix, compute_uv=False), *matrix.shape, threshold)


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.1, 0.01])
def test_the_median_has_half_of_the_density_below(ratio):
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    x = low + (median(ratio) - low) * np.linspace(0, 1, 2_000_001) ** 2
    middle = (x[1:] + x[:-1]) / 2
    density = np.sqrt(np.clip((high - middle) * (middle - low), 0, None)) / (2 * np.pi * ratio * middle)
    assert float((density * np.diff(x)).sum()) == pytest.approx(0.5, abs=1e-4)


def test_the_median_of_square_noise_is_the_known_one():
    assert median(1.0) == pytest.approx(0.652776, abs=1e-5)  # Gavish and Donoho 2014: 2.858 = 4 / sqrt(3) / sqrt(median) ...
    assert 4 / np.sqrt(3) / np.sqrt(median(1.0)) == pytest.approx(2.858, abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_pure_noise_has_no_signal_but_for_the_published_threshold(shape):
    found = [measured(noise(shape, seed)) for seed in range(3)]
    assert all(one.sigma == pytest.approx(0.02, rel=0.03) for one in found)
    assert sum(one.signals for one in found) <= 1  # the largest value of noise comes within a hair of the edge
    share = measured(noise(shape), "published").signals / min(shape)
    assert 0.2 < share <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_five_planted_directions_count_five(shape):
    assert measured(planted(shape, 5, 3)).signals == 5
    assert measured(planted(shape, 5, 3), "published").signals > 20


def test_more_signal_and_more_directions_have_a_higher_ratio_in_any_scale():
    ratios = [measured(planted((200, 120), 4, strength)).snr for strength in (0, 2, 4, 8)]
    assert ratios == sorted(ratios)
    assert ratios[0] < ratios[1] / 10
    assert measured(planted((200, 120), 9, 4)).snr > measured(planted((200, 120), 3, 4)).snr
    assert measured(1000 * planted((200, 120), 4, 4)).snr == pytest.approx(ratios[2])


def test_the_published_ratio_is_that_of_the_code_of_the_paper():
    values = np.linalg.svd(planted((60, 90), 4, 3), compute_uv=False)
    limit = (np.quantile(values, 0.75) - np.quantile(values, 0.25)) / 1.349 * np.sqrt((1 + np.sqrt(60 / 90)) ** 2)
    expected = values[values > limit].sum() / values[values <= limit].sum() / values[0]
    assert measure(values, 60, 90, "published").snr == pytest.approx(expected, rel=1e-12)


def test_matrices_of_zeros_and_of_low_rank_have_a_finite_ratio():
    for threshold in ("edge", "published"):
        assert measured(np.zeros((20, 30)), threshold).snr == 0
        low = measured(planted((64, 48), 3, 1, sigma=1.0) * 0 + np.outer(np.arange(64.0), np.ones(48)), threshold)
        assert np.isfinite(low.snr)
        assert low.snr > 0
