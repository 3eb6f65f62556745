"""Ledger rows held here (docs/fidelity.md): E3."""

import dataclasses
import json
import math
import typing

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covr_jax import methods
from covr_jax.config import Config
from covr_jax.learner import Learner
from experiments.configuration import as_text, build, changed, from_json, load_preset, resolve, to_json
from experiments.configuration_values import CHOICES, RANGES, field_types


def config_of(*settings: str) -> Config:
    return build(settings=settings).config


def refused(*settings: str) -> str:
    with pytest.raises(ValueError) as caught:
        build(settings=settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults():
    built = build()
    assert built.config == Config()
    assert built.overrides == []


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("learner.guidance.weight=2", "learner.guidance.weight", 2.0),
        ("run.steps=1e5", "run.steps", 100_000),
        ("run.steps=250_000", "run.steps", 250_000),
        ("learner.filters=64, 64,32,32", "learner.filters", (64, 64, 32, 32)),
        ("learner.kernels=(5,3,3,3)", "learner.kernels", (5, 3, 3, 3)),
        ("run.video=False", "run.video", False),
        ("env.action_repeat=4", "env.action_repeat", 4),
        ("env.action_repeat=auto", "env.action_repeat", None),
        ("learner.augmentation=none", "learner.augmentation", "none"),
        ("prior.source=grpc://127.0.0.1:5005", "prior.source", "grpc://127.0.0.1:5005"),
        ("prior.teacher_policy=runs/a=b", "prior.teacher_policy", "runs/a=b"),
    ],
)
def test_settings_are_typed(setting, path, value):
    extra = ["learner.base=sac"] if value == "none" else []
    found = config_of(setting, *extra)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "needed"),
    [
        ("learner.guidence.weight=2", "learner.guidance.weight"),
        ("every=2", "learner.guidance.every"),
        ("learner.psi0=2", "rounds.psi0"),
        ("lerner.discount=0.9", "learner.discount"),
        ("learner.guidance=2", "learner.guidance.every"),
        ("learner.discount", "key=value"),
        ("run.steps=1.5", "whole number"),
        ("run.steps=many", "whole number"),
        ("run.steps=0", "> 0"),
        ("run.seed=-1", "[0, 4294967295]"),
        ("run.video=yes", "true or false"),
        ("learner.discount=1.1", "in [0, 1]"),
        ("learner.discount=nan", "in [0, 1]"),
        ("learner.critic_tau=0", "in (0, 1]"),
        ("learner.critic_lr=inf", ">= 0"),
        ("rounds.holdout=1", "in [0, 1)"),
        ("learner.filters=32,-1,32,32", "> 0"),
        ("learner.filters=", "list of ints"),
        ("learner.filters=32,32", "same length"),
        ("learner.base=dreamer", ", ".join(methods.BASES)),
        ("learner.method=rlvlm", ", ".join(methods.METHODS)),
        ("rounds.eddf.rule=sigmoid", "intended, literal, relaxed"),
        ("env.action_repeat=often", "whole number, or auto"),
        ("prior.source=teacher:expert", "oracle, noisy, half, zeros, random"),
        ("prior.source=grpc://here", "grpc://host:port"),
        ("learner.image_size=120", "render_size 100"),
        ("learner.log_std_min=3", "below learner.log_std_max"),
    ],
)
def test_a_bad_setting_says_what_is_allowed(setting, needed):
    extra = ["learner.augmentation=crop"] if "image_size" in setting else []
    assert needed in refused(*extra, setting)


def test_augmentation_must_fit_the_base():
    assert "base sac allows none" in refused("learner.base=sac", "learner.augmentation=crop")


