"""`--report_to wandb`: what W&B got, read back from its files or from a server on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.training.run_folder import hash_file, hash_model
from tests.end_to_end.launching import ENVIRONMENT, ROOT, launched
from tests.end_to_end.wandb_record import Recorded, serving, sessions

CANARY = "canary3b7f0c5e91d24a68canary3b7f0c5e91d24a68"
SMALL = ["--dtype", "float32", "--lora_r", "4", "--learning_rate", "1e-3", "--per_device_train_batch_size", "2"]


class Machine:
    """A home folder of its own, in which commands run with a key in the environment."""

    def __init__(self, home: Path):
        home.mkdir()
        self.home = home
        ours = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(("WANDB_", "XDG_"))}
        self.env = ours | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "xdg"), "HF_TOKEN": CANARY}
        self.offline = {"WANDB_MODE": "offline", "WANDB_API_KEY": CANARY}

    def run(self, stage: str, *arguments: object, also: Sequence[str] = (), **env: str) -> CompletedProcess[str]:
        command = [sys.executable, "-m", "rlhf.cli", stage, *map(str, arguments), "--report_to", "wandb", *also]
        return launched(command, env=self.env | env)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path / "home")


class Tracked:
    """One offline run of every stage, each run when it is first asked for; PPO on the tracked reward model."""

    def __init__(self, folder: Path, model: Path, data: Path):
        self.machine, self.runs, self.model, self.data = Machine(folder / "home"), folder / "runs", model, data
        self.said: dict[str, str] = {}

    def run(self, stage: str) -> Path:
        """The run folder of a stage."""
        folder = self.runs / stage
        if stage not in self.said:
            common = ["--model", self.model, *SMALL, "--max_steps", 2, "--output_dir", folder]
            more = ["tensorboard"] if stage == "ppo" else []
            done = self.machine.run(stage, *common, *self._files(stage), also=more, **self.machine.offline)
            self.said[stage] = done.stdout + done.stderr
        return folder

    def _files(self, stage: str) -> list[object]:
        if stage == "sft":
            return ["--train_file", self.data / "demonstrations.jsonl"]
        if stage == "ppo":
            prompts = ["--prompt_file", self.data / "prompts.jsonl", "--max_new_tokens", 8]
            return [*prompts, "--reward_model", self.run("reward")]
        files = ["--train_file", self.data / "pairs.jsonl", "--eval_file", self.data / "pairs.jsonl"]
        return [*files, "--allow", "leakage"]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, tiny_chat_model, data) -> Tracked:
    return Tracked(tmp_path_factory.mktemp("tracked"), tiny_chat_model, data)


def the_session(run: Path) -> Recorded:
    (session,) = sessions(run / "wandb")
    return session


def metric_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_every_row_the_config_and_the_final_numbers_arrive(tracked, stage) -> None:
    run = tracked.run(stage)
    session = the_session(run)
    rows = metric_rows(run)
    assert session.metric_rows() == rows
    assert {row["step"] for row in rows} == {1, 2}
    expected = {"ppo": "objective/score", "reward": "reward/accuracy", "dpo": "reward/margin", "sft": "loss"}
    assert expected[stage] in rows[0]
    config = {name: value for name, value in session.config.items() if name != "_wandb"}
    assert config == yaml.safe_load((run / "config.yaml").read_text())
    assert config["report_to"] == (["wandb", "tensorboard"] if stage == "ppo" else ["wandb"])
    assert session.summary["steps"] == 2
    assert session.job_type == stage
    assert session.exit_code == 0


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_the_output_arrives_with_its_parents_and_without_the_backbone(tracked, stage, tiny_chat_model, data) -> None:
    run = tracked.run(stage)
    session = the_session(run)
    artifact = session.artifacts[f"{stage}-{session.run_id}"]
    assert artifact.type == "model"
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    heads = {"reward_head.safetensors"} if stage == "reward" else set()
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors"} | heads
    output = run / "adapter" if stage == "sft" else run
    for name, staged in files.items():
        assert staged.read_bytes() == (output / name).read_bytes()
        assert staged.is_relative_to(run / "wandb")
    assert not artifact.use_after_commit  # an output
    metadata = json.loads(artifact.metadata)
    assert metadata["parents"]["backbone"] == {"path": str(tiny_chat_model), "sha256": hash_model(tiny_chat_model)}
    names = {"sft": "demonstrations.jsonl", "ppo": "prompts.jsonl"}
    file = data / names.get(stage, "pairs.jsonl")
    assert metadata["data"] == {str(file): hash_file(file)}
    dataset = session.artifacts[f"{file.stem}-{hash_file(file)[:12]}"]
    assert dataset.type == "dataset"
    assert dataset.use_after_commit  # an input
    assert json.loads(dataset.metadata) == {"name": file.name, "sha256": hash_file(file), "rows": 24}
    if stage == "ppo":
        reward = tracked.run("reward")
        artifact = f"rlhf-loop/reward-{the_session(reward).run_id}:latest"
        expected = {"path": str(reward), "sha256": hash_model(reward), "artifact": artifact}
        assert metadata["parents"]["reward_model"] == expected


def test_the_sample_table_of_ppo_holds_its_sampled_rollouts(tracked, data) -> None:
    run = tracked.run("ppo")
    written = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    tables = the_session(run).tables
    assert [set(row) for row in tables] == [{"step", "prompt_id", "prompt", "response", "score", "kl"}] * len(tables)
    assert [row["response"] for row in tables] == [row["response"] for row in written]
    assert [(row["step"], row["score"], row["kl"]) for row in tables] == [
        (row["step"], row["score"], row["kl"]) for row in written
    ]
    prompts = {json.loads(line)["prompt"] for line in (data / "prompts.jsonl").read_text().splitlines()}
    assert len(tables) > 0
    assert {row["prompt"] for row in tables} <= prompts


def test_histograms_of_ppo_hold_every_response_in_both_trackers(tracked) -> None:
    run = tracked.run("ppo")
    written = [json.loads(line) for line in (run / "histograms.jsonl").read_text().splitlines()]
    assert [set(row) for row in written] == [{"step", "score", "kl", "length"}] * 2
    means = {row["step"]: row for row in metric_rows(run)}
    for row in written:
        for name, metric in (("score", "score"), ("kl", "kl"), ("length", "response_length")):
            mean = sum(row[name]) / len(row[name])
            assert mean == pytest.approx(means[row["step"]][f"objective/{metric}"], rel=1e-4, abs=1e-5)
    drawn = the_session(run).histograms()
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    for name in ("score", "kl", "length"):
        counts = [len(row[name]) for row in written]
        assert [sum(row[name]["values"]) for row in drawn] == counts
        assert [event.histogram_value.num for event in events.Histograms(f"histograms/{name}")] == counts
    scores = [(event.step, event.value) for event in events.Scalars("objective/score")]
    assert scores == [(row["step"], pytest.approx(row["objective/score"])) for row in metric_rows(run)]


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_the_sample_table_of_pairs_holds_held_out_responses(tracked, data, stage) -> None:
    table = the_session(tracked.run(stage)).tables
    first = json.loads((data / "pairs.jsonl").read_text().splitlines()[0])
    assert len(table) == 32
    assert {row["prompt"] for row in table[:2]} == {first["prompt"]}
    assert {row["response"] for row in table[:2]} == {first["chosen"], first["rejected"]}
    assert len({row["score"] for row in table}) > 1
    assert the_session(tracked.run("sft")).tables == []


def test_no_key_and_nothing_of_machine_or_person_is_written(tracked) -> None:
    stages = ("sft", "reward", "dpo", "ppo")
    by_stage = {stage: the_session(tracked.run(stage)) for stage in stages}
    machine, runs = tracked.machine, tracked.runs
    files = [path for path in (*runs.rglob("*"), *machine.home.rglob("*")) if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert any(path.is_relative_to(machine.home) for path in files)
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path
    names = {path.name for path in files}
    assert not names & {"requirements.txt", "wandb-metadata.json", "output.log", "conda-environment.yaml", "diff.patch"}
    for path in (path for path in files if path.is_relative_to(runs) and "wandb" in path.parts):
        content = path.read_bytes()
        assert b"rlhf.cli" not in content, path  # the command line
        if len(socket.gethostname()) > 4:
            assert socket.gethostname().encode() not in content, path
    for stage, session in by_stage.items():
        assert not session.kinds & {"environment", "stats", "output", "output_raw", "uses", "alert"}
        said = tracked.said[stage]
        assert CANARY not in said
        assert said.count(f"wandb sync {session.file.parent}\n") == 1


def test_tracking_changes_no_byte_of_the_training(tracked, tiny_chat_model, data, tmp_path) -> None:
    tracked_run = tracked.run("dpo")
    command = [sys.executable, "-m", "rlhf.cli", "dpo", "--model", str(tiny_chat_model), *SMALL, "--max_steps", "2"]
    files = ["--train_file", str(data / "pairs.jsonl"), "--eval_file", str(data / "pairs.jsonl"), "--allow", "leakage"]
    launched([*command, *files, "--output_dir", str(tmp_path / "plain")], env=tracked.machine.env)
    assert not (tmp_path / "plain" / "wandb").exists()
    name = "adapter_model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tracked_run / name).read_bytes()


def without_clock(row: dict[str, Any]) -> dict[str, Any]:
    clocks = ("_runtime", "_per_second")
    return {name: value for name, value in row.items() if not name.startswith("time/") and not name.endswith(clocks)}


def test_a_resumed_run_goes_on_in_the_same_wandb_run(machine, stage_arguments, tmp_path) -> None:
    run = tmp_path / "run"
    arguments = [*stage_arguments("dpo"), "--per_device_train_batch_size", 2, "--save_steps", 1, "--output_dir", run]
    machine.run("dpo", *arguments, "--max_steps", 3, **machine.offline)
    resumed = ["--max_steps", 5, "--resume_from_checkpoint", run / "checkpoint-2"]
    said = machine.run("dpo", *arguments, *resumed).stdout  # no mode, no key
    first, second = sessions(run / "wandb")
    assert first.run_id == second.run_id
    assert "no key" in said
    assert f"wandb sync {first.file.parent} {second.file.parent}\n" in said
    # steps 1 to 3 went out the first time, with the closing row of step 3, which the rewound run gave up
    assert [row["step"] for row in first.metric_rows()] == [1, 2, 3, 3]
    assert [row["step"] for row in second.metric_rows()] == [4, 5, 5]
    got = [without_clock(row) for session in (first, second) for row in session.metric_rows()]
    for row in metric_rows(run):
        assert got.count(without_clock(row)) == 1
    with serving() as server:
        machine_env = machine.env | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": CANARY}
        launched([sys.executable, "-m", "wandb", "sync", str(run / "wandb")], env=machine_env)
        uploaded = server.rows[first.run_id]
    assert [row["step"] for row in uploaded if "loss" in row] == [1, 2, 3, 4, 5]
    assert [row["_step"] for row in uploaded] == list(range(len(uploaded)))


def test_online_rows_reach_the_server_and_parents_are_asked_for(tracked, machine, stage_arguments, tmp_path) -> None:
    run = tmp_path / "run"
    reward = tracked.run("reward")
    arguments = [*stage_arguments("ppo"), "--max_steps", 2, "--reward_model", reward, "--output_dir", run]
    with serving() as server:
        done = machine.run("ppo", *arguments, WANDB_BASE_URL=server.url, WANDB_API_KEY=CANARY)
    identity = json.loads((run / "tracking.json").read_text())
    uploaded = [row for row in server.rows[identity["run_id"]] if "samples" not in row]
    own = [{name: row[name] for name in row if not name.startswith(("_", "histograms/"))} for row in uploaded]
    assert own == metric_rows(run)
    assert f"online at {server.url}/team/rlhf-loop/runs/{identity['run_id']}" in done.stdout
    assert identity["entity"] == "team"
    # the server knows no artifact of the reward model: said, and no reason to stop
    asked = [variables for _, variables in server.queries if str(variables.get("name", "")).startswith("reward-")]
    assert asked[0]["name"] == f"reward-{the_session(reward).run_id}:latest"
    assert "the reward_model's artifact" in done.stderr
    upserts = [variables for name, variables in server.queries if name == "UpsertBucket"]
    assert {variables["host"] for variables in upserts} <= {None, ""}
    assert {variables["repo"] for variables in upserts} == {None}
    # the key went to the server, and nowhere else
    assert any(server.authorizations)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert CANARY.encode() not in path.read_bytes(), path


def test_a_server_that_cannot_be_reached_makes_the_run_offline(machine, stage_arguments, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    arguments = [*stage_arguments("dpo"), "--max_steps", 1, "--output_dir", tmp_path / "run"]
    env = {"WANDB_BASE_URL": url, "WANDB_API_KEY": CANARY, "WANDB_INIT_TIMEOUT": "2"}
    said = machine.run("dpo", *arguments, **env).stdout
    (session,) = [session for session in sessions(tmp_path / "run" / "wandb") if session.rows]
    assert session.file.parent.name.startswith("offline-run-")
    assert session.metric_rows() == metric_rows(tmp_path / "run")
    assert "recording offline" in said
    assert "connection refused" in said
    assert f"wandb sync {session.file.parent}\n" in said


def test_of_two_processes_one_logs(machine, tiny_chat_model, data, tmp_path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["--model", tiny_chat_model, *SMALL, "--max_steps", 2, "--report_to", "wandb"]
    files = ["--train_file", data / "pairs.jsonl", "--output_dir", tmp_path / "run"]
    command = [*launcher, str(ROOT / "rlhf" / "train_dpo.py"), *map(str, [*arguments, *files])]
    # accelerate takes plain processes on CPUs for processes that know nothing of each other unless it is told
    launched(command, env=machine.env | machine.offline | {"ACCELERATE_USE_CPU": "true"})
    session = the_session(tmp_path / "run")
    assert session.metric_rows() == metric_rows(tmp_path / "run")
    assert Counter(row["step"] for row in session.metric_rows() if "loss" in row) == {1: 1, 2: 1}
    assert metric_rows(tmp_path / "run")[1]["epoch"] == pytest.approx(2 * 2 * 2 / 24)  # two processes took part


def test_without_wandb_installed_it_says_how_to_install_it(machine, tiny_chat_model, data, tmp_path) -> None:
    import wandb

    packages, site = Path(wandb.__file__).parents[1], tmp_path / "site"
    site.mkdir()
    for entry in packages.iterdir():
        if not entry.name.startswith("wandb") and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    (tmp_path / "wandb").mkdir()  # what an earlier run leaves in the current folder
    command = [sys.executable, "-S", "-m", "rlhf.cli", "dpo", "--model", str(tiny_chat_model), "--report_to", "wandb"]
    files = ["--train_file", str(data / "pairs.jsonl"), "--output_dir", str(tmp_path / "run")]
    env = machine.env | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = launched([*command, *files], check=False, cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "error: report_to is 'wandb', which is not installed: pip install 'rlhf-loop[wandb]'" in done.stderr
    assert not (tmp_path / "run").exists()


DIES = """
import os, subprocess, sys
from pathlib import Path
from rlhf.training.run_folder import RunFolder
from rlhf.training.tracking import follow

