"""Running the references. Needs the extra `parity`."""

import contextlib
import dataclasses
import functools
import os
import sys
import types
import unittest.mock
import warnings

import numpy as np

from cnn_jax.preprocessing import Preprocessing
from references.weights import images, labels, weight

AUXILIARY_WEIGHT = 0.3
"""The share of each auxiliary head's loss, as in the papers that have them."""


@dataclasses.dataclass(frozen=True)
class Computed:
    """A reference's results with `weights.weight` on `weights.images`, in float64.

    Attributes:
      arrays: Name -> what it was filled with.
      logits: `(n, num_classes)`.
      loss: The mean cross-entropy, auxiliary heads included.
      gradients: Name -> the loss's gradient, for all that is trained.
      statistics: Name -> running statistics after the step, as the reference has them.
    """

    arrays: dict[str, np.ndarray]
    logits: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def compute(reference, *, num_classes, channels=3, train=False, count=2):
    """Runs a reference forwards and backwards.

    Args:
      reference: A `table.Reference`.
      num_classes: The number of logits.
      channels: The images' channels.
      train: Whether in train mode; nothing is dropped in either.
      count: The number of images.
    """
    run = _run_keras if reference.library == "keras" else _run_torch
    with _promotion_allowed():
        return run(
            reference,
            build(reference, num_classes),
            images(reference.size, channels, count=count),
            labels(num_classes, count=count),
            train,
        )


def build(reference, num_classes):
    """Returns the reference's own module, as its library initialises it."""
    arguments = dict(reference.arguments)
    if reference.library == "torchvision":
        models = import_torchvision().models
        if reference.name in ("googlenet", "inception_v3"):
            arguments |= {"init_weights": False, "aux_logits": True}
        return models.get_model(
            reference.name, weights=None, num_classes=num_classes, **arguments
        )
    if reference.library == "timm":
        import_torchvision()
        import timm

        return timm.create_model(reference.name, num_classes=num_classes, **arguments)
    if reference.library == "keras":
        keras = _import_keras()
        # Layers without a name are numbered from here on.
        keras.backend.clear_session()
        make = getattr(keras.applications, reference.name)
        return make(
            weights=None,
            classes=num_classes,
            input_shape=(reference.size, reference.size, 3),
            classifier_activation=None,
            **arguments,
        )
    import_torchvision()
    from references import written

    return getattr(written, reference.name)(num_classes=num_classes, **arguments)


def count_macs(reference, num_classes, input_shape):
    """Returns the multiply-adds of one image, as PyTorch counts; None for Keras."""
    if reference.library == "keras":
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    height, width, channels = input_shape
    with torch.device("meta"):
        module = build(reference, num_classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.zeros(1, channels, height, width))
    return counter.get_total_flops() // 2


def as_published(name, weights, *, gain):
    """Returns a network of torchvision's as it makes it for its published weights.

    Args:
      name: Its name there.
      weights: Which weights; made-up numbers take the place of what it would fetch.
      gain: The filters' gain, see `references.weights`.
    """
    import torch

    models = import_torchvision().models
    with_heads = {"aux_logits": True, "init_weights": False}
    state = models.get_model(name, weights=None, **with_heads).state_dict()
    state.update(
        {
            key: torch.from_numpy(weight(key, tuple(tensor.shape), gain=gain)).float()
            for key, tensor in state.items()
            if tensor.dtype.is_floating_point
        }
    )
    with unittest.mock.patch.object(
        type(weights), "get_state_dict", return_value=state
    ):
        return models.get_model(name, weights=weights).eval(), state


def torchvision_preprocessing(weights):
    """Returns how torchvision's `transforms()` prepare images for weights.

    Without what a network does to them before its first layer.
    """
    transforms = weights.transforms()
    (size,), (resized,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        size,
        tuple(transforms.mean),
        tuple(transforms.std),
        crop_fraction=size / resized,
        interpolation=transforms.interpolation.value,
    )


def timm_preprocessing(configuration):
    """Returns how timm prepares images for weights.

    Args:
      configuration: Of `timm.models.get_pretrained_cfg`.
    """
    channels, height, width = configuration.input_size
    assert height == width
    return Preprocessing(
        height,
        configuration.mean,
        configuration.std,
        configuration.crop_pct,
        configuration.crop_mode,
        configuration.interpolation,
        channels,
    )


def keras_normalization(name):
    """Returns mean and deviation that Keras's `preprocess_input` stands for.

    Args:
      name: Of a network in `keras.applications`.
    """
    network = getattr(_import_keras().applications, name)
    prepare = sys.modules[network.__module__].preprocess_input
    black, white = prepare(np.array([0.0, 255.0]))
    std = 1 / (white - black)
    return -black * std, std


