// SPDX-License-Identifier: GPL-2.0-only
//
// Between LAMMPS and tesseral.h. The potential is computed by the library; here are the atoms of this rank, their neighbours, and the exchange of
// rows between ranks, for which LAMMPS' own forward and reverse communication is used. So ghosts are needed up to one cutoff, whatever the depth of
// the model: a layer that wants the features of a ghost gets them from the rank that owns the atom. Each atom's features travel to a rank once, however many
// ghosts it has there: the others are copies across periodic boundaries. A rank that is alone exchanges nothing.

#include "pair_tesseral.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "universe.h"
#include "update.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

using namespace LAMMPS_NS;

namespace {

// For callers that want a place in memory where a rank has no atoms at all.
double nowhere[6];

// tesseral.h and LAMMPS both count six components of a virial as xx, yy, zz, xy, xz, yz.
constexpr int VIRIAL = 6;

constexpr size_t WORD = sizeof(double);

}    // namespace

/* ---------------------------------------------------------------------- */

PairTesseral::PairTesseral(LAMMPS *lmp) : Pair(lmp)
{
  single_enable = 0;
  restartinfo = 1;
  one_coeff = 1;
  manybody_flag = 1;
  // Forces on copies of atoms are added to the atoms, so that products of forces and the ghosts' positions are no virial; compute() has the right one.
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
  unit_convert_flag = utils::get_supported_conversions(utils::ENERGY);
}

PairTesseral::~PairTesseral()
{
  if (copymode) return;
  close();
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

void PairTesseral::close()
{
  tesseral_domain_free(atoms_here);
  tesseral_close(potential);
  atoms_here = nullptr;
  potential = nullptr;
}

void PairTesseral::allocate()
{
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  for (int i = 1; i < n; i++)
    for (int j = 1; j < n; j++) setflag[i][j] = 0;
  allocated = 1;
}

/* ----------------------------------------------------------------------
   Ends the run on all ranks if something failed on any, with the message of the first of them. Ranks may differ: a model file may be
   missing on one machine.
------------------------------------------------------------------------- */

void PairTesseral::agree(bool failed, const std::string &what)
{
  int mine = failed ? comm->me : comm->nprocs;
  int first;
  MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, world);
  if (first == comm->nprocs) return;
  std::string message = failed ? what : "";
  int length = static_cast<int>(message.size());
  MPI_Bcast(&length, 1, MPI_INT, first, world);
  message.resize(length);
  MPI_Bcast(&message[0], length, MPI_CHAR, first, world);
  error->all(FLERR, "Pair style tesseral: " + message);
}

/* ---------------------------------------------------------------------- */

void PairTesseral::settings(int narg, char **arg)
{
  Settings given;
  for (int i = 0; i < narg; i += 2) {
    const std::string key = arg[i];
    if (key != "dtype" && key != "device" && key != "head" && key != "threads" && key != "radial")
      error->all(FLERR, "Pair style tesseral has no keyword " + key + "\nhint: pair_style tesseral [dtype f32|f64] [device cpu|cuda|cuda:N] [head NAME] "
                        "[threads N] [radial tables|exact]; the model is named by pair_coeff");
    if (i + 1 == narg) error->all(FLERR, "Pair style tesseral: keyword " + key + " wants a value");
    const std::string value = arg[i + 1];
    if (key == "dtype") {
      if (value != "f32" && value != "f64") error->all(FLERR, "Pair style tesseral: dtype is f32 or f64, not " + value);
      given.f64 = value == "f64";
    } else if (key == "radial") {
      if (value != "tables" && value != "exact") error->all(FLERR, "Pair style tesseral: radial is tables or exact, not " + value);
      given.exact_radial = value == "exact";
    } else if (key == "threads") {
      given.threads = utils::inumeric(FLERR, value, false, lmp);
      if (given.threads < 1) error->all(FLERR, "Pair style tesseral: threads is 1 or more, not " + value);
    } else if (key == "device") {
      given.device = value;
    } else {
      given.head = value;
    }
  }
  const bool changed = given.f64 != wanted.f64 || given.exact_radial != wanted.exact_radial || given.threads != wanted.threads ||
      given.device != wanted.device || given.head != wanted.head;
  wanted = given;
  // pair_style with the name of the style that is there keeps the coefficients: they are opened again.
  if (changed) close();
}

