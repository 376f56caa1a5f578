"""Writes selfware_common/rpc from the .proto files in this folder: `python protos/generate.py [--check]`.

The stubs are committed so that nobody needs a compiler to run Selfware; tests/static proves that they are fresh.
The virtual path `selfware_common/rpc=protos` makes generated files import each other as package members.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "selfware_common" / "rpc"


def generate(into: Path) -> dict[str, bytes]:
    """Compile every proto below `into`; returns generated file name -> content."""
    sources = [f"selfware_common/rpc/{path.name}" for path in sorted((ROOT / "protos").glob("*.proto"))]
    with tempfile.TemporaryDirectory() as scratch:
        # Imports inside the .proto files are plain names; the compiler needs them under the package path.
        for path in sorted((ROOT / "protos").glob("*.proto")):
            target = Path(scratch) / "selfware_common" / "rpc" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8")
            for other in (ROOT / "protos").glob("*.proto"):
                text = text.replace(f'import "{other.name}"', f'import "selfware_common/rpc/{other.name}"')
            target.write_text(text, encoding="utf-8")
        # protoc looks for its plugins on PATH; ours stand beside the interpreter.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        outputs = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        status = protoc.main(["protoc", f"-I{scratch}", *outputs, *sources])
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")
    return {path.name: path.read_bytes() for path in sorted((into / "selfware_common" / "rpc").iterdir())}


def stale() -> list[str]:
    """Names of generated files that differ from what the protos say now."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
    committed = {path.name: path.read_bytes() for path in TARGET.iterdir() if "_pb2" in path.name}
    return sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def main() -> int:
    """Write the stubs, or with --check only say which are stale (exit 1)."""
    if "--check" in sys.argv[1:]:
        names = stale()
        for name in names:
            print(f"stale: selfware_common/rpc/{name}; run 'python protos/generate.py'")
        return 1 if names else 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in generate(Path(scratch)).items():
            (TARGET / name).write_bytes(content)
            print(f"wrote selfware_common/rpc/{name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
