// SPDX-License-Identifier: GPL-2.0-only
//
// pair_style tesseral: equivariant interatomic potentials inside LAMMPS, message passing across ranks included.

#ifndef LMP_PAIR_TESSERAL_H
#define LMP_PAIR_TESSERAL_H

#include "pair.h"
#include "tesseral.h"

#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace LAMMPS_NS {

class PairTesseral : public Pair {
 public:
  PairTesseral(class LAMMPS *);
  ~PairTesseral() override;

  void compute(int, int) override;
  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  void init_list(int, class NeighList *) override;
  double init_one(int, int) override;

  void write_restart(FILE *) override;
  void read_restart(FILE *) override;
  void write_restart_settings(FILE *) override;
  void read_restart_settings(FILE *) override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

  void *extract(const char *, int &) override;
  double memory_usage() override;

 private:
  // What pair_style says.
  struct Settings {
    int f64 = 0;
    int exact_radial = 0;
    int threads = 0;    // 0: the cores of the machine divided among its ranks
    std::string device = "cpu";
    std::string head;    // empty: the only one
  };

  Settings wanted;
  std::string model;                    // as pair_coeff gives it
  std::vector<std::string> symbols;     // element of each type, from 1; empty: a type of other styles (NULL)
  std::vector<int32_t> species_of;      // the model's number of each type's element, -1 for NULL

  tesseral_potential *potential = nullptr;
  tesseral_domain *atoms_here = nullptr;
  double cutoff = 0.0;         // distance units of LAMMPS, which are Å in all units that are taken
  double energy_unit = 1.0;    // one eV in units of LAMMPS

  // What a step hands over, kept between lists.
  std::vector<int32_t> species;        // of owned and ghost atoms
  std::vector<int64_t> tags;
  std::vector<int32_t> images;         // of ghosts: the first atom here with the same tag
  bool all_images = false;             // whether no ghost is another rank's
  std::vector<int32_t> counts;         // of neighbours of owned atoms
  std::vector<const int32_t *> firsts;
  std::vector<double> forces, energies, virials;    // only where units are converted
  bool list_checked = false;
  class NeighList *listed = nullptr;    // the list that the last step was computed with
  bigint listed_at = -1;                // and the count of builds it comes from

  // Which atoms of LAMMPS' swaps have rows that travel. A swap is known by its list of atoms where it is sent from, by its first ghost where it is received, and
  // by their number.
  std::map<std::pair<const int *, int>, std::vector<int>> sent;
  std::map<std::pair<int, int>, std::vector<int>> received;
  std::vector<int> relayed;        // ghosts that are not wanted here, but by ranks beyond
  std::vector<double> wanted_here;    // 1 for atoms whose rows are wanted
  bool planning = false;

  // The exchange that is going on.
  char *rows = nullptr;
  size_t row_bytes = 0;
  uint32_t row_dtype = 0;
  std::exception_ptr thrown;

  void allocate();
  void close();
  void open();
  void agree(bool, const std::string &);
  void read_text(FILE *, std::string &);
  int ranks_here(int &);
  bool prepare_atoms();
  void find_images();
  bool is_alone() const;
  void plan_exchange();
  void check_list();
  int exchange(void *, size_t, uint32_t, bool);
  static int forward(void *, void *, size_t);
  static int reverse(void *, void *, size_t, uint32_t);
};

}    // namespace LAMMPS_NS

#endif
