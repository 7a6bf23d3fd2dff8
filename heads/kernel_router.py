"""Kernel Hedge: a router in closed form that predicts each head's loss from the context (pure).

Hedge weighs heads by their losses so far (paper eq. 5). A context that was never seen has no
losses, so kernel ridge regression predicts them from the contexts that have some: contexts in
similar words are expected to suit similar heads. The intercept is not penalised, so a head that is
good under every context is preferred under every context, and where contexts tell nothing the
weights are Hedge on the mean losses. Nothing is trained in steps, and the weights are as smooth as
the kernel.

The kernel is the mean of two cosines between contexts, both taken from the mean context: one of the
vectors themselves, one after multiplication with the covariance of the responses. The second reads
a context in the directions in which answers differ and is deaf to how a sentence is built.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Directions of the response covariance that are kept: multiplied by it, the others are next to 0.
RANK = 256


class KernelRouter(NamedTuple):
    """``log w(c) = log softmax(-(features(c) @ kernel + intercept) / tau)``.

    P features of a context, K heads.
    """

    centre_D: np.ndarray
    projection_DxR: np.ndarray
    kernel_PxK: np.ndarray
    intercept_K: np.ndarray


def response_directions(covariance_DxD: np.ndarray, rank: int = RANK) -> np.ndarray:
    """(D, R) leading eigenvectors times their eigenvalues, largest 1, signs fixed.

    The cosine of two projected vectors is that of their products with the covariance.
    """
    values_D, vectors_DxD = np.linalg.eigh(covariance_DxD)
    values_R, vectors_DxR = values_D[::-1][:rank], vectors_DxD[:, ::-1][:, :rank]
    columns = np.arange(vectors_DxR.shape[1])
    signs_R = np.sign(vectors_DxR[np.abs(vectors_DxR).argmax(axis=0), columns])
    return vectors_DxR * signs_R * np.maximum(values_R, 0.0) / max(float(values_R[0]), 1e-30)


def context_features(
    context_NxD: np.ndarray, centre_D: np.ndarray, projection_DxR: np.ndarray
) -> np.ndarray:
    """(N, D + R) features whose inner product is the kernel; a context at the centre has none."""
    offset_NxD = context_NxD - centre_D

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)

    both = np.concatenate([unit(offset_NxD), unit(offset_NxD @ projection_DxR)], axis=-1)
    return both / np.sqrt(2.0)


def fit_kernel_router(
    context_nxD: np.ndarray, losses_nxK: np.ndarray, projection_DxR: np.ndarray, ridge: float
) -> KernelRouter:
    """Ridge regression of losses (nats) on context features, with an intercept per head.

    The intercept is free of the penalty: mean predictions are mean losses. ``ridge`` is per row:
    ten rows with one context weigh like ten rows with ten contexts. The smaller of the primal and
    the dual system is solved. Without any row, all heads weigh alike.
    """
    count, heads = losses_nxK.shape
    features = sum(projection_DxR.shape)
    if count == 0:
        zeros_PxK, zeros_K = np.zeros((features, heads)), np.zeros(heads)
        return KernelRouter(np.zeros(context_nxD.shape[1]), projection_DxR, zeros_PxK, zeros_K)
    centre_D = context_nxD.mean(axis=0)
    features_nxP = context_features(context_nxD, centre_D, projection_DxR)
    mean_P, mean_K = features_nxP.mean(axis=0), losses_nxK.mean(axis=0)
    features_nxP, excess_nxK = features_nxP - mean_P, losses_nxK - mean_K
    if count <= features:
        gram_nxn = features_nxP @ features_nxP.T + ridge * count * np.eye(count)
        kernel_PxK = features_nxP.T @ np.linalg.solve(gram_nxn, excess_nxK)
    else:
        gram_PxP = features_nxP.T @ features_nxP + ridge * count * np.eye(features)
        kernel_PxK = np.linalg.solve(gram_PxP, features_nxP.T @ excess_nxK)
    return KernelRouter(centre_D, projection_DxR, kernel_PxK, mean_K - mean_P @ kernel_PxK)


def kernel_log_weights(router: KernelRouter, context_NxD: np.ndarray, tau: float) -> np.ndarray:
    """(N, K) log weights of the heads for any contexts; ``tau`` in nats of the mean loss."""
    features_NxP = context_features(context_NxD, router.centre_D, router.projection_DxR)
    logits_NxK = -(features_NxP @ router.kernel_PxK + router.intercept_K) / tau
    return logits_NxK - np.logaddexp.reduce(logits_NxK, axis=-1, keepdims=True)
