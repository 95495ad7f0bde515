"""`lopt.torch.Learned` as an optimizer of PyTorch: groups, schedulers, checkpoints, precision, what is refused."""

import copy
import io
import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch installs it")

from lopt.names import InputError
from lopt.torch import Learned
from lopt.torch.rules import RULES

TRAINED = ["blend_digits", "star_digits"]  # one that reads loss and num_steps, one that reads neither
LOSSES = [2.0, 1.5, 1.7, 1.2, 1.1, 0.9]


def make(name="blend_digits", dtype=torch.float32, **options):
    """Two equal matrices, two vectors, and the optimizer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.ReLU(), torch.nn.Linear(5, 5)).to(dtype)
    return model, Learned(model.parameters(), name, num_steps=20, **options)


def give_grads(model, seed, dtype=None):
    generator = torch.Generator().manual_seed(seed)
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype if dtype is None else dtype)


def train(model, optimizer, seeds):
    for seed in seeds:
        give_grads(model, seed)
        optimizer.step(loss=LOSSES[seed])


def values(model):
    return [param.detach().clone() for param in model.parameters()]


def assert_equal(found, wanted):
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


# ---- Groups and schedulers ----


@pytest.mark.parametrize("name", TRAINED)
def test_groups_have_their_own_rate_and_decay(name):
    model, optimizer = make(name)
    first = values(model)
    train(model, optimizer, [0])
    steps = [new - old for new, old in zip(values(model), first, strict=True)]
    model, _ = make(name)
    a, b, c, d = model.parameters()
    groups = [
        {"params": [a], "lr": 0.5},
        {"params": [b], "weight_decay": 0.1},
        {"params": [c], "lr": torch.tensor(2.0), "weight_decay": 0.1},
        {"params": [d]},
    ]
    train(model, Learned(groups, name, lr=0.25, num_steps=20), [0])
    for new, old, step, lr, decay in zip(
        values(model), first, steps, (0.5, 0.25, 2.0, 0.25), (0, 0.1, 0.1, 0), strict=True
    ):
        torch.testing.assert_close(new, old + lr * (step - decay * old), rtol=1e-5, atol=1e-6)


def test_schedulers_multiply_the_update():
    model, optimizer = make()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.0)
    moved = []
    for seed in range(4):
        before = values(model)
        train(model, optimizer, [seed])
        scheduler.step()
        moved.append(not torch.equal(before[0], values(model)[0]))
    assert moved == [True, True, False, False]


def test_parameters_that_have_no_gradient_stay_as_they_are():
    model, optimizer = make()
    train(model, optimizer, [0])
    before, states = values(model), copy.deepcopy(optimizer.state[model[0].weight])
    model[2].bias.requires_grad_(False)
    optimizer.zero_grad(set_to_none=True)
    give_grads(model, 1)
    model[0].weight.grad = model[2].bias.grad = None
    optimizer.step(loss=1.0)
    same = [torch.equal(x, y) for x, y in zip(before, values(model), strict=True)]
    assert same == [True, False, False, True]
    own = [name for name in states if not name.startswith("shared_")]
    assert_equal([optimizer.state[model[0].weight][name] for name in own], [states[name] for name in own])
    optimizer.zero_grad()
    optimizer.step(loss=1.0)  # no gradient at all
    assert int(optimizer.state[model[0].bias]["shared_step"]) == 2


def test_a_group_that_is_added_begins_with_its_first_gradient():
    model, optimizer = make()
    train(model, optimizer, [0, 1, 2])
    late, alone = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    optimizer.add_param_group({"params": [late], "lr": 0.5})
    late.grad = torch.tensor([0.3, -1.0, 2.0, 0.1])
    train(model, optimizer, [3])
    assert float(optimizer.state[late]["step"]) == 1
    assert float(optimizer.state[late]["shared_step"]) == 4
    # Adam's first step is the sign of the gradient, whenever it is made.
    signs = late.detach() / late.detach().abs().mean()
    torch.testing.assert_close(signs, -torch.sign(late.grad), rtol=1e-4, atol=0)
    with pytest.raises(InputError, match="num_steps is one for all"):
        optimizer.add_param_group({"params": [alone], "num_steps": 3})
    assert len(optimizer.param_groups) == 2


# ---- Checkpoints and copies ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", TRAINED)
def test_a_restored_training_goes_on_bit_for_bit(name, dtype):
    model, optimizer = make(name, dtype)
    train(model, optimizer, [0, 1, 2])
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    other, restored = make(name, dtype, lr=0.1)
    train(other, restored, [3])  # what is loaded replaces it
    model_state, state = torch.load(file, weights_only=True)
    other.load_state_dict(model_state)
    restored.load_state_dict(state)
    copied = copy.deepcopy((model, optimizer))
    for pair in ((model, optimizer), (other, restored), copied):
        train(*pair, [3, 4, 5])
    assert_equal(values(other), values(model))
    assert_equal(values(copied[0]), values(model))
    for old, new in zip(optimizer.state.values(), restored.state.values(), strict=True):
        assert old.keys() == new.keys()
        assert all(x.dtype in (torch.float32, torch.int64) for x in new.values())
        assert_equal(new.values(), old.values())


def test_what_is_shared_is_one_tensor():
    model, optimizer = make()
    train(model, optimizer, [0])
    for made in (optimizer, copy.deepcopy(optimizer)):
        assert len({id(state["shared_step"]) for state in made.state.values()}) == 1


def test_the_state_of_another_optimizer_is_refused():
    _, optimizer = make("star_digits")
    _, other = make("blend_digits")
    with pytest.raises(InputError, match=r"this state is of star:.*, not of blend:"):
        other.load_state_dict(optimizer.state_dict())


# ---- Precision ----


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_parameters_have_states_of_float32(name):
    model, optimizer = make(name, torch.bfloat16)
    exact, reference = make(name, torch.bfloat16)
    exact.float()
    for seed in range(3):
        give_grads(model, seed)
        for param, own in zip(exact.parameters(), model.parameters(), strict=True):
            param.data, param.grad = own.detach().float(), own.grad.float()
        before = values(exact)
        optimizer.step(loss=LOSSES[seed])
        reference.step(loss=LOSSES[seed])
        for new, rounded, old in zip(values(exact), values(model), before, strict=True):
            torch.testing.assert_close(rounded, new.bfloat16(), rtol=2**-7, atol=1e-6)
            assert not torch.equal(new, old)
    assert all(x.dtype == torch.float32 for x in optimizer.state[model[0].weight].values() if x.is_floating_point())


def test_a_gradient_scaler_unscales_and_skips():
    model, optimizer = make()
    exact, reference = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for seed in range(2):
        give_grads(model, seed)
        for param in model.parameters():
            param.grad *= scaler.scale(torch.ones(()))
        scaler.step(optimizer, loss=LOSSES[seed])
        scaler.update()
    train(exact, reference, [0, 1])
    for x, y in zip(values(model), values(exact), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    before = values(model)
    give_grads(model, 2)
    model[0].bias.grad[0] = torch.inf
    scaler.step(optimizer, loss=1.0)
    assert_equal(values(model), before)


def test_clipped_gradients():
    model, optimizer = make("celo_adam_digits")
    give_grads(model, 0)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)
    optimizer.step(loss=1.0)
    momentum = optimizer.state[model[0].weight]["momentum"]
    torch.testing.assert_close(momentum, 0.1 * model[0].weight.grad)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", TRAINED)
def test_elements_that_are_not_finite_count_as_zero(name, bad):
    trained = []
    for value in (bad, 0.0):
        model, optimizer = make(name)
        train(model, optimizer, [0])
        give_grads(model, 1)
        model[0].weight.grad[1, 2] = value
        model[2].bias.grad[:] = value
        optimizer.step(loss=LOSSES[1])
        train(model, optimizer, [2])
        trained.append(values(model))
        assert int(optimizer.num_not_finite) == int(value != 0)
    assert_equal(*trained)
    before = int(optimizer.num_not_finite)
    give_grads(model, 3)
    optimizer.step(loss=bad)
    assert all(torch.isfinite(x).all() for x in values(model))
    assert int(optimizer.num_not_finite) == before + ("value" in optimizer.requires)


# ---- The loss ----


def test_the_loss_comes_from_a_closure_an_argument_or_before():
    trained = []
    for way in ("argument", "closure", "before", "tensor"):
        model, optimizer = make()
        give_grads(model, 0)
        if way == "closure":
            assert optimizer.step(lambda: LOSSES[0]) == LOSSES[0]
        elif way == "before":
            optimizer.set_loss(torch.tensor([LOSSES[0]]))
            assert optimizer.step() is None
        else:
            optimizer.step(loss=LOSSES[0] if way == "argument" else torch.tensor(LOSSES[0], dtype=torch.float64))
        assert float(optimizer.state[model[0].weight]["shared_loss_means"][0]) > 0
        trained.append(values(model))
    for other in trained[1:]:
        assert_equal(other, trained[0])


def test_a_closure_computes_gradients():
    model, optimizer = make("star_digits")

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 5)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) > optimizer.step(closure)


@pytest.mark.parametrize("name", TRAINED)
def test_a_rule_that_reads_the_loss_says_so(name):
    model, optimizer = make(name)
    give_grads(model, 0)
    if "value" not in optimizer.requires:
        optimizer.step()
        return
    before = values(model)
    with pytest.raises(InputError, match=r"reads the loss, which it was not given: call optimizer.step\(loss=loss\)"):
        optimizer.step()
    assert_equal(values(model), before)
    with pytest.raises(InputError, match=r"loss must be a real number, not torch.float32\[2\]"):
        optimizer.step(loss=torch.ones(2))


# ---- What is refused ----


def test_what_cannot_be_trained_is_refused():
    for param, match in (
        (torch.zeros(2, dtype=torch.complex64), "real floating-point parameters, not torch.complex64"),
        (torch.zeros(2, device="meta"), "must be on one device"),
    ):
        with pytest.raises(InputError, match=match):
            Learned([torch.zeros(2), param], "star_digits")
    with pytest.raises(InputError, match=r"give lopt.torch.param_groups\(model\)"):
        Learned(torch.nn.Linear(2, 2), "star_digits")
    table = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = Learned(table.parameters(), "star_digits")
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="dense gradients: build the Embedding with sparse=False"):
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -1.0}, "lr must be a number of at least 0, not -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be a number of at least 0, not nan"),
        ({"num_steps": 0}, "num_steps must be an integer from 1 to"),
        ({"num_steps": 2.5}, "num_steps must be an integer from 1 to"),
        ({"name": "velo_digits"}, f"PyTorch lacks the rule velo; it has {', '.join(sorted(RULES))}"),
        ({"name": "blend_digit"}, "Did you mean 'blend_digits'"),
    ],
)
def test_arguments_that_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        Learned([torch.zeros(2)], **{"name": "blend_digits", "num_steps": 5, **options})
    with pytest.raises(InputError, match=r"unknown layout 'kernels'\. Did you mean 'kernel'"):
        Learned([{"params": [torch.zeros(2)], "layout": "kernels"}], "star_digits")


def test_without_num_steps_a_warning_names_what_is_taken():
    with pytest.warns(UserWarning, match="taken to be 1000 updates"):
        optimizer = Learned([torch.zeros(2)], "blend_digits")
    assert optimizer.param_groups[0]["num_steps"] == 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Learned([torch.zeros(2)], "star_digits")


# ---- Compilation ----


@pytest.mark.thorough
@pytest.mark.parametrize("name", TRAINED)
def test_a_compiled_step_is_the_same_and_compiles_once(name):
    (model, optimizer), (exact, reference) = make(name), make(name)
    counted = []

    def backend(graph, inputs):
        counted.append(1)
        return graph

    step = torch.compile(optimizer.step, backend=backend, dynamic=False)
    train(model, optimizer, [0])  # eagerly, so that the state is there
    numbers = []
    for seed in (1, 2, 3, 4):
        give_grads(model, seed)
        step(loss=torch.tensor(LOSSES[seed]))
        numbers.append(len(counted))
    train(exact, reference, range(5))
    for x, y in zip(values(model), values(exact), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    assert numbers[0] > 0
    assert numbers[-1] == numbers[1]
    torch.compiler.reset()