/* ---------------------------------------------------------------------- */

void PairTesseral::coeff(int narg, char **arg)
{
  const int types = atom->ntypes;
  if (narg < 3 || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, "Pair style tesseral wants pair_coeff * * MODEL and the element of every atom type\nhint: such as pair_coeff * * sevennet-0 Si O");
  if (narg != 3 + types)
    error->all(FLERR,
               fmt::format("Pair style tesseral wants an element for each of the {} atom types, and pair_coeff names {}\nhint: pair_coeff * * MODEL "
                           "ELEMENT …, one for type 1, one for type 2 and so on; NULL for types of other styles under hybrid",
                           types, narg - 3));
  if (!allocated) allocate();

  const bool hybrid = force->pair != this;
  std::vector<std::string> names(types + 1);
  bool any = false;
  for (int i = 1; i <= types; i++) {
    const std::string name = arg[2 + i];
    if (name != "NULL") {
      names[i] = name;
      any = true;
    } else if (!hybrid) {
      error->all(FLERR, fmt::format("Pair style tesseral: atom type {} is NULL, and no other pair style is there to compute it\nhint: NULL is for pair_style "
                                    "hybrid and hybrid/overlay",
                                    i));
    }
  }
  if (!any) error->all(FLERR, "Pair style tesseral: all atom types are NULL");

  close();
  model = arg[2];
  symbols = names;
  for (int i = 1; i <= types; i++)
    for (int j = 1; j <= types; j++) setflag[i][j] = !symbols[i].empty() && !symbols[j].empty();
  open();
}

/* ----------------------------------------------------------------------
   Number of ranks on this machine, and which of them this is.
------------------------------------------------------------------------- */

int PairTesseral::ranks_here(int &mine)
{
  int here = comm->nprocs;
  mine = comm->me;
  // LAMMPS' stub of MPI for one rank defines no version.
#if defined(MPI_VERSION) && MPI_VERSION >= 3
  MPI_Comm machine;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  MPI_Comm_size(machine, &here);
  MPI_Comm_rank(machine, &mine);
  MPI_Comm_free(&machine);
#endif
  // Partitions may share machines. Counting them would need all of them here at once, and their scripts may differ.
  const int partitions = universe->nworlds;
  if (partitions > 1) {
    mine += universe->iworld * here;
    here = MIN(here * partitions, universe->nprocs);
  }
  return here;
}

/* ----------------------------------------------------------------------
   Opens the model on all ranks, and looks up its elements.
------------------------------------------------------------------------- */

