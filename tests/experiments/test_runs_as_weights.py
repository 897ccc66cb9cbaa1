"""The new user's path: runs of the README's first command are sources of weights."""

import json

import numpy as np
import PIL.Image
import pytest
from helpers.quick import nightly_except

import cnn_jax
from cnn_jax import cli, data, experiment
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.fit import fit

MODELS = ("lenet5", "vgg8_cifar", "efficientnet_cifar", "plain20", "resnet20")


def test_these_are_the_first_commands_models(load_experiment):
    assert load_experiment("compare_architectures").Comparison().models == MODELS


@pytest.mark.slow
@pytest.mark.parametrize("name", nightly_except({"lenet5"}, MODELS))
def test_predict_convert_and_pretrained(
    name, load_experiment, tmp_path, capsys, monkeypatch
):
    comparison = load_experiment("compare_architectures").Comparison(epochs=1)
    splits = {
        split: data.load_dataset("digits", split).take(range(64))
        for split in ("train", "test")
    }
    config = comparison.train_config(name, 0, tmp_path)
    model = cnn_jax.create_model(name, num_classes=10, dtype=comparison.dtype)
    fit(model, config=config, **splits, validation=splits["test"], progress=False)
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(photo)
    found = {config.run_dir: None}
    for destination in ("weights", "weights.safetensors", "weights.npz"):
        path = str(tmp_path / destination)
        assert cli.main(["convert", config.run_dir, path]) == 0
        found[path] = None
    capsys.readouterr()
    for source in found:
        assert cli.main(["predict", source, str(photo), "--top", "10", "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        found[source] = json.loads(out)
    first, *others = found.values()
    assert all(other == first for other in others)  # bit for bit
    assert sorted(first[0]["names"]) == list("0123456789")

    monkeypatch.setattr(data, "open_split", lambda name, split, **_: splits[split])
    for number, source in enumerate(found):
        result = experiment.run(
            TrainConfig(
                model=name,
                dataset="digits",
                pretrained=source,
                epochs=1,
                batch_size=32,
                learning_rate=1e-10,
                run_dir=str(tmp_path / f"again{number}"),
            )
        )
        if number == 0:
            loaded, _ = cnn_jax.load_pretrained(model, source)
            for path, leaf in cnn_jax.trees.named_leaves(loaded["params"]).items():
                after = cnn_jax.trees.named_leaves(result.state.params)[path]
                np.testing.assert_allclose(after, leaf, 0, 1e-8, err_msg=path)
