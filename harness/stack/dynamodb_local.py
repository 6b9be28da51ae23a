"""DynamoDB Local, the engine that concurrency is proven on: fetched by npm, run in memory on loopback."""

import contextlib
import http.client
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from harness.errors import StackError
from harness.paths import TOOLS
from harness.stack.packages import require_program
from harness.stack.processes import LOOPBACK, free_port, short_folder, start, stop, wait_until_ready

# An npm package that carries DynamoDBLocal.jar as it is.
PACKAGE = "amplify-dynamodb-simulator@2.9.30"
FOLDER = TOOLS / "dynamodb-local"
CONFIGURATION = Path(__file__).with_suffix(".xml")
START_TIMEOUT_S = 60.0


def fetch() -> Path:
    """Return the folder with DynamoDBLocal.jar, after fetching it if it is missing.

    Raises:
        StackError: npm is missing, or could not fetch the package.
    """
    emulator = FOLDER / "package" / "emulator"
    if not emulator.exists():
        npm = require_program("npm", ["npm"])
        print(f"Fetching DynamoDB Local ({PACKAGE}, 57 MB) ...", flush=True)
        partial = FOLDER.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        partial.mkdir(parents=True)
        _pack(npm, partial)
        partial.rename(FOLDER)
    return emulator


def _pack(npm: str, folder: Path) -> None:
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise StackError(f"npm could not fetch {PACKAGE}; is its registry reachable?\n{done.stderr.strip()}")
    archive = next(folder.glob("*.tgz"))
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()


@contextlib.contextmanager
def dynamodb_local(port: int | None = None) -> Iterator[str]:
    """Run DynamoDB Local, with one database for all keys and regions; yield its endpoint URL."""
    java = require_program("java", ["default-jre-headless"])
    emulator, port = fetch(), free_port(port)
    with short_folder("gov-ddb-") as folder:
        command = [java, "-Xmx512m", f"-Djava.io.tmpdir={folder}", "-Djava.library.path=./DynamoDBLocal_lib"]
        command += ["-cp", "DynamoDBLocal.jar", "org.eclipse.jetty.xml.XmlConfiguration"]
        command += [f"host={LOOPBACK}", f"port={port}", str(CONFIGURATION)]
        server = start("DynamoDB Local", command, log=folder / "server.log", cwd=emulator)
        try:
            wait_until_ready(server, lambda: _answers(port), timeout_s=START_TIMEOUT_S)
            yield f"http://{LOOPBACK}:{port}"
        finally:
            stop(server)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().status > 0
    return False
