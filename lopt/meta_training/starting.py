"""Where theta starts: fresh, or from an export, a run, or a checkpoint in the middle of one."""

import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from lopt import processes
from lopt.files import check_seal
from lopt.meta_training.outer import MetaTraining
from lopt.meta_training.workdir import CHECKPOINTS, finished_steps
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.trained.export import theta_template
from lopt.trained.pretrained import load_pretrained
from lopt.trees import describe, differences
from lopt.types import Theta


def read_start(init_from: str, training: MetaTraining) -> Theta | None:
    """The theta that a setting names, checked to be one of the rule's; None for a fresh one.

    Args:
      init_from: as for `lopt.load_pretrained`, or `WORKDIR/checkpoints/STEP`; empty for a fresh theta.
      training: whose rule it is for.

    Raises:
      InputError: there is nothing of this name, it is damaged, or its theta is of another form.
    """
    if not init_from:
        return None
    found: list[Theta] = []
    processes.first_does(lambda: found.append(_read(init_from, training)))
    if processes.number() == 1:
        return found[0]
    template = theta_template(training.optimizer)
    theta = found[0] if found else jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    return jax.tree.map(lambda x: processes.array_of_first(np.asarray(x)), theta)


def _read(init_from: str, training: MetaTraining) -> Theta:
    """The theta, in the process that has the files."""
    optimizer, folder = training.optimizer, Path(init_from).absolute()
    if folder.parent.name == CHECKPOINTS and folder.name.isdecimal():
        return _read_checkpoint(folder, theta_template(optimizer))
    ours = type(optimizer) in OPTIMIZERS.values()  # whose settings may differ from those of the file
    theta = load_pretrained(init_from, optimizer=None if ours else optimizer).theta
    training.check_theta(theta)
    return theta


def _read_checkpoint(folder: Path, template: Theta) -> Theta:
    """The theta of a run's state after an outer step; nothing else of the state is read."""
    steps = sorted(finished_steps(folder.parent))
    if int(folder.name) not in steps:
        raise InputError(
            f"there is no checkpoint {folder}; there are those of steps {', '.join(map(str, steps)) or '-'}"
        )
    leaves = {f".theta{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree.leaves_with_path(template)}
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    targets = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here) for path, leaf in leaves.items()}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with tempfile.TemporaryDirectory(prefix="lopt-") as place:
        link = Path(place, CHECKPOINTS)  # orbax takes brackets and stars in a path for patterns
        link.symlink_to(folder.parent, target_is_directory=True)
        try:
            check_seal(folder)
            with ocp.training.Checkpointer(str(link), context=context) as checkpointer:
                listed = checkpointer.metadata(int(folder.name)).custom_metadata["leaves"]  # type: ignore[index]
                found = {path: str(kind) for path, kind in listed.items() if re.match(r"\.theta($|[.\[])", path)}
                wanted = {path: describe(leaf) for path, leaf in leaves.items()}
                if found == wanted:
                    arrays = checkpointer.load(int(folder.name), targets)
        except Exception as error:  # orbax raises nearly every type there is, depending on the damage
            raise InputError(f"cannot read theta from {folder}: {str(error)[:300]}") from error
    if found != wanted:
        raise InputError(f"{folder} is of a theta that is not one of this optimizer: {differences(found, wanted)}")
    # Uncommitted, so that jit may move them to the devices of its other arguments.
    return jax.tree.unflatten(jax.tree.structure(template), [jnp.asarray(np.asarray(arrays[path])) for path in leaves])
