"""VeLO and Celo in numpy float64, on trees of the published layout (flax msgpack of Haiku's names)."""

import jax
import numpy as np


def velo_tree(rng, size, bank, inputs=30):
    """A tree of VeLO's published layout, filled at random."""

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32) / np.float32(np.sqrt(shape[-2] if len(shape) > 1 else 4))

    widths = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
    mlps = {f"w0__{i}": draw(bank, width, 4) for i, width in enumerate(widths)}
    mlps |= {
        "b0": draw(bank, 4),
        "w1": draw(bank, 4, 4),
        "b1": draw(bank, 4),
        "w2": draw(bank, 4, 3),
        "b2": draw(bank, 3),
    }
    layers = {f"linear{suffix}": (inputs, size) for suffix in ("", "_1", "_2")}
    layers |= {"rnn/linear": (2 * size, 4 * size), "rnn_to_controls": (size, bank), "step_size": (size, 1)}
    return {
        "ff_mod_stack": {"~": mlps},
        "lstm_init_state": {"hidden": draw(1, size), "cell": draw(1, size)},
        "rnn_params": {name: {"w": draw(*shape), "b": draw(shape[1])} for name, shape in layers.items()},
    }


def rounded(decays):
    """Decays as the rules have them: float32. 1 - b would be off by 3e-5 of itself for b = 0.999 in float64."""
    return np.asarray(decays, np.float32).astype(np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class VeloInNumpy:
    """The rule in float64, from the published tree, for tensors of rank 0 to 4."""

    def __init__(self, tree, params, num_steps, factor):
        self.theta = jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
        self.factor, self.num_steps, self.t = factor, num_steps, 0
        self.c, self.h = (np.repeat(self.theta["lstm_init_state"][k], len(params), 0) for k in ("cell", "hidden"))
        self.m = [np.zeros((3, *p.shape)) for p in params]
        self.v = [np.zeros(p.shape) for p in params]
        self.rows, self.columns = [0.0] * len(params), [0.0] * len(params)
        self.decays = np.exp(-1 / np.logspace(1, np.log10(num_steps), 10))
        self.b = rounded([0.9, 0.99, 0.999])
        self.means, self.minima = np.zeros(10), np.full(10, np.inf)

    def linear(self, name, x):
        layer = self.theta["rnn_params"][name]
        return x @ layer["w"] + layer["b"]

    def progress(self, loss):
        if self.t:
            loss = min(loss, 2 * abs(np.max(self.means / (1 - self.decays ** (self.t + 1)))))
        self.means = self.decays * self.means + (1 - self.decays) * loss
        corrected = self.means / (1 - self.decays ** (self.t + 1))
        self.minima = np.minimum(self.minima, corrected)
        span = np.maximum(corrected[1:] - self.minima[:-1], 1e-8)
        losses = np.clip((corrected[:-1] - self.minima[:-1]) / span - 1, -1, 1) * (self.t >= 2)
        fractions = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])
        return np.concatenate([np.tanh(10 * (self.t / self.num_steps - fractions)), losses])

    def tensor(self, p, m, v):
        scale = 1 / np.sqrt(max(np.mean(p**2), 1e-9))
        axes = tuple(range(1, m.ndim))
        m, v = m * scale, v * scale
        center = m.mean(axes, keepdims=True)
        numbers = [np.mean(v)[None], ((m - center) ** 2).mean(axes), ((v[None] - center) ** 2).mean(axes)]
        logs = [0.5 * np.clip(np.log(1e-8 + 10 * x), -5, 5) for x in numbers]
        return np.concatenate([logs[0], np.eye(5)[sum(n > 1 for n in p.shape)], logs[1], logs[2]])

    def features(self, i, p, g):
        b = self.b.reshape(3, *[1] * g.ndim)
        m = self.m[i] = b * self.m[i] + (1 - b) * g
        v = self.v[i] = self.b[2] * self.v[i] + (1 - self.b[2]) * g**2
        root = 1 / np.sqrt(v + 1e-6)
        axes = np.argsort(g.shape, kind="stable")[::-1] if g.ndim >= 2 else []
        squares = g**2 + 1e-30
        if g.ndim < 2:
            row = self.rows[i] = b * self.rows[i] + (1 - b) * squares
            column, divided_m = row, m / np.sqrt(row)
            divided_g = g / np.sqrt(np.maximum(row + 1e-9, 1e-9))
        else:
            largest, second = axes[:2]
            row = (0 if self.rows[i] is None else b * self.rows[i]) + (1 - b) * squares.mean(largest, keepdims=True)
            column = (0 if self.columns[i] is None else b * self.columns[i]) + (1 - b) * squares.mean(
                second, keepdims=True
            )
            self.rows[i], self.columns[i] = row, column
            ratio = np.maximum(row / (row.mean(second + 1, keepdims=True) + 1e-9), 1e-9)
            divided_m, divided_g = (x / np.sqrt(ratio) / np.sqrt(np.maximum(column, 1e-9)) for x in (m, g))
        groups = [g, np.clip(g, -0.1, 0.1), p, m, v, m * root, root, divided_g, g * root, row, column]
        groups += [1 / np.sqrt(row + 1e-8), 1 / np.sqrt(column + 1e-8), divided_m]
        groups = [x if x.ndim > g.ndim else x[None] for x in groups]
        x = np.concatenate([np.broadcast_to(x, (len(x), *g.shape)).reshape(len(x), -1) for x in groups]).T
        return x / np.sqrt(1e-5 + (x**2).mean(0))

    def step(self, params, grads, loss):
        progress = self.progress(loss)
        x = np.stack([np.concatenate([progress, self.tensor(*t)]) for t in zip(params, self.m, self.v, strict=True)])
        self.recur(x)
        mixing, scales = self.linear("rnn_to_controls", self.h), self.linear("step_size", self.h)[:, 0]
        self.t += 1
        return [self.tensor_step(*tensor) for tensor in zip(range(9), params, grads, mixing, scales, strict=False)]

    def recur(self, x):
        x = self.linear("linear_2", x) + np.maximum(self.linear("linear_1", x), 0).max(0)
        i, g, f, o = np.split(self.linear("rnn/linear", np.concatenate([x, self.h], 1)), 4, axis=1)
        self.c = sigmoid(f + 1) * self.c + sigmoid(i) * np.tanh(g)
        self.h = sigmoid(o) * np.tanh(self.c)

    def tensor_step(self, i, p, g, mixing, scale):
        x = self.features(i, p, np.clip(g, -1000, 1000))
        bank = self.theta["ff_mod_stack"]["~"]
        mixed = {k: self.factor * np.mean(w * mixing.reshape(-1, *[1] * (w.ndim - 1)), 0) for k, w in bank.items()}
        kernel = np.concatenate([mixed[f"w0__{j}"] for j in range(14)])
        x = np.maximum(x @ kernel + mixed["b0"], 0)
        x = np.maximum(x @ mixed["w1"] + mixed["b1"], 0)
        x = x @ mixed["w2"] + mixed["b2"]
        size = np.sqrt(np.mean(p**2) + 1e-9)
        return (-1e-3 * scale * size * x[:, 0] * np.exp(1e-3 * x[:, 1])).reshape(p.shape)


class CeloInNumpy(VeloInNumpy):
    """A single MLP, and an LSTM that reads only the progress and scales the steps of all tensors."""

    def step(self, params, grads, loss):
        self.recur(np.tile(self.progress(loss), (len(params), 1)))
        scales = 0.1 * np.exp(self.linear("step_size", self.h)[:, 0])
        self.t += 1
        ones = np.ones((len(params), 1))
        return [self.tensor_step(*tensor) for tensor in zip(range(9), params, grads, ones, scales, strict=False)]
