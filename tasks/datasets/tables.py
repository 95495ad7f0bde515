"""Readers of the built-in tables: `(split sizes) -> {split: {"x": float32 [n, d], "y": int32 or float32 [n]}}`."""

import random

import numpy as np

from .sources import Splits, package_folder, split_rows


def _split(x: np.ndarray, y: np.ndarray, sizes: dict[str, int]) -> Splits:
    """Stratified where `y` holds whole numbers, the classes."""
    classes = y.astype(np.int32) if np.issubdtype(y.dtype, np.integer) else None
    target = y.astype(np.float32) if classes is None else classes
    return split_rows({"x": x.astype(np.float32), "y": target}, sizes, classes=classes)


def read_breast_cancer(sizes: dict[str, int]) -> Splits:
    """Measurements of cell nuclei; 0 malignant, 1 benign."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _split(np.asarray(x), np.asarray(y), sizes)


def read_wine(sizes: dict[str, int]) -> Splits:
    """Chemical analyses of wines of three growers."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    return _split(np.asarray(x), np.asarray(y), sizes)


def read_diabetes(sizes: dict[str, int]) -> Splits:
    """Age, sex, body mass, blood pressure, six serum values; the disease's progression after a year."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)
    return _split(np.asarray(x), np.asarray(y, np.float64), sizes)


def read_autompg(sizes: dict[str, int]) -> Splits:
    """Seven numbers of a car (the file's eighth column, its name, cannot be read as one); miles a gallon."""
    path = package_folder("mlxtend") / "data" / "data" / "autompg.csv.gz"
    table = np.genfromtxt(path, delimiter=",")  # [392, 9], the last column is the target
    return _split(table[:, :7], table[:, -1], sizes)


def read_mnist1d(sizes: dict[str, int]) -> Splits:
    """MNIST-1D with its paper's settings and seed."""
    from mnist1d.data import get_dataset_args, make_dataset

    states = random.getstate(), np.random.get_state()  # noqa: NPY002  the package seeds the global generators
    try:
        made = make_dataset(get_dataset_args())
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    x, y = (np.concatenate([made[part], made[f"{part}_test"]]) for part in ("x", "y"))
    return _split(x, y, sizes)