folder, parent = map(Path, sys.argv[1:])
run = RunFolder.open(folder, stage="dpo", config={}, parents={"backbone": parent}, data_files=[], resume=False)
follow(run, ["wandb"])
run.log({"loss": 1.0, "step": 1})
children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
(service,) = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "wandb-core\\n"]
os.kill(int(service), 9)
os.waitpid(int(service), 0)
for step in range(2, 5):
    run.log({"loss": 1.0, "step": step})
run.finish({"steps": 4})
print("the end")
"""


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="finds the service's process in /proc")
def test_a_run_outlives_the_service_of_wandb(machine, tiny_chat_model, tmp_path) -> None:
    command = [sys.executable, "-c", DIES, str(tmp_path / "run"), str(tiny_chat_model)]
    done = launched(command, env=machine.env | machine.offline)
    assert done.stdout.endswith("the end\n")
    assert done.stderr.count("the run goes on without") == 1
    assert [row["step"] for row in metric_rows(tmp_path / "run")] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "finished"


SESSION = """
import os, sys, time
from pathlib import Path
from rlhf.training.run_folder import RunFolder
from rlhf.training.tracking import follow

folder, parent, steps, ending = Path(sys.argv[1]), sys.argv[2], map(int, sys.argv[3].split(",")), sys.argv[4]
resume = folder.exists()
run = RunFolder.open(folder, stage="dpo", config={}, parents={"backbone": parent}, data_files=[], resume=resume)
follow(run, ["wandb"])
if resume:
    run.rewind(2)
