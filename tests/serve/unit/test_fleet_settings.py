"""The settings of a fleet: what is missing is named, and the address is read."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from serve.errors import FleetError, SettingsError
from serve.fleet.carriers import connect
from serve.settings.settings import load_settings

STATED = {"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": "ck", "SERVE_COMMIT": "fleet"}


def test_a_fleet_without_an_address_is_an_error(tmp_path):
    with pytest.raises(SettingsError, match="fleet: missing"):
        load_settings(STATED, tmp_path)
    assert load_settings({**STATED, "SERVE_COMMIT": "host"}, tmp_path).find().fleet == ""


@pytest.mark.parametrize(
    "stated", ["etcd:h:2379/p", "etcd:http://h:2379", "http://h:2379/p", "etcd:http://h:2379/", "ray:fleet"]
)
def test_another_address_is_an_error(tmp_path, stated):
    with pytest.raises(SettingsError, match="expected etcd:URL,URL/PREFIX or ray:/DIRECTORY"):
        load_settings({**STATED, "SERVE_FLEET": stated}, tmp_path)


def test_every_model_has_keys_of_its_own(tmp_path):
    stated = {**STATED, "SERVE_NAME": "fraud", "SERVE_FLEET": "etcd:https://a:2379,https://b:2379/x/y"}
    keys = connect(load_settings(stated, tmp_path).find())
    assert keys._urls == ("https://a:2379", "https://b:2379")
    assert keys._prefix == "x/y/fraud/stable/"


@pytest.mark.parametrize(
    ("ray", "message"),
    [
        (None, "ray cannot be imported"),
        (SimpleNamespace(__version__="2.9.3"), "expected ray 2.51 or newer, found 2.9.3"),
    ],
)
def test_without_ray_or_with_an_old_one_what_to_install_is_named(tmp_path, monkeypatch, ray, message):
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delitem(sys.modules, "serve.fleet.ray_keys", raising=False)
    settings = load_settings({**STATED, "SERVE_NAME": "fraud", "SERVE_FLEET": "ray:/var/lib/fleet"}, tmp_path).find()
    with pytest.raises(FleetError, match=message) as caught:
        connect(settings)
    assert "envserve[ray]" in caught.value.hint
