"""PyTorch runs the same networks: as large, and as torchvision computes them."""

import jax.numpy as jnp
import pytest

import cnn_jax


@pytest.fixture
def torch_networks(load_benchmark):
    pytest.importorskip("torch")
    return load_benchmark("torch_networks")


def test_as_many_parameters_as_ours(torch_networks):
    import torch

    with torch.device("meta"):
        count = {
            name: sum(p.numel() for p in build().parameters())
            for name, build in torch_networks.NETWORKS.items()
        }
    assert count == {name: cnn_jax.model_info(name).parameters for name in count}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_steps_learn(torch_networks, monkeypatch, dtype):
    def small():
        from torch import nn

        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 9)
        )

    monkeypatch.setitem(torch_networks.NETWORKS, "small", small)
    images = jnp.ones((2, 8, 8, 3), dtype)
    trainer = torch_networks.Trainer("small", images, jnp.array([3, 4]), compiled=False)
    first = trainer.advance(1)
    trainer.forget_peak()
    assert trainer.advance(20) < first
    assert trainer.num_parameters == (27 * 4 + 4) + (144 * 9 + 9)
    assert trainer.temporary_bytes is None
    torch_networks.free_memory()


@pytest.mark.parity
@pytest.mark.parametrize(
    "name", ["resnet50", "vgg16_bn", "efficientnet_b0", "convnext_tiny"]
)
def test_torchvision_computes_the_same(torch_networks, name):
    import torch
    from references.libraries import import_torchvision

    theirs = import_torchvision().models.get_model(name, weights=None).eval()
    ours = torch_networks.NETWORKS[name]().eval()
    generator = torch.Generator().manual_seed(0)
    values = {}
    for key, tensor in theirs.state_dict().items():
        value = 0.05 * torch.randn(tensor.shape, generator=generator)
        # Scales and variances near 1, so that no block is without effect.
        values[key] = value + (tensor.ndim == 1 or "layer_scale" in key)
        if not tensor.dtype.is_floating_point:
            values[key] = tensor
    theirs.load_state_dict(values)
    # The same layers in the same order; gates are 1x1 convolutions there.
    state = ours.state_dict()
    ours.load_state_dict(
        {
            key: value.reshape(tensor.shape)
            for (key, tensor), value in zip(state.items(), values.values(), strict=True)
        }
    )
    x = torch.randn((2, 3, 64, 64), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
