from __future__ import annotations

import json
import subprocess
import sys

import pytest

TORCHLESS = [
    "serve",
    "serve.gateway.flask_app",
    "serve.inference.model_instance",
    "serve.publishing.publish",
    "serve.__main__",
    "serve.gunicorn_conf",
    "serve.wsgi",
]
STRANGERS = {"torch", "rattler", "envtool", "safetensors.torch"}
SETTINGS = {"SERVE_MODEL": "m:M", "SERVE_CHECKPOINTS": "ck", "PYTHONPATH": ":".join(sys.path)}


@pytest.mark.parametrize("module", TORCHLESS)
def test_what_the_master_imports_brings_no_torch(module, tmp_path):
    code = f"import sys, {module}; print(sorted({STRANGERS} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, env=SETTINGS, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert shown == "[]\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["serve.cli.publish_commands", "serve.cli.development_commands"])
def test_a_trainers_commands_begin_without_numpy(module):
    code = f"import sys, {module}; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=-1, text=True, check=True).stdout == "False\n"


def test_an_environment_without_torch_is_said_to_be_so(tmp_path):
    code = """if True:
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        from serve.wsgi import app
        server = app.extensions["envserve"]
        server.start()
        server.wait_until_booted(lambda: True)
        print(server.find(None).stable.reloader.status.verdict)
    """
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=SETTINGS, cwd=tmp_path, stdout=-1, stderr=-1, text=True, check=True)
    assert "torch cannot be imported" in ended.stdout
    assert "install torch" in json.loads(ended.stderr)["hint"]


def test_settings_that_cannot_be_used_end_the_server_with_3(tmp_path):
    command = [sys.executable, "-m", "gunicorn", "-c", "python:serve.gunicorn_conf", "serve.wsgi:app"]
    environ = {"PYTHONPATH": SETTINGS["PYTHONPATH"], "SERVE_WORKERS": "0", "SERVE_NAMES": "x"}
    ended = subprocess.run(command, env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: 4 problems in the settings\n")
    assert all(place in ended.stderr for place in ("SERVE_WORKERS", "SERVE_NAMES", "model:", "checkpoints:"))
    assert "Traceback" not in ended.stderr
