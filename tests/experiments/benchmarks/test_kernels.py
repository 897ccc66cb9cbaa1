"""The benchmark of the kernels: what it measures, and that docs/ quotes it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import kernels

ROOT = pathlib.Path(__file__).parents[3]
RESULTS = ROOT / "experiments" / "results"


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("kernels")


def test_the_suite_measures_every_kernel(load_benchmark):
    layers = load_benchmark("kernel_suite").LAYERS
    assert len(layers) >= 40
    assert len(set(map(str, layers))) == len(layers)
    # The named gradients are passes of their kernel; conv_general_dilated is conv and
    # conv_transpose between transposes.
    apart = {"autodiff", "textbook", "target_platform", "conv_general_dilated"}
    named = {name for name in kernels.__all__ if not name.endswith("_grad")}
    assert {layer.case.kernel for layer in layers} == named - apart


def test_measures_and_writes_every_pass(benchmark, tmp_path, capsys):
    path = tmp_path / "new" / "report.json"
    command = ["--cases", "hard_sigmoid", "--repeats", "2", "--max-seconds", "0.01"]
    assert benchmark.main([*command, "--no-torch", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [result["pass"] for result in report["records"]] == [
        *("forward", "backward", "both")
    ]
    for result in report["records"]:
        assert result["ours_seconds"] > 0
        assert result["error"] < 1e-6
    both = report["records"][-1]
    assert both["ours_residuals"] == 256 * 960  # a byte each
    assert both["ours_residuals"] <= both["autodiff_residuals"]
    assert report["environment"]["versions"]["jax"] == jax.__version__
    shown = capsys.readouterr()
    assert "hard_sigmoid" in shown.out
    assert "[1/1]" in shown.err

    assert benchmark.main(["--show", str(path), str(path), "--markdown"]) == 0
    assert "| activation | both | 1 |" in capsys.readouterr().out


def test_nothing_to_measure_is_said(benchmark, capsys):
    assert benchmark.main(["--cases", "no such layer"]) == 2
    assert "no such layer" in capsys.readouterr().out


def test_equal_programs_are_recognised(benchmark):
    def compiled(fn):
        return jax.jit(fn).lower(jnp.ones((4, 3))).compile()

    def twice(x):
        doubled = x * 2
        return jnp.tanh(doubled)

    same = [compiled(fn) for fn in (lambda y: jnp.tanh(y * 2), twice)]
    assert benchmark._canonical(same[0]) == benchmark._canonical(same[1])
    other = compiled(lambda x: jnp.tanh(x * 3))
    assert benchmark._canonical(other) != benchmark._canonical(same[0])


def test_what_needs_too_much_is_named(benchmark):
    text = '{"estimated_cycles":"120"} {"estimated_cycles":"3"} "estimated_cycles":""'
    assert benchmark.estimated_cycles(text) == 123
    blind = f"ENTRY main {{\n %w = reduce-window(%x)\n %y = {text}\n}}"
    assert benchmark.estimated_cycles(blind) is None
    seen = blind.replace("(%x)", '(%x), {"estimated_cycles":"7"}')
    assert benchmark.estimated_cycles(seen) == 130
    result = {
        "layer": "conv-3x3 (VGG-16)",
        "group": "dense convolution",
        "kernel": "conv",
        "pass": "dw",
        "ours_cycles": 103,
        "autodiff_cycles": 100,
        "ours_temporaries": 0,
        "autodiff_temporaries": 0,
    }
    assert list(benchmark.find_excesses([result], 1.05)) == []
    (excess,) = benchmark.find_excesses([result], 1.02)
    assert excess == "conv-3x3 (VGG-16), dw: 103 cycles, autodiff 100"


@pytest.mark.parity
@pytest.mark.nightly
def test_torch_computes_the_same(load_benchmark):
    pytest.importorskip("torch")
    peers, suite = load_benchmark("torch_peers"), load_benchmark("kernel_suite")
    benchmark = load_benchmark("kernels")
    compared = set()
    for layer in suite.LAYERS:
        kernel = layer.case.kernel
        if kernel in compared or kernel == "dropout":
            continue
        arguments, dy = benchmark.draw(layer, jnp.float32)
        if kernel not in peers._FORWARD:
            continue
        compared.add(kernel)
        y = layer.case.apply(getattr(kernels, kernel), arguments)
        y = jax.tree.leaves(y)[0]
        theirs = peers.passes(layer, arguments, dy)["forward"]().detach().float()
        moved = jnp.moveaxis(y, -1, 1) if y.ndim > 2 else y
        assert theirs.shape == moved.shape
        error = jnp.abs(jnp.asarray(theirs.numpy()) - moved).max()
        assert error <= 1e-4 * jnp.abs(y).max(), kernel


def test_the_page_quotes_the_committed_results(benchmark, capsys):
    paths = sorted(RESULTS.glob("kernels_cpu_jax_*.json"))
    assert len(paths) == 2
    benchmark.main(["--show", *map(str, paths), "--markdown"])
    table = capsys.readouterr().out.split("\n\n", 1)[1].strip()
    assert table in (ROOT / "docs" / "results.md").read_text()


def test_the_picture_is_of_the_committed_results(load_benchmark):
    picture = load_benchmark("kernel_picture")
    drawn = picture.draw(json.loads(picture.RESULTS.read_text()))
    assert drawn == picture.PICTURE.read_text()
