"""The benchmark of training steps: its suites, its results, and what it survives."""

import csv
import itertools
import json

import flax.linen as nn
import jax.numpy as jnp
import pytest

from cnn_jax import layers


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("training")


@pytest.fixture
def runs(load_benchmark):
    return load_benchmark("training_runs")


@pytest.fixture
def group(runs):
    return runs.Group("resnet20", "float32", batch_size=8, image_size=32)


class Stub:
    """A trainer whose steps take time on a clock, and fail from one on."""

    temporary_bytes = 7 * 2**20
    num_parameters = 1_500_000
    compile_seconds = 2.0

    def __init__(self, clock, seconds, fails_at=None, waiting=0.0):
        self.clock, self.seconds, self.waiting = clock, seconds, waiting
        self.steps, self.fails_at = 0, fails_at

    def advance(self, steps):
        self.steps += steps
        if self.fails_at is not None and self.steps >= self.fails_at:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmany lines more")
        self.clock.now += steps * self.seconds + self.waiting
        return 0.5

    def forget_peak(self):
        self.steps = 0


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def measure(runs, group, monkeypatch):
    """Measures stubs instead of frameworks: framework -> `Stub`'s arguments."""
    clock = Clock()
    monkeypatch.setattr(runs, "time", clock)
    monkeypatch.setattr(runs, "draw", lambda group: (None, None))

    def timed(functions, **options):
        return time_interleaved(functions, clock=clock.perf_counter, **options)

    time_interleaved = runs.time_interleaved
    monkeypatch.setattr(runs, "time_interleaved", timed)

    def measure_stubs(stubs, max_seconds=100.0):
        def make(framework, *unused):
            if isinstance(stubs[framework], Exception):
                raise stubs[framework]
            return Stub(clock, **stubs[framework])

        monkeypatch.setattr(runs, "make_trainer", make)
        lines = []
        found = runs.measure(
            group, list(stubs), repeats=3, max_seconds=max_seconds, say=lines.append
        )
        assert len(lines) == len(stubs)
        return {result["framework"]: result for result in found}

    return measure_stubs


def test_rounds_hold_many_quick_steps(measure):
    found = measure({"ours": {"seconds": 0.1}, "stock": {"seconds": 0.25}})
    ours, stock = found["ours"], found["stock"]
    assert (ours["steps_per_round"], stock["steps_per_round"]) == (3, 2)
    assert ours["step_seconds"] == pytest.approx(0.1)
    assert ours["step_quartiles"] == pytest.approx([0.1, 0.1])
    assert ours["images_per_second"] == pytest.approx(80)
    assert ours["speed_up"] == pytest.approx(2.5)
    assert ours["rounds"] == 3
    assert ours["waited_step_seconds"] == pytest.approx(0.1)


