"""Is everything here that the installation needs? `python3 -m testnet.preflight`, before anything else.

Standard library only, and readable by old Pythons, so that they can say that they are too old: no annotations
from the future. pip would say the same after two minutes, at the end of two hundred lines. Knows no room.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PYTHON_MIN = (3, 11)
# torch for processors, libp2p, web3 and the rest take 1.4 GB; wheels are unpacked beside them.
DISK_BYTES_MIN = 3 * 10**9
# What libp2p's fastecdsa includes and links: there are no wheels of it.
_PROGRAM = "#include <gmp.h>\nint main(void) { mpz_t n; mpz_init(n); mpz_clear(n); return 0; }\n"
_PYTHON_PROGRAM = "#include <Python.h>\nint main(void) { return 0; }\n"
_COMPILE_S_MAX = 60
# The command that brings the C compiler, GMP's headers and Python's, by the package manager that is here.
_INSTALL = {
    "apt-get": "sudo apt-get install build-essential libgmp-dev python3-dev python3-venv",
    "dnf": "sudo dnf install gcc gmp-devel python3-devel",
    "pacman": "sudo pacman -S base-devel gmp",
    "zypper": "sudo zypper install gcc gmp-devel python3-devel",
    "brew": "xcode-select --install; brew install gmp",
}


def problems(folder):
    """(what, because, fix) for each thing that is missing for an installation in `folder`."""
    if sys.version_info < PYTHON_MIN:
        return [
            (
                f"this is Python {_dotted(sys.version_info[:2])}",
                f"p2pfl-mps needs Python {_dotted(PYTHON_MIN)} or newer",
                "install a newer Python and use it in place of `python3`",
            )
        ]
    found = [_system(), _environment(), _disk(folder)]
    compiler = _compiler()
    if compiler is None:
        found.append(
            (
                "there is no C compiler",
                "fastecdsa, which libp2p needs, is compiled during the installation",
                _install_command(),
            )
        )
    else:
        found += [_headers(compiler)]
    return [problem for problem in found if problem is not None]


def _system():
    if os.name == "posix":
        return None
    because = "the nodes use fork, fsync of folders and Unix sockets"
    return ("this is neither Linux nor macOS", because, "use the Windows Subsystem for Linux")


def _environment():
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        return ("Python cannot make virtual environments", str(error), _install_command())
    return None


def _disk(folder):
    free = shutil.disk_usage(folder).free
    if free >= DISK_BYTES_MIN:
        return None
    return (
        "the disk is too full",
        f"{folder} has {free / 1e9:.1f} GB free and the installation needs {DISK_BYTES_MIN / 1e9:.0f}",
        "make room, or clone into a folder on another disk",
    )


def _compiler():
    """The words of the command that compiles C, as Python's own build tools would choose it."""
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    return None


def _headers(compiler):
    """Compile and link what fastecdsa includes. Nothing is run."""
    include = ["-I" + sysconfig.get_path("include"), "-I" + sysconfig.get_path("platinclude")]
    because = _compile(compiler, _PROGRAM, [], ["-lgmp"])
    if because is not None:
        return ("the headers of GMP are missing (gmp.h)", because, _install_command())
    because = _compile(compiler, _PYTHON_PROGRAM, [*include, "-c"], [])
    if because is not None:
        return ("the headers of Python are missing (Python.h)", because, _install_command())
    return None


def _compile(compiler, program, options, libraries):
    """Why the compiler refuses this program; None when it does not."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "preflight.c")
        source.write_text(program)
        command = [*compiler, *options, str(source), "-o", str(Path(folder, "preflight")), *libraries]
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_COMPILE_S_MAX, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return None if done.returncode == 0 else (lines[0] if lines else f"exit code {done.returncode}")


def _install_command():
    for manager, command in _INSTALL.items():
        if shutil.which(manager):
            return command
    return "install a C compiler, the headers of GMP (gmp.h) and those of Python (Python.h)"


def _dotted(version):
    return ".".join(map(str, version))


def main():
    """Say what is missing, in three lines each; exit code 3. Or that nothing is; exit code 0."""
    found = problems(Path.cwd())
    for what, because, fix in found:
        print(f"error: {what}\n  because: {because}\n  fix: {fix}", file=sys.stderr)
    if not found:
        print(f"Python {_dotted(sys.version_info[:2])}, a C compiler and GMP are here; now the installation.")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
