"""What a set of TFDS holds, from its features, and where our four splits are found among its own."""

from typing import Any, NamedTuple

import numpy as np

from lopt.types import SPLITS

OWN_IMAGES = (
    "Write images of your own as tfds.features.Tensor(shape=(height, width, channels), dtype=np.uint8): "
    "tfds.features.Image needs TensorFlow to write arrays, and is read as well"
)


class Part(NamedTuple):
    """One of our splits: the stretch between `first` and `last` per cent of a split that TFDS has."""

    source: str
    first: int
    last: int

    def bounds(self, length: int) -> tuple[int, int]:
        """Start and end of the stretch in something of this length; rounded as TFDS rounds `train[10%:20%]`."""
        return round(self.first * length / 100), round(self.last * length / 100)


def read_features(features: Any) -> tuple[str, int, tuple[int, ...]]:
    """Kind, number of classes and shape of a set; raises ValueError if we cannot read it."""
    import tensorflow_datasets as tfds

    if "text" in features and "image" not in features:
        if not isinstance(features["text"], tfds.features.Text):
            raise ValueError(f"its text is no string: {features['text']}")
        return "text", 0, ()
    table = "x" in features and "y" in features
    x, y = ("x", "y") if table else ("image", "label")
    missing = [feature for feature in (x, y) if feature not in features]
    if missing:
        also = "" if "image" in features else ", nor a text"
        raise ValueError(f"it has no feature {' or '.join(missing)}{also}, but {', '.join(features)}")
    inputs, target = features[x], features[y]
    shape = inputs.shape
    classes = isinstance(target, tfds.features.ClassLabel)
    if table:
        if len(shape) != 1 or None in shape or inputs.np_dtype != np.float32:
            raise ValueError(f"its x is not a row of float32: {inputs}")
        if not classes and (target.shape != () or target.np_dtype != np.float32):
            raise ValueError(f"its y is neither a class nor a float32: {target}")
        return "table", target.num_classes or 0 if classes else 0, shape
    if not classes or not target.num_classes:
        raise ValueError(f"its label is no class label: {target}")
    if (
        type(inputs) not in (tfds.features.Image, tfds.features.Tensor)
        or len(shape) != 3
        or inputs.np_dtype != np.uint8
    ):
        raise ValueError(f"its image is not an array of bytes [height, width, channels]: {inputs}. {OWN_IMAGES}")
    if None in shape or shape[-1] not in (1, 3):
        raise ValueError(f"its images must share one size and have 1 or 3 channels: {shape}. {OWN_IMAGES}")
    return "image", target.num_classes, shape


def read_parts(held: set[str]) -> dict[str, Part]:
    """Where our splits are found among those of a set. TFDS shuffled the examples when it prepared them."""
    if set(SPLITS) <= held:
        return {split: Part(split, 0, 100) for split in SPLITS}
    if {"train", "validation", "test"} <= held:
        cuts = (("train", 0, 90), ("train", 90, 100), ("validation", 0, 100), ("test", 0, 100))
    elif {"train", "test"} <= held or {"train", "validation"} <= held:  # without a labelled test: imagenet_resized
        last = "test" if "test" in held else "validation"
        cuts = (("train", 0, 80), ("train", 80, 90), ("train", 90, 100), (last, 0, 100))
    elif "train" in held:
        cuts = (("train", 0, 80), ("train", 80, 85), ("train", 85, 90), ("train", 90, 100))
    else:
        raise ValueError(f"it has no split train, but {', '.join(sorted(held)) or 'none'}")
    return {split: Part(*cut) for split, cut in zip(SPLITS, cuts, strict=True)}
