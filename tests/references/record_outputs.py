"""Records the outputs of the references, for the tests that run without them.

    JAX_ENABLE_X64=1 PYTHONPATH=tests python -m references.record_outputs 'resnet*'

Needs the extra `parity`. With no pattern, all models.
"""

import argparse
import fnmatch
import importlib.metadata
import json
import pathlib

import numpy as np

import cnn_jax
from references import libraries
from references.table import REFERENCES

RECORDED = pathlib.Path(__file__).parent / "recorded_outputs"
SHOWN_LOGITS = 40
"""The number of logits of each image that are recorded, evenly spaced."""


def compute_outputs(name):
    """Returns a reference's outputs and sizes, as its file holds them."""
    reference, info = REFERENCES[name], cnn_jax.model_info(name)
    channels = info.input_shape[-1]
    computed = libraries.compute(
        reference, num_classes=info.num_classes, channels=channels
    )
    norms = {
        path: float(np.linalg.norm(gradient))
        for path, gradient in computed.gradients.items()
    }
    library = "torch" if reference.library == "written" else reference.library
    return {
        "reference": f"{reference.library} {reference.name}, with {library} "
        + importlib.metadata.version(library),
        "parameters": int(
            sum(
                array.size
                for path, array in computed.arrays.items()
                if path not in computed.statistics
            )
        ),
        "macs": libraries.count_macs(reference, info.num_classes, info.input_shape),
        "logits_norm": round_to(np.linalg.norm(computed.logits)),
        "logits": [
            [round_to(value) for value in row]
            for row in shown_logits(computed.logits).tolist()
        ],
        "loss": round_to(computed.loss),
        "gradient_norm": round_to(np.linalg.norm(list(norms.values()))),
        "arrays": {path: list(array.shape) for path, array in computed.arrays.items()},
    }


def shown_logits(logits):
    """Returns the logits that are recorded."""
    return logits[:, :: max(1, logits.shape[1] // SHOWN_LOGITS)]


def round_to(value, digits=8):
    """Returns a float with so many digits."""
    return float(f"{value:.{digits}g}")


def write(name):
    """Writes a model's file, one array a line."""
    outputs = compute_outputs(name)
    arrays = outputs.pop("arrays")
    fields = [_line(key, value) for key, value in outputs.items()]
    lines = ",\n".join(" " + _line(path, shape) for path, shape in arrays.items())
    fields.append(' "arrays": {\n' + lines + "\n }")
    RECORDED.mkdir(exist_ok=True)
    text = "{\n" + ",\n".join(fields) + "\n}\n"
    (RECORDED / f"{name}.json").write_text(text, encoding="utf-8")
    print(
        f"{name}: {outputs['parameters']:,} parameters, {outputs['macs'] or 0:,} MACs, "
        f"logits {np.std(outputs['logits']):.3g}, loss {outputs['loss']:.4g}, "
        f"gradient {outputs['gradient_norm']:.4g}",
        flush=True,
    )


def _line(key, value):
    return f" {json.dumps(key)}: {json.dumps(value)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pattern", nargs="*", default=["*"], help="models to write")
    options = parser.parse_args()
    for pattern in options.pattern:
        for name in fnmatch.filter(REFERENCES, pattern):
            write(name)


if __name__ == "__main__":
    main()
