"""A trained optimizer as a `torch.optim.Optimizer`."""

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from lopt.names import InputError, check_known
from lopt.torch.inputs import as_loss, clean_gradients
from lopt.torch.layouts import LAYOUTS, flax_axes, flax_path
from lopt.torch.parts.sums import like
from lopt.torch.reading import read_trained
from lopt.torch.stacks import Tensor, flax_state, neighbours, stack, store, unstack
from lopt.torch.types import SHARED, State, Theta
from lopt.trained.folders import DEFAULT

COUNT = "not_finite"
MAX_STEPS = 2**31 - 1


class Learned(Optimizer):
    """A trained optimizer: p <- p + lr (u - weight_decay p), where u is what the rule says.

    >>> import torch, lopt.torch
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = lopt.torch.Learned(model.parameters(), num_steps=1000)
    >>> loss = model(torch.ones(4, 3)).square().mean()
    >>> loss.backward()
    >>> loss = optimizer.step(loss=loss)

    It computes what `lopt.load` computes in JAX, in float32 whatever the parameters are. Elements of gradients that are
    not finite count as zero. A parameter without a gradient is left alone, and so is its state. `docs/pytorch.md` has
    layouts, checkpoints, mixed precision, and what to write in training frameworks.

    Parameter groups may set `lr`, `weight_decay` and `layout` (`lopt.torch.param_groups`).

    Args:
      params: parameters, named parameters or groups of them, real floating-point tensors on one device.
      name: a name, by default that of the optimizer to try first, a run's folder, an export or a file of published
        weights, as for `lopt.load`.
      lr: multiple of the rule's own update. Nothing needs to be tuned; schedulers of PyTorch multiply it.
      weight_decay: decoupled decay of all parameters per update.
      num_steps: length of the training in updates, for a rule that reads it. Without it, such a rule is told the
        longest training that it was meta-trained on, and a warning says so.

    Raises:
      InputError: there is no such trained optimizer, PyTorch lacks its rule, or an argument is out of range. At `step`:
        the rule reads the loss and has none, or a gradient is sparse. At `load_state_dict`: the state is of another
        optimizer.
    """

    def __init__(
        self,
        params: Any,
        name: str | os.PathLike = DEFAULT,
        lr: float | torch.Tensor = 1.0,
        weight_decay: float = 0.0,
        num_steps: int | None = None,
    ):
        if isinstance(params, torch.nn.Module):
            raise InputError("give lopt.torch.param_groups(model), or model.parameters(), in the place of the model")
        trained = read_trained(name)
        self.rule, self.theta = trained.rule, trained.theta
        self.requires = trained.rule.requires  # of "value", the loss, and "num_steps"
        self._loss: Any = None
        if "num_steps" not in self.requires:
            num_steps = None
        elif num_steps is None:
            num_steps = trained.card["horizon"][1]
            warnings.warn(
                f"{os.fspath(name)} reads the length of the training, which is taken to be {num_steps} updates, as in "
                "its longest meta-training; give num_steps",
                stacklevel=2,
            )
        elif isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= MAX_STEPS:
            raise InputError(f"num_steps must be an integer from 1 to {MAX_STEPS}, not {num_steps!r}")
        identity = f"{trained.card['architecture']}:{trained.card['theta_sha256'][:16]}"
        defaults = {"lr": lr, "weight_decay": weight_decay, "layout": "kernel", "num_steps": num_steps}
        super().__init__(params, {**defaults, "trained": identity})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, with `lr`, `weight_decay` and `layout` of their own if given; see `Optimizer`."""
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        try:
            self._check_group(added)
        except InputError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        for key in ("lr", "weight_decay"):
            if isinstance(group[key], int | float) and not 0 <= group[key] < math.inf:
                raise InputError(f"{key} must be a number of at least 0, not {group[key]}")
        check_known("layout", group["layout"], LAYOUTS)
        for key in ("num_steps", "trained"):
            if group[key] != self.defaults[key]:
                raise InputError(f"{key} is one for all parameters: leave it out of parameter groups")
        for param in group["params"]:
            if not param.is_floating_point():
                raise InputError(f"a learned optimizer takes real floating-point parameters, not {param.dtype}")
            if param.device != self.param_groups[0]["params"][0].device:
                raise InputError("all parameters of a learned optimizer must be on one device")

    @property
    def num_not_finite(self) -> torch.Tensor:
        """The number of updates so far that were given a loss or an element of a gradient that is not finite."""
        return next((x[SHARED + COUNT].clone() for x in self.state.values() if x), torch.zeros((), dtype=torch.int64))

    def set_loss(self, loss: torch.Tensor | float) -> None:
        """The loss of the coming step, for training loops that call `step` themselves and pass no loss."""
        self._loss = loss

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Any] | None = None, *, loss: torch.Tensor | float | None = None
    ) -> Any:
        """One update.

        Args:
          closure: computes loss and gradients and returns the loss; optional.
          loss: the loss at the parameters, if there is no closure; only a rule with `"value"` in `requires` reads it.
            In a training on several processes it is averaged over them.

        Returns:
          What the closure returned, or `loss`.
        """
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        given = self._loss if loss is None else loss
        self._loss = None
        tensors, groups = self._tensors()
        if not tensors:
            return loss
        if given is None and "value" in self.requires and all(float(group["lr"]) == 0 for group in self.param_groups):
            return loss  # torch.distributed.checkpoint has the states made in this way
        device = tensors[0].param.device
        value = as_loss(given, type(self.rule).__name__, device) if "value" in self.requires else None
        grads, finite = clean_gradients([tensor.grad for tensor in tensors])
        tensors = [tensor._replace(grad=grad) for tensor, grad in zip(tensors, grads, strict=True)]
        shared = {name.removeprefix(SHARED): x for name, x in tensors[0].state.items() if name.startswith(SHARED)}
        shared[COUNT] += ~(finite if value is None else finite & torch.isfinite(value))
        self._update(tensors, groups, shared, value)
        return loss

    def _update(
        self, tensors: list[Tensor], groups: list[dict[str, Any]], shared: State, value: torch.Tensor | None
    ) -> None:
        """Moves parameters and states."""
        places = neighbours(tensors)
        parts = [[tensors[i] for i in place] for place in places]
        stacks = [stack(part) for part in parts]
        theta = self._theta_on(tensors[0].param.device)
        updates = self.rule.update(theta, stacks, shared, value=value, num_steps=groups[0]["num_steps"])
        for place, part, stacked, update in zip(places, parts, stacks, updates, strict=True):
            store(stacked, part)
            for i, change in zip(place, unstack(update, part[0].layout, part[0].param.ndim), strict=True):
                param, lr, decay = tensors[i].param, groups[i]["lr"], groups[i]["weight_decay"]
                change = like(change, param)
                if decay:
                    param.mul_(1 - lr * decay)
                if isinstance(lr, torch.Tensor):
                    param.add_(change * lr)
                else:
                    param.add_(change, alpha=lr)

    def _tensors(self) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """The parameters that have a gradient, with their states, and the group of each."""
        tensors, groups = [], []
        for group in self.param_groups:
            names = group.get("param_names") or [None] * len(group["params"])
            for name, param in zip(names, group["params"], strict=True):
                if param.grad is None:
                    continue
                if param.grad.is_sparse:
                    raise InputError("a learned optimizer takes dense gradients: build the Embedding with sparse=False")
                layout = group["layout"]
                axes = flax_axes(layout, param.ndim)
                path = flax_path(name, layout, param.ndim)
                kind = self.rule.kind(path, tuple(param.shape[axis] for axis in axes))
                tensors.append(Tensor(param, param.grad, self._state_of(param, layout, kind), layout, kind))
                groups.append(group)
        return tensors, groups

    def _state_of(self, param: torch.Tensor, layout: str, kind: Any) -> State:
        """The state of a parameter, which begins with its first gradient."""
        state = self.state[param]
        if not state:
            state.update(flax_state(param, layout, lambda view: self.rule.init(view, kind)))
            state.update(self._shared(param.device))
        elif state[SHARED + COUNT].device != param.device:  # the model was moved
            _place(self.state)
        return state

    def _shared(self, device: torch.device) -> State:
        """What all parameters share, as any other parameter has it, or from the beginning."""
        for state in self.state.values():
            if SHARED + COUNT in state:
                return {name: x for name, x in state.items() if name.startswith(SHARED)}
        shared = self.rule.init_shared(self._theta_on(device), self.param_groups[0]["num_steps"])
        shared[COUNT] = torch.zeros((), dtype=torch.int64, device=device)
        return {SHARED + name: x for name, x in shared.items()}

    def _theta_on(self, device: torch.device) -> Theta:
        if next(iter(self.theta.values())).device != device:
            self.theta = {name: x.to(device) for name, x in self.theta.items()}
        return self.theta

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a state; see `Optimizer`. States stay float32, whatever the parameters are.

        Raises:
          InputError: it is the state of another trained optimizer.
        """
        own = self.param_groups[0]["trained"]
        for saved in state_dict["param_groups"]:
            if saved.get("trained") != own:
                raise InputError(f"this state is of {saved.get('trained', 'another optimizer')}, not of {own}")
        super().load_state_dict(state_dict)
        # The base class gives states the type of their parameters, which loses digits of bfloat16's.
        numbers = (number for saved in state_dict["param_groups"] for number in saved["params"])
        params = (param for group in self.param_groups for param in group["params"])
        for number, param in zip(numbers, params, strict=True):
            if number in state_dict["state"]:
                self.state[param] = {name: x.detach().clone() for name, x in state_dict["state"][number].items()}
        _place(self.state)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles."""
        own = {"rule": self.rule, "theta": self.theta, "requires": self.requires, "_loss": None}
        return {**super().__getstate__(), **own}


def _place(states: dict[torch.Tensor, State]) -> None:
    """Puts states on the devices of their parameters; what they share is the same tensor in each of them."""
    shared: State = {}
    for param, state in states.items():
        for name, x in state.items():
            state[name] = shared.setdefault(name, x.to(param.device)) if name.startswith(SHARED) else x.to(param.device)