void PairTesseral::open()
{
  const std::string units = update->unit_style;
  if (units == "metal") {
    energy_unit = 1.0;
  } else if (units == "real") {
    energy_unit = utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
  } else {
    error->all(FLERR, "Pair style tesseral wants units metal or real, not " + units + "\nhint: models are in eV and Å; `units metal` goes at the top of the input");
  }

  // Like every potential of LAMMPS, also from the folders of LAMMPS_POTENTIALS.
  std::string file = model;
  if (!platform::file_is_readable(file)) {
    const std::string found = utils::get_potential_file_path(file);
    if (!found.empty()) file = found;
  }

  // What the library does while it opens a model is little: no threads for that.
  setenv("CANDLE_NUM_THREADS", "1", 0);

  int mine;
  tesseral_options options = {};
  options.size = sizeof(options);
  options.dtype = wanted.f64;
  options.threads = wanted.threads;
  options.ranks_here = ranks_here(mine);
  options.exact_radial = wanted.exact_radial;
  options.head = wanted.head.empty() ? nullptr : wanted.head.c_str();
  // One GPU for each rank of a machine. A numbered one is taken as it is, for launchers that show each rank its own.
  std::string device = wanted.device;
  if (device == "cuda" && options.ranks_here > 1) device += fmt::format(":{}", mine);
  options.device = device.c_str();

  const int opened = tesseral_open(file.c_str(), &options, &potential);
  agree(opened != 0, opened != 0 ? tesseral_last_error() : "");

  cutoff = tesseral_cutoff(potential);
  species_of.assign(symbols.size(), -1);
  int known = 0;
  for (size_t i = 1; i < symbols.size() && known == 0; i++)
    if (!symbols[i].empty()) known = tesseral_species(potential, symbols[i].c_str(), &species_of[i]);
  agree(known != 0, known != 0 ? tesseral_last_error() : "");

  const int made = tesseral_domain_new(potential, &atoms_here);
  agree(made != 0, made != 0 ? tesseral_last_error() : "");

  // The widest exchange, in doubles, from which LAMMPS sizes its buffers.
  comm_forward = comm_reverse = static_cast<int>((tesseral_row_bytes(potential) + WORD - 1) / WORD);

  if (comm->me == 0) {
    std::string types;
    for (size_t i = 1; i < symbols.size(); i++)
      if (!symbols[i].empty()) types += fmt::format(" {}={}", i, symbols[i]);
    utils::logmesg(lmp, "Tesseral {}: {}, {} on {}, cutoff {:g}, {} bytes an atom between layers, types{}\n", tesseral_version(), tesseral_name(potential),
                   wanted.f64 ? "f64" : "f32", wanted.device, cutoff, tesseral_row_bytes(potential), types);
  }
}

/* ---------------------------------------------------------------------- */

void PairTesseral::init_style()
{
  if (domain->dimension != 3) error->all(FLERR, "Pair style tesseral wants dimension 3");
  if (!force->newton_pair)
    error->all(FLERR, "Pair style tesseral wants newton on: forces and derivatives of ghosts go back to the ranks that own the atoms\nhint: `newton on` at the top of the "
                      "input, or leave the command out");
  if (!atom->tag_enable) error->all(FLERR, "Pair style tesseral wants atom IDs\nhint: leave out `atom_modify id no`");
  if (symbols.size() != static_cast<size_t>(atom->ntypes + 1)) error->all(FLERR, "Pair style tesseral: there is no pair_coeff for all atom types");
  // After a restart, or after a pair_style with other settings.
  if (!potential) open();

  // A hybrid asks its styles for the widths of their exchanges when they are made, before a model is known.
  Pair *outer = force->pair;
  outer->comm_forward = MAX(outer->comm_forward, comm_forward);
  outer->comm_reverse = MAX(outer->comm_reverse, comm_reverse);

  neighbor->add_request(this, NeighConst::REQ_FULL);
  listed = nullptr;
}

void PairTesseral::init_list(int id, NeighList *given)
{
  Pair::init_list(id, given);
  listed = nullptr;
  // What the list leaves out LAMMPS fills in later.
  list_checked = false;
}

/* ----------------------------------------------------------------------
   Every neighbour within the cutoff counts: an atom's features depend on all of them. So lists that leave some out are refused.
------------------------------------------------------------------------- */

