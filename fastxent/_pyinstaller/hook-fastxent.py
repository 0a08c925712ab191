"""What PyInstaller does not find by reading imports: computed names, and metadata."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError

from PyInstaller.utils.hooks import collect_submodules, copy_metadata

# Every build of the kernels, because the application may run on another CPU.
hiddenimports = collect_submodules(
    "fastxent.backends", filter=lambda name: ".cython_float" in name or name.endswith(".driver")
)
hiddenimports += collect_submodules("fastxent.backends.numba_twin")
datas = copy_metadata("fastxent")  # it holds the version
with suppress(PackageNotFoundError):
    datas += copy_metadata("numba")  # show_config names its version
