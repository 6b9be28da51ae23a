"""Where things of this checkout stand."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
TOOLS = BUILD / "tools"
LOGS = BUILD / "logs"
TEMPLATE = ROOT / "template.yaml"