void PairTesseral::check_list()
{
  const auto ours = [this](int type) { return !symbols[type].empty(); };

  if (utils::strmatch(force->pair_style, "^hybrid/molecular"))
    error->all(FLERR, "Pair style tesseral needs the pairs within and between molecules, and pair_style hybrid/molecular leaves out one of them");

  if (list->ijskip)
    for (int i = 1; i <= atom->ntypes; i++)
      for (int j = i; j <= atom->ntypes; j++)
        if (ours(i) && ours(j) && list->ijskip[i][j])
          error->all(FLERR, fmt::format("Pair style tesseral needs all pairs of its atom types, and pair_coeff gives types {} and {} to another style\nhint: "
                                        "pair_style hybrid/overlay adds other styles without taking pairs away",
                                        i, j));

  if (neighbor->includegroup)
    error->all(FLERR, "Pair style tesseral needs the neighbours of all atoms, and `neigh_modify include` leaves some out");
  if (neighbor->exclude) {
    bool harmful = neighbor->nex_group > 0 || neighbor->nex_mol > 0;
    for (int k = 0; k < neighbor->nex_type; k++) harmful = harmful || (ours(neighbor->ex1_type[k]) && ours(neighbor->ex2_type[k]));
    if (harmful)
      error->all(FLERR, "Pair style tesseral needs all pairs within the cutoff, and `neigh_modify exclude` leaves some out: energies and forces of the atoms around "
                        "would be wrong\nhint: exclude atom types that are NULL to this style, or none; some fixes, such as gcmc, exclude atoms by themselves");
  }

  // Pairs that are bonded are in the list unless all their factors are zero (or kspace wants them).
  if (atom->molecular != Atom::ATOMIC) {
    int lacking = 0;
    for (int k = 1; k <= 3; k++) lacking = lacking || neighbor->special_flag[k] == 0;
    int bonded = atom->molecular == Atom::TEMPLATE;
    if (atom->nspecial)
      for (int i = 0; i < atom->nlocal; i++) bonded = bonded || (atom->nspecial[i][2] > 0 && ours(atom->type[i]));
    int any;
    MPI_Allreduce(&bonded, &any, 1, MPI_INT, MPI_MAX, world);
    if (lacking && any)
      error->all(FLERR, "Pair style tesseral needs all pairs within the cutoff, and special_bonds leaves bonded ones out\nhint: `special_bonds lj/coul 1 1 1`, or, where a "
                        "force field beside this style needs zeros, `special_bonds lj/coul 1e-100 1e-100 1e-100`");
  }
}

double PairTesseral::init_one(int i, int j)
{
  if (!setflag[i][j] && !setflag[j][i])
    error->all(FLERR, fmt::format("Pair style tesseral: there is no pair_coeff for atom types {} and {}", i, j));
  return cutoff;
}

/* ----------------------------------------------------------------------
   Species, and, if the list is another one than in the step before, tags and neighbours. True if it is.
------------------------------------------------------------------------- */

bool PairTesseral::prepare_atoms()
{
  const int owned = atom->nlocal;
  const int all = owned + atom->nghost;

  // neighbor->ago is also 0 in all evaluations of a step that lists were made in, of which `fix numdiff` makes many; builds are counted.
  int relisted = list != listed || neighbor->ncalls != listed_at || species.size() != static_cast<size_t>(all) || counts.size() != static_cast<size_t>(owned);
  bool fresh = relisted;
  listed = list;
  listed_at = neighbor->ncalls;

  // Types can change without a new list (fix atom/swap, set).
  if (fresh) species.assign(all, -2);
  const int *type = atom->type;
  for (int i = 0; i < all; i++) {
    const int32_t now = species_of[type[i]];
    fresh = fresh || species[i] != now;
    species[i] = now;
  }

  if (fresh) {
    tags.assign(atom->tag, atom->tag + all);
    // Atoms of types that are NULL are not in the list under hybrid, and what the list's arrays hold for them is old.
    counts.assign(owned, 0);
    firsts.assign(owned, nullptr);
    for (int k = 0; k < list->inum; k++) {
      const int i = list->ilist[k];
      counts[i] = list->numneigh[i];
      firsts[i] = list->firstneigh[i];
    }
  }
  if (relisted) find_images();
  if (comm->nprocs > 1) {
    // What one rank wants others send: if one has new ghosts, all plan again.
    int any;
    MPI_Allreduce(&relisted, &any, 1, MPI_INT, MPI_MAX, world);
    relisted = any;
  }
  if (relisted && !is_alone()) plan_exchange();
  return fresh;
}

