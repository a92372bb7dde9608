# SPDX-License-Identifier: GPL-2.0-only
"""Puts tesseralplugin.so, which build_plugin.py makes, into the package."""

import os
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_plugin  # noqa: E402


class BuildPlugin(build_py):
    def run(self):
        super().run()
        library = os.environ.get("TESSERAL_LAMMPS_LIBRARY")
        folder = Path(__file__).resolve().parent if self.editable_mode else Path(self.build_lib)
        build_plugin.build(folder / "tesseral_lammps", library=Path(library) if library else None)


class Wheel(bdist_wheel):
    def get_tag(self):
        # Any Python, one platform: the plugin is for LAMMPS, not for Python.
        return "py3", "none", super().get_tag()[2]


class Binary(Distribution):
    def has_ext_modules(self):
        return True


setup(cmdclass={"build_py": BuildPlugin, "bdist_wheel": Wheel}, distclass=Binary)
