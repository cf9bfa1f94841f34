from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf.training import checkpoints

MANIFEST = "checkpoint_manifest.json"


def write_checkpoint(output_dir: Path, step: int, **files: bytes) -> Path:
    staged = output_dir / f".saving-{step}"
    (staged / "value").mkdir(parents=True)
    for name, content in {"a.bin": b"weights", "value/b.json": b'{"x": 1}', **files}.items():
        (staged / name).write_bytes(content)
    final = output_dir / f"checkpoint-{step}"
    checkpoints.finish_checkpoint(staged, final)
    return final


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> dict[str, bytes]:
    """Every file of a checkpoint, by name."""
    folder = write_checkpoint(tmp_path_factory.mktemp("intact"), 7)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- completeness ---------------------------------------------------------------------------------------


def test_a_finished_checkpoint_is_intact_and_nothing_is_left_beside_it(tmp_path) -> None:
    folder = write_checkpoint(tmp_path, 10)
    checkpoints.verify_checkpoint(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert (folder / "value" / "b.json").read_bytes() == b'{"x": 1}'


def test_the_manifest_names_every_file_by_its_sha_256(intact) -> None:
    assert json.loads(intact[MANIFEST])["files"] == {
        # by sha256sum
        "a.bin": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
        "value/b.json": "613fe5aa65343dbb1b9abe6abac6773f5c91bd60d3f2ffb7e2eae69e1db8b227",
    }


def test_the_manifest_is_written_after_everything_else_and_the_name_is_given_last(tmp_path, monkeypatch) -> None:
    events = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"name {Path(b).name}"), replace(a, b)))
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd))
    )
    write_checkpoint(tmp_path, 1)
    order = [events.index(name) for name in ("a.bin", "b.json", MANIFEST, ".saving-1", "name checkpoint-1")]
    assert order == sorted(order)
    assert events[-1] == tmp_path.name, "the new name itself is brought to the disk"


def damaged(tmp_path: Path, intact: dict[str, bytes], name: str, content: bytes | None) -> Path:
    folder = tmp_path / "checkpoint-7"
    for each, original in intact.items():
        path = folder / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(original)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


def test_a_flipped_bit_in_any_byte_and_any_truncation_is_detected(tmp_path, intact) -> None:
    folder = write_checkpoint(tmp_path, 7)
    num_detected = 0
    for name, content in intact.items():
        flipped = (
            content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :]
            for place, byte in enumerate(content)
        )
        for damage in (*flipped, *(content[:length] for length in range(len(content))), content + b"x"):
            (folder / name).write_bytes(damage)
            with pytest.raises(ValueError, match="resume from another"):
                checkpoints.verify_checkpoint(folder)
            num_detected += 1
        (folder / name).write_bytes(content)
    checkpoints.verify_checkpoint(folder)
    assert num_detected == sum(2 * len(content) + 1 for content in intact.values())


@pytest.mark.parametrize("name", ["a.bin", "value/b.json", MANIFEST])
def test_a_missing_file_is_named(tmp_path, intact, name) -> None:
    with pytest.raises(ValueError, match=Path(name).name):
        checkpoints.verify_checkpoint(damaged(tmp_path, intact, name, None))


def test_a_manifest_without_files_is_damaged(tmp_path, intact) -> None:
    with pytest.raises(ValueError, match=f"{MANIFEST} is damaged"):
        checkpoints.verify_checkpoint(damaged(tmp_path, intact, MANIFEST, b'{"fales": {}}'))


# ---- which one to resume from ---------------------------------------------------------------------------


def test_latest_is_the_highest_step_and_not_the_last_name(tmp_path) -> None:
    for step in (2, 10, 9):
        write_checkpoint(tmp_path, step)
    assert checkpoints.find_checkpoint(tmp_path, "latest").name == "checkpoint-10"


def test_latest_falls_back_to_the_newest_intact_one_and_says_so(tmp_path, capsys) -> None:
    for step in (10, 20, 30, 40):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-40" / MANIFEST).unlink()
    (tmp_path / "checkpoint-30" / "a.bin").write_bytes(b"weightz")
    assert checkpoints.find_checkpoint(tmp_path, "latest").name == "checkpoint-20"
    said = capsys.readouterr().err
    assert "checkpoint-20" in said
    assert str(tmp_path / "checkpoint-30" / "a.bin") in said
    assert "checkpoint-40" in said


