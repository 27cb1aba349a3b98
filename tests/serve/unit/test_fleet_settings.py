"""The settings of a fleet: what is missing is named, and the address is read."""

from __future__ import annotations

import pytest

from serve.errors import SettingsError
from serve.fleet.etcd import connect
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