def save_torch(arrays, directory):
    """Writes arrays as a `.safetensors` file, and as a `.pth` file of a training run.

    Both have the counters that PyTorch's normalisations have beside their arrays; the
    run was one on several devices.
    """
    import safetensors.torch
    import torch

    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for name in arrays:
        layer, _, leaf = name.rpartition(".")
        if leaf == "running_var":
            state[f"{layer}.num_batches_tracked"] = torch.tensor(7)
    plain, checkpoint = directory / "weights.safetensors", directory / "weights.pth"
    safetensors.torch.save_file(state, plain)
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 90, "state_dict": parallel}, checkpoint)
    return plain, checkpoint


def save_keras(reference, arrays, directory):
    """Has Keras write a `.weights.h5` file of a network with these arrays."""
    with _promotion_allowed(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, to Keras
        # The classes are the last array's last axis.
        module = build(reference, list(arrays.values())[-1].shape[-1])
        for variable in module.weights:
            if variable.path in arrays:
                variable.assign(arrays[variable.path])
        path = directory / "network.weights.h5"
        module.save_weights(path)
    return path


def _run_torch(reference, module, x, targets, train):
    import torch

    module = module.double().train(train)
    for part in module.modules():
        # Dropout and stochastic depth call their rate `p`, timm's `drop_prob`.
        for rate in ("p", "drop_prob"):
            if isinstance(getattr(part, rate, None), float):
                setattr(part, rate, 0.0)
    # With the versions of its parts, which some of them require.
    state = module.state_dict()
    arrays = {
        name: weight(name, tuple(tensor.shape), gain=reference.gain)
        for name, tensor in state.items()
        if tensor.dtype.is_floating_point
    }
    state.update({name: torch.from_numpy(array) for name, array in arrays.items()})
    module.load_state_dict(state)
    outputs = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    outputs = [output for output in outputs if output is not None]
    losses = [
        torch.nn.functional.cross_entropy(output, torch.from_numpy(targets).long())
        for output in outputs
    ]
    loss = losses[0] + AUXILIARY_WEIGHT * sum(losses[1:])
    loss.backward()
    parameters = dict(module.named_parameters())
    return Computed(
        arrays=arrays,
        logits=outputs[0].detach().numpy(),
        loss=float(loss.detach()),
        gradients={
            name: parameter.grad.numpy()
            for name, parameter in parameters.items()
            if parameter.grad is not None
        },
        statistics={
            name: tensor.numpy()
            for name, tensor in module.state_dict().items()
            if name in arrays and name not in parameters
        },
    )


def _run_keras(reference, module, x, targets, train):
    import jax
    import jax.numpy as jnp

    keras = _import_keras()
    for layer in module.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    arrays = {
        variable.path: weight(
            variable.path,
            tuple(variable.shape),
            gain=reference.gain,
            layout="keras",
        )
        for variable in module.weights
    }

    def values(variables):
        # A dropout layer has the state of its generator, which is no weight.
        return [
            jnp.asarray(arrays.get(variable.path, variable.value))
            for variable in variables
        ]

    def loss_fn(trained):
        logits, updated = module.stateless_call(
            trained, values(module.non_trainable_variables), jnp.asarray(x), train
        )
        chosen = jax.nn.log_softmax(logits)[jnp.arange(len(targets)), targets]
        return -chosen.mean(), (logits, updated)

    (loss, (logits, updated)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
        values(module.trainable_variables)
    )

    def named(variables, new):
        return {
            variable.path: np.asarray(array)
            for variable, array in zip(variables, new, strict=True)
            if variable.path in arrays
        }

    return Computed(
        arrays=arrays,
        logits=np.asarray(logits),
        loss=float(loss),
        gradients=named(module.trainable_variables, gradients),
        statistics=named(module.non_trainable_variables, updated),
    )


@contextlib.contextmanager
def _promotion_allowed():
    """Lets Keras rely on what the tests forbid here."""
    import jax

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def import_torchvision():
    """Imports torchvision beside a PyTorch that its compiled operators do not fit.

    No model here calls them, but the package needs one when it is imported.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        global _operators
        _operators = torch.library.Library("torchvision", "DEF")
        _operators.define(
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
        name = "torchvision._meta_registrations"
        sys.modules[name] = types.ModuleType(name)
        import torchvision
    return torchvision


@functools.cache
def _import_keras():
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    if not jax.config.jax_enable_x64:
        raise RuntimeError("the references are computed with JAX_ENABLE_X64=1.")
    from keras.src.backend.common import dtypes

    keras.backend.set_floatx("float64")
    # On its JAX backend Keras promotes to 32 bits at most, in batch normalisation too.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    return keras
