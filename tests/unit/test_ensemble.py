"""Several reward models as rows of one pass, and one score out of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from rlhf.algorithms.ensemble import ensemble_score
from rlhf.engine.adapters import adapter_tensors, head_tensors, write_adapter, write_head
from rlhf.engine.backbone import POLICY, REFERENCE, REWARD, VALUE, Backbone, reward_roles
from rlhf.engine.packing import Group, pack
from rlhf.train_ppo import build_backbone, check_reward_models
from rlhf.training.ppo_arguments import PPOArguments
from rlhf.training.run_folder import hash_model

BATCH = pack([Group([5, 9, 13], [[8, 30, 2], [11, 12, 2], [40]]), Group([33, 34], [[35, 2]])])


@pytest.fixture
def base(tiny_model, tmp_path) -> Path:
    tiny_model().save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture
def members(tiny_model, fill_adapter, base, tmp_path) -> list[str]:
    """Two finished reward models on the base, each as if trained apart."""
    folders = []
    for seed, name in enumerate(("first", "second")):
        backbone = Backbone(tiny_model())
        config = LoraConfig(r=4 + seed, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        backbone.add_adapter("reward", config)
        fill_adapter(backbone, "reward", seed=seed)
        head = backbone.add_head("reward")
        torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(10 + seed))
        head.normalise(0.5 * seed, 2.0)
        folder = tmp_path / name
        write_adapter(folder, adapter_tensors(backbone, "reward"), config, backbone_path=str(base))
        write_head(folder, head_tensors(backbone, "reward"), "reward")
        parents = {"backbone": {"path": str(base), "sha256": hash_model(base)}}
        (folder / "manifest.json").write_text(json.dumps({"parents": parents}))
        folders.append(str(folder))
    return folders


def arguments(tmp_path: Path, **settings: object) -> PPOArguments:
    return PPOArguments(output_dir=str(tmp_path / "run"), use_cpu=True, dtype="float32", **settings)


def test_the_score_is_the_mean_less_deviations_over_the_members() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [5.0, 2.0, 3.0]])
    # deviations by hand: sqrt((4 + 0 + 4) / 3), 0, sqrt((1 + 1 + 4) / 3)
    deviations = torch.tensor([(8 / 3) ** 0.5, 0.0, 2**0.5])
    score, deviation = ensemble_score(scores, penalty=0.5)
    torch.testing.assert_close(deviation, deviations)
    torch.testing.assert_close(score, torch.tensor([3.0, 2.0, 1.0]) - 0.5 * deviations)
    assert ensemble_score(scores, penalty=0.0)[0].tolist() == [3.0, 2.0, 1.0]


def test_the_score_is_the_least_of_the_members() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, -4.0], [5.0, 2.0, 3.0]])
    score, deviation = ensemble_score(scores, rule="min")
    assert score.tolist() == [1.0, 2.0, -4.0]
    torch.testing.assert_close(deviation, ensemble_score(scores)[1])
    with pytest.raises(ValueError, match="ensemble_rule is 'median': choose mean or min"):
        ensemble_score(scores, rule="median")


def test_every_member_scores_in_one_pass_as_it_does_alone(members, base, tmp_path) -> None:
    backbone = build_backbone(arguments(tmp_path, reward_model=members), str(base))
    with torch.no_grad():
        together = backbone(BATCH, [REFERENCE, POLICY, VALUE, *reward_roles(2)])
        for role, folder in zip(reward_roles(2), members, strict=True):
            alone = build_backbone(arguments(tmp_path, reward_model=folder), str(base))
            assert together[role.name].scores.equal(alone(BATCH, [REWARD])["reward"].scores)
    assert not together["reward"].scores.allclose(together["reward_2"].scores)


def test_the_value_model_starts_from_the_first(members, base, tmp_path) -> None:
    backbone = build_backbone(arguments(tmp_path, reward_model=members), str(base))
    first, value = adapter_tensors(backbone, "reward"), adapter_tensors(backbone, "value")
    assert value.keys() == first.keys()
    assert all(value[name].equal(tensor) for name, tensor in first.items())


def test_one_reward_model_is_what_it_was() -> None:
    assert reward_roles(1) == [REWARD]
    assert reward_roles(0) == []
    assert [role.name for role in reward_roles(3)] == ["reward", "reward_2", "reward_3"]


def test_parents_carry_the_names_of_their_folders(members, base, tmp_path) -> None:
    first, second = map(Path, members)
    assert check_reward_models([], base) == {}
    assert check_reward_models(members[:1], base) == {"reward_model": first}
    assert check_reward_models(members, base) == {"reward_model_first": first, "reward_model_second": second}
    with pytest.raises(ValueError, match="names a folder twice"):
        check_reward_models([members[0], members[0]], base)


def test_members_of_two_ensembles_carry_the_names_of_their_runs_too(members, base, tmp_path) -> None:
    folders = [tmp_path / run / f"member_{number}" for run in ("one", "two") for number in (1, 2)]
    for folder in folders:
        shutil.copytree(members[0], folder)
    names = ["one/member_1", "one/member_2", "two/member_1", "two/member_2"]
    expected = {f"reward_model_{name}": folder for name, folder in zip(names, folders, strict=True)}
    assert check_reward_models([str(folder) for folder in folders], base) == expected


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"reward_model": ["a", "b"], "ensemble_penalty": -0.5}, "ensemble_penalty is -0.5"),
        ({"reward_model": "a", "ensemble_penalty": 0.5}, "names no ensemble"),
        ({"scorer": "a:b", "ensemble_penalty": 0.5}, "names no ensemble"),
        ({"reward_model": "a", "ensemble_rule": "min"}, "names no ensemble"),
        ({"reward_model": ["a", "b"], "ensemble_rule": "min", "ensemble_penalty": 1.0}, "the minimum takes off enough"),
        ({"reward_model": ["a", "b"], "ensemble_rule": "median"}, "choose mean or min"),
        ({}, "neither is set"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words, tmp_path) -> None:
    with pytest.raises(ValueError, match=words):
        arguments(tmp_path, **settings)


def test_the_run_of_an_ensemble_stands_for_its_members(members, base, tmp_path) -> None:
    run = tmp_path / "ensemble"
    for number, folder in enumerate(members, start=1):
        shutil.copytree(folder, run / f"member_{number}")
    shutil.copytree(members[0], run, dirs_exist_ok=True)
    parts = [str(run / "member_1"), str(run / "member_2")]
    args = arguments(tmp_path, reward_model=str(run), ensemble_rule="min")
    assert args.reward_model == parts
    assert set(check_reward_models(args.reward_model, base)) == {"reward_model_member_1", "reward_model_member_2"}
    alone = arguments(tmp_path, reward_model=parts[0], judge_model=parts[1])
    assert (alone.reward_model, alone.judge_model) == (parts[:1], parts[1])
    for judge in (str(run), parts[1]):
        with pytest.raises(ValueError, match="a judge must stand outside of it"):
            arguments(tmp_path, reward_model=str(run), judge_model=judge)
    with pytest.raises(ValueError, match=r"an ensemble: name one member, such as .*member_1"):
        arguments(tmp_path, reward_model=members[0], judge_model=str(run))
