"""The memory that there is, and the refusal of what needs more."""

import pytest

from cnn_jax import memory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes the files in which a system tells of its memory."""
    for name, value in {
        "MEMINFO": tmp_path / "meminfo",
        "STATM": tmp_path / "statm",
        "OWN_GROUPS": tmp_path / "cgroup",
        "GROUPS": tmp_path / "groups",
    }.items():
        monkeypatch.setattr(memory, name, value)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("DOT", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_the_machine_that_this_runs_on_tells_it():
    assert memory.available_bytes() > 2**20


def test_a_system_that_tells_nothing_is_not_asked_further(machine):
    assert memory.available_bytes() is None


def test_free_memory_and_swap_are_there(machine):
    machine(meminfo="MemTotal: 100 kB\nMemAvailable:  30 kB\nSwapFree: 5 kB\n")
    assert memory.available_bytes() == 35 * 1024
    machine(meminfo="MemTotal: 100 kB\n")
    assert memory.available_bytes() is None


MEMINFO = "MemAvailable: 1000000 kB\n"


def test_groups_of_version_2_count_with_those_that_they_are_in(machine):
    machine(
        meminfo=MEMINFO,
        cgroup="0::/jobs/one\n",
        groups__jobs__one__memoryDOTmax="max\n",
        groups__jobs__one__memoryDOTcurrent="500\n",
        groups__jobs__memoryDOTmax="4000\n",
        groups__jobs__memoryDOTcurrent="3000\n",
        groups__jobs__memoryDOTstat="anon 1\ninactive_file 600\nactive_file 100\n",
    )
    assert memory.available_bytes() == 4000 - 3000 + 700


def test_groups_of_version_1_count_too(machine):
    machine(
        meminfo=MEMINFO,
        cgroup="9:cpu:/\n4:memory:/box\n",
        groups__memory__box__memoryDOTlimit_in_bytes="5000\n",
        groups__memory__box__memoryDOTusage_in_bytes="4500\n",
        groups__memory__box__memoryDOTstat="total_inactive_file 40\ninactive_file 9\n",
    )
    assert memory.available_bytes() == 5000 - 4500 + 40


def test_in_a_container_the_top_of_the_mount_has_the_limit(machine):
    machine(
        meminfo=MEMINFO,
        cgroup="0::/of/the/host\n",
        groups__memoryDOTmax="900\n",
        groups__memoryDOTcurrent="1000\n",
    )
    assert memory.available_bytes() == 0  # never below


def test_a_limit_of_addresses_counts(machine, monkeypatch):
    resource = pytest.importorskip("resource")
    machine(meminfo=MEMINFO, statm="3 2 1 0 0 0 0\n")
    page = resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10 * page, 20 * page))
    assert memory.available_bytes() == 7 * page
    monkeypatch.setattr(
        resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2
    )
    assert memory.available_bytes() == 1_000_000 * 1024


def test_what_needs_more_is_refused_part_by_part():
    parts = {"weights": 3_000_000, "images": 999}
    options = {"what": "a run", "advice": "use fewer images"}
    with pytest.raises(ValueError) as error:
        memory.require(parts, available=1_500_000, **options)
    assert str(error.value) == (
        "memory: got a run, which needs 3 MB (weights 3 MB, images 999 bytes), "
        "expected at most the 1.5 MB that are free; use fewer images."
    )
    memory.require(parts, available=3_000_999, **options)
    memory.require(parts, available=None, **options)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (999_999_999, "1 GB"),
        (123_456_789_012, "123 GB"),
        (10**20, "100,000 PB"),
    ],
)
def test_sizes_are_short(number, text):
    assert memory.size(number) == text
