"""The benchmark of networks compares two programs of one network."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import kernels


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("networks")


def traced(benchmark, network, module):
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda k, x: module.init(k, x, train=False), key, images)
    step = benchmark.step_fn(module)
    return str(
        jax.make_jaxpr(step)(
            variables["params"], variables["batch_stats"], images, labels, key
        )
    )


@pytest.mark.parametrize("name", ["resnet20", "efficientnet_b0"])
def test_the_twins_replace_every_kernel(benchmark, name):
    network = benchmark.NETWORKS[name]
    conv = kernels.conv
    with benchmark.kernels_replaced_by_twins():
        assert kernels.conv is kernels.autodiff.conv
        module = network.build(kernels.autodiff)
        twins = traced(benchmark, network, module)
    assert kernels.conv is conv
    ours = traced(benchmark, network, network.build(kernels))
    # What belongs to a kernel's own lowering; autodiff knows none of it.
    assert "platform_index" in ours
    assert "platform_index" not in twins


def test_unknown_networks_are_named(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["resnet21"])
    assert "resnet21" in capsys.readouterr().err


def test_torch_has_the_same_number_of_parameters(load_benchmark):
    pytest.importorskip("torch")
    networks = load_benchmark("torch_networks").NETWORKS
    count = {
        name: sum(p.numel() for p in build().parameters())
        for name, build in networks.items()
    }
    # ResNet paper, table 6; EfficientNet-B0 in torchvision.
    assert count == {"resnet20": 269_722, "efficientnet_b0": 5_288_548}
