from __future__ import annotations

HEAD = "channels: [conda-forge]\n"


def test_the_lines_that_conflict_are_named(envtool, write) -> None:
    write(HEAD + "dependencies:\n  - python=3.9\n  - flask=3.1\n  - werkzeug=2.3\n  - pip\n")
    refused = envtool("lock")
    assert refused.returncode == 3
    assert "linux-64 cannot be satisfied:" in refused.stderr
    lines = refused.stderr.splitlines()
    at = lines.index("these 2 lines cannot be satisfied together:")
    assert lines[at + 1 : at + 3] == ["  environment.yml:4: flask=3.1", "  environment.yml:5: werkzeug=2.3"]


def test_every_line_that_is_wrong_is_named_at_once(envtool, write) -> None:
    lines = ["python=3.9", "nonesuch", "flask=3.1", "werkzeug=2.3", "python=99"]
    write(HEAD + "dependencies:\n" + "".join(f"  - {line}\n" for line in lines))
    refused = envtool("lock")
    assert refused.returncode == 3
    alone = [
        "each of these 2 lines cannot be satisfied:",
        "  environment.yml:4: nonesuch (no channel has a package of this name)",
        "  environment.yml:7: python=99 (no channel has such a version or build; the newest is python 3.12.13)",
    ]
    together = ["these 2 lines cannot be satisfied together:", "  environment.yml:5: flask=3.1"]
    for expected in (alone, [*together, "  environment.yml:6: werkzeug=2.3"]):
        assert "\n".join(expected) in refused.stderr


def test_each_platform_has_its_own_reason(envtool, write) -> None:
    text = "platforms: [linux-64, osx-arm64]\ndependencies:\n  - nonesuch  # [linux]\n  - missing  # [osx]\n"
    write(HEAD + text)
    refused = envtool("lock")
    assert refused.returncode == 3
    assert "linux-64 cannot be satisfied" in refused.stderr
    assert "  environment.yml:4: nonesuch (no channel has" in refused.stderr
    assert "osx-arm64 cannot be satisfied" in refused.stderr
    assert "  environment.yml:5: missing (no channel has" in refused.stderr


def test_a_cuda_that_is_not_declared_is_the_cause(envtool, write) -> None:
    write(HEAD + 'dependencies:\n  - python=3.9\n  - "pytorch=2.0.0=cuda118*"\n')
    refused = envtool("lock")
    assert refused.returncode == 3
    assert "the cause is what the target machines are declared to have:\n  no __cuda is declared" in refused.stderr
    assert "hint: raise __cuda under virtual-packages" in refused.stderr


def test_a_glibc_that_is_declared_too_old_is_named_with_its_line(envtool, write) -> None:
    write(HEAD + 'dependencies:\n  - python=3.9\nvirtual-packages:\n  linux-64:\n    __glibc: "2.12"\n')
    refused = envtool("lock")
    assert refused.returncode == 3
    assert "  environment.yml:6: __glibc 2.12; >=2.17" in refused.stderr


def test_a_line_that_is_no_match_spec_is_named_before_anything_is_solved(envtool, write) -> None:
    write(HEAD + "dependencies:\n  - python=3.9\n  - 'numpy[version=1'\n")
    refused = envtool("lock")
    assert refused.returncode == 3
    assert "environment.yml:4: 'numpy[version=1' is not a valid match spec" in refused.stderr
