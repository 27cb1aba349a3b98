from __future__ import annotations

import pytest

from serve.errors import SettingsError
from serve.settings.settings import FIELDS, load_settings

LEAST = 'model = "m:M"\ncheckpoints = "ck"\n'


def load(directory, toml=LEAST, **environ):
    if toml is not None:
        (directory / "serve.toml").write_text(toml)
    return load_settings(environ, directory)


def places(caught):
    return [issue.place for issue in caught.value.issues]


def test_defaults(tmp_path):
    server = load(tmp_path)
    settings = server.find()
    assert settings.name == "M"
    assert settings.checkpoints == tmp_path / "ck"
    assert server.bind == "127.0.0.1:8000"
    assert (settings.workers, settings.watch, settings.model_args) == (2, "auto", {})


def test_a_variable_wins_over_the_file(tmp_path):
    environ = {
        "SERVE_POLL_S": "0.5",
        "SERVE_KEEP": "7",
        "SERVE_MODEL_ARGS": '{"hidden": 8}',
        "SERVE_ALLOWED_PICKLES": "a" * 64 + ", " + "b" * 64,
        "SERVE_PYTHON_PATH": "/one:two",
    }
    settings = load(tmp_path, LEAST + "poll_s = 3\n", **environ).find()
    assert (settings.poll_s, settings.keep, settings.model_args) == (0.5, 7, {"hidden": 8})
    assert settings.allowed_pickles == {"a" * 64, "b" * 64}
    assert [str(path) for path in settings.python_path] == ["/one", str(tmp_path / "two")]


def test_paths_are_relative_to_the_file_that_states_them(tmp_path):
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (elsewhere / "my.toml").write_text(LEAST)
    settings = load(tmp_path, None, SERVE_CONFIG="etc/my.toml", SERVE_STORE="here").find()
    assert settings.checkpoints == elsewhere / "ck"
    assert settings.store == tmp_path / "here"


def test_all_problems_are_told_at_once(tmp_path):
    toml = 'model = "no colon"\npol_s = 1\nwatch = "never"\nkeep = true\n[model_args]\n'
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, toml, SERVE_WORKERS="many", SERVE_WORKRES="2")
    assert sorted(places(caught)) == [
        "SERVE_WORKERS",
        "SERVE_WORKRES",
        "checkpoints",
        "serve.toml: keep",
        "serve.toml: model",
        "serve.toml: pol_s",
        "serve.toml: watch",
    ]
    hints = {issue.place: issue.hint for issue in caught.value.issues}
    assert hints["SERVE_WORKRES"] == "did you mean SERVE_WORKERS?"
    assert hints["serve.toml: pol_s"] == "did you mean poll_s?"
    assert all(issue.hint for issue in caught.value.issues)
    assert all(place in caught.value.message for place in places(caught))


def test_a_file_that_is_no_toml(tmp_path):
    with pytest.raises(SettingsError, match="not TOML"):
        load(tmp_path, "model = m:M\n")


def test_a_named_file_must_be_there(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, None, SERVE_CONFIG="nowhere.toml")
    assert places(caught)[0] == "SERVE_CONFIG"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SERVE_POLL_S", "nan"),
        ("SERVE_POLL_S", "0"),
        ("SERVE_POLL_S", "soon"),
        ("SERVE_KEEP", "0"),
        ("SERVE_KEEP", "1.5"),
        ("SERVE_NAME", "two words"),
        ("SERVE_NAME", "line\nbreak"),
        ("SERVE_DEVICE", " "),
        ("SERVE_MODEL_ARGS", "hidden=8"),
        ("SERVE_MODEL_ARGS", "[8]"),
        ("SERVE_ALLOWED_PICKLES", "abc"),
        ("SERVE_MODEL", "a:b:c"),
        ("SERVE_MODEL", "os; import x:y"),
    ],
)
def test_values_that_do_not_fit(tmp_path, variable, value):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, **{variable: value})
    assert places(caught) == [variable]
    assert "expected" in caught.value.issues[0].message


def test_every_default_is_a_value_that_its_own_parser_takes(tmp_path):
    for field in FIELDS:
        stated = field.default_as_json()
        if stated:
            field.parse(stated["default"], tmp_path)


SEVERAL = """
model = "m:Shared"
poll_s = 3
[models.a]
checkpoints = "ck/a"
[models.a.canary]
checkpoints = "ck/next"
share = 0.25
[models.b]
model = "m:Other"
checkpoints = "ck/b"
poll_s = 4
store = "own"
[models.b.shadow]
checkpoints = "ck/dark"
device = "cuda"
"""


def test_several_models_take_over_what_stands_at_the_top(tmp_path):
    found = load(tmp_path, SEVERAL).by_name
    assert list(found) == ["a", "a@canary", "b", "b@shadow"]
    assert [(each.name, each.label, each.model, each.poll_s) for each in found.values()] == [
        ("a", "stable", "m:Shared", 3),
        ("a", "canary", "m:Shared", 3),
        ("b", "stable", "m:Other", 4),
        ("b", "shadow", "m:Other", 4),
    ]
    assert [each.share for each in found.values()] == [1.0, 0.25, 1.0, 1.0]
    assert (found["b"].device, found["b@shadow"].device) == ("cpu", "cuda")


def test_every_label_has_a_watched_place_and_a_store_of_its_own(tmp_path):
    found = load(tmp_path, SEVERAL, SERVE_STORE="stores").by_name.values()
    assert [str(each.store.relative_to(tmp_path)) for each in found] == [
        "stores/a",
        "stores/a@canary",
        "own",
        "own@shadow",
    ]
    assert [each.checkpoints.name for each in found] == ["a", "next", "b", "dark"]


def test_a_variable_wins_over_the_tables_of_all_models(tmp_path):
    assert {each.poll_s for each in load(tmp_path, SEVERAL, SERVE_POLL_S="9").by_name.values()} == {9}


def test_what_is_wrong_with_several_models(tmp_path):
    toml = """
checkpoints = "everywhere"
[models.a]
model = "m:M"
checkpoints = "ck/a"
bind = "0.0.0.0:1"
colour = "red"
[models.a.canary]
share = 2
[models."no word"]
model = "m:M"
checkpoints = "ck/b"
"""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, toml, SERVE_MODEL="m:M")
    assert sorted(places(caught)) == [
        "SERVE_MODEL",
        "serve.toml: [models.a.canary] checkpoints",
        "serve.toml: [models.a.canary] share",
        "serve.toml: [models.a] bind",
        "serve.toml: [models.a] colour",
        "serve.toml: [models.no word]",
        "serve.toml: checkpoints",
    ]
    hints = {issue.place: issue.hint for issue in caught.value.issues}
    assert hints["serve.toml: [models.a] bind"] == "the whole server has one of it: put it at the top"


@pytest.mark.parametrize("toml", ["models = 3\n", "[models]\n", "[models]\na = 1\n"])
def test_models_that_are_no_tables(tmp_path, toml):
    with pytest.raises(SettingsError, match="expected"):
        load(tmp_path, toml)


def test_one_of_several_must_be_named(tmp_path):
    server = load(tmp_path, SEVERAL)
    assert server.find("a@canary").label == "canary"
    with pytest.raises(SettingsError, match="expected a or a@canary or b or b@shadow, found none"):
        server.find()
    with pytest.raises(SettingsError, match="found c"):
        server.find("c")
