"""The transfer study: what it concludes from given numbers, and all of it, small."""

import contextlib
import dataclasses
import html
import io
import json
import pathlib
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels as K
from cnn_jax.checkpoint import ResumeRefusedError
from cnn_jax.data import evaluated, load_dataset
from cnn_jax.files import FileError
from cnn_jax.layers import BatchNorm, Conv, Dense
from cnn_jax.models import Family, Variant, registry
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained.convert import write_weights
from cnn_jax.training.run.images import image_format
from cnn_jax.trees import leaf_specs

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


class OneStage(nn.Module):
    """A convolution, a norm and a last layer."""

    num_classes: int = 10
    dtype: object = None
    param_dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        """Returns the logits, or without classes the features."""
        x = Conv(8, 3, 2, use_bias=False, name="conv")(x)
        x = K.relu(BatchNorm(use_running_average=not train, name="norm")(x))
        found = {"conv": x}
        x = K.global_avg_pool(x)
        if self.num_classes:
            x = Dense(self.num_classes, name="head")(x)
        return (x, found) if endpoints else x


FAMILY = Family(
    name="one_stage",
    module=OneStage,
    paper="None",
    year=2000,
    url="https://example.org",
    num_classes=10,
    input_shape=(8, 8, 1),
    mean=(0.0,),
    std=(1.0,),
    variants={"one_stage": Variant(1, 1)},
)


@pytest.fixture(scope="module")
def transfer(load_experiment) -> types.ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._FAMILY_OF, "one_stage", FAMILY)
        patch.syspath_prepend(str(EXPERIMENTS))
        yield load_experiment("transfer")


@pytest.fixture(scope="module")
def findings_module(transfer) -> types.ModuleType:
    return sys.modules["transfer_findings"]


def made_up(module, accuracies, seconds):
    """Findings from `{treatment: {size: [accuracy by seed]}}` and costs."""
    runs = [
        module.TransferRun(treatment, size, seed, accuracy, seconds[treatment])
        for treatment, sizes in accuracies.items()
        for size, values in sizes.items()
        for seed, accuracy in enumerate(values)
    ]
    sizes = [module.Size(5, 5.0), module.Size(50, 50.0), module.Size(0, 90.0)]
    # Order must not matter: seeds are paired by their number.
    return module.Findings(list(accuracies), sizes, runs[::-1], 100)


@pytest.fixture
def found(findings_module):
    treatment = findings_module.Treatment
    scratch, probe, tuned, frozen = (
        treatment("scratch", "train"),
        treatment("feature_extraction", "frozen"),
        treatment("fine_tune", "train"),
        treatment("fine_tune", "frozen"),
    )
    accuracies = {
        scratch: {5: [0.3, 0.4, 0.2], 50: [0.7, 0.8, 0.9], 0: [0.96, 0.97, 0.98]},
        probe: {5: [0.6, 0.7, 0.5], 50: [0.79, 0.8, 0.81], 0: [0.8, 0.8, 0.8]},
        # Always one point above the probe at 5, seed by seed, though seeds vary more.
        tuned: {5: [0.61, 0.71, 0.51], 50: [0.72, 0.82, 0.92], 0: [0.96, 0.98, 0.97]},
        frozen: {5: [0.1, 0.2, 0.1], 50: [0.2, 0.3, 0.2], 0: [0.5, 0.5, 0.5]},
    }
    costs = {scratch: 10.0, probe: 0.1, tuned: 11.0, frozen: 10.0}
    return made_up(findings_module, accuracies, costs)


def test_treatments_are_compared_seed_by_seed(found):
    scratch, probe, tuned, _ = found.treatments
    five, fifty, every = found.sizes
    assert found.difference(tuned, probe, five).mean == pytest.approx(0.01)
    assert found.is_apart(tuned, probe, five)
    assert found.is_apart(tuned, scratch, fifty)
    assert not found.is_apart(tuned, probe, fifty)
    assert not found.is_apart(tuned, scratch, every)


def test_what_is_not_told_apart_is_taken_where_it_costs_less(found):
    scratch, probe, tuned, _ = found.treatments
    advice = [found.advice(size) for size in found.sizes]
    assert [each.best for each in advice] == [tuned, tuned, scratch]
    assert [each.rivals for each in advice] == [(), (probe,), (tuned,)]
    # At the end 10 and 11 seconds count as one cost: the mean over all sizes decides.
    assert [each.chosen for each in advice] == [tuned, probe, tuned]