/* ----------------------------------------------------------------------
   Which atom each ghost is a copy of: of all with one tag the first.
------------------------------------------------------------------------- */

void PairTesseral::find_images()
{
  const int owned = atom->nlocal;
  const int all = owned + atom->nghost;
  std::unordered_map<tagint, int> first;
  first.reserve(all);
  for (int i = 0; i < owned; i++) first.emplace(atom->tag[i], i);
  images.resize(atom->nghost);
  all_images = true;
  for (int g = owned; g < all; g++) {
    const int image = first.emplace(atom->tag[g], g).first->second;
    images[g - owned] = image;
    all_images = all_images && image < owned;
  }
}

bool PairTesseral::is_alone() const
{
  return comm->nprocs == 1 && all_images;
}

/* ----------------------------------------------------------------------
   Finds out which rows travel in LAMMPS' swaps: those of ghosts that are neighbours, once for each atom and rank, and what is on the way to ranks
   beyond. What is wanted goes the way that derivatives will go.
------------------------------------------------------------------------- */

void PairTesseral::plan_exchange()
{
  const int owned = atom->nlocal;
  const int all = owned + atom->nghost;
  sent.clear();
  received.clear();
  relayed.clear();
  wanted_here.assign(all, 0.0);
  for (int i = 0; i < owned; i++)
    for (int k = 0; k < counts[i]; k++) {
      const int j = firsts[i][k] & NEIGHMASK;
      wanted_here[j < owned ? j : images[j - owned]] = 1.0;
    }
  planning = true;
  comm->reverse_comm(this, 1);
  planning = false;
  for (int g = owned; g < all; g++)
    if (wanted_here[g] != 0.0 && images[g - owned] != g) relayed.push_back(g);
}

/* ---------------------------------------------------------------------- */

void PairTesseral::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  if (!list_checked) check_list();
  list_checked = true;
  const int owned = atom->nlocal;
  const int all = owned + atom->nghost;

  tesseral_atoms here = {};
  here.size = sizeof(here);
  here.owned = owned;
  here.ghosts = atom->nghost;
  here.new_list = prepare_atoms();
  here.positions = all ? &atom->x[0][0] : nowhere;
  here.species = species.data();
  here.tags = tags.data();
  here.images = images.data();
  here.counts = counts.data();
  here.neighbors = firsts.data();
  here.neighbor_mask = NEIGHMASK;

  // Results are added to what is there: to LAMMPS' own arrays where the units are those of the library.
  const bool convert = energy_unit != 1.0;
  tesseral_results results = {};
  results.size = sizeof(results);
  if (convert) {
    forces.assign(3 * static_cast<size_t>(all) + 1, 0.0);
    results.forces = forces.data();
    if (eflag_atom) {
      energies.assign(static_cast<size_t>(all) + 1, 0.0);
      results.atomic_energies = energies.data();
    }
    if (vflag_atom) {
      virials.assign(VIRIAL * static_cast<size_t>(all) + 1, 0.0);
      results.atomic_virials = virials.data();
    }
  } else {
    results.forces = all ? &atom->f[0][0] : nowhere;
    if (eflag_atom) results.atomic_energies = all ? eatom : nowhere;
    if (vflag_atom) results.atomic_virials = all ? &vatom[0][0] : nowhere;
  }

  // A rank without atoms goes through the same exchanges as the others.
  tesseral_exchange exchange = {};
  exchange.context = this;
  exchange.forward = forward;
  exchange.reverse = reverse;
  thrown = nullptr;
  const int failed = tesseral_compute(atoms_here, &here, is_alone() ? nullptr : &exchange, &results);
  if (thrown) std::rethrow_exception(thrown);
  // Others know nothing of it: only error->one ends them too.
  if (failed) listed = nullptr;
  if (failed) error->one(FLERR, std::string("Pair style tesseral: ") + tesseral_last_error());

  if (convert) {
    double *f = all ? &atom->f[0][0] : nowhere;
    for (size_t k = 0; k < 3 * static_cast<size_t>(all); k++) f[k] += energy_unit * forces[k];
    if (eflag_atom)
      for (int i = 0; i < owned; i++) eatom[i] += energy_unit * energies[i];
    if (vflag_atom && all) {
      double *v = &vatom[0][0];
      for (size_t k = 0; k < VIRIAL * static_cast<size_t>(all); k++) v[k] += energy_unit * virials[k];
    }
  }
  if (eflag_global) eng_vdwl += energy_unit * results.energy;
  // The library sums −v ⊗ dE/dv over edges, without products with coordinates, which lose digits far from the origin.
  if (vflag_global)
    for (int k = 0; k < VIRIAL; k++) virial[k] = energy_unit * results.virial[k];
}

