"""Networks as files that need none of this project's modules: StableHLO and ONNX.

`cnn-jax export` writes them. A StableHLO file is read back by `cnn_jax.load_exported`,
which imports JAX, NumPy and safetensors, and neither Flax nor a model; an ONNX file by
any runtime of that format.

description.py  what a file says of its network
loading.py      `load_exported`
network.py      weights of any kind as a network to export
stablehlo.py    its file of StableHLO
onnx/           its file of ONNX, written from the jaxpr of inference
exporting.py    `export`, which the command calls
"""

from cnn_jax.export.description import Description
from cnn_jax.export.loading import ExportedNetwork, load_exported

__all__ = ["Description", "ExportedNetwork", "load_exported"]
