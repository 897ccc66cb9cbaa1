"""Logistic regression against scikit-learn, and the features that it is fitted to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

import cnn_jax
from cnn_jax.transfer.probe import extract_features, fit_logistic_regression

NUM_CLASSES, L2 = 3, 0.01


@pytest.fixture(scope="module")
def problem():
    """Features of which none is centred, and labels that they half explain."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 6)) + np.arange(6)
    scores = (features - np.arange(6)) @ generator.normal(size=(6, NUM_CLASSES))
    labels = (scores + generator.gumbel(size=scores.shape)).argmax(axis=1)
    return features.astype(np.float32), labels


def reference(features, labels, l2):
    model = sklearn.linear_model.LogisticRegression(
        C=1 / (l2 * len(features)), tol=1e-10, max_iter=100_000
    )
    model.fit(features.astype(np.float64), labels)
    return {"kernel": model.coef_.T, "bias": model.intercept_}


def logits_of(parameters, features):
    return features @ np.asarray(parameters["kernel"]) + np.asarray(parameters["bias"])


def assert_close(parameters, expected, atol):
    for name, value in expected.items():
        assert parameters[name].dtype == jnp.float32
        np.testing.assert_allclose(parameters[name], value, atol=atol, rtol=1e-4)


def objective_gradient(parameters, features, labels, l2):
    """The gradient of the objective as it is written down, in float64."""
    features = features.astype(np.float64)
    kernel = np.asarray(parameters["kernel"], np.float64)
    logits = features @ kernel + np.asarray(parameters["bias"], np.float64)
    wrong = np.exp(logits - logits.max(axis=1, keepdims=True))
    wrong /= wrong.sum(axis=1, keepdims=True)
    wrong[np.arange(len(labels)), labels] -= 1
    return features.T @ wrong / len(labels) + l2 * kernel, wrong.mean(axis=0)


def test_lbfgs_finds_scikit_learns_optimum(problem):
    parameters, report = fit_logistic_regression(*problem, NUM_CLASSES, l2=L2)
    assert report.converged
    assert report.num_iterations < 50
    assert report.gradient_norm <= 1e-5
    assert_close(parameters, reference(*problem, L2), 1e-4)
    for gradient in objective_gradient(parameters, *problem, L2):
        np.testing.assert_allclose(gradient, 0, atol=1e-4)


def test_sgd_finds_the_same(problem):
    parameters, report = fit_logistic_regression(
        *problem,
        NUM_CLASSES,
        l2=L2,
        method="sgd",
        key=jax.random.key(0),
        epochs=400,
        batch_size=60,
        learning_rate=0.1,
    )
    assert report.num_iterations == 400 * 3
    assert not report.converged
    assert report.gradient_norm < 1e-2
    # The features' means, up to 5, carry the kernel's error into the bias.
    expected = reference(*problem, L2)
    assert_close(parameters, {"kernel": expected["kernel"]}, 0.02)
    assert_close(parameters, {"bias": expected["bias"]}, 0.1)


def test_sgd_in_one_batch_is_gradient_descent(problem):
    """One step from zero: the learning rate times the gradient, by hand."""
    features, labels = problem
    options = {"method": "sgd", "key": jax.random.key(1), "momentum": 0.0}
    parameters, report = fit_logistic_regression(
        *problem, NUM_CLASSES, l2=L2, epochs=1, batch_size=999, **options
    )
    assert report.num_iterations == 1
    factors = 1 / np.sqrt(features.var(axis=0) + L2)
    wrong = 1 / NUM_CLASSES - np.eye(NUM_CLASSES)[labels]
    scaled = (features - features.mean(axis=0)) * factors
    step = 2 / (6 + 3)
    kernel = -step * factors[:, None] * (scaled.T @ wrong) / len(labels)
    np.testing.assert_allclose(parameters["kernel"], kernel, rtol=1e-4, atol=1e-6)
    bias = -step * wrong.mean(axis=0) - features.mean(axis=0) @ kernel
    np.testing.assert_allclose(parameters["bias"], bias, rtol=1e-4, atol=1e-6)


def test_sgds_order_is_its_keys(problem):
    def fit(seed):
        options = {"method": "sgd", "key": jax.random.key(seed), "epochs": 1}
        return fit_logistic_regression(
            *problem, NUM_CLASSES, l2=L2, batch_size=60, **options
        )[0]["kernel"]

    np.testing.assert_array_equal(fit(0), fit(0))
    assert np.abs(fit(0) - fit(1)).max() > 1e-4


def test_features_of_all_sizes(problem):
    """Nine orders of magnitude, where L-BFGS without scaling needs thousands."""
    features, labels = problem
    features = features * np.float32(10) ** np.linspace(-6, 3, 6, dtype=np.float32)
    parameters, report = fit_logistic_regression(features, labels, NUM_CLASSES, l2=1e-3)
    assert report.converged
    assert report.num_iterations < 100
    wrong = objective_gradient(parameters, features, labels, 1e-3)[0]
    sizes = np.sqrt(features.var(axis=0) + 1e-3)[:, None]
    assert np.abs(wrong / sizes).max() < 1e-3


def test_collinear_and_constant_features(problem):
    features, labels = problem
    features = np.concatenate([features[:, :2]] * 2 + [features[:, :2] * 0], axis=1)
    parameters, report = fit_logistic_regression(features, labels, NUM_CLASSES, l2=L2)
    assert report.converged
    # The penalty shares the weight out, and gives none to what never changes.
    kernel = np.asarray(parameters["kernel"])
    np.testing.assert_allclose(kernel[:2], kernel[2:4], atol=1e-5)
    np.testing.assert_array_equal(kernel[4:], 0)