/* ----------------------------------------------------------------------
   Exchanges. The library calls them between layers, with one row for each owned and ghost atom, of which those travel that were planned to. No exception may
   pass through it.
------------------------------------------------------------------------- */

int PairTesseral::exchange(void *given, size_t bytes, uint32_t dtype, bool back)
{
  try {
    const int words = static_cast<int>((bytes + WORD - 1) / WORD);
    if (words == 0) return 0;
    if (words > comm_forward)
      error->one(FLERR, fmt::format("Pair style tesseral: the library exchanges {} bytes an atom, more than the {} it announced", bytes, comm_forward * WORD));
    rows = static_cast<char *>(given);
    row_bytes = bytes;
    row_dtype = dtype;
    if (back) {
      // They gather what ranks beyond have, and nothing of this one.
      for (int g : relayed) memset(rows + g * row_bytes, 0, row_bytes);
      comm->reverse_comm(this, words);
    } else
      comm->forward_comm(this, words);
    return 0;
  } catch (...) {
    thrown = std::current_exception();
    return 1;
  }
}

int PairTesseral::forward(void *context, void *rows, size_t bytes)
{
  return static_cast<PairTesseral *>(context)->exchange(rows, bytes, 0, false);
}

int PairTesseral::reverse(void *context, void *rows, size_t bytes, uint32_t dtype)
{
  return static_cast<PairTesseral *>(context)->exchange(rows, bytes, dtype, true);
}

int PairTesseral::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  const size_t words = (row_bytes + WORD - 1) / WORD;
  double *to = buffer;
  for (int k : sent[{atoms, n}]) {
    memcpy(to, rows + atoms[k] * row_bytes, row_bytes);
    to += words;
  }
  return static_cast<int>(to - buffer);
}

void PairTesseral::unpack_forward_comm(int n, int first, double *buffer)
{
  const size_t words = (row_bytes + WORD - 1) / WORD;
  for (int k : received[{first, n}]) {
    memcpy(rows + (first + static_cast<size_t>(k)) * row_bytes, buffer, row_bytes);
    buffer += words;
  }
}

int PairTesseral::pack_reverse_comm(int n, int first, double *buffer)
{
  std::vector<int> &which = received[{first, n}];
  if (planning) {
    std::copy_n(wanted_here.data() + first, n, buffer);
    for (int k = 0; k < n; k++)
      if (buffer[k] != 0.0) which.push_back(k);
    return n;
  }
  const size_t words = (row_bytes + WORD - 1) / WORD;
  double *to = buffer;
  for (int k : which) {
    memcpy(to, rows + (first + static_cast<size_t>(k)) * row_bytes, row_bytes);
    to += words;
  }
  return static_cast<int>(to - buffer);
}

namespace {

template <typename Real> void add_row(char *row, const double *from, size_t bytes)
{
  Real *to = reinterpret_cast<Real *>(row);
  const size_t width = bytes / sizeof(Real);
  for (size_t i = 0; i < width; i++) {
    Real value;
    memcpy(&value, reinterpret_cast<const char *>(from) + i * sizeof(Real), sizeof(Real));
    to[i] += value;
  }
}

}    // namespace

