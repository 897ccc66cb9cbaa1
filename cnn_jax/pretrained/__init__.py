"""Weights trained elsewhere, under the names and in the layouts used here.

load.py       `load_pretrained`
files/        readers of files, whose arrays are described before they are read
key_maps/     the mapping of each library's names, as data made of `rules.py`
source_preprocessing.py  the preparation of images that a library's weights want
placement.py  the plan for all arrays, and its execution
report.py     what was done
convert.py    the same, onto disk
network.py    a network with its weights and all that is known of them
preprocessing.py  the preparation of images that weights want
"""

from cnn_jax.pretrained.convert import convert as convert
from cnn_jax.pretrained.files import Provenance as Provenance
from cnn_jax.pretrained.load import load_pretrained as load_pretrained
from cnn_jax.pretrained.network import LoadedNetwork as LoadedNetwork
from cnn_jax.pretrained.network import load_network as load_network
from cnn_jax.pretrained.preprocessing import preprocessing_of as preprocessing_of
from cnn_jax.pretrained.report import ConversionReport as ConversionReport
