"""Event files: in the order in which they were begun, whatever the clock said."""

import time

import pytest

from cnn_jax.training.run.directory.events import EventFile


def test_event_files_are_sorted_though_the_clock_is_set_back(tmp_path, monkeypatch):
    clock = time.time()
    paths, events = [], []
    for seconds in (0, -3600, 50, 50, -7200, 7200):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: clock + seconds)
        file = EventFile(tmp_path, purge_step=None)
        write = file._write
        monkeypatch.setattr(
            file,
            "_write",
            lambda event, write=write: (write(event), events.append(event)),
        )
        file.add_scalars({"loss": 1.0}, 1)
        file.close()
        paths.append(file.path)
    assert sorted(paths) == paths
    times = [event.wall_time for event in events]
    assert sorted(times) == times


def test_an_event_file_follows_no_link(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    first = EventFile(tmp_path)
    first.close()
    name = first.path.name.replace("1000000000", "1000000001")
    (tmp_path / "target").write_text("mine")
    first.path.unlink()
    (tmp_path / name).symlink_to(tmp_path / "target")
    EventFile(tmp_path).close()
    assert (tmp_path / "target").read_text() == "mine"


@pytest.mark.parametrize("name", ["x", "99999999999.host.1", ".host.1"])
def test_files_of_other_names_do_not_matter(tmp_path, name):
    (tmp_path / f"events.out.tfevents.{name}").touch()
    EventFile(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 2