@pytest.mark.parametrize("fails_at", [1, 2, 12])
def test_a_failure_is_recorded_and_the_others_are_measured(measure, fails_at):
    found = measure(
        {"ours": {"seconds": 0.1, "fails_at": fails_at}, "stock": {"seconds": 0.2}}
    )
    assert found["ours"]["error"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert "step_seconds" not in found["ours"]
    assert found["stock"]["step_seconds"] == pytest.approx(0.2)


def test_all_may_fail(measure):
    found = measure({"ours": MemoryError("no"), "stock": ValueError()})
    errors = [found["ours"]["error"], found["stock"]["error"]]
    assert errors == ["MemoryError: no", "ValueError: "]


def test_a_step_that_takes_too_long_is_taken_once(measure):
    found = measure({"ours": {"seconds": 11}, "stock": {"seconds": 1}}, max_seconds=10)
    assert "a step took 11 s" in found["ours"]["error"]
    assert "speed_up" in found["stock"]


def test_rounds_that_do_not_wait_are_found_out(measure):
    found = measure(
        {"ours": {"seconds": 0.001, "waiting": 0.05}, "stock": {"seconds": 0.1}}
    )
    # The first steps, each blocking, make rounds of 6: 0.056 s, 9 ms a step.
    assert found["ours"]["error"].startswith("Self-check: ")
    assert "speed_up" not in found["ours"]


class Small(nn.Module):
    """A network that compiles quickly, without a kernel for an activation."""

    activation: object = jnp.tanh

    @nn.compact
    def __call__(self, x, *, train):
        x = layers.Dense(10)(
            self.activation(layers.Conv(4, 5, strides=4)(x)).mean((1, 2))
        )
        return x.astype(jnp.float32)


def test_real_steps_learn_each_by_itself(runs, monkeypatch, called_modules):
    monkeypatch.setattr(runs, "make_model", lambda group: Small())
    # Loss scaling, and the state's copy that each trainer consumes.
    group = runs.Group("lenet5", "float16", batch_size=2, image_size=8)
    start, batch = runs.draw(group)
    ours = runs.make_trainer("ours", group, start, batch)
    assert nn.Conv not in called_modules
    stock = runs.make_trainer("stock", group, start, batch)
    assert nn.Conv in called_modules
    first = ours.advance(1)
    assert stock.advance(1) == pytest.approx(first, rel=1e-3)
    assert ours.advance(50) < first
    assert ours.num_parameters == (25 * 4 + 4) + (4 * 10 + 10)
    assert ours.temporary_bytes > 0
    assert ours.compile_seconds > 0


def test_files_have_the_columns_of_timm(benchmark, monkeypatch, tmp_path, capsys):
    def measure(group, frameworks, *, say, **options):
        result = {
            "model": group.model,
            "precision": group.precision,
            "batch_size": group.batch_size,
            "image_size": group.image_size,
        }
        say("ready")
        good = {
            "framework": "ours",
            "step_seconds": 0.0123456,
            "step_quartiles": [0.01, 0.02],
            "images_per_second": 1234.5678,
            "parameters": 25_557_032,
            "temporary_bytes": 3,
        }
        return [result | good, result | {"framework": "stock", "error": "broken"}]

    monkeypatch.setattr(benchmark, "measure", measure)
    paths = tmp_path / "a" / "results.json", tmp_path / "b" / "records.csv"
    options = ["--suite", "cpu", "--part", "2", "--models", "resnet50", "--markdown"]
    arguments = [*options, "--json", str(paths[0]), "--csv", str(paths[1])]
    assert benchmark.main(arguments) == 0
    report = json.loads(paths[0].read_text())
    assert (report["suite"], report["parts"]) == ("cpu", [2])
    assert len(report["records"]) == 2
    with paths[1].open() as file:
        ours, stock = csv.DictReader(file)
    # The head of timm's published benchmark-train-*.csv.
    assert list(ours)[:6] == [
        "model",
        "train_samples_per_sec",
        "train_step_time",
        "train_batch_size",
        "train_img_size",
        "param_count",
    ]
    assert list(ours.values())[:6] == [
        "resnet50",
        "1234.57",
        "12.346",
        "4",
        "224",
        "25.56",
    ]
    assert (stock["train_step_time"], stock["error"]) == ("", "broken")
    shown = capsys.readouterr()
    assert "| resnet50 | bfloat16 | ours |" in shown.out
    assert "[1/1] resnet50 bfloat16, 4 images of 224x224" in shown.err


def test_no_group_starts_when_the_time_is_over(benchmark, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(benchmark, "measure", fail)
    ticks = itertools.count(0.0, 5.0)
    monkeypatch.setattr(benchmark.time, "monotonic", lambda: next(ticks))
    arguments = ["--suite", "cpu", "--models", "resnet20", "--budget-seconds", "4"]
    arguments += ["--frameworks", "ours"]
    results = benchmark.run(benchmark.parse(arguments))
    errors = [result["error"] for result in results]
    assert errors == ["Not measured: 4 s were over."] * 3


def test_every_part_parses_and_all_is_in_one(benchmark, capsys):
    for name, suite in benchmark.SUITES.items():
        found = []
        for part in range(1, len(suite.parts) + 1):
            options = ["--suite", name, "--part", str(part), "--list"]
            assert benchmark.main(options) == 0
            found += [
                line.split(", ")[0] for line in capsys.readouterr().out.split("\n")
            ]
        kept = {line.split(": ")[1] for line in found if line}
        assert kept == {
            f"{model} {precision}"
            for model in suite.batches
            for precision in benchmark.PRECISIONS
        }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--part", "4"], "got [4], expected some of [1, 2, 3]"),
        (["--models", "resnet21"], "resnet21"),
        (["--precisions", "int8"], "int8"),
        (["--frameworks", "keras"], "keras"),
        (["--batch", "0"], "--batch: got 0"),
        (["--max-seconds", "nan"], "--max-seconds: got nan"),
        (["--part", "1", "--precisions", "float16"], "nothing is in all of them"),
    ],
)
def test_mistakes_are_named_before_any_work(benchmark, capsys, arguments, named):
    with pytest.raises(SystemExit):
        benchmark.main(["--suite", "cpu", *arguments])
    assert named in capsys.readouterr().err


def test_torch_is_missed_only_where_it_is_asked_for(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "torch_version", lambda: None)
    for _, _, frameworks in benchmark.selected(benchmark.parse(["--suite", "gpu"])):
        assert list(frameworks) == ["ours", "stock"]
    with pytest.raises(SystemExit):
        benchmark.parse(["--frameworks", "ours", "torch"])
    assert "torch cannot be imported" in capsys.readouterr().err


def test_the_gpu_suite_wants_an_accelerator(benchmark, capsys):
    assert benchmark.main(["--suite", "gpu"]) == 2
    assert "only a CPU" in capsys.readouterr().err
