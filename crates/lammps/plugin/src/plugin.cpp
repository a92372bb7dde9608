// SPDX-License-Identifier: GPL-2.0-only
//
// The entry point that LAMMPS looks for in a plugin: registers pair_style tesseral, or, where this build does not fit the program that loads
// it, a style of that name that says so when it is used. A plugin that is merely found must not end runs that have no use for it.

#include "pair_tesseral.h"

#include "error.h"
#include "lammps.h"

#include "fmt/format.h"

#include <string>

#ifndef TESSERAL_LAMMPS_VERSION
#error "TESSERAL_LAMMPS_VERSION: the version of LAMMPS whose headers are used, as a number, such as 20250722"
#endif
#ifndef TESSERAL_LAMMPS_DATE
#error "TESSERAL_LAMMPS_DATE: the same as LAMMPS writes it, such as \"22 Jul 2025\""
#endif

// What the sources are written for. Tests ask for another one.
#ifndef TESSERAL_WANTED_ABI
#define TESSERAL_WANTED_ABI TESSERAL_ABI
#endif

// Of the C library interface: its ABI does not change with the version of LAMMPS.
extern "C" int lammps_version(void *);

namespace {

// What LAMMPS takes. `lammpsplugin.h` is part of its examples and is not installed; this is the layout of its documentation, "Writing plugins".
struct Plugin {
  const char *version, *style, *name, *info, *author;
  void *(*creator)(void *);
  void *handle;
};
using Register = void (*)(Plugin *, void *);

std::string misfit;

void *create(void *lmp)
{
  return new LAMMPS_NS::PairTesseral(static_cast<LAMMPS_NS::LAMMPS *>(lmp));
}

void *refuse(void *lmp)
{
  static_cast<LAMMPS_NS::LAMMPS *>(lmp)->error->all(FLERR, misfit);
}

}    // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  const int here = lammps_version(lmp);
  const uint32_t abi = tesseral_abi();
  if (here != TESSERAL_LAMMPS_VERSION) {
    misfit = fmt::format("This plugin with pair style tesseral was built for LAMMPS " TESSERAL_LAMMPS_DATE " (version {}), and this is version {}: "
                         "classes may differ in memory\nhint: build it again for this LAMMPS, `pip install ./crates/lammps/plugin` or "
                         "crates/lammps/plugin/build_plugin.py in Tesseral's sources",
                         TESSERAL_LAMMPS_VERSION, here);
  } else if (abi != TESSERAL_WANTED_ABI) {
    misfit = fmt::format("This plugin with pair style tesseral wants version {} of the C interface of Tesseral, and was linked with Tesseral {}, which has "
                         "version {}\nhint: build library and plugin from the same sources, `pip install ./crates/lammps/plugin`",
                         TESSERAL_WANTED_ABI, tesseral_version(), abi);
  }

  Plugin plugin;
  plugin.version = TESSERAL_LAMMPS_DATE;
  plugin.style = "pair";
  plugin.name = "tesseral";
  plugin.info = "equivariant interatomic potentials (MACE, SevenNet, NequIP) by Tesseral";
  plugin.author = "the authors of Tesseral";
  plugin.creator = misfit.empty() ? create : refuse;
  plugin.handle = handle;
  reinterpret_cast<Register>(regfunc)(&plugin, lmp);
}