for step in steps:
    run.log({"loss": 1.0 / step, "step": step})
if ending == "killed":
    os.kill(os.getpid(), 9)
run.finish({"steps": 4})
"""


@pytest.mark.parametrize("ending", ["killed", "finished"])
def test_resumed_online_the_server_ends_with_every_row_once(machine, tiny_chat_model, tmp_path, ending) -> None:
    command = [sys.executable, "-c", SESSION, str(tmp_path / "run"), str(tiny_chat_model)]
    with serving() as server:
        env = machine.env | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": CANARY}
        launched([*command, "1,2,3", ending], env=env, check=ending == "finished")
        (rows,) = server.rows.values()
        assert [row["step"] for row in rows] == [1, 2, 3][: len(rows)]
        assert ending == "killed" or len(rows) == 3
        launched([*command, "3,4", "finished"], env=env)
    (rows,) = server.rows.values()
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]


@pytest.fixture
def as_in_the_docs(tiny_chat_model, data, tmp_path) -> Path:
    """A folder in which the paths of docs/tracking.md lead to small things."""
    folder = tmp_path / "user"
    (folder / "runs").mkdir(parents=True)
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "runs" / "sft").symlink_to(tiny_chat_model)
    (folder / "runs" / "comparisons.jsonl").symlink_to(data / "pairs.jsonl")
    return folder


def test_the_commands_of_the_docs_run(machine: Machine, as_in_the_docs: Path, run_as: Callable[..., str]) -> None:
    text = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    report, train, preview, upload = blocks.splitlines()
    assert "recording offline" in run_as(f"{train} --max_steps 1 --gradient_accumulation_steps 1")
    assert "Would sync 1 run" in run_as(preview)
    with serving() as server:
        said = run_as(upload, WANDB_BASE_URL=server.url, WANDB_API_KEY=CANARY)
    assert "Finished syncing" in said
    (rows,) = server.rows.values()
    assert [row["step"] for row in rows if "loss" in row] == [1]
    assert "the report is in runs/dpo/report.html" in run_as(report)
    assert (as_in_the_docs / "runs" / "dpo" / "report.html").stat().st_size > 10_000


@pytest.fixture
def run_as(machine, as_in_the_docs) -> Callable[..., str]:
    """Runs a line of the docs and returns what it says."""
    programs = {"rlhf": "rlhf.cli", "wandb": "wandb"}

    def run(line: str, **env: str) -> str:
        program, *rest = shlex.split(line)
        done = launched([sys.executable, "-m", programs[program], *rest], cwd=as_in_the_docs, env=machine.env | env)
        return done.stdout + done.stderr

    return run
