"""A network as ONNX, written from the jaxpr of its inference.

tracing.py    the jaxpr, walked operation by operation; constants are computed
graph.py      the graph that comes of it: nodes, tensors, constants
operators.py  the table of lax's operations that have operators of ONNX
elementwise.py, shapes.py, windows.py
              the functions in it
folding.py    norms folded into the convolutions before them, and what else simplifies
writer.py     the graph as a file, checked

The file takes and returns arrays as the model does, images with their channels last.
Inside, convolutions have channels first, as ONNX defines them; a tensor's order is
known to the graph, which transposes where orders meet.
"""

from cnn_jax.export.onnx.folding import fold
from cnn_jax.export.onnx.graph import UnsupportedOperationError
from cnn_jax.export.onnx.tracing import trace
from cnn_jax.export.onnx.writer import as_onnx

__all__ = ["UnsupportedOperationError", "as_onnx", "fold", "trace"]
