"""Weights trained elsewhere, under the names and in the layouts used here.

load.py       `load_pretrained`
files/        readers of files, whose arrays are described before they are read
key_maps/     the mapping of each library's names, as data made of `rules.py`
source_preprocessing.py  the preparation of images that a library's weights want
placement.py  the plan for all arrays, and its execution
report.py     what was done
convert.py    the same, onto disk
preprocessing.py  the preparation of images that weights want
"""

from cnn_jax.pretrained.convert import convert as convert
from cnn_jax.pretrained.files import Provenance as Provenance
from cnn_jax.pretrained.load import load_pretrained as load_pretrained
from cnn_jax.pretrained.preprocessing import preprocessing_of as preprocessing_of
from cnn_jax.pretrained.report import ConversionReport as ConversionReport
