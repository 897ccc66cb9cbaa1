"""Exported StableHLO, with a digest that fits, so that the reader gets to its parts."""

from __future__ import annotations

import json
import pathlib
import random

import numpy as np

from fuzzing.formats import Format
from fuzzing.mutations import of_bytes, of_json


def _make(directory: pathlib.Path) -> None:
    from cnn_jax import create_model
    from cnn_jax.export.network import Network, describe
    from cnn_jax.export.stablehlo import as_stablehlo
    from cnn_jax.models import model_info
    from fuzzing.formats.weights import lenet_arrays

    variables: dict[str, object] = {}
    for path, array in lenet_arrays().items():
        *parents, name = path.split("/")
        place = variables
        for each in parents:
            place = place.setdefault(each, {})  # type: ignore[assignment]
        place[name] = array
    model, recipe = create_model("lenet5"), model_info("lenet5").preprocessing
    names = tuple("abcdefghij")
    about = describe("lenet5", model, recipe, names, normalized=False)
    content = as_stablehlo(Network(model, variables, about))
    (directory / "network").write_bytes(content)


def _read(directory: pathlib.Path) -> None:
    import cnn_jax

    cnn_jax.load_exported(directory / "network")


def _of_part(content: bytes, generator: random.Random) -> bytes:
    """Mutates the description, the golden arrays or the header's names; signs anew."""
    import safetensors.numpy

    from cnn_jax.export import loading

    try:
        arrays = dict(safetensors.numpy.load(content))
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        text = metadata[loading.METADATA_NAME]
    except Exception:  # mutated before
        return of_bytes(content, generator)
    kind = generator.randrange(4)
    if kind < 2:
        mutated = of_json(text.encode(), generator)
        text = mutated.decode("utf-8", "replace")
    elif kind == 2:
        name = generator.choice(sorted(arrays))
        array = arrays.pop(name)
        if generator.random() < 0.5:
            arrays[name + "x"] = array
    else:
        name = generator.choice((loading.GOLDEN_INPUT, loading.GOLDEN_OUTPUT))
        array = arrays.get(name, np.zeros(1, np.float32))
        arrays[name] = generator.choice(
            (array[:1], array.reshape(-1), array.astype(np.float64), array[..., :0])
        )
    signed = {
        loading.METADATA_NAME: text,
        loading.DIGEST_NAME: loading.digest_of(text, arrays),
    }
    mutated_file: bytes = safetensors.numpy.save(arrays, signed)
    return mutated_file


FORMATS = (
    Format(
        "exported",
        _make,
        _read,
        {"*": (_of_part,)},
        needs=("flatbuffers",),
        allowed_imports=("encodings",),
    ),
)
