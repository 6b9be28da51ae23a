"""What the example worker's cold start loads."""

import os
import subprocess
import sys
from pathlib import Path

import worker


def test_a_worker_imports_nothing_heavy() -> None:
    """Powertools and boto3 cost each cold start most of a second."""
    functions = Path(worker.__file__).parent
    heavy = ("boto3", "botocore", "aws_lambda_powertools", "pydantic")
    code = f"import sys, worker; print([module for module in {heavy} if module in sys.modules])"
    path = os.pathsep.join([str(functions), str(functions.parent / "layers" / "governor")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
