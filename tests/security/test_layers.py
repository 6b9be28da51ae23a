"""What is in the layers that are built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import cache_from_source, source_hash
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from harness.paths import ROOT, TEMPLATE
from harness.stack.driver_layer import LAYER, keep_what_runs_here
from harness.stack.tools import uv
from tests.support.cloudformation import load

Layers = dict[str, Path]

UNCHECKED = 0b01  # a .pyc file's flags (PEP 552): made from a source with this hash, and not compared with it again
COMPILED = {".so", ".pyd", ".dylib", ".dll", ".a", ".o"}


@pytest.mark.parametrize("layer", ["GovernorLayer", "PowertoolsLayer"])
def test_a_layer_holds_no_compiled_code(layer: str, built_layers: Layers) -> None:
    """Compiled code fits one processor and one Python: on the other architecture each import would fail."""
    files = [path for path in built_layers[layer].rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.suffix in COMPILED or path.read_bytes().startswith(b"\x7fELF")]


def test_the_governor_layer_holds_the_client_its_driver_and_nothing_else(built_layers: Layers) -> None:
    """A local function can import what only this machine has: a missing package would show on AWS alone."""
    inside = {path.name for path in (built_layers["GovernorLayer"] / "python").iterdir() if path.suffix != ".dist-info"}
    assert inside == {"connection_governor", "pymysql"}


def test_the_drivers_layer_fits_each_python_and_processor_of_the_template(built_layers: Layers) -> None:
    """Psycopg without its compiled part looks for a libpq, which Lambda's runtimes lack: each connection would fail."""
    parameters = load(TEMPLATE)["Parameters"]
    versions = [name.removeprefix("python").replace(".", "") for name in parameters["PythonRuntime"]["AllowedValues"]]
    processors = {"arm64": "aarch64", "x86_64": "x86_64"}
    python = built_layers["PostgresqlLayer"] / "python"
    for version, processor in product(versions, parameters["Architecture"]["AllowedValues"]):
        for module in ("_psycopg", "pq"):
            compiled = f"{module}.cpython-{version}-{processors[processor]}-linux-gnu.so"
            assert (python / "psycopg_binary" / compiled).is_file(), compiled
    for library in ("libpq", "libssl"):
        assert len(list((python / "psycopg_binary.libs").glob(f"{library}-*.so*"))) == len(processors), library


def test_the_local_stack_keeps_of_the_driver_what_runs_here(built_layers: Layers, tmp_path: Path) -> None:
    """Too much removed, and no function here connects; too little, and each cold one unpacks 34 MB."""
    shutil.copytree(built_layers["PostgresqlLayer"], tmp_path / LAYER)
    keep_what_runs_here(tmp_path)
    python = tmp_path / LAYER / "python"
    assert len(list(python.glob("psycopg_binary/*.so"))) == 2
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(python)!r}); import psycopg"]
    subprocess.run(command, check=True)


def test_a_function_connects_with_what_the_drivers_layer_brings(built_layers: Layers) -> None:
    """Here the system has a libpq as well: a function that used it would work here, and on AWS not."""
    python = built_layers["PostgresqlLayer"] / "python"
    code = (
        f"import sys; sys.path.insert(0, {str(python)!r}); import psycopg; print(psycopg.pq.__impl__, psycopg.__file__)"
    )
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["binary", str(python / "psycopg" / "__init__.py")]


@pytest.mark.parametrize(("processor", "runtimes"), [("x86_64", 26), ("aarch64", 34)])
def test_the_drivers_layer_needs_no_newer_libc_than_the_runtimes_have(
    processor: str, runtimes: int, built_layers: Layers
) -> None:
    """Amazon Linux 2 (python3.11) has glibc 2.26, Amazon Linux 2023 2.34. For aarch64 a rule excludes the first."""
    machine = {"x86_64": b"\x3e\x00", "aarch64": b"\xb7\x00"}[processor]
    files = [path.read_bytes() for path in (built_layers["PostgresqlLayer"] / "python").rglob("*.so*")]
    needed = {int(n) for file in files if file[18:20] == machine for n in re.findall(rb"GLIBC_2\.(\d+)", file)}
    assert needed
    assert max(needed) <= runtimes


