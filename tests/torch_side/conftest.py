"""What holds for every test of PyTorch: one thread, as two wait for each other where other tests run."""

import importlib.util

if importlib.util.find_spec("torch"):
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
