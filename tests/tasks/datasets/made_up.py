"""Writes small data sets as TFDS writes them, array_record, without TensorFlow."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png(image: np.ndarray) -> io.BytesIO:
    """uint8 [h, w, 1 or 3] as a file: the form of an image that TFDS stores without TensorFlow."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    buffer.seek(0)
    return buffer


def write_set(
    root: Path, name: str, features: Any, splits: dict[str, list[dict[str, Any]]], version="1.0.0", num_shards=None
) -> Path:
    """Writes `{split: [example]}` under `root` as the set `NAME` or `NAME/CONFIG`, in so many files; its folder."""
    import tensorflow_datasets as tfds

    base, _, config = name.partition("/")

    class Writer(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(examples) for split, examples in splits.items()}

        def _generate_examples(self, examples):
            yield from enumerate(examples)

    Writer.name = base
    tfds.disable_progress_bar()
    shards = tfds.download.DownloadConfig(num_shards=num_shards)
    Writer(data_dir=root, file_format="array_record").download_and_prepare(download_config=shards)
    return root / name / version


def real_features(name: str) -> tuple[Any, str]:
    """The features and the version that TFDS itself gives a public set."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text

    base, _, config = name.partition("/")
    builder = tfds.builder_cls(base)(config=config or None, data_dir="/nowhere")
    return builder.info.features, str(builder.version)