def test_every_module_and_certificate_of_the_package_is_in_the_layer(built_layers: Layers) -> None:
    """A bundle left out would make every verified connection fail, on AWS alone."""
    source = ROOT / "layers" / "governor" / "connection_governor"
    kept = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    target = built_layers["GovernorLayer"] / "python" / "connection_governor"
    assert kept == {path.relative_to(target) for path in target.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert Path("database/rds-ca-bundle.pem") in kept


def test_extensions_stand_where_lambda_runs_them_and_may_be_run(built_layers: Layers) -> None:
    """Lambda runs only executable files in `extensions/`; one below `python/` would be ignored in silence."""
    source = ROOT / "layers" / "governor" / "extensions"
    wanted = {path.name for path in source.iterdir() if path.is_file()} if source.exists() else set()
    target = built_layers["GovernorLayer"] / "extensions"
    built = {path.name for path in target.iterdir()} if target.exists() else set()
    assert built == wanted
    assert all((target / name).stat().st_mode & 0o111 for name in built)


@pytest.mark.parametrize("layer", ["GovernorLayer", "PowertoolsLayer", "PostgresqlLayer"])
def test_a_layer_brings_its_byte_code(layer: str, built_layers: Layers) -> None:
    """Lambda mounts layers read-only: every cold start would compile it all again, and spend half of its time so."""
    for source in (built_layers[layer] / "python").rglob("*.py"):
        code = Path(cache_from_source(str(source))).read_bytes()
        assert int.from_bytes(code[4:8], "little") == UNCHECKED, source
        assert code[8:16] == source_hash(source.read_bytes()), source


def _build(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "build-GovernorLayer", f"ARTIFACTS_DIR={tmp_path}"]
    path = os.pathsep.join([str(Path(uv()).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **variables}
    folder = ROOT / "layers" / "governor"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_build_says_where_the_runtimes_byte_code_is_missing(tmp_path: Path) -> None:
    """Without it every cold start compiles the client, and nothing shows it."""
    runtime = f"python3.{sys.version_info[1]}"
    asked = _build(tmp_path, PYTHON_RUNTIME=runtime)
    assert (asked.returncode, "no byte code" in asked.stdout) == (0, False)
    missing = _build(tmp_path, PYTHON_RUNTIME="python3.99")
    assert missing.returncode != 0
    assert "Error: The GovernorLayer brings no byte code for python3.99" in missing.stdout


def test_the_makefiles_expect_the_templates_runtime() -> None:
    """A warning about another runtime than the functions' would be worse than none."""
    parameter = load(TEMPLATE)["Parameters"]["PythonRuntime"]
    for layer in ("governor", "powertools", "postgresql"):
        text = (ROOT / "layers" / layer / "Makefile").read_text()
        assert f"$(or $(PYTHON_RUNTIME),{parameter['Default']})" in text
        assert set(parameter["AllowedValues"]) <= set(re.findall(r"python3\.\d+", text))


def test_sam_builds_the_layers_in_a_container_of_the_templates_runtime(resources: dict[str, dict[str, Any]]) -> None:
    """`sam build --use-container` takes the first of a makefile layer's runtimes, and compiles for that one."""
    default = load(TEMPLATE)["Parameters"]["PythonRuntime"]["Default"]
    for layer in ("GovernorLayer", "PowertoolsLayer", "PostgresqlLayer"):
        assert resources[layer]["Properties"]["CompatibleRuntimes"][0] == default


def test_a_layer_version_outlives_the_stacks_next_one(resources: dict[str, dict[str, Any]]) -> None:
    """A consumer that names a deleted version fails at its own next update."""
    for layer in ("GovernorLayer", "PowertoolsLayer", "PostgresqlLayer"):
        assert resources[layer]["Properties"]["RetentionPolicy"] == "Retain"
    assert resources["LayerParameter"]["Properties"]["Value"] == {"Ref": "GovernorLayer"}
