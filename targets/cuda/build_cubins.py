#!/usr/bin/env python3
"""Compiles kernels/src/cuda/*.cu for every architecture, without a GPU and without an install of CUDA.

    python3 targets/cuda/build_cubins.py              # all kernels whose archive is not up to date
    python3 targets/cuda/build_cubins.py norm scan    # these
    python3 targets/cuda/build_cubins.py --check      # rebuilds everything and compares with what is committed

NVIDIA's run-time compiler and its assembler come from three wheels on PyPI, pinned by version and SHA-256, kept in a cache folder. Each source
becomes one archive, targets/cuda/src/cubins/NAME.bin: a zlib stream of

    u32 entries, u32 CRC-32 of the sources, then for each entry u32 architecture, u32 bytes, then the entries' bytes

in little-endian. Architecture 80 is sm_80; 1080 is text for the driver's own compiler (PTX, compute_80), for GPUs that are not known yet.
"""

import concurrent.futures
import ctypes
import functools
import hashlib
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ROOT / "kernels" / "src" / "cuda"
ARCHIVES = ROOT / "targets" / "cuda" / "src" / "cubins"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "brooklet" / "nvrtc"

# Requirement, wheel, SHA-256 and what is unpacked. The older compiler's output runs on every driver since 11.8; the newer one knows sm_120.
COMPILER = r"/lib/libnvrtc[^/]*\.so[^/]*$"
WHEELS = {
    "11.8": (
        "nvidia-cuda-nvrtc-cu11==11.8.89",
        "nvidia_cuda_nvrtc_cu11-11.8.89-py3-none-manylinux2014_x86_64.whl",
        "a8d02f3cba345be56b1ffc3e74d8f61f02bb758dd31b0f20e12277a5a244f756",
        COMPILER,
    ),
    "12.9": (
        "nvidia-cuda-nvrtc-cu12==12.9.86",
        "nvidia_cuda_nvrtc_cu12-12.9.86-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
        "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
        COMPILER,
    ),
    "ptxas": (
        "nvidia-cuda-nvcc-cu11==11.8.89",
        "nvidia_cuda_nvcc_cu11-11.8.89-py3-none-manylinux2014_x86_64.whl",
        "f8e1e995166c884f2f5bf94975d7abb89175363b8712f7f81cd38d0df1b2cd85",
        r"/bin/ptxas$",
    ),
}
PTX = 1080
# Compiled from the source: these differ in what the source may use of them. What a first compiler's pass makes of it takes most of the time, and
# is the same for the four that follow: those are assembled from the PTX, to the code that a pass of their own would give.
COMPILED = {90: "11.8", 120: "12.9", PTX: "11.8"}
ASSEMBLED = [80, 86, 87, 89]
# What the older compiler cannot give sm_90: bulk copies, which products of one vector wait on, and what only sm_90a has, products of warpgroups.
NEWER = {("matvec", 90): ("12.9", "sm_90"), ("ssd", 90): ("12.9", "sm_90a")}
OPTIONS = ["--std=c++17", "--define-macro=NDEBUG"]


@functools.cache
def unpacked(version):
    """The folder with what a wheel brings, downloaded and unpacked into the cache if it is not there."""
    requirement, name, sha256, wanted = WHEELS[version]
    wheel = CACHE / name
    if not wheel.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        platforms = ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(CACHE)]
        for platform in platforms:
            command += ["--platform", platform]
        subprocess.run(command + [requirement], check=True)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{wheel} has SHA-256 {found}, expected {sha256}: delete it and run this again")
    folder = CACHE / version
    if not folder.exists():
        partial = CACHE / f"{version}.partial-{os.getpid()}"
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if re.search(wanted, entry) and "alt" not in entry:
                    target = partial / pathlib.Path(entry).name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(entry))
                    target.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:
            pass  # another run was sooner
    return folder


