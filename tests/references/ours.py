"""Running our models on what the references ran on."""

import json
import pathlib

import jax
import jax.numpy as jnp

import cnn_jax
from cnn_jax import kernels as K
from references.libraries import AUXILIARY_WEIGHT
from references.table import REFERENCES
from references.weights import images, labels, weight

RECORDED = pathlib.Path(__file__).parent / "recorded_outputs"


def read_recorded(name):
    """Returns what `record_outputs` wrote of a model's reference."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def reference_arrays(name, shapes=None):
    """Returns name -> array, as the model's reference was filled."""
    reference = REFERENCES[name]
    layout = "keras" if reference.library == "keras" else "torch"
    shapes = shapes or read_recorded(name)["arrays"]
    return {
        path: weight(path, tuple(shape), gain=reference.gain, layout=layout)
        for path, shape in shapes.items()
    }


def example(name, *, count=2):
    """Returns the images and the labels that the model's reference ran on."""
    info = cnn_jax.model_info(name)
    x = images(REFERENCES[name].size, info.input_shape[-1], count=count)
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    return jnp.asarray(x, dtype), jnp.asarray(labels(info.num_classes, count=count))


def logits_fn(model):
    """Returns the compiled `(variables, x) -> logits` of inference."""

    def infer(variables, x):
        return model.apply(variables, x, train=False)

    return jax.jit(infer)


def step_fn(model, *, train=False):
    """Returns `(variables, x, labels) -> ((loss, (logits, statistics)), gradients)`."""

    def loss_fn(params, statistics, x, targets):
        (logits, endpoints), updates = model.apply(
            {"params": params, **statistics},
            x,
            train=train,
            endpoints=True,
            mutable=["batch_stats"],
        )
        losses = [K.softmax_cross_entropy(logits, targets).mean()]
        if train:
            losses += [
                AUXILIARY_WEIGHT * K.softmax_cross_entropy(output, targets).mean()
                for path, output in endpoints.items()
                if path.startswith("aux")
            ]
        return sum(losses), (logits, updates)

    def step(variables, x, targets):
        statistics = {key: tree for key, tree in variables.items() if key != "params"}
        return jax.value_and_grad(loss_fn, has_aux=True)(
            variables["params"], statistics, x, targets
        )

    return jax.jit(step)


def without_dropping(name):
    """Returns the fields that switch off what a model drops at random."""
    fields = type(cnn_jax.create_model(name)).__dataclass_fields__
    rates = ("dropout_rate", "aux_dropout_rate", "stochastic_depth_rate")
    return {rate: 0.0 for rate in rates if rate in fields}
