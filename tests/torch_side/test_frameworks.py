"""The snippets of docs/pytorch.md in the frameworks themselves: they train, save, resume, and give a loop's numbers."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch installs it")

import lopt.torch
from tests.torch_side.test_layouts import BLOCKS

NAMES = ["blend", "blend_anytime"]  # one that reads loss and num_steps, one that reads neither
STEPS = 6  # two epochs of three batches
# What frameworks warn of is their own: how many workers load data, whether a progress bar would help.
pytestmark = pytest.mark.filterwarnings("ignore")


def need(package: str) -> Any:
    return pytest.importorskip(package, reason=f"{package} is not installed: make test-frameworks installs it")


def run_block(line: str, **names: Any) -> dict[str, Any]:
    """Runs the block of the page that has a line which begins so, and returns all names after it."""
    (block,) = (block for block in BLOCKS if f"\n{line}" in f"\n{block}")
    namespace = {"torch": torch, "lopt": lopt, **names}
    exec(block, namespace)
    return namespace


def make_network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def make_dataset() -> Any:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 4, generator=generator), torch.randint(3, (24,), generator=generator)
    return torch.utils.data.TensorDataset(x, y)


def make_loader() -> Any:
    return torch.utils.data.DataLoader(make_dataset(), batch_size=8)  # not shuffled


def plain_training(name: str, factor: float = 1.0, every: int = 1) -> list[Any]:
    """The parameters after the loop of the page's first block.

    Args:
      name: the trained optimizer.
      factor: of the loss that the optimizer is told.
      every: number of batches whose gradients are averaged for an update.
    """
    network = make_network()
    optimizer = lopt.torch.Learned(lopt.torch.param_groups(network), name, num_steps=STEPS // every)
    batches = [batch for _ in range(2) for batch in make_loader()]
    for i, (x, y) in enumerate(batches):
        if i % every == 0:
            optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        (loss / every).backward()
        if i % every == every - 1:
            optimizer.step(loss=factor * loss)
    return [param.detach() for param in network.parameters()]


def assert_same(found: Any, wanted: Any, **tolerance: float) -> None:
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x.detach(), y.detach(), **(tolerance or {"rtol": 0, "atol": 0}))


# ---- Lightning ----


def fit(name: str, folder: Any, resume: Any = None, **options: Any) -> Any:
    """Trains in Lightning with a checkpoint per epoch; returns the network."""
    lightning = need("lightning")
    keep = lightning.pytorch.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    shown = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", devices=1, callbacks=[keep], **shown, **options)
    module = run_block("class Classifier", lightning=lightning)["Classifier"](make_network(), name)
    trainer.fit(module, make_loader(), ckpt_path=resume)
    return module.network


@pytest.mark.parametrize("name", NAMES)
def test_lightning_trains_as_a_loop_does_and_resumes_bit_for_bit(name, tmp_path):
    trained = list(fit(name, tmp_path).parameters())
    assert_same(trained, plain_training(name))
    assert_same(fit(name, tmp_path / "again", tmp_path / "epoch=0.ckpt").parameters(), trained)


@pytest.mark.parametrize("name", NAMES)
def test_lightning_accumulates_gradients(name, tmp_path):
    """Its closure returns the last loss divided by the number of batches, and the page says so."""
    need("lightning")
    steps = plain_training(name, factor=1 / 3, every=3)
    assert_same(fit(name, tmp_path, accumulate_grad_batches=3).parameters(), steps, rtol=1e-5, atol=1e-6)


# ---- Hugging Face ----


class Named(torch.utils.data.Dataset):
    """The rows as the Trainer wants them."""

    def __init__(self):
        self.rows = make_dataset()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return dict(zip(("x", "labels"), self.rows[i], strict=True))


class Model(torch.nn.Module):
    """A network that returns its loss, as the Trainer wants it."""

    def __init__(self):
        super().__init__()
        self.network = make_network()

    def forward(self, x, labels):
        logits = self.network(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def make_arguments(transformers: Any, folder: Any, **options: Any) -> Any:
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "dataloader_pin_memory": False}
    options = {"max_steps": STEPS, "save_steps": 3, "per_device_train_batch_size": 8, **options}
    return transformers.TrainingArguments(
        str(folder), use_cpu=True, max_grad_norm=0.0, lr_scheduler_type="constant", **quiet, **options
    )


def make_trainer(name: str, model: Any, arguments: Any, dataset: Any) -> Any:
    """The page's trainer for a rule that reads the loss, and that of the library for one that does not."""
    transformers = need("transformers")
    if name == "blend_anytime":
        learned = lopt.torch.Learned(lopt.torch.param_groups(model), name)
        return transformers.Trainer(model, arguments, train_dataset=dataset, optimizers=(learned, None))
    given = {"model": model, "arguments": arguments, "dataset": dataset}
    return run_block("class LearnedTrainer", transformers=transformers, **given)["trainer"]


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_trains_as_a_loop_does_and_resumes_bit_for_bit(name, tmp_path, monkeypatch):
    transformers = need("transformers")
    need("accelerate")
    in_order = lambda self, *unused: torch.utils.data.SequentialSampler(self.train_dataset)  # noqa: E731
    monkeypatch.setattr(transformers.Trainer, "_get_train_sampler", in_order)
    trained, resumed = Model(), Model()
    make_trainer(name, trained, make_arguments(transformers, tmp_path), Named()).train()
    assert_same(trained.parameters(), plain_training(name))
    trainer = make_trainer(name, resumed, make_arguments(transformers, tmp_path), Named())
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(resumed.parameters(), trained.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_trains_gpt2(name, tmp_path):
    """Its Conv1D has kernels that lie as in Flax, and its table is shared with the last layer."""
    transformers = need("transformers")
    need("accelerate")
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    layouts = {name: group["layout"] for group in lopt.torch.param_groups(model) for name, _ in group["params"]}
    assert layouts["transformer.h.0.attn.c_attn.weight"] == "as_is"
    assert layouts["transformer.wte.weight"] == "embedding"
    tokens = torch.arange(8).repeat(16, 1) + torch.arange(16)[:, None] % 8
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    options = {"max_steps": 40, "save_strategy": "no"}
    trainer = make_trainer(name, model, make_arguments(transformers, tmp_path, **options), rows)
    loss = lambda: float(model(tokens, labels=tokens).loss)  # noqa: E731
    before = loss()
    trainer.train()
    assert loss() < 0.6 * before


# ---- accelerate ----


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_trains_as_a_loop_does_and_resumes_bit_for_bit(name, tmp_path):
    accelerate = need("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)

    def prepared() -> Any:
        network = make_network()
        optimizer = lopt.torch.Learned(lopt.torch.param_groups(network), name, num_steps=STEPS)
        return accelerator.prepare(network, optimizer, make_loader())

    def epoch(model: Any, optimizer: Any, loader: Any) -> None:
        given = {"accelerator": accelerator, "loss_fn": torch.nn.functional.cross_entropy}
        run_block("    accelerator.backward(loss)", model=model, optimizer=optimizer, loader=loader, **given)

    first = prepared()
    epoch(*first)
    accelerator.save_state(str(tmp_path))
    epoch(*first)
    assert_same(first[0].parameters(), plain_training(name))
    accelerator.free_memory()
    second = prepared()
    accelerator.load_state(str(tmp_path))
    epoch(*second)
    assert_same(second[0].parameters(), first[0].parameters())
