"""Ranges and values of a sweep over an app, in hydra.sweeper.params and on the command line as people write them."""

import pytest

from harness.core.errors import ConfigError
from harness.sweep.programs.hydra_app.app_space import (
    apply_fixed_overrides,
    check_jobs_compose,
    list_fixed_settings,
    read_app_overrides,
    read_current_values,
)
from harness.sweep.space.search_space import read_search_space
from tests.sweep.programs.hydra_app.apps import open_multirun


@pytest.mark.parametrize(
    ("params", "arguments", "ranges", "fixed"),
    [
        ({"lr": "interval(1e-4, 1e-1)"}, [], ["lr=interval(1e-4, 1e-1)"], []),
        ({"model.net.size": "choice(64, 128)"}, ["seed=1"], ["model.net.size=choice(64, 128)"], ["seed=1"]),
        ({"x": "range(-5.5, 5.5, step=0.5)", "y": "choice(-5 ,0 ,5)"}, ["y=0", "~z"],
         ["x=range(-5.5, 5.5, step=0.5)"], ["y=0", "~z"]),
        ({"a": "16, 32"}, ["a=1,2"], ["a=1,2"], []),
        ({"a": "1,2"}, ["++a=3"], [], ["++a=3"]),
        ({"a": "1,2"}, ["~a"], [], ["~a"]),
        ({"lr": 0.1, "epochs": 3, "amp": True, "tag": None, "sizes": [1, 2]}, [], [],
         ["lr=0.1", "epochs=3", "amp=true", "tag=null", "sizes=[1,2]"]),
        ({"+new": "1,2"}, ["+other=a,b"], ["+new=1,2", "+other=a,b"], []),
        ({"opt@feat": "adam,sgd"}, ["data@train=a,b"], ["opt@feat=adam,sgd", "data@train=a,b"], []),
        ({"lr": "choice(0.1)"}, ["x=range(3,4)"], [], ["lr=0.1", "x=3"]),
        ({}, ["lr=interval(1,1)", "a=interval(0.5,0.5)", "s=choice('a,b')"], [], ["lr=1", "a=0.5", "s='a,b'"]),
        ({"n": "shuffle(range(5,8))"}, ["m=shuffle(a,b)"], ["n=range(5,8)", "m=a,b"], []),
        ({"sizes": "[1,2],[3,4]"}, [], ["sizes=[1,2],[3,4]"], []),
        ({"lr": "log(1e-4,1e-2)"}, ["n=int(log(2,64))"], ["lr=log(1e-4,1e-2)", "n=int(log(2,64))"], []),
        ({}, ["hint='a,b'", "url=${oc.env:URL}"], [], ["hint='a,b'", "url=${oc.env:URL}"]),
    ],
)  # fmt: skip
def test_ranges_and_values_are_told_apart(params, arguments, ranges, fixed) -> None:
    assert read_app_overrides(params, arguments) == (ranges, fixed)