def test_presets_stack_left_to_right_and_settings_win(tmp_path):
    (tmp_path / "small.toml").write_text("[run]\nsteps = 1000\nseed = 5\n[learner]\nfilters = [8, 8, 8, 8]\n")
    (tmp_path / "long.toml").write_text("[run]\nsteps = 9000\n[learner.guidance]\nweight = 2\n")
    built = build(
        "small,long", {"run.seed": "7", "env.name": None}, ["learner.discount=0.9"], folder=tmp_path
    )
    assert built.config.run.steps == 9000
    assert built.config.run.seed == 7
    assert built.config.learner.filters == (8, 8, 8, 8)
    assert built.config.learner.guidance.weight == 2.0
    assert build("long,small", folder=tmp_path).config.run.steps == 1000
    assert built.overrides == ["preset=small,long", "run.seed=7", "learner.discount=0.9"]


def test_a_later_setting_replaces_a_flag_in_the_overrides():
    built = build(flags={"run.seed": 3}, settings=["run.seed=4"])
    assert built.config.run.seed == 4
    assert built.overrides == ["run.seed=4"]


def test_unknown_preset_lists_the_presets(tmp_path):
    (tmp_path / "smoke.toml").write_text("")
    with pytest.raises(ValueError, match=r"unknown preset 'smok'.*smoke"):
        load_preset("smok", tmp_path)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("[run]\nsteps = '5'\n", "whole number"),  # TOML has types: a text is no number there
        ("[run]\nstep = 5\n", "run.steps"),
        ("[run\n", "preset bad"),
    ],
)
def test_a_bad_preset_is_named(tmp_path, text, needed):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match="preset bad") as caught:
        load_preset("bad", tmp_path)
    assert needed in str(caught.value)


def test_every_preset_of_the_repository_builds():
    from experiments.configuration import PRESETS

    for file in PRESETS.glob("*.toml"):
        resolve(build(file.stem).config)


def test_resolve_fills_what_tables_know():
    for name, base in methods.BASES.items():
        config = resolve(config_of(f"learner.base={name}"))
        assert config.learner.augmentation == base.augmentations[0]
    config = resolve(config_of("learner.discount=0.9"))
    assert config.rounds.discount == 0.9
    assert resolve(config_of("rounds.discount=0.5")).rounds.discount == 0.5
    assert config.env.action_repeat is None  # the environment's to fill in


def test_json_round_trip_is_exact():
    config = resolve(config_of("learner.critic_lr=0.1234567890123456789", "learner.filters=1,2,3,4"))
    assert from_json(to_json(config)) == config
    assert json.loads(to_json(config))["env"]["camera"] is None


def test_older_records_are_read():
    document = json.loads(to_json(Config()))
    del document["run"]["checkpoint_every"]
    assert from_json(json.dumps(document)) == Config()


def test_json_with_unknown_or_missing_fields_is_refused():
    document = json.loads(to_json(Config()))
    document["run"]["speed"] = 3
    with pytest.raises(ValueError, match=r"unknown key 'run\.speed'"):
        from_json(json.dumps(document))
    del document["run"]["speed"], document["rounds"]["eddf"]["rule"]
    with pytest.raises(ValueError, match=r"lacks rounds\.eddf\.rule"):
        from_json(json.dumps(document))
    with pytest.raises(ValueError, match="no valid JSON"):
        from_json("{")
    with pytest.raises(ValueError, match="one JSON object"):
        from_json("[]")


def test_every_field_has_its_rule_and_every_rule_its_field():
    paths = field_types()
    assert set(CHOICES) <= set(paths)
    assert set(RANGES) <= set(paths)
    for path, kind in paths.items():
        kinds = {kind, *typing.get_args(kind)}
        if kinds & {int, float}:
            assert path in RANGES, f"{path} has no range"


def test_every_default_is_allowed():
    assert from_json(to_json(Config())) == Config()


@given(st.sampled_from(sorted(field_types())), st.text(max_size=20))
def test_any_text_is_taken_or_refused_in_one_line(path, text):
    try:
        built = build(settings=[f"{path}={text}"])
    except ValueError as error:
        assert "\n" not in str(error).strip() or "\n" in text
        return
    again = build(settings=built.overrides)
    assert again.config == built.config


