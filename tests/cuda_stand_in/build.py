"""Make a CUDA without a GPU in a folder, of what the package index has; see README.md.

python tests/cuda_stand_in/build.py FOLDER
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
CUPY = "14.2.0"
PACKAGES = [
    f"cupy-cuda13x=={CUPY}",
    "cuda-pathfinder==1.*",
    "cython>=3.2,<3.3",
    "nvidia-cuda-crt==13.0.*",
    "nvidia-cuda-profiler-api==13.0.*",
    "nvidia-cuda-runtime==13.0.*",
    "scipy-openblas32==0.3.*",
    "setuptools",
]
NVRTC = "nvidia-cuda-nvrtc==13.0.*"
LIBRARY = "libcudart.so.13"
OTHER_NAMES = [
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcuda.so.1",
    "libcufft.so.12",
    "libcurand.so.10",
    "libcusolver.so.12",
    "libcusparse.so.12",
    "libnvJitLink.so.13",
    "libnvrtc.so.13",
]
SOURCES = ["cuda.cpp", "compiler.cpp", "libraries.cpp"]
RUNTIME = "cupy_backends/cuda/api/runtime"

PYTEST = """#!/bin/sh
export CUDA_STAND_IN={folder} CUDA_PATH={folder}/toolkit LD_LIBRARY_PATH={folder}/lib
export CUPY_ACCELERATORS= CUPY_CACHE_DIR={folder}/cupy PYTHONPATH={folder}/site:{here}
exec {python} -m pytest --override-ini addopts= -p stand_in_plugin -q "$@"
"""

SETUP = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup

headers, library = sys.argv[1:3]
del sys.argv[1:3]
runtime = Extension(
    "cupy_backends.cuda.api.runtime",
    ["cupy_backends/cuda/api/runtime.pyx"],
    language="c++",
    include_dirs=[headers, "."],
    extra_compile_args=["-O0", "-w"],
    extra_link_args=[library],
)
# as CuPy's own build has them
directives = {
    "embedsignature": True,
    "c_api_binop_methods": True,
    "binding": False,
    "warn.deprecated.IF": False,
    "freethreading_compatible": True,
}
constants = {
    "CUPY_USE_CUDA_PYTHON": False,
    "CUPY_CUFFT_STATIC": False,
    "CUPY_CYTHON_VERSION": "",
    "CUPY_CUDA_VERSION": 13000,
    "CUPY_HIP_VERSION": 0,
}
setup(
    name="runtime",
    ext_modules=cythonize(
        runtime, language_level=3, compiler_directives=directives, compile_time_env=constants
    ),
)
"""


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a command; where it fails, end with what it said."""
    made = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        sys.exit(f"{' '.join(str(each) for each in command)}:\n{made.stdout}{made.stderr}")
    return made.stdout


def undefined(shared: Path) -> set[str]:
    """Return the names of CUDA's that a shared object asks for."""
    listed = run("nm", "-D", "--undefined-only", shared)
    names = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    return {name for name in names if name.startswith(("cublas", "cusolver", "curand", "cusparse"))}


def called(source: Path) -> set[str]:
    """Return the functions that the declarations of CuPy's runtime name."""
    words = source.read_text().replace("(", " ( ").replace("*", " ").split()
    return {
        before for before, after in pairwise(words) if after == "(" and before.startswith("cuda")
    }


def build(folder: Path) -> None:
    """Make libraries, headers and packages in the folder, and `pytest`, which runs with them."""
    # nothing of another version of CuPy or Python
    shutil.rmtree(folder, ignore_errors=True)
    site, work = folder / "site", folder / "work"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--target", site, *PACKAGES)
    # not among the packages, where it would be found before the stand-in
    run(*pip, "install", "--no-deps", "--target", folder / "nvrtc", NVRTC)
    # metadata alone are made, for which no CUDA need be there
    source = [f"cupy=={CUPY}", "--no-deps", "--no-binary", "cupy", "--dest", str(work)]
    run(*pip, "download", *source, CUPY_INSTALL_USE_STUB="1")
    with tarfile.open(work / f"cupy-{CUPY}.tar.gz") as archive:
        archive.extractall(work, filter="data")
    cupy = work / f"cupy-{CUPY}"
    headers = folder / "toolkit" / "include"
    shutil.copytree(site / "nvidia" / "cu13" / "include", headers)
    shutil.copy(HERE / "device_side.h", headers)

    objects = []
    for name in SOURCES:
        objects.append(work / f"{name}.o")
        compiled = ["-std=c++17", "-O2", "-Wall", "-fPIC", f"-I{headers}", "-c", str(HERE / name)]
        run("g++", *compiled, "-o", objects[-1])
    listed = run("nm", *objects)
    have = {line.split()[-1] for line in listed.splitlines() if " T " in line}
    wanted = called(cupy / "cupy_backends/cuda/api/_runtime_extern.pxi")
    for shared in (site / "cupy_backends" / "cuda" / "libs").glob("*.so"):
        wanted |= undefined(shared)
    lines = [f'void {name}(void) {{ missing("{name}"); }}' for name in sorted(wanted - have)]
    lines[:0] = [
        "#include <stdio.h>",
        "#include <stdlib.h>",
        "static void missing(const char* name) {",
        '  fprintf(stderr, "CUDA stand-in: %s is not there\\n", name);',
        "  abort();",
        "}",
    ]
    (work / "missing.c").write_text("\n".join(lines))
    run("gcc", "-w", "-fPIC", "-c", work / "missing.c", "-o", work / "missing.o")

    library = folder / "lib" / LIBRARY
    library.parent.mkdir()
    blas = site / "scipy_openblas32" / "lib"
    linked = [f"-L{blas}", "-lscipy_openblas", f"-Wl,-rpath,{blas}", "-ldl"]
    shared = ["g++", "-shared", f"-Wl,-soname,{LIBRARY}"]
    run(*shared, *objects, work / "missing.o", "-o", library, *linked)
    for name in OTHER_NAMES:
        (library.parent / name).symlink_to(LIBRARY)

    # what NVRTC itself looks for
    for builtins in (folder / "nvrtc" / "nvidia" / "cu13" / "lib").glob("libnvrtc-builtins.so*"):
        shutil.copy(builtins, library.parent)

    # the module alone, beside what it includes: CuPy's own setup would build all
    shutil.copytree(cupy / "cupy_backends", work / "cupy_backends")
    (work / "setup.py").write_text(SETUP)
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    setup = [sys.executable, "setup.py", str(headers), str(library), "build_ext", "--inplace"]
    run(*setup, cwd=work, PYTHONPATH=paths)
    (made,) = work.glob(f"{RUNTIME}.*.so")
    shutil.copy(made, site / "cupy_backends" / "cuda" / "api")
    for kept in ("cache", "cupy"):
        (folder / kept).mkdir()
    script = folder / "pytest"
    script.write_text(PYTEST.format(folder=folder, here=HERE, python=sys.executable))
    script.chmod(0o755)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
