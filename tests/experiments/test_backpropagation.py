"""The study of backpropagation, small: what it measures, shows and reports as wrong."""

import contextlib
import dataclasses
import io
import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels as K
from cnn_jax.studies import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(load_experiment, experiments_directory) -> types.ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(experiments_directory))
        yield load_experiment("backpropagation")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished study: where it is, what it printed and returned."""

    run_dir: pathlib.Path
    status: int
    out: str

    @property
    def page(self) -> str:
        return (self.run_dir / "report.html").read_text("utf-8")

    @property
    def content(self) -> dict:
        return json.loads((self.run_dir / "results.json").read_text("utf-8"))


def start(study, run_dir, *arguments) -> Finished:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        argv = ["--smoke", "--run-dir", str(run_dir), *arguments]
        status = main(study.STUDY, argv)
    return Finished(run_dir, status, out.getvalue())


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory) -> Finished:
    return start(study, tmp_path_factory.mktemp("runs") / "first")


def checks_in(found):
    """Yields every comparison of what was measured."""
    if isinstance(found, dict):
        if "tolerance" in found:
            yield found
        for value in found.values():
            yield from checks_in(value)
    elif isinstance(found, list):
        for value in found:
            yield from checks_in(value)


def test_all_panels_agree_and_are_shown(study, finished):
    assert finished.status == 0
    measured = finished.content["measurements"]
    assert list(measured) == [panel.name for panel in study.STUDY.panels]
    found = list(checks_in(measured))
    assert len(found) > 150
    assert all(each["difference"] <= each["tolerance"] for each in found)
    assert "WRONG" not in finished.page + finished.out
    assert finished.page.count("<h2>") == len(study.STUDY.panels) + 1
    assert "http" not in finished.page
    assert "src" not in finished.page.replace('src="data:image/png', "")


@pytest.mark.parametrize(
    ("case", "geometry"),
    [
        ("stride 1, no padding", {"strides": (1, 1), "pads": (0, 0)}),
        ("stride 2, padding 1", {"strides": (2, 2), "pads": (1, 1)}),
    ],
)
def test_the_convolution_s_numbers_are_those_of_jax(finished, x64, case, geometry):
    module = sys.modules["backprop_convolution"]

    def loss(x, w, b):
        y = jax.lax.conv(
            jnp.pad(x, geometry["pads"][0])[None, None],
            w[None, None],
            geometry["strides"],
            "VALID",
        )
        return ((y[0, 0] + b - module.TARGET) ** 2).sum() / 2

    given = [jnp.asarray(a) for a in (module.IMAGE, module.FILTER, module.BIAS)]
    expected = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*given)
    values = finished.content["measurements"]["convolution"]["by_hand"]["cases"][case]
    for name, each in zip(("dx", "dw", "db"), expected, strict=True):
        for method in ("textbook loops", "kernels"):
            np.testing.assert_allclose(values["values"][method][name], each)
    for place in ("dx[1, 2] =", "dw[1, 2] =", "y[0, 1] ="):
        assert place in finished.page


def test_each_update_is_the_filter_less_rate_times_gradient(finished):
    found = finished.content["measurements"]["sobel"]["first_updates"]
    for step in found["steps"]:
        w, dw, after = (
            np.array(step[key]) for key in ("filter", "gradient", "updated")
        )
        np.testing.assert_allclose(after, w - found["rate"] * dw)
        assert step["losses"][1] < step["losses"][0]


def test_noise_teaches_the_filter_fastest(finished):
    runs = finished.content["measurements"]["sobel"]["learned_filter"]["runs"]
    assert all(run["learned_at"] < 100 for run in runs["noise"])
    for noise, smooth in zip(runs["noise"], runs["smooth"], strict=True):
        assert noise["condition"] < 3 < 1000 < smooth["condition"]
        assert smooth["learned_at"] is None


def test_pooling_sends_the_gradient_to_the_maxima(finished):
    cases = finished.content["measurements"]["pooling"]["by_hand"]
    tied = cases["windows of 2x2"]
    assert tied["winners"] == [[0, 1], [0, 2], [2, 0], [3, 2]]
    assert np.sum(tied["is_tied"]) == 4
    overlapping = np.array(cases["windows of 3x3, stride 2"]["max-pooling"]["dx"])
    assert overlapping[2, 2] == overlapping.sum() == 10


def test_batch_norm_s_gradient_lacks_two_directions(finished):
    found = finished.content["measurements"]["batch_norm"]["by_hand"]
    assert len(found["channels"]) == 16
    for each in found["channels"]:
        assert each["sum"] < 1e-14
        assert each["along_xhat"] == pytest.approx(each["expected"], abs=1e-14)
        assert each["dy_along_xhat"] > each["along_xhat"]


def test_a_small_step_lowers_lenet_s_loss_as_the_gradient_says(finished):
    found = finished.content["measurements"]["lenet"]["by_hand"]
    assert len(found["layers"]) == 12
    for each in found["updates"]:
        change = each["after"]["0.01"] - each["before"]
        assert change == pytest.approx(-0.01 * each["squared_norm"], rel=0.2)


def test_a_wrong_gradient_is_reported(study, tmp_path, monkeypatch):
    right = K.conv_filter_grad
    monkeypatch.setattr(K, "conv_filter_grad", lambda *a, **k: 1.01 * right(*a, **k))
    found = start(study, tmp_path / "wrong", "--panel", "convolution")
    said = found.content["found"]["convolution"]["sentences"]
    assert any(s.startswith("WRONG: ") and "dw by kernels" in s for s in said)
    assert not any("dx by" in sentence for sentence in said)
    assert "<td>WRONG</td>" in found.page
    assert "WRONG" in found.out
    assert found.status == 1


def test_a_gradient_that_is_no_number_is_reported(study, finished):
    module = sys.modules["backprop_checks"]
    checks = [
        module.check("dx", "nothing", [np.nan, 1.0], [1.0, 1.0]),
        module.check("dx", "another shape", [1.0], [1.0, 1.0]),
        module.check("dx", "the same", [1.0, 1.0], [1.0, 1.0]),
    ]
    assert [module.agrees(each) for each in checks] == [False, False, True]
    assert len(module.verdict("Two", checks)) == 2
    assert module.check_table("t", checks).rows[0]["verdict"] == "WRONG"


def test_resume_keeps_what_is_measured(study, finished, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("what is measured was measured again")

    before = finished.content
    for name in ("conv", "max_pool_grad", "batch_norm", "softmax_cross_entropy"):
        monkeypatch.setattr(K, name, refuse)
    again = start(study, finished.run_dir, "--resume")
    assert again.status == 0
    assert again.content["measurements"] == before["measurements"]