def test_as_text_reads_back():
    config = dataclasses.replace(
        Config(), learner=dataclasses.replace(Config().learner, filters=(1, 2, 3, 4))
    )
    assert as_text(config.learner.filters) == "1,2,3,4"
    assert as_text(None) == "auto"
    assert as_text(True) == "true"


def test_the_driving_presets_have_erpvs_learner_and_count_decisions():
    erpv, driving, toy = (resolve(build(name).config) for name in ("erpv_carla", "driving", "toy_driving"))
    assert dataclasses.replace(driving.learner, method="erpv", guidance=erpv.learner.guidance) == erpv.learner
    assert driving.learner.guidance.weight == 2.0  # COVR's on CARLA
    assert (toy.learner.guidance.weight, toy.learner.vpg.weight) == (20.0, 100.0)  # for values of a hundred
    assert driving.rounds.cold_start == toy.rounds.cold_start == 2
    assert driving.run.step_unit == toy.run.step_unit == "decisions"
    assert toy.learner.strides == driving.learner.strides
    assert all(4 * few <= many for few, many in zip(toy.learner.filters, driving.learner.filters, strict=True))


def test_the_racing_preset_has_erpvs_learning_rates():
    """The printed 20^-4 read as 2e-4 (E21)."""
    config = resolve(build("car_racing").config)
    assert (config.env.name, config.env.render_size) == ("car_racing", 84)
    assert config.learner.critic_lr == config.learner.alpha_lr == 2e-4


def test_a_configuration_with_some_fields_changed():
    config = resolve(build("toy_driving").config)
    other = changed(config, ["env.name=toy/jaywalk", "env.driving.weather=hard_rain_noon"])
    assert (other.env.name, other.env.driving.weather) == ("toy/jaywalk", "hard_rain_noon")
    assert dataclasses.replace(other, env=config.env) == config
    with pytest.raises(ValueError, match=r"env\.driving\.weather='snow': must be one of cloudy_noon"):
        changed(config, ["env.driving.weather=snow"])


def test_older_records_without_driving_fields_are_read():
    config = resolve(build("cpu").config)
    document = json.loads(to_json(config))
    del document["env"]["driving"], document["prior"]["task_file"]
    assert from_json(json.dumps(document)) == config


def test_carlas_servers_are_lists_of_ports_and_flags():
    settings = ["env.carla.ports=2000,2010,2020", "env.carla.server=/opt/CarlaUE4.sh", "env.carla.server_flags=-a,-b=c"]
    carla = from_json(to_json(resolve(build(settings=settings).config))).env.carla
    assert carla.ports == (2000, 2010, 2020) and carla.server_flags == ("-a", "-b=c")
    assert carla.server == "/opt/CarlaUE4.sh"
    with pytest.raises(ValueError, match=r"env\.carla\.ports=0: must be in \[1, 65533\]"):
        build(settings=["env.carla.ports=0"])


def test_the_carla_preset_has_the_papers_networks():
    """ERPv, figures 8 to 11: parameters of the encoder, of the heads, of an actor and a critic for two actions."""
    config = resolve(build("erpv_carla").config)
    learner = Learner(config.learner, action_dim=2, frame_stack=config.env.frame_stack)
    params = jax.eval_shape(learner.agent.create, jax.random.PRNGKey(0))

    def count(*names: str) -> int:
        return sum(math.prod(leaf.shape) for name in names for leaf in jax.tree.leaves(params[name]))

    assert count("conv", "critic_head") == 1_434_518
    assert count("transition") == 53_810
    assert count("reward") == 53_810 - 49 * 513  # one output in place of fifty
    assert count("actor") == 50 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 4 + 4
    assert count("critic") == 2 * (52 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 + 1)
    assert config.learner.alpha_beta1 == 0.9
