"""What `envtool deploy render` makes, judged by the tools that it is made for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from envtool.errors import InvalidFileError, MissingFileError, TemplateError
from envtool.templates import find_kind, kinds, render

ROOT = Path(__file__).parents[3]
PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"])
GIVEN = {"install": "envserve[envtool]", "image": "registry.example/serve@sha256:0123"}


def tool(name: str) -> str:
    found = shutil.which(name, path=PLACES)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def make(kind: str, **values: str) -> str:
    template = find_kind(kind)
    names = {variable.name for variable in template.variables}
    return render(template, {**{name: value for name, value in GIVEN.items() if name in names}, **values})


def assert_accepted(*argv: object, **env: str) -> str:
    """Run a tool; it must be content."""
    done = subprocess.run(
        [str(argument) for argument in argv], env={**os.environ, **env}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def envtool(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "envtool", *(str(argument) for argument in arguments)]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True)
    assert done.returncode == code, done.stderr
    return done


def test_every_kind_is_listed_and_explains_its_variables() -> None:
    listed = envtool("deploy", "list").stdout
    for name, kind in kinds().items():
        assert f"{name} " in listed
        assert kind.description, name
        assert all(variable.help for variable in kind.variables), name
    explained = envtool("deploy", "explain", "systemd").stdout
    assert "whether the unit may use NVIDIA's devices (one of cpu, cuda; default: cpu)" in explained
    assert json.loads(envtool("deploy", "explain", "nginx", "--json").stdout)["output"] == "envserve.nginx.conf"


def test_nothing_listens_on_a_public_address_unless_it_is_told_to() -> None:
    # A container's own network is the exception: what reaches it is decided outside.
    for name in set(kinds()) - {"docker", "kubernetes", "kserve", "rayservice"}:
        assert "0.0.0.0" not in make(name), name
    assert "listen 127.0.0.1:8080;" in make("nginx")
    assert "type: ClusterIP" in make("kubernetes")
    assert "kind: NetworkPolicy" in make("rayservice")


@pytest.mark.parametrize("value", ["x\nExecStartPre=/bin/sh", "a b", "../x'", ""])
def test_a_value_cannot_add_a_line(value: str) -> None:
    with pytest.raises(TemplateError, match="user of template systemd: expected a text that matches"):
        make("systemd", user=value)


def test_rendering_is_strict(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="needs install"):
        render(find_kind("github"), {})
    with pytest.raises(TemplateError, match="has no variable colour"):
        make("nginx", colour="red")
    with pytest.raises(TemplateError, match="unknown template 'apache'"):
        find_kind("apache")
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "variables.yml").write_text("kinds:\n  mine: {description: x, colour: red}\n")
    (tmp_path / "deploy" / "mine.txt.j2").write_text("{{ what }}\n")
    with pytest.raises(InvalidFileError, match="unknown key 'colour' in mine"):
        kinds(tmp_path)


def test_a_template_of_ones_own_comes_first(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "variables.yml").write_text("variables:\n  word: {help: a word, default: good}\n")
    (tmp_path / "deploy" / "nginx.conf.j2").write_text("# {{ word }} {{ other }}\n")
    done = envtool("deploy", "render", "nginx", "--templates", tmp_path, "--set", "other=one")
    assert done.stdout == "# good one\n"


WRONG = {
    "undecodable": ("\xff", "wrong.txt.j2 cannot be read: it is not UTF-8 text"),
    "missing": ('one\n{% include "gone" %}', "wrong.txt.j2:2: {}/gone not found"),
    "endless": ('{% include "wrong.txt.j2" %}', "wrong.txt.j2: it includes itself without end"),
    "malformed": ('{% include "parts/bad" %}', "parts/bad:2: "),
    "undefined": ('{% include "parts/undefined" %}', "parts/undefined:2: 'dict object' has no attribute 'b'"),
    "python": ('{% include "parts/zero" %}', "parts/zero:2: division by zero"),
    "absolute": ('{% include "/etc/hostname" %}', "wrong.txt.j2:1: {}//etc/hostname not found"),
    "outside": ('{% include "../variables" %}', "wrong.txt.j2:1: {}/../variables not found"),
    "twice": ("{% block a %}{% endblock %}{% block a %}{% endblock %}", "wrong.txt.j2:1: block 'a' defined twice"),
}


@pytest.mark.parametrize(("written", "message"), WRONG.values(), ids=list(WRONG))
def test_a_template_that_is_wrong_stops_no_other_and_its_error_names_the_file(
    written: str, message: str, tmp_path: Path
) -> None:
    place = tmp_path / "deploy"
    (place / "parts").mkdir(parents=True)
    (place / "variables.yml").touch()
    (place / "wrong.txt.j2").write_bytes(written.encode("latin-1"))
    (tmp_path / "variables").touch()
    (place / "parts" / "zero").write_text("\n{{ 1/0 }}")
    (place / "parts" / "bad").write_text("\n{{ a")
    (place / "parts" / "undefined").write_text("\n{{ {}.b }}")
    assert {"wrong", "nginx"} <= kinds(tmp_path).keys()
    with pytest.raises(TemplateError if written != "\xff" else MissingFileError) as caught:
        render(find_kind("wrong", tmp_path), {})
    assert message.format(place) in str(caught.value)


def test_the_variables_of_a_template_are_those_of_its_parts_but_what_it_gives_them(tmp_path: Path) -> None:
    place = tmp_path / "deploy"
    (place / "parts").mkdir(parents=True)
    (place / "variables.yml").touch()
    (place / "whole.txt.j2").write_text(
        '{% set size = 3 %}{% for each in names.split() %}{% include "parts/one" %}{% endfor %}'
        '{% include "parts/gone" ignore missing %}'
    )
    (place / "parts" / "one").write_text('{{ each }}{{ size }}{% include "parts/two" %}')
    (place / "parts" / "two").write_text("{{ word }} ")
    whole = find_kind("whole", tmp_path)
    assert [variable.name for variable in whole.variables] == ["names", "word"]
    assert render(whole, {"names": "a b", "word": "w"}) == "a3w b3w "


@pytest.mark.parametrize(
    "written",
    [
        '{% include "parts/p" %}{% for x in "ab" %}-{% endfor %}',
        '{% for x in "ab" %}{% endfor %}{% include "parts/p" %}--',
        '{% include "parts/p" %}{% set x = 1 %}--',
        '{% macro m(x) %}{{ x }}{% endmacro %}{% include ["parts/gone", "parts/p"] %}--',
        '{% import "parts/p" as p with context %}{{ p }}{% set x = 1 %}--',
    ],
)
def test_what_a_template_gives_elsewhere_is_not_given_to_its_part(written: str, tmp_path: Path) -> None:
    place = tmp_path / "deploy"
    (place / "parts").mkdir(parents=True)
    (place / "variables.yml").touch()
    (place / "whole.txt.j2").write_text(written)
    (place / "parts" / "p").write_text("{{ x }}")
    whole = find_kind("whole", tmp_path)
    assert [variable.name for variable in whole.variables] == ["x"]
    assert render(whole, {"x": "v"}) == "v--"


def test_what_is_extended_has_what_is_given_anywhere(tmp_path: Path) -> None:
    place = tmp_path / "deploy"
    (place / "parts").mkdir(parents=True)
    (place / "variables.yml").touch()
    (place / "whole.txt.j2").write_text('{% extends "parts/p" %}{% set x = 1 %}')
    (place / "parts" / "p").write_text("{{ x }}{{ y }}")
    whole = find_kind("whole", tmp_path)
    assert [variable.name for variable in whole.variables] == ["y"]
    assert render(whole, {"y": "v"}) == "1v"


def test_a_file_is_compared_and_never_written_over_unasked(tmp_path: Path) -> None:
    path = tmp_path / "start"
    envtool("deploy", "render", "gunicorn", "-o", path)
    assert path.stat().st_mode & 0o777 == 0o755
    envtool("deploy", "render", "gunicorn", "-o", path, "--check")
    path.write_text(path.read_text() + "echo mine\n")
    assert "+echo mine" in envtool("deploy", "render", "gunicorn", "-o", path, "--check", code=1).stdout
    assert "already exists with other content" in envtool("deploy", "render", "gunicorn", "-o", path, code=3).stderr
    envtool("deploy", "render", "gunicorn", "-o", path, "--force")
    envtool("deploy", "render", "gunicorn", "-o", path, "--check")


def test_the_start_script(tmp_path: Path) -> None:
    path = tmp_path / "start"
    path.write_text(make("gunicorn"))
    assert_accepted(tool("bash"), "-n", path)


def test_shellcheck_finds_nothing_in_the_start_script(tmp_path: Path) -> None:
    path = tmp_path / "start"
    path.write_text(make("gunicorn"))
    assert_accepted(tool("shellcheck"), path)


@pytest.mark.parametrize("values", [{}, {"device": "cuda", "network": "any", "memory_max": "8G"}], ids=["cpu", "cuda"])
def test_systemd_accepts_the_unit_and_finds_it_hardened(tmp_path: Path, values: dict[str, str]) -> None:
    analyze = tool("systemd-analyze")
    # It checks that the program is there.
    (tmp_path / "start").write_text("#!/bin/sh\n")
    (tmp_path / "start").chmod(0o755)
    unit = tmp_path / "envserve.service"
    unit.write_text(make("systemd", root=str(tmp_path), **values))
    assert assert_accepted(analyze, "verify", "--man=no", unit) == ""
    # 10 is no protection at all; a threshold makes it an error.
    assert_accepted(analyze, "security", "--offline=yes", "--threshold=25", unit)


def certificate(directory: Path) -> dict[str, str]:
    files = {"certificate": directory / "cert.pem", "certificate_key": directory / "key.pem"}
    assert_accepted(
        tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
        "-out", files["certificate"], "-keyout", files["certificate_key"],
    )  # fmt: skip
    return {name: str(path) for name, path in files.items()}


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_nginx_accepts_the_site(tmp_path: Path, is_tls: bool) -> None:
    nginx = tool("nginx")
    (tmp_path / "site.conf").write_text(make("nginx", **(certificate(tmp_path) if is_tls else {})))
    whole = f"pid {tmp_path}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{ include {tmp_path}/site.conf; }}\n"
    (tmp_path / "nginx.conf").write_text(whole)
    assert_accepted(nginx, "-t", "-q", "-p", tmp_path, "-c", tmp_path / "nginx.conf")


def test_logrotate_accepts_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text(make("logrotate", root=str(tmp_path), user="root"))
    path.chmod(0o644)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "serve.log").write_text("a line\n")
    said = assert_accepted(tool("logrotate"), "--debug", "--state", tmp_path / "state", path)
    assert "error" not in said
    assert "considering log" in said


@pytest.mark.parametrize(("kind", "schema"), [("github", "github-workflows"), ("gitlab", "gitlab-ci")])
def test_a_pipeline_is_what_its_schema_says(tmp_path: Path, kind: str, schema: str) -> None:
    checks, publishes = tmp_path / "checks.yml", tmp_path / "publishes.yml"
    checks.write_text(make(kind))
    publishes.write_text(make(kind, publish="make publish"))
    assert_accepted(tool("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", checks, publishes)


@pytest.mark.parametrize(("kind", "schema"), [("github-lock", "github-workflows"), ("gitlab-lock", "gitlab-ci")])
def test_a_job_that_locks_anew_is_what_its_schema_says(tmp_path: Path, kind: str, schema: str) -> None:
    path, script = tmp_path / "job.yml", tmp_path / "script"
    path.write_text(make(kind))
    assert_accepted(tool("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", path)
    job = yaml.safe_load(path.read_text())
    steps = (
        job["jobs"]["lock"]["steps"]
        if kind == "github-lock"
        else [{"run": each} for each in job["lock anew"]["script"]]
    )
    commands = "\n".join(step.get("run", "") for step in steps)
    script.write_text(commands)
    assert_accepted(tool("bash"), "-n", script)
    assert "envtool lock --upgrade" in commands
    assert "envtool diff -f 'conda-lock.yml' --markdown" in commands
    if kind == "gitlab-lock":
        compile(commands.partition("<<'END'\n")[2].partition("\nEND")[0], "job", "exec")


def test_the_pipeline_of_jenkins_closes_what_it_opens() -> None:
    # Jenkins alone can judge its own language; there is no linter outside of a running server.
    for publish in ("", "make publish"):
        text = "\n".join(line.partition("//")[0] for line in make("jenkins", publish=publish).splitlines())
        assert text.count("{") == text.count("}")
        assert text.count("'") % 2 == 0


def test_hadolint_finds_nothing_in_the_image(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(make("docker"))
    assert_accepted(tool("hadolint"), path)


@pytest.mark.parametrize(
    ("values", "count"),
    [({}, 5), ({"gpus": "1", "storage_class": "nfs"}, 5), ({"etcd_image": "registry.example/etcd:3.5"}, 9)],
    ids=["cpu", "gpu", "fleet"],
)
def test_the_manifests_are_what_kubernetes_schemas_say(tmp_path: Path, values: dict[str, str], count: int) -> None:
    path = tmp_path / "manifests.yml"
    path.write_text(make("kubernetes", **values))
    said = assert_accepted(tool("kubernetes-validate"), "--strict", path)
    assert said.count("passed") == count


def manifests(kind: str, **values: str) -> dict[str, dict]:
    return {one["kind"]: one for one in yaml.safe_load_all(make(kind, name="word", **values))}


def pods(kind: str, **values: str) -> list[dict]:
    """What a pod that serves is made of."""
    found = manifests(kind, **values)
    if kind == "kubernetes":
        return [found["Deployment"]["spec"]["template"]["spec"]]
    if kind == "kserve":
        runtime = found["ServingRuntime"]["spec"]
        return [{name: runtime[name] for name in ("containers", "volumes")}]
    cluster = found["RayService"]["spec"]["rayClusterConfig"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


ETCD = {"etcd_image": "registry.example/etcd:3.5"}


@pytest.mark.parametrize(
    ("kind", "values", "carrier"),
    [
        ("kubernetes", ETCD, "etcd:http://word-etcd:2379/word"),
        ("kserve", ETCD, "etcd:http://word-etcd:2379/word"),
        ("rayservice", {}, "ray:/srv/app/fleet"),
    ],
)
def test_pods_of_a_fleet_serve_by_settings_that_there_are(kind: str, values: dict[str, str], carrier: str) -> None:
    # For Ray it is the default, which `serve.ray_app` gives.
    keywords = {"commit": "fleet"} if kind == "rayservice" else {}
    script = (
        "import os, pathlib; from serve.settings.settings import load_settings;"
        f"found = load_settings(os.environ, pathlib.Path.cwd(), {keywords}).find(None);"
        "print(found.commit, found.fleet, found.fleet_cut_off, found.fleet_host)"
    )
    for pod in pods(kind, **values):
        stated = {one["name"]: one.get("value", "word-7d9f") for one in pod["containers"][0]["env"]}
        said = assert_accepted(sys.executable, "-c", script, **{"SERVE_MODEL": "models:Word", **stated})
        assert said == f"fleet {carrier} refuse word-7d9f\n"


def test_what_is_not_kubernetes_own_holds_pods_and_is_for_the_images_that_we_render(tmp_path: Path) -> None:
    """Which `envtool deploy render docker` describes: where it has the environment, and the application."""
    path, dockerfile = tmp_path / "pods.yml", make("docker")
    found = [*pods("rayservice", gpus="1"), *pods("kserve", **ETCD)]
    made = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "word"}, "spec": pod} for pod in found]
    others = [*manifests("rayservice").values(), *manifests("kserve").values()]
    made += [one for one in others if one["kind"] in ("PersistentVolumeClaim", "NetworkPolicy")]
    path.write_text(yaml.safe_dump_all(made))
    assert assert_accepted(tool("kubernetes-validate"), "--strict", path).count("passed") == len(made) == 6
    for pod in pods("rayservice"):
        assert f"COPY --from=environment /opt/env-digest {pod['containers'][0]['command'][1]} " in dockerfile
    served = yaml.safe_load(manifests("rayservice")["RayService"]["spec"]["serveConfigV2"])["applications"][0]
    assert f"WORKDIR {Path(served['args']['settings']).parent}\n" in dockerfile
    for each in ("rayservice", "kserve"):
        mounted = [mount["mountPath"] for pod in pods(each) for mount in pod["containers"][0]["volumeMounts"]]
        assert {"/srv/app/checkpoints", "/srv/app/store"} <= set(mounted)


def close(schema: dict) -> None:
    """Make a schema refuse what it does not name, as `kubectl apply --validate=strict` does."""
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for each in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(each, dict):
            close(each)


@pytest.mark.parametrize("values", [{}, {"gpus": "1", **ETCD}], ids=["cpu", "gpu"])
@pytest.mark.parametrize("kind", ["rayservice", "kserve"])
def test_the_operators_own_schemas_accept_what_is_theirs(kind: str, values: dict[str, str]) -> None:
    """Their definitions are the YAML files below `config/crd` in the repositories of KubeRay and KServe."""
    from jsonschema import Draft202012Validator

    place = os.environ.get("ENVTOOL_TEST_CRDS", "")
    if not place:
        pytest.skip("ENVTOOL_TEST_CRDS names no directory with the definitions of KubeRay and KServe")
    schemas = {}
    for path in Path(place).glob("*.yaml"):
        stated = yaml.safe_load(path.read_text())["spec"]
        for version in stated["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            close(schema)
            schema["properties"]["metadata"] = {"type": "object"}
            schemas[f"{stated['group']}/{version['name']}", stated["names"]["kind"]] = schema
    found = manifests(kind, **{name: value for name, value in values.items() if kind == "kserve" or name == "gpus"})
    theirs = [one for one in found.values() if (one["apiVersion"], one["kind"]) in schemas]
    assert [one["kind"] for one in theirs] == {
        "rayservice": ["RayService"], "kserve": ["ServingRuntime", "InferenceService"]
    }[kind]  # fmt: skip
    for one in theirs:
        errors = Draft202012Validator(schemas[one["apiVersion"], one["kind"]]).iter_errors(one)
        assert [f"{error.json_path}: {error.message}" for error in errors] == []


def inventory(directory: Path) -> Sequence[object]:
    (directory / "hosts").write_text(
        f"[envserve]\nlocalhost ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    )
    return "-i", directory / "hosts"


@pytest.mark.parametrize("become", ["true", "false"])
def test_ansible_accepts_the_playbook(tmp_path: Path, become: str) -> None:
    playbook = tool("ansible-playbook")
    (tmp_path / "deploy.yml").write_text(make("ansible", become=become, root=str(tmp_path / "srv")))
    own = {"ANSIBLE_HOME": str(tmp_path), "ANSIBLE_LOCALHOST_WARNING": "False"}
    assert_accepted(playbook, *inventory(tmp_path), "--syntax-check", tmp_path / "deploy.yml", **own)
