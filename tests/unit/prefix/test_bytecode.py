from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from envtool.prefix.bytecode import compile_all, source_of

MODULES = {
    "a.py": "NAMES = frozenset({'x', 'y', 'z'})\ndef f(shared=1): return ('shared', 2.5, b'x', f)\n",
    "b.py": "class A:\n    shared = {'x': 1}\n    def f(self, x): return [s for s in x if s in {'shared', 'q'}]\n",
    "c.py": "import a\ndef f(): return a.f, 'shared', 10**20, ...\n",
    "package/__init__.py": "'''Doc.'''\n",
    "not_python.py": "print 'no'\n",
    "nul.py": "x = '\0'\n",
}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return make(tmp_path / "prefix")


def make(prefix: Path) -> Path:
    for name, text in MODULES.items():
        path = prefix / "lib/python3.9" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return prefix


def compiled(prefix: Path) -> dict[str, bytes]:
    return {str(path.relative_to(prefix)): path.read_bytes() for path in prefix.rglob("*.pyc")}


def test_modules_are_compiled_and_what_is_no_python_is_left_alone(prefix: Path) -> None:
    compile_all(prefix, Path(sys.executable))
    names = {Path(name).name.split(".")[0] for name in compiled(prefix)}
    assert names == {"a", "b", "c", "__init__"}


def test_the_bytes_depend_on_nothing_but_the_module(tmp_path: Path, prefix: Path) -> None:
    compile_all(prefix, Path(sys.executable))
    other = make(tmp_path / "another" / "much-longer" / "prefix")
    compile_all(other, Path(sys.executable))
    assert compiled(prefix) == compiled(other)
    worker = Path(__file__).parents[3] / "envtool/prefix/compile_worker.py"
    names = [f"lib/python3.9/{name}" for name in MODULES]
    for jobs in (1, 5):
        random.Random(jobs).shuffle(names)
        argv = [sys.executable, "-s", "-S", str(worker), str(other), str(jobs)]
        subprocess.run(argv, input="\0".join(names), text=True, check=True, env={"PYTHONHASHSEED": "0"})
        assert compiled(prefix) == compiled(other)


def test_what_the_process_holds_besides_does_not_matter(tmp_path: Path) -> None:
    # marshal looks at reference counts: a name that something else holds too is written in another way.
    (tmp_path / "module.py").write_text("def f(unusual_name): return unusual_name, 'another unusual text'\n")
    script = (
        "import sys; from envtool.prefix import compile_worker; held = [sys.intern(name) for name in sys.argv[2:]]\n"
    )
    script += "compile_worker.compile_file(sys.argv[1], 'module.py')"
    written = set()
    for names in ([], ["unusual_name"], ["unusual_name", "f"]):
        argv = [sys.executable, "-c", script, str(tmp_path / "module.py"), *names]
        subprocess.run(argv, check=True, cwd=Path(__file__).parents[3])
        written |= set(compiled(tmp_path).values())
    assert len(written) == 1


def test_the_import_system_takes_it_and_puts_the_real_path_in(prefix: Path) -> None:
    compile_all(prefix, Path(sys.executable))
    library = prefix / "lib/python3.9"
    before = compiled(prefix)
    script = "import b; print(b.__cached__, b.A.f.__code__.co_filename)"
    argv = [sys.executable, "-c", script]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=library, env={}).stdout.split()
    assert shown[1] == str(library / "b.py")
    assert compiled(prefix) == before


def test_an_edited_source_is_not_hidden_by_its_byte_code(prefix: Path) -> None:
    compile_all(prefix, Path(sys.executable))
    library = prefix / "lib/python3.9"
    (library / "a.py").write_text("print('edited')\n")
    argv = [sys.executable, "-B", "-c", "import a"]
    assert subprocess.run(argv, capture_output=True, text=True, cwd=library).stdout == "edited\n"


def test_stale_byte_code_is_removed(prefix: Path) -> None:
    stale = prefix / "lib/python3.9/__pycache__/gone.cpython-39.pyc"
    stale.parent.mkdir()
    stale.write_bytes(b"stale")
    compile_all(prefix, Path(sys.executable))
    assert not stale.exists()


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("lib/python3.9/__pycache__/os.cpython-39.pyc", "lib/python3.9/os.py"),
        ("__pycache__/x.cpython-39.opt-1.pyc", "x.py"),
        ("lib/os.py", None),
        ("lib/os.pyc", None),
        ("lib/__pycache__/notes.txt", None),
    ],
)
def test_source_of(path: str, source: str | None) -> None:
    assert source_of(path) == source
