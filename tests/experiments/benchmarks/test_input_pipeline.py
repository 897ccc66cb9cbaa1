"""The benchmark of the input pipeline: what its numbers mean, and that it runs."""

import json

import pytest

from cnn_jax.data.host import POLICIES

FILES, BATCH = 8, 4


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("input_pipeline")


@pytest.fixture
def photographs(benchmark, tmp_path):
    benchmark.write_photographs(tmp_path, FILES, (40, 30))
    return tmp_path


class Clocks:
    """Stands in for `time`: both clocks stand still until work moves them."""

    def __init__(self):
        self.wall = self.processor = 0.0

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.processor

    def work(self, *durations):
        """Returns work of 6 images that takes (wall, processor) seconds, in turn."""
        remaining = list(durations)

        def run():
            wall, processor = remaining.pop(0) if remaining[1:] else remaining[0]
            self.wall += wall
            self.processor += processor
            return 6

        return run


@pytest.fixture
def clocks(benchmark, monkeypatch):
    clocks = Clocks()
    monkeypatch.setattr(benchmark, "time", clocks)
    return clocks


def test_rates_are_medians_without_the_first_round(benchmark, clocks):
    work = clocks.work((90, 90), (2, 3), (2, 3), (60, 60))
    (rate,) = benchmark.per_processor_second({"a": work}, 3, 1000).values()
    assert rate.pop("per_core_range") == [0.1, 2]
    assert rate == {"per_core": 2, "per_second": 3, "busy_cores": 1.5, "rounds": 3}


def test_what_other_threads_burn_shows_as_busy_cores(benchmark, clocks):
    alone, disturbed = clocks.work((2, 2)), clocks.work((2, 4))
    rates = benchmark.per_processor_second({"a": alone, "b": disturbed}, 3, 1000)
    assert (rates["a"]["busy_cores"], rates["b"]["busy_cores"]) == (1, 2)
    assert rates["a"]["per_second"] == rates["b"]["per_second"]


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 1), (15, 1), (25, 2), (1000, 4)])
def test_rounds_end_with_the_time(benchmark, clocks, seconds, rounds):
    runs = {"a": clocks.work((5, 5)), "b": clocks.work((5, 5))}
    rates = benchmark.per_processor_second(runs, 4, seconds)
    assert {rate["rounds"] for rate in rates.values()} == {rounds}


def test_rounds_are_interleaved_and_turn_around(benchmark):
    order = []
    runs = {name: lambda name=name: order.append(name) or 1 for name in "abc"}
    benchmark.per_processor_second(runs, 2, 1000)
    assert "".join(order) == "abccbaabc"


def test_every_part_on_the_host_is_measured(benchmark, photographs):
    results = benchmark.measure_pieces(photographs, 1, 0)
    names = [result["piece"] for result in results]
    assert names == ["decode", "decode at half size", *benchmark.PIECES]
    assert all(result["per_core"] > 0 for result in results)


@pytest.mark.parametrize("loop", ["bare_loop", "bare_loops"])
def test_bare_loops_read_every_file_once(benchmark, photographs, monkeypatch, loop):
    paths = sorted((photographs / "train").rglob("*.jpeg"))
    assert len(paths) == FILES
    opened, open_image = [], benchmark.Image.open
    monkeypatch.setattr(
        benchmark.Image, "open", lambda path: opened.append(path) or open_image(path)
    )
    assert getattr(benchmark, loop)(paths, 3) == FILES
    assert sorted(opened) == paths


def test_streams_are_compared_with_as_many_threads(benchmark, photographs):
    benchmark.pack(photographs)
    results = benchmark.measure_streams(photographs, BATCH, 1, 0)
    by_name = {result["pipeline"]: result for result in results}
    assert {"stream, JPEG folder", "stream, array_record"} < set(by_name)
    peer = by_name[benchmark.PEER]
    assert peer["relative"] == 1
    for result in results:
        expected = result["per_core"] / peer["per_core"]
        assert result["relative"] == pytest.approx(expected)


@pytest.mark.slow
def test_a_sheet_for_every_policy_and_transform(load_benchmark):
    sheets = load_benchmark("input_sheets")
    host = list(sheets.host_sheets())
    assert [picture.title for picture in host] == list(POLICIES)
    device = list(sheets.device_sheets())
    assert {"mixup", "CutMix"} < {picture.title for picture in device}
    # None looks like another.
    pictures = [*host, *device]
    assert len({picture.uri for picture in pictures}) == len(pictures)


@pytest.mark.parametrize(("least", "is_noise"), [(-0.1, True), (0.01, False)])
def test_the_summary_names_both_loops_and_the_noise(
    benchmark, monkeypatch, least, is_noise
):
    for name in ("host_sheets", "device_sheets"):
        monkeypatch.setattr(benchmark.input_sheets, name, list)
    monkeypatch.setattr(benchmark, "tables", lambda report: [])
    rates = {"stream, JPEG folder": 45, benchmark.PEER: 50, benchmark.ALONE: 60}
    share = {
        "alone_share": 0.001,
        "added_share": 0.02,
        "least_added": least,
        "most_added": 0.03,
    }
    streams = [{"pipeline": name, "per_core": rate} for name, rate in rates.items()]
    page = benchmark.page({"load_before": 0.0, "streams": streams, "resident": share})
    assert "does 90% of" in page
    assert "75% of those of one loop alone" in page
    assert "takes 0.1% of a ResNet-20 step when run alone" in page
    assert ("within the noise" in page) == is_noise


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--files", "4", "--batch-size", "5"], "--batch-size"),
        (["--batch-size", "0"], "--batch-size"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_what_cannot_be_measured(benchmark, capsys, arguments, message):
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.nightly
def test_measures_and_writes_everything(benchmark, tmp_path, capsys):
    result, page = tmp_path / "new" / "input.json", tmp_path / "new" / "input.html"
    size = ["--files", "8", "--size", "40", "30", "--batch-size", "4"]
    limits = ["--repeats", "1", "--max-seconds", "0"]
    outputs = ["--json", str(result), "--report", str(page)]
    assert benchmark.main([*size, *limits, *outputs]) == 0
    (report,) = json.loads(result.read_text())["records"]
    assert report["resident"]["bare_step_seconds"] > 0
    assert 0 <= report["waiting"]["waiting_share"] <= 1
    assert {result["piece"] for result in report["device"]} >= {"mixup", "CutMix"}
    text = page.read_text()
    assert text.count("<img ") == len(POLICIES) + 4
    assert "Load before" in text
    assert "stream, array_record" in capsys.readouterr().out
