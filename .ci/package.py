"""Builds the wheel and the source distribution, and checks what users will install.

It fails where the build warns, where twine objects to the metadata, where the wheel lacks a module
or ``py.typed``, and where the installed wheel cannot be imported. The fresh environment borrows the
dependencies of the running one, so that nothing large is installed again.
"""

import os
from pathlib import Path
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile


ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "package"
USE = """
import optuna_dstn
study = optuna_dstn.create_study()
print(optuna_dstn.__version__, optuna_dstn.__file__)
"""


def run(*command: object, **options: object) -> str:
    """Run a command and return what it printed; show that and stop where it fails."""
    result = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if result.returncode:
        sys.exit(f"{result.stdout}\n{command} failed")
    return result.stdout


def build() -> tuple[Path, Path]:
    """Make both distributions in a clean folder, the wheel from the source distribution."""
    shutil.rmtree(OUT, ignore_errors=True)
    # Without this variable, for setuptools warns where it may not compile.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    output = run(sys.executable, "-m", "build", "--outdir", OUT, ROOT, env=environment)
    warnings = [line for line in output.splitlines() if "warning" in line.lower()]
    # pip warns of indexes that its user has configured, which is none of the package's business.
    own = [line for line in warnings if not line.lstrip(" >").startswith("WARNING: Location")]
    if own:
        sys.exit("\n".join(["The build warns:", *own]))
    (wheel,) = OUT.glob("*.whl")
    (source,) = OUT.glob("*.tar.gz")
    return wheel, source


def check_contents(wheel: Path, source: Path) -> None:
    """Compare the files of both distributions with those of the checkout."""
    files = [path for path in (ROOT / "optuna_dstn").rglob("*") if path.is_file()]
    package = {
        path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts
    }
    needed = {path for path in package if path.endswith((".py", "py.typed"))}
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    foreign = {name.split("/")[0] for name in inside if ".dist-info/" not in name}
    for fault, names in (
        ("The wheel lacks", needed - inside),
        ("The source distribution lacks", (needed | {"README.md", "LICENSE"}) - in_source),
        ("The wheel also has", foreign - {"optuna_dstn"}),
    ):
        if names:
            sys.exit(f"{fault} {', '.join(sorted(names))}")


def check_install(wheel: Path) -> None:
    """Install the wheel alone in a fresh environment, and use it from another folder."""
    fresh = OUT / "venv"
    venv.create(fresh, with_pip=False)
    scripts = sysconfig.get_path("scripts", "venv", {"base": str(fresh)})
    library = Path(sysconfig.get_path("purelib", "venv", {"base": str(fresh)}))
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", library, wheel)
    (library / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = Path(scripts) / "python"
    output = run(python, "-W", "error", "-c", USE, cwd=OUT, env=environment)
    if str(library) not in output:
        sys.exit(f"The package was imported from elsewhere: {output}")


def main() -> None:
    """Build and check."""
    wheel, source = build()
    print(run(sys.executable, "-m", "twine", "check", "--strict", wheel, source), end="")
    check_contents(wheel, source)
    check_install(wheel)
    print(f"{wheel.name} and {source.name} are fine, in {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
