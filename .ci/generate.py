"""Generates mr/rpc and consensus/rpc from proto/; with --check only says whether they are fresh."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"mr/rpc": ["job", "session", "data", "task", "table", "cluster"], "consensus/rpc": ["raft"]}
SERVICES = {"session", "data", "cluster", "raft"}


def generate(out: Path) -> None:
    """Writes the generated files of every package below `out`."""
    bin_dir = Path(sys.executable).parent
    for package, names in PACKAGES.items():
        base = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
            f"-I{package}=proto",
        ]
        files = [f"{package}/{name}.proto" for name in names]
        services = [f"{package}/{name}.proto" for name in names if name in SERVICES]
        subprocess.run(
            [*base, f"--python_out={out}", f"--mypy_out=quiet:{out}", *files], check=True, cwd=ROOT
        )
        subprocess.run(
            [*base, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *services],
            check=True,
            cwd=ROOT,
        )


def stale() -> list[str]:
    """Generated files that differ from what proto/ gives now."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {p.relative_to(scratch): p.read_bytes() for p in Path(scratch).rglob("*.py*")}
    return [str(p) for p, body in fresh.items() if not (ROOT / p).exists() or (ROOT / p).read_bytes() != body]


if __name__ == "__main__":
    if "--check" in sys.argv:
        if out_of_date := stale():
            sys.exit(f"not fresh, run `make proto`: {', '.join(out_of_date)}")
    else:
        generate(ROOT)
