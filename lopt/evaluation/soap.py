"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Of a matrix W with the gradient G, L and R are moving averages of G G' and G' G, and the columns of Q_L and Q_R their
eigenvectors. With G~ = Q_L' G Q_R,

    M <- b1 M + (1 - b1) G,   V <- b2 V + (1 - b2) G~^2,   W <- W - lr Q_L [(Q_L' M Q_R) / (sqrt(V) + eps)] Q_R'

with M and V bias-corrected, as Adam's. Every `frequency` updates, Q becomes the orthogonal factor of L Q, one step of a
power iteration. A tensor of more axes has a basis along each; a vector has none, which is Adam. The first gradient
makes the first basis and no update: in its own eigenbasis most of it is zero, and so would V be.

Nikhil Vyas, Depen Morwani, Rosie Zhao, Mujin Kwun, Itai Shapira, David Brandfonbrener, Lucas Janson, Sham Kakade,
"SOAP: improving and stabilizing Shampoo using Adam", 2024 (arXiv 2409.11321).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SoapState(NamedTuple):
    """State of SOAP.

    Attributes:
      count: updates done, int32.
      m: averages of the gradients, like the parameters.
      v: averages of the squared gradients in the eigenbasis, like the parameters.
      covariances: for each leaf, in the order of `jax.tree.leaves`, one matrix `[n, n]` per axis that has a basis.
      bases: the same of their eigenvectors, which are columns.
    """

    count: jax.Array
    m: optax.Updates
    v: optax.Updates
    covariances: list[dict[int, jax.Array]]
    bases: list[dict[int, jax.Array]]


def soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    frequency: int = 10,
    max_size: int = 1024,
) -> optax.GradientTransformation:
    """SOAP with decoupled weight decay.

    Args:
      learning_rate: a rate, or a function from the number of updates done to one.
      b1: decay of the average of gradients.
      b2: decay of the averages of squares and of the preconditioners.
      eps: is added to the root of the average of squares.
      weight_decay: decay of all parameters per update, times the rate.
      frequency: number of updates between two changes of the bases.
      max_size: length of an axis above which it has no basis.
    """
    return optax.chain(
        scale_by_soap(b1, b2, eps, frequency, max_size),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_soap(
    b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8, frequency: int = 10, max_size: int = 1024
) -> optax.GradientTransformation:
    """The direction of SOAP; arguments as for `soap`."""

    def init(params: optax.Params) -> SoapState:
        bases = [_identities(x.shape, max_size) for x in jax.tree.leaves(params)]
        zeros = jax.tree.map(jnp.zeros_like, params)
        return SoapState(jnp.zeros((), jnp.int32), zeros, zeros, jax.tree.map(jnp.zeros_like, bases), bases)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, SoapState]:
        del params
        count = state.count  # moments begin with the second gradient, so this is the number of theirs
        grads, tree = jax.tree.flatten(updates)
        kept = [tree.flatten_up_to(x) for x in (state.m, state.v)]
        corrected, ms, vs, covariances = [], [], [], []
        for g, m, v, covariance, basis in zip(grads, *kept, state.covariances, state.bases, strict=True):
            m = jnp.where(count > 0, b1 * m + (1 - b1) * g, m)
            v = jnp.where(count > 0, b2 * v + (1 - b2) * _rotate(g, basis, 0) ** 2, v)
            m_hat, v_hat = (x / (1 - b ** jnp.maximum(count, 1)) for x, b in ((m, b1), (v, b2)))
            step = _rotate(_rotate(m_hat, basis, 0) / (jnp.sqrt(v_hat) + eps), basis, 1)
            corrected.append(jnp.where(count > 0, step, 0.0).astype(g.dtype))
            ms.append(m)
            vs.append(v)
            covariances.append({i: b2 * x + (1 - b2) * _covariance(g, i) for i, x in covariance.items()})
        bases = jax.lax.cond(
            count % frequency == 0, lambda: _next_bases(count, covariances, state.bases), lambda: state.bases
        )
        count = jnp.asarray(optax.safe_increment(count))
        return tree.unflatten(corrected), SoapState(count, tree.unflatten(ms), tree.unflatten(vs), covariances, bases)

    return optax.GradientTransformation(init, update)


def _identities(shape: tuple[int, ...], max_size: int) -> dict[int, jax.Array]:
    """The first basis of each axis that gets one."""
    return {i: jnp.eye(n) for i, n in enumerate(shape) if len(shape) > 1 and 1 < n <= max_size}


def _rotate(x: jax.Array, basis: dict[int, jax.Array], side: int) -> jax.Array:
    """Into the eigenbasis (side 0, Q' x along every axis) or back (side 1, Q x)."""
    for axis, q in basis.items():
        x = jnp.moveaxis(jnp.tensordot(q, x, axes=(side, axis)), 0, axis)
    return x


def _covariance(g: jax.Array, axis: int) -> jax.Array:
    """G G' along an axis, `[n, n]`."""
    rows = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return rows @ rows.T


def _next_bases(
    count: jax.Array, covariances: list[dict[int, jax.Array]], bases: list[dict[int, jax.Array]]
) -> list[dict[int, jax.Array]]:
    """All eigenvectors at the first update, later one step of a power iteration from those of before."""

    def first(covariance: jax.Array, basis: jax.Array) -> jax.Array:
        del basis
        return jnp.linalg.eigh(covariance)[1]

    def later(covariance: jax.Array, basis: jax.Array) -> jax.Array:
        return jnp.linalg.qr(covariance @ basis)[0]

    return jax.lax.cond(
        count == 0,
        lambda: jax.tree.map(first, covariances, bases),
        lambda: jax.tree.map(later, covariances, bases),
    )