@pytest.mark.parametrize(
    ("params", "arguments", "message"),
    [
        ({"model": {"lr": "1,2"}}, [], "hydra.sweeper.params.model: a section, not a range; write model.lr: RANGE"),
        ({"lr": "uniform(0.01, 10.0)"}, [], "hydra.sweeper.params: lr=uniform(0.01, 10.0): "),
        ({"lr": "interval(1, 0)"}, [], "hydra.sweeper.params: lr=interval(1, 0): the lower bound is above"),
        ({}, ["x=range(3,3)"], "x=range(3,3): the range is empty"),
        ({}, ["experiment=glob(*)"], "experiment=glob(*): glob is not supported in a sweep"),
    ],
)
def test_what_cannot_be_searched_is_named(params, arguments, message) -> None:
    with pytest.raises(ConfigError) as error:
        read_app_overrides(params, arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


APP = """
lr: 0.1
sizes: [1, 2]
required: ???
linked: ${lr}
late: ${oc.env:NO_SUCH_VARIABLE}
kind: a
"""


def test_current_values_are_those_of_the_configuration(tmp_path) -> None:
    with open_multirun(tmp_path, APP) as (_, cfg):
        space = read_search_space(
            ["lr=1,2", "sizes=[1,2],[3]", "required=1,2", "linked=1,2", "late=1,2", "+new=1,2", "kind=a,b"], {}, {}
        )
        assert read_current_values(cfg, space) == {"lr": 0.1, "sizes": [1, 2], "linked": 0.1, "kind": "a"}


def test_values_that_all_trials_share_are_settings_as_if_they_had_been_typed(tmp_path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/adam.yaml").write_text("lr: 0.1\n")
    (tmp_path / "opt/sgd.yaml").write_text("lr: 0.1\nmomentum: 0.9\n")
    app = "defaults: [{opt: adam}, _self_]\nlr: 0.1\nx: 1\nn: 4\nz: 5\n"
    arguments = ["lr=interval(1,1)", "opt=choice(sgd)", "x=1,2", "+new=range(3,4)", "z=${lr}"]
    with open_multirun(tmp_path, app, *arguments) as (context, cfg):
        overrides = read_app_overrides({"n": 8}, arguments)
        applied = apply_fixed_overrides(cfg, context.config_loader, overrides)
        assert list_fixed_settings(applied, read_search_space(overrides.ranges, {}, {})) == {
            "opt.lr": "0.1", "opt.momentum": "0.9", "lr": "1", "n": "8", "new": "3", "z": "${lr}",
        }  # fmt: skip
        assert applied.hydra.runtime.choices.opt == "sgd"
        plain = read_app_overrides({}, ["z=${lr}", "x=1,2"])
        assert apply_fixed_overrides(cfg, context.config_loader, plain) is cfg


def test_both_ends_of_ranges_are_composed(tmp_path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/adam.yaml").write_text("lr: 0.1\n")
    (tmp_path / "opt/sgd.yaml").write_text("lr: 0.1\nmomentum: 0.9\n")
    with open_multirun(tmp_path, "defaults: [{opt: adam}, _self_]\n", "opt=sgd,adam") as (context, cfg):
        loader, options = context.config_loader, {"opt": "adam"}
        check_jobs_compose(loader, cfg, read_search_space(["opt=adam,sgd", "opt.lr=1,2"], {}, options), [])
        for ranges, message in {
            (
                "opt.lrr=1,2",
            ): "opt.lrr=1: Could not override 'opt.lrr'; To append to your config use +opt.lrr=1; did you mean",
            ("opt=adam,sdg",): "opt=sdg: In 'config': Could not find 'opt/sdg'; the options are adam, sgd",
            ("opt=adam,sgd", "opt.momentum=1,2"): "opt.momentum=1: Could not override 'opt.momentum'",
        }.items():
            with pytest.raises(ConfigError) as error:
                check_jobs_compose(loader, cfg, read_search_space(ranges, {}, options), [])
            assert str(error.value).startswith(message)
            assert "\n" not in str(error.value)


def test_settings_that_all_trials_share_have_no_times_and_paths(tmp_path) -> None:
    config = (
        "lr: 0.1\ndata: {name: mnist, root: /scratch/data}\nstarted: ${now:%Y}\nout: ${hydra:runtime.output_dir}\n"
        "n: ???\ndb: postgresql://user:password@host/db\nopt: {name: adam, beta: 0.9}\n"
    )
    with open_multirun(tmp_path, config) as (_, cfg):
        settings = list_fixed_settings(cfg, read_search_space(["lr=1,2", "opt=a,b", "+x=1,2"], {}, {}))
    assert settings == {
        "data.name": "mnist", "started": "${now:%Y}", "out": "${hydra:runtime.output_dir}", "n": "???",
        "db": "postgresql://***@host/db",
    }  # fmt: skip