def test_rule_of_thumb_follows_from_the_numbers(findings_module, found):
    text = findings_module.rule_of_thumb(found)
    assert [each.replace("\N{NO-BREAK SPACE}", " ") for each in text] == [
        "With up to 5 labelled examples per class, fine-tune (batch norm train): "
        "61.0 % at 5.",
        "At 50 per class, extract features (batch norm frozen): 80.0 % at 50.",
        "At all (90) per class, fine-tune (batch norm train): 97.0 % at all (90).",
        "Over training from scratch, fine-tuning (train) gains +31.0 points at 5, +2.0 "
        "points at 50, +0.0 points at all (90); at all (90) the seeds do not tell them "
        "apart.",
        "Batch norm in fine-tuning, mean over the sizes: train 80.0 %, frozen 28.9 %; "
        "train leads frozen most at 50 (+58.7 points).",
    ]


def test_one_seed_goes_by_the_test_examples(findings_module):
    treatment = findings_module.Treatment
    one, other = treatment("scratch", "train"), treatment("fine_tune", "train")
    accuracies = {
        one: {5: [0.5], 50: [0.8], 0: [0.9]},
        other: {5: [0.9], 50: [0.85], 0: [0.91]},
    }
    found = made_up(findings_module, accuracies, {one: 1.0, other: 2.0})
    apart = [found.is_apart(one, other, size) for size in found.sizes]
    assert apart == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--examples-per-class", "5", "5"], "examples_per_class: got (5, 5)"),
        (["--examples-per-class", "0", "5"], "examples_per_class: got (0, 5)"),
        (["--approaches", "scratch", "--batch-norm", "frozen"], "mean nothing"),
        (["--seeds", "0"], "seeds: got 0"),
        (["--examples-per-class", "900"], "a class of digits"),
        (["--steps", "1", "--batch-size", "8"], "expected at least 90"),
    ],
)
def test_mistakes_are_named_before_the_sweep(
    transfer, tmp_path, capsys, monkeypatch, arguments, words
):
    monkeypatch.setattr(
        transfer,
        "_learn_source",
        lambda config, train, test: transfer.Backbone(None, {}, (0.0,), (1.0,)),
    )
    monkeypatch.setattr(transfer, "_accuracy", lambda backbone, test: 1.0)
    monkeypatch.setattr(transfer, "_for_task", lambda backbone, train: backbone)
    argv = ["--image-size", "8", "--run-dir", str(tmp_path / "run"), *arguments]
    assert transfer.main(argv) == 2
    assert words in capsys.readouterr().err


def test_weights_say_how_images_are_brought_to_the_size(
    transfer, tmp_path, monkeypatch
):
    model = OneStage()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    how = Preprocessing(16, (0.25,), (0.5,), 1.0, "squash", "nearest", channels=1)
    said = how.to_dict() | {"input_shape": [16, 16, 1]}
    metadata = {"kind": "cnn_jax.pretrained", "model": "one_stage", "num_classes": 10}
    metadata |= {"preprocessing": said, "arrays": leaf_specs(variables)}
    write_weights(tmp_path / "weights.npz", variables, metadata)
    found = []

    def collect(backbone, test, recipe, **_):
        found.append((test, recipe))
        raise InterruptedError

    monkeypatch.setattr(transfer, "Learner", collect)
    config = transfer.Transfer(
        weights=str(tmp_path / "weights.npz"),
        model="one_stage",
        image_size=12,
        examples_per_class=(5,),
        run_dir=str(tmp_path / "run"),
    )
    with pytest.raises(InterruptedError):
        transfer.run(config)
    ((test, recipe),) = found
    asked = (recipe.crop_fraction, recipe.crop_mode, recipe.interpolation)
    assert asked == (1.0, "squash", "nearest")
    _, train, same, _ = transfer.load_tasks(config)
    np.testing.assert_array_equal(test.images, same.images)
    # What `fit` makes of the recipe is what probes and the report see.
    own = image_format(recipe, train).preprocessing
    assert own == how.at(12)
    for split in (train, test):
        np.testing.assert_array_equal(
            evaluated(load_dataset("digits", split.split, image_size=12), own).images,
            split.images,
        )