void PairTesseral::unpack_reverse_comm(int n, int *atoms, double *buffer)
{
  std::vector<int> &which = sent[{atoms, n}];
  if (planning) {
    for (int k = 0; k < n; k++)
      if (buffer[k] != 0.0) {
        which.push_back(k);
        wanted_here[atoms[k]] = 1.0;
      }
    return;
  }
  const size_t words = (row_bytes + WORD - 1) / WORD;
  for (int k : which) {
    if (row_dtype == 0)
      add_row<float>(rows + atoms[k] * row_bytes, buffer, row_bytes);
    else
      add_row<double>(rows + atoms[k] * row_bytes, buffer, row_bytes);
    buffer += words;
  }
}

/* ----------------------------------------------------------------------
   Restart files hold what pair_style and pair_coeff said. The model is opened when a run begins, so that a pair_coeff after read_restart may
   name another place.
------------------------------------------------------------------------- */

namespace {

void write_text(FILE *file, const std::string &text)
{
  const int length = static_cast<int>(text.size());
  fwrite(&length, sizeof(int), 1, file);
  fwrite(text.data(), 1, text.size(), file);
}

}    // namespace

void PairTesseral::read_text(FILE *file, std::string &text)
{
  int length = 0;
  if (comm->me == 0) utils::sfread(FLERR, &length, sizeof(int), 1, file, nullptr, error);
  MPI_Bcast(&length, 1, MPI_INT, 0, world);
  if (length < 0 || length > 1 << 20) error->all(FLERR, "Pair style tesseral: the restart file is damaged");
  text.resize(length);
  if (length == 0) return;
  if (comm->me == 0) utils::sfread(FLERR, &text[0], 1, length, file, nullptr, error);
  MPI_Bcast(&text[0], length, MPI_CHAR, 0, world);
}

void PairTesseral::write_restart_settings(FILE *file)
{
  const int numbers[3] = {wanted.f64, wanted.exact_radial, wanted.threads};
  fwrite(numbers, sizeof(int), 3, file);
  write_text(file, wanted.device);
  write_text(file, wanted.head);
}

void PairTesseral::read_restart_settings(FILE *file)
{
  int numbers[3];
  if (comm->me == 0) utils::sfread(FLERR, numbers, sizeof(int), 3, file, nullptr, error);
  MPI_Bcast(numbers, 3, MPI_INT, 0, world);
  wanted.f64 = numbers[0];
  wanted.exact_radial = numbers[1];
  wanted.threads = numbers[2];
  read_text(file, wanted.device);
  read_text(file, wanted.head);
}

void PairTesseral::write_restart(FILE *file)
{
  write_restart_settings(file);
  write_text(file, model);
  for (int i = 1; i <= atom->ntypes; i++) write_text(file, symbols[i]);
}

void PairTesseral::read_restart(FILE *file)
{
  read_restart_settings(file);
  if (!allocated) allocate();
  read_text(file, model);
  symbols.assign(atom->ntypes + 1, "");
  for (int i = 1; i <= atom->ntypes; i++) read_text(file, symbols[i]);
  for (int i = 1; i <= atom->ntypes; i++)
    for (int j = 1; j <= atom->ntypes; j++) setflag[i][j] = 1;
}

/* ---------------------------------------------------------------------- */

void *PairTesseral::extract(const char *name, int &dim)
{
  dim = 0;
  if (strcmp(name, "cutoff") == 0) return &cutoff;
  return nullptr;
}

double PairTesseral::memory_usage()
{
  double bytes = Pair::memory_usage();
  bytes += static_cast<double>(species.capacity() + counts.capacity()) * sizeof(int32_t);
  bytes += static_cast<double>(tags.capacity()) * sizeof(int64_t) + static_cast<double>(firsts.capacity()) * sizeof(int32_t *);
  bytes += static_cast<double>(forces.capacity() + energies.capacity() + virials.capacity()) * sizeof(double);
  return bytes;
}