@pytest.mark.parametrize("method", ["lbfgs", "sgd"])
@pytest.mark.parametrize("l2", [1e-3, 0.0])
def test_separable_classes_stay_finite(problem, method, l2):
    features, _ = problem
    # A gap between the classes, which no weight is too large for.
    labels = np.digitize(features[:, 0], [-0.5, 0.5])
    features = features + np.float32(3) * np.eye(6, dtype=np.float32)[0] * (
        labels[:, None] - 1
    )
    key = jax.random.key(0) if method == "sgd" else None
    parameters, _ = fit_logistic_regression(
        features, labels, NUM_CLASSES, l2=l2, method=method, key=key, batch_size=60
    )
    assert all(np.isfinite(value).all() for value in parameters.values())
    logits = logits_of(parameters, features)
    if method == "lbfgs":
        assert (logits.argmax(axis=1) == labels).all()
        if l2:
            assert_close(parameters, reference(features, labels, l2), 0.02)


def test_what_does_not_converge_is_reported(problem):
    _, report = fit_logistic_regression(
        *problem, NUM_CLASSES, l2=L2, max_iterations=2, tolerance=1e-7
    )
    assert (report.num_iterations, report.converged) == (2, False)
    assert report.gradient_norm > 1e-7
    # A tolerance beyond float32: the search ends where rounding hides every descent,
    # or goes on until it is stopped.
    parameters, report = fit_logistic_regression(
        *problem, NUM_CLASSES, l2=L2, tolerance=1e-30
    )
    assert not report.converged
    assert_close(parameters, reference(*problem, L2), 1e-4)


def test_a_class_that_is_not_seen_has_finite_weights(problem):
    features, labels = problem
    labels = np.minimum(labels, 1)
    parameters, report = fit_logistic_regression(features, labels, NUM_CLASSES, l2=L2)
    assert np.isfinite(report.loss)
    assert (logits_of(parameters, features).argmax(axis=1) < 2).all()


FINE = np.ones((4, 2), np.float32)


@pytest.mark.parametrize(
    ("features", "labels", "options", "message"),
    [
        (np.ones((4,), np.float32), np.zeros(4, int), {}, r"float32\[4\], expected"),
        (FINE[:0], np.zeros(0, int), {}, "at least one example"),
        (FINE.astype(int), np.zeros(4, int), {}, r"features int32\[4, 2\]"),
        (FINE, np.zeros(3, int), {}, r"labels int32\[3\], expected integers \(4,\)"),
        (FINE, np.zeros(4), {}, "expected integers"),
        (FINE, np.array([0, 1, 2, 3]), {}, "from 0 to 3 and num_classes 3"),
        (FINE, np.array([0, 1, -1, 2]), {}, "from -1 to 2"),
        (FINE * [1, np.nan], np.zeros(4, int), {}, "in 4 of 4 examples, the first"),
        (FINE, np.zeros(4, int), {"method": "newton"}, "'newton', expected one of lb"),
        (FINE, np.zeros(4, int), {"l2": -1.0}, "l2 -1.0"),
        (FINE, np.zeros(4, int), {"l2": float("nan")}, "l2 nan"),
        (FINE, np.zeros(4, int), {"tolerance": 0}, "tolerance 0"),
        (FINE, np.zeros(4, int), {"max_iterations": 0}, "max_iterations 0"),
        (FINE, np.zeros(4, int), {"method": "sgd"}, "got key None for sgd, expected a"),
        (FINE, np.zeros(4, int), {"key": 1}, "expected none: it draws nothing"),
        (
            FINE,
            np.zeros(4, int),
            {"method": "sgd", "key": 1, "momentum": 1.0},
            "momentum 1.0",
        ),
    ],
)
def test_refuses(features, labels, options, message):
    with pytest.raises(ValueError, match=message):
        fit_logistic_regression(
            features.astype(np.float32) if features.dtype == float else features,
            labels,
            NUM_CLASSES,
            **{"l2": 0.1, **options},
        )


def test_features_are_what_the_last_layer_sees(generator):
    model = cnn_jax.create_model(
        "resnet20", stage_sizes=(1, 1), stage_features=(4, 6), stem_features=4
    )
    images = generator.normal(size=(7, 8, 8, 3)).astype(np.float32)
    variables = jax.tree.map(
        lambda leaf: generator.uniform(0.5, 1.0, leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )
    logits, endpoints = jax.jit(model.apply, static_argnames="endpoints")(
        variables, images, endpoints=True
    )
    headless = model.clone(num_classes=0)
    features = extract_features(
        headless, variables, [images[:3], images[3:6], images[6:]]
    )
    np.testing.assert_allclose(features, endpoints["features"], rtol=1e-5)
    assert features.dtype == np.float32
    head = variables["params"]["head"]
    by_head = features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(by_head, logits, rtol=1e-4)
    with pytest.raises(ValueError, match=r"of 10 classes.*clone\(num_classes=0\)"):
        extract_features(model, variables, [images])
    with pytest.raises(ValueError, match="got no batch"):
        extract_features(headless, variables, [])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32])
def test_labels_of_any_width_are_fitted_alike(problem, dtype):
    features, labels = problem
    labels = labels + 60  # of more classes than a byte counts
    wide, narrow = (
        fit_logistic_regression(
            features, labels.astype(each), 300, l2=L2, max_iterations=3
        )
        for each in (np.int32, dtype)
    )
    jax.tree.map(np.testing.assert_array_equal, narrow, wide)


def test_a_label_that_no_int32_holds_is_refused(problem):
    features, labels = problem
    labels = labels.astype(np.int64)
    labels[3] += 2**32
    with pytest.raises(ValueError, match="got labels from 0 to 2147483647"):
        fit_logistic_regression(features, labels, NUM_CLASSES, l2=L2)