def compiler(version):
    folder = unpacked(version)
    for builtins in folder.glob("libnvrtc-builtins.so*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return Compiler(ctypes.CDLL(str(next(folder.glob("libnvrtc.so*")))))


def assemble(name, ptx, architecture):
    """The cubin that NVIDIA's assembler makes of PTX."""
    with tempfile.TemporaryDirectory() as folder:
        text, cubin = pathlib.Path(folder, f"{name}.ptx"), pathlib.Path(folder, f"{name}.cubin")
        text.write_bytes(ptx.rstrip(b"\0"))
        done = subprocess.run([unpacked("ptxas") / "ptxas", f"-arch={architecture}", "-o", cubin, text], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{name} cannot be assembled for {architecture}:\n{done.stderr}")
        return cubin.read_bytes()


class Compiler:
    def __init__(self, lib):
        self.lib = lib
        lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        code = getattr(self.lib, name)(*arguments)
        if code != 0 and name != "nvrtcCompileProgram":
            sys.exit(f"{name}: {self.lib.nvrtcGetErrorString(code).decode()}")
        return code

    def text(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def compile(self, name, source, headers, architecture):
        program = ctypes.c_void_p()
        count = len(headers)
        texts = (ctypes.c_char_p * count)(*[text for _, text in headers])
        names = (ctypes.c_char_p * count)(*[name.encode() for name, _ in headers])
        self.call("nvrtcCreateProgram", ctypes.byref(program), source, name.encode(), count, texts, names)
        options = OPTIONS + options_of(source) + [f"--gpu-architecture={architecture}"]
        arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        if self.call("nvrtcCompileProgram", program, len(options), arguments) != 0:
            log = self.text(program, "ProgramLog").rstrip(b"\0\n").decode()
            sys.exit(f"{name} does not compile for {architecture}:\n{log}")
        is_text = architecture.startswith("compute")
        binary = self.text(program, "PTX" if is_text else "CUBIN")
        self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return binary.rstrip(b"\0") + b"\0" if is_text else binary


def headers_of(source):
    """The headers that a source includes, directly or not, by name."""
    found, left = {}, [source]
    while left:
        for name in re.findall(r'^#include "([^"]+)"', left.pop(), re.M):
            if name not in found:
                found[name] = (SOURCES / name).read_text()
                left.append(found[name])
    return sorted(found.items())


def options_of(source):
    """What a source's first line asks for: `// Compiled with --OPTION: why.`"""
    asked = re.match(rb"// Compiled with (--[a-z-]+=[a-z0-9]+)", source)
    return [asked.group(1).decode()] if asked else []


def sources_of(path):
    source = path.read_text()
    headers = headers_of(source)
    crc = zlib.crc32(("\n".join([source] + [text for _, text in headers] + OPTIONS)).encode())
    return source.encode(), [(name, text.encode()) for name, text in headers], crc


def build(path):
    """The bytes of a source's archive."""
    compilers = {}
    source, headers, crc = sources_of(path)
    built = {}
    for target, version in COMPILED.items():
        architecture = "compute_80" if target == PTX else f"sm_{target}"
        version, architecture = NEWER.get((path.stem, target), (version, architecture))
        if version not in compilers:
            compilers[version] = compiler(version)
        built[target] = compilers[version].compile(path.name, source, headers, architecture)
    for target in ASSEMBLED:
        built[target] = assemble(path.stem, built[PTX], f"sm_{target}")
    entries = [(target, built[target]) for target in sorted(built)]
    head = struct.pack("<II", len(entries), crc) + b"".join(struct.pack("<II", target, len(data)) for target, data in entries)
    return head + b"".join(data for _, data in entries)


def committed(path):
    """What the archive of a source holds, or nothing."""
    archive = ARCHIVES / f"{path.stem}.bin"
    return zlib.decompress(archive.read_bytes()) if archive.exists() else b""


def main(arguments):
    check = "--check" in arguments
    names = [argument for argument in arguments if not argument.startswith("--")]
    paths = [SOURCES / f"{name}.cu" for name in names] or sorted(SOURCES.glob("*.cu"))
    if not check and not names:
        paths = [path for path in paths if committed(path)[4:8] != struct.pack("<I", sources_of(path)[2])]
    for version in WHEELS if paths else []:
        unpacked(version)  # downloaded once, before several processes want it
    wrong = []
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for path, built in zip(paths, pool.map(build, paths)):
            if check:
                if built != committed(path):
                    wrong.append(path.stem)
                print(f"{path.stem}: {'differs' if path.stem in wrong else 'the same'}", flush=True)
                continue
            archive = ARCHIVES / f"{path.stem}.bin"
            packed = zlib.compress(built, 9)
            partial = archive.with_suffix(".partial")
            partial.write_bytes(packed)
            partial.rename(archive)
            print(f"{archive.relative_to(ROOT)}: {len(built)} bytes, {len(packed)} packed", flush=True)
    stale = [archive.stem for archive in ARCHIVES.glob("*.bin") if not (SOURCES / f"{archive.stem}.cu").exists()]
    if stale:
        sys.exit(f"no source for the archives {', '.join(sorted(stale))}: delete them")
    if wrong:
        sys.exit(f"not what the sources give: {', '.join(wrong)}; run {pathlib.Path(__file__).name} without --check and commit")


if __name__ == "__main__":
    main(sys.argv[1:])