def test_a_seed_draws_few_out_of_many(transfer):
    digits = load_dataset("digits", "test", image_size=8)
    few, more = (transfer.draw(digits, size, 1) for size in (2, 5))
    assert {i.tobytes() for i in few.images} < {i.tobytes() for i in more.images}
    assert transfer.draw(digits, 0, 1) is digits


def start(transfer, run_dir, *arguments):
    out = io.StringIO()
    argv = ["--model", "one_stage", "--image-size", "8", "--smoke", *arguments]
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["experiments/transfer.py", *argv])
        patch.setenv("COLUMNS", "200")
        status = transfer.main([*argv, "--run-dir", str(run_dir)])
    return status, out.getvalue()


@pytest.mark.slow
def test_the_whole_study_and_what_resuming_keeps(transfer, tmp_path):
    run_dir = tmp_path / "run"
    policies = ("--batch-norm", "train", "frozen")
    status, out = start(transfer, run_dir, *policies)
    assert status == 0
    assert out.splitlines()[-1] == f"Report: {run_dir / 'report.html'}"
    page = (run_dir / "report.html").read_text("utf-8")
    content = json.loads((run_dir / "results.json").read_text("utf-8"))
    assert content["source"].startswith("the other 5 classes of digits (to ")
    runs = content["runs"]
    treatments = {tuple(run["treatment"].values()) for run in runs}
    assert len(treatments) == 6
    assert len(runs) == 6 * 2 * 2
    assert all(run["seconds"] > 0 for run in runs)
    for run in content["tables"][0]["rows"]:
        assert set(run) == {"treatment", "per_class_4", "per_class_8"}
    for sentence in content["rule_of_thumb"]:
        assert html.escape(sentence) in page
    assert page.count("<svg") == 6
    assert page.count("<img") == 4 + 4 + 5
    assert "http" not in page
    assert str(tmp_path) not in page + json.dumps(content)
    # What was learned is what was scored.
    learner_accuracy = next(
        run["accuracy"]
        for run in runs
        if (run["treatment"]["approach"], run["examples_per_class"], run["seed"])
        == ("feature_extraction", 8, 0)
    )
    variables = np.load(run_dir / "variables" / "feature_extraction_frozen.npz")
    source = np.load(run_dir / "variables" / "source.npz")
    kernel = "params/conv/kernel"
    np.testing.assert_array_equal(variables[kernel], source[kernel])
    tuned = np.load(run_dir / "variables" / "fine_tune_train.npz")
    assert np.any(tuned[kernel] != source[kernel])
    assert 0 < learner_accuracy <= 1

    again, out = start(transfer, run_dir, *policies, "--resume")
    assert again == 0
    assert out.count(", kept\n") == 24
    assert json.loads((run_dir / "results.json").read_text("utf-8"))["runs"] == runs
    assert start(transfer, run_dir, "--resume")[0] == 2


def test_another_study_is_not_resumed(transfer, tmp_path):
    config = transfer.Transfer(run_dir=str(tmp_path / "run"))
    command = transfer.begin_directory(config, tmp_path / "run")
    same = dataclasses.replace(config, resume=True)
    assert transfer.begin_directory(same, tmp_path / "run") == command
    other = dataclasses.replace(same, seeds=3)
    with pytest.raises(ResumeRefusedError, match="seeds: saved 5, now 3") as error:
        transfer.begin_directory(other, tmp_path / "run")
    assert "learning_rate" not in str(error.value)


DAMAGED = ("[]", "{}", '{"config": 3}', "[" * 100_000, "\0")


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_files_of_a_study_are_one_sentence(transfer, tmp_path, content):
    run_dir = tmp_path / "run"
    config = transfer.Transfer(run_dir=str(run_dir), resume=True)
    run_dir.mkdir()
    (run_dir / "config.json").write_text(content)
    with pytest.raises(FileError, match=rf"^{run_dir}/config\.json: got "):
        transfer.begin_directory(config, run_dir)
    (run_dir / "runs.jsonl").write_text(f"{content}\n")
    with pytest.raises(FileError, match=rf"^{run_dir}/runs\.jsonl: got a damaged file"):
        transfer.read_runs(run_dir)


def test_the_record_does_not_say_where_weights_lay(transfer):
    config = transfer.Transfer(weights="/somewhere/else/weights.npz")
    found = sys.modules["transfer_page"]._public_config(config)
    assert found["weights"] == "weights.npz"
    assert not {"run_dir", "data_dir"} & set(found)
