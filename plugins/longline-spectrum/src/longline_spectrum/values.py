"""The singular values of one matrix, in less memory than a second copy of it.

They are the roots of the eigenvalues of W W^T, which is summed up in float64 while W streams by: exact to 1e-8 of the largest, as
more than float32 can tell. Where that product would be larger than the matrix, as it is for large square ones, LAPACK works in the
matrix itself, in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from longline.errors import ModelError

if TYPE_CHECKING:
    from longline_spectrum.edge import Values
    from longline_spectrum.weights import Matrix2D

_SMALL = 2**26
"""Bytes by which W W^T may be larger than the matrix."""


def singular_values(matrix: Matrix2D) -> Values:
    """All singular values, the largest first. Raises ModelError where a weight is no finite number."""
    rows, columns = matrix.shape
    short = min(rows, columns)
    if 8 * short * short <= 4 * rows * columns + _SMALL:
        return _by_product(matrix, short)
    return _in_place(matrix)


def _by_product(matrix: Matrix2D, short: int) -> Values:
    from scipy.linalg import blas, eigh

    product = np.zeros((short, short), order="F")
    for piece in matrix.pieces():  # [some, short], float64
        product = blas.dsyrk(1.0, piece.T, beta=1.0, c=product, overwrite_c=1)
    _refuse_infinite(product.diagonal(), matrix)
    found = eigh(product, lower=False, eigvals_only=True, overwrite_a=True, check_finite=False, driver="evd")
    return np.sqrt(np.clip(found, 0, None))[::-1]


def _in_place(matrix: Matrix2D) -> Values:
    from scipy.linalg import lapack

    whole = matrix.read()
    for row in whole:
        _refuse_infinite(row, matrix)
    work, info = lapack.sgesdd_lwork(*whole.T.shape, compute_uv=0, full_matrices=0)
    _, found, _, info = lapack.sgesdd(whole.T, compute_uv=0, full_matrices=0, lwork=int(work), overwrite_a=1)
    if info:
        raise ModelError(f"{matrix.name}: LAPACK found no singular values (sgesdd: {info})", hint="are its weights damaged?")
    return np.asarray(found, dtype=np.float64)


def _refuse_infinite(numbers: Any, matrix: Matrix2D) -> None:
    if not np.isfinite(numbers).all():
        raise ModelError(f"{matrix.name} holds a weight that is NaN or infinite", hint="fetch the weights again")