def test_nothing_is_said_when_the_newest_is_intact(tmp_path, capsys) -> None:
    write_checkpoint(tmp_path, 10)
    checkpoints.find_checkpoint(tmp_path, "latest")
    assert capsys.readouterr() == ("", "")


def test_no_intact_checkpoint_is_an_error_with_every_reason(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint-\* folder there"):
        checkpoints.find_checkpoint(tmp_path, "latest")
    for step in (1, 2):
        (write_checkpoint(tmp_path, step) / "a.bin").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2.*checkpoint-1"):
        checkpoints.find_checkpoint(tmp_path, "latest")


def test_a_checkpoint_asked_for_by_name_is_verified_and_never_replaced_by_another(tmp_path) -> None:
    good, bad = write_checkpoint(tmp_path, 1), write_checkpoint(tmp_path, 2)
    (bad / "a.bin").write_bytes(b"")
    assert checkpoints.find_checkpoint(tmp_path, str(good)) == good
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.find_checkpoint(tmp_path, str(bad))
    with pytest.raises(ValueError, match="no complete checkpoint"):
        checkpoints.find_checkpoint(tmp_path, str(tmp_path / "checkpoint-3"))


def test_what_a_killed_save_leaves_is_no_checkpoint(tmp_path) -> None:
    write_checkpoint(tmp_path, 1)
    for name in (".saving-2", "checkpoint-best", "checkpoint-"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-5").write_text("a file")
    assert checkpoints.find_checkpoint(tmp_path, "latest").name == "checkpoint-1"


def test_saving_a_step_again_replaces_it_whole(tmp_path) -> None:
    write_checkpoint(tmp_path, 1, extra=b"old")
    folder = write_checkpoint(tmp_path, 1, **{"a.bin": b"new"})
    checkpoints.verify_checkpoint(folder)
    assert (folder / "a.bin").read_bytes() == b"new"
    assert not (folder / "extra").exists()


@pytest.mark.parametrize(
    "keep, left", [(None, {2, 9, 10, 100}), (2, {10, 100}), (1, {100}), (0, {100}), (9, {2, 9, 10, 100})]
)
def test_rotation_keeps_the_newest_and_always_one(tmp_path, keep, left) -> None:
    for step in (10, 2, 100, 9):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-notes").mkdir()
    checkpoints.rotate(tmp_path, keep)
    assert {checkpoints.step_of(folder) for folder in checkpoints.checkpoints_in(tmp_path)} == left
    assert (tmp_path / "checkpoint-notes").is_dir()


# ---- optimiser state ------------------------------------------------------------------------------------


def training(optimizer_class: Callable, **options):
    """A small model with its optimiser in two groups, a function of one step, and names of parameters."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, dtype=torch.float32))
    groups = [
        {"params": list(model[0].parameters()), "weight_decay": 0.1},
        {"params": list(model[1].parameters()), "lr": 0.003},
    ]
    optimizer = optimizer_class(groups, lr=0.01, **options)

    def step(seed: int) -> None:
        data = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        model(data).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, step, {parameter: name for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "optimizer_class, options",
    [
        (torch.optim.AdamW, {"betas": (0.85, 0.977), "eps": 1e-5}),
        (torch.optim.AdamW, {"amsgrad": True, "foreach": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.SGD, {}),
        (torch.optim.Adagrad, {}),
    ],
    ids=["adamw", "adamw-amsgrad", "sgd-momentum", "sgd", "adagrad"],
)
def test_an_optimiser_goes_on_bit_by_bit_where_it_stopped(tmp_path, optimizer_class, options) -> None:
    model, optimizer, step, names = training(optimizer_class, **options)
    for seed in range(3):
        step(seed)
    optimizer.param_groups[0]["lr"] = 0.1 / 3  # as a schedule sets it
    checkpoints.save_optimizer(tmp_path, optimizer, names)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for seed in range(3, 6):
        step(seed)

    other, other_optimizer, other_step, other_names = training(optimizer_class, **options)
    other.load_state_dict(weights)
    checkpoints.load_optimizer(tmp_path, other_optimizer, other_names)
    assert other_optimizer.param_groups[0]["lr"] == 0.1 / 3
    for seed in range(3, 6):
        other_step(seed)
    assert all(one.equal(two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    for mine, theirs in zip(optimizer.param_groups, other_optimizer.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k != "params"} == {k: v for k, v in theirs.items() if k != "params"}


def test_state_of_adamw_is_read_back_bit_equal_in_its_own_types(tmp_path) -> None:
    _, optimizer, step, names = training(torch.optim.AdamW)
    step(0)
    checkpoints.save_optimizer(tmp_path, optimizer, names)
    _, other, _, other_names = training(torch.optim.AdamW)
    checkpoints.load_optimizer(tmp_path, other, other_names)
    by_name = {other_names[parameter]: state for parameter, state in other.state.items()}
    assert len(by_name) == 4
    for parameter, state in optimizer.state.items():
        assert state.keys() == by_name[names[parameter]].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in state.items():
            assert value.equal(by_name[names[parameter]][key])
            assert value.dtype == by_name[names[parameter]][key].dtype


def test_an_optimiser_that_has_not_stepped_is_saved_too(tmp_path) -> None:
    _, optimizer, _, names = training(torch.optim.AdamW)
    checkpoints.save_optimizer(tmp_path, optimizer, names)
    _, other, step, other_names = training(torch.optim.AdamW)
    step(0)
    checkpoints.load_optimizer(tmp_path, other, other_names)
    assert not other.state


def test_optimiser_state_of_other_parameters_is_refused(tmp_path) -> None:
    _, optimizer, step, names = training(torch.optim.AdamW)
    step(0)
    checkpoints.save_optimizer(tmp_path, optimizer, names)
    model = torch.nn.Linear(3, 4)
    with pytest.raises(ValueError, match="of other parameters"):
        checkpoints.load_optimizer(
            tmp_path,
            torch.optim.AdamW(model.parameters()),
            {parameter: name for name, parameter in model.named_parameters()},
        )


def test_checkpoints_hold_no_pickles(tmp_path) -> None:
    _, optimizer, step, names = training(torch.optim.AdamW)
    step(0)
    checkpoints.save_optimizer(tmp_path, optimizer, names)
    checkpoints.save_random_states(tmp_path, 0)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


# ---- random states --------------------------------------------------------------------------------------


def draw() -> tuple:
    return (
        [random.random(), random.gauss(0, 1)],
        [float(np.random.rand()), float(np.random.standard_normal())],
        torch.randn(3).tolist(),
    )


@pytest.fixture
def own_random_states():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.mark.parametrize("drawn_before", [0, 1])
def test_random_states_go_on_where_they_were(tmp_path, own_random_states, drawn_before) -> None:
    random.seed(3)
    np.random.seed(4)
    torch.manual_seed(5)
    for _ in range(drawn_before):
        draw()  # leaves half a pair of normal numbers behind in Python's and NumPy's generator
    checkpoints.save_random_states(tmp_path, 0)
    expected = [draw() for _ in range(3)]
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    checkpoints.load_random_states(tmp_path, 0)
    assert [draw() for _ in range(3)] == expected


def test_each_process_has_its_own_random_states(tmp_path, own_random_states) -> None:
    expected = {}
    for process in (0, 1):
        torch.manual_seed(process)
        checkpoints.save_random_states(tmp_path, process)
        expected[process] = torch.randn(3).tolist()
    for process in (1, 0):
        checkpoints.load_random_states(tmp_path, process)
        assert torch.randn(3).tolist() == expected[process]


def test_a_process_that_was_not_there_keeps_its_own(tmp_path, own_random_states) -> None:
    checkpoints.save_random_states(tmp_path, 0)
    torch.manual_seed(9)
    expected = torch.randn(2).tolist()
    torch.manual_seed(9)
    checkpoints.load_random_states(tmp_path, 3)
    assert torch.randn(2).tolist() == expected


def test_checkpoints_of_a_course_given_up_are_set_aside_and_not_found(tmp_path) -> None:
    for step in (2, 4, 6):
        write_checkpoint(tmp_path, step)
    checkpoints.set_aside_later(tmp_path, 2)
    assert checkpoints.find_checkpoint(tmp_path, "latest").name == "checkpoint-2"
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-2",
        "abandoned-checkpoint-4",
        "abandoned-checkpoint-6",
    }
