/* tesseral.h: the C interface of Tesseral for programs that spread atoms over processes ("ranks").
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * C99, and C++. Units are Å, eV and eV/Å. A rank has atoms of its own ("owned") and ghosts: copies of atoms of other ranks, or of its own across a periodic
 * boundary, that one of its own may see. Ghosts within one cutoff (and a skin) are enough, however many layers a model has, because what atoms send to
 * their neighbours is exchanged between the layers, by functions of the caller.
 *
 *     open a potential ─▶ make a domain ─▶ for each step: tesseral_compute on every rank ─▶ free the domain, close the potential
 *
 * Threads: a potential may be used from several threads at a time, a domain from one. What computes are threads of the library; exchanges are called on
 * the thread that called tesseral_compute, and must not throw or longjmp.
 *
 * No call ends the program or unwinds into the caller: whatever goes wrong is a code other than 0 and a message, defects of the library included.
 */
#ifndef TESSERAL_H
#define TESSERAL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. It changes whenever a program that was compiled for one version would misuse another; compare it with tesseral_abi() before
 * anything else is called. */
#define TESSERAL_ABI 2

/* What functions return. */
#define TESSERAL_OK 0
/* Something is wrong with what was asked for; the message says what. */
#define TESSERAL_ERROR 1
/* A defect of the library. What it happened in, a domain or a potential, is to be freed or closed and not used otherwise. */
#define TESSERAL_DEFECT 2

/* Precisions. */
#define TESSERAL_F32 0
#define TESSERAL_F64 1

/* The species of an atom that the potential has nothing to do with. */
#define TESSERAL_NO_SPECIES (-1)

/* TESSERAL_ABI of the library. */
uint32_t tesseral_abi(void);

/* Version of the library, like "0.1.0". */
const char *tesseral_version(void);

/* What went wrong in the last call on this thread that returned something other than 0: one line with all causes, and perhaps further lines that begin with
 * "hint: ". UTF-8, never NULL; valid until the next call on this thread. */
const char *tesseral_last_error(void);

/* A model, ready to be evaluated. */
typedef struct tesseral_potential tesseral_potential;

/* One rank's atoms between steps: buffers and the list of neighbours. It holds its potential alive. */
typedef struct tesseral_domain tesseral_domain;

/* Every struct that is given to the library begins with its size, sizeof(tesseral_…). Set everything else to 0 first (`= {0}`, memset): 0 is the default. */
typedef struct {
    uint32_t size;
    uint32_t dtype;        /* TESSERAL_F32 or TESSERAL_F64: of the network; energies, forces and virials are summed in double precision always */
    const char *head;      /* MACE head or SevenNet modality; NULL or "" where there is one, or one called "default" */
    const char *device;    /* "cpu", "cuda:0", …; NULL or "": cpu. CUDA needs a library that was built with it (feature `cuda`) */
    uint32_t threads;      /* of this rank; 0: the cores that this process may use, divided by `ranks_here`, at least one */
    uint32_t ranks_here;   /* ranks on this machine; 0 counts as 1 */
    uint32_t exact_radial; /* not 0: radial functions are evaluated for every edge instead of read from tables, which is slow */
} tesseral_options;

/* All functions below that return int return TESSERAL_OK, or another code with a message in tesseral_last_error(). */

/* Opens a model: NULL or "" the built-in one, else a name that `tesseral models` lists, a Tesseral artifact, or a checkpoint of MACE, SevenNet or NequIP,
 * as on the command line. Nothing is downloaded. `options` may be NULL. */
int tesseral_open(const char *model, const tesseral_options *options, tesseral_potential **potential);

/* Closes a potential. Domains that were made of it go on. NULL is nothing. */
void tesseral_close(tesseral_potential *potential);

/* What people call the model; "" of NULL. Valid until the potential is closed. */
const char *tesseral_name(const tesseral_potential *potential);

/* The cutoff, Å: ghosts and lists of neighbours have to reach as far, and by the skin farther. 0 of NULL. */
double tesseral_cutoff(const tesseral_potential *potential);

/* The species of an element by its symbol. An error if the model does not know it, with what it knows. */
int tesseral_species(const tesseral_potential *potential, const char *symbol, int32_t *species);

/* The most bytes that a row of an exchange has, a multiple of 8; 0 where nothing is exchanged (one layer). 0 of NULL. */
size_t tesseral_row_bytes(const tesseral_potential *potential);

/* Makes a domain without atoms. Some models cannot be computed in parts, which tesseral_open says. */
int tesseral_domain_new(tesseral_potential *potential, tesseral_domain **domain);

/* Frees a domain. NULL is nothing. */
void tesseral_domain_free(tesseral_domain *domain);

/* The atoms of a rank: `owned` of its own, then `ghosts`, in all arrays. Pointers are read during the call only, and may be NULL where there is nothing. */
typedef struct {
    uint32_t size;
    int64_t owned, ghosts;
    const double *positions; /* [owned + ghosts][3], Å. Ghosts are where they are, across boundaries too */
    const int32_t *species;  /* [owned + ghosts], of tesseral_species, or TESSERAL_NO_SPECIES: such an atom has no energy, no forces and no neighbours, and is
                                nobody's neighbour, whatever the lists say; its row is exchanged like others */
    const int64_t *tags;     /* [owned + ghosts], or NULL: how messages call atoms, else by their index here. Copies of one atom have one tag */
    const int32_t *images;   /* [ghosts], or NULL: of each ghost the first atom here, owned or ghost, that it is a copy of, across a periodic boundary; the ghost itself if there is
                                none before it. Copies share the features of that atom, so that their rows need no exchange, and forces and virials that they
                                would have are added to its. NULL: no ghost is taken for a copy, and rows of all are exchanged */
    uint32_t new_list;       /* 1: the atoms or the lists below are others than in the last call, or others in number or order. 0: only positions
                                have changed; `species`, `images`, `counts` and `neighbors` are not looked at */
    const int32_t *counts;   /* [owned] neighbours of each owned atom */
    const int32_t *const *neighbors; /* [owned] → [counts[i]], indices into owned and ghosts. Full: of two owned atoms each has the other. All within the cutoff have to be
                                there for as long as the list is used; those farther away are left out at each step. Any order */
    int32_t neighbor_mask;   /* a neighbour is `neighbors[i][k] & neighbor_mask`; LAMMPS: NEIGHMASK. 0: all bits count */
} tesseral_atoms;

/* How ranks exchange rows. `rows` has a row of `bytes` bytes for each atom: owned, then ghosts, in the order of tesseral_atoms; bytes is a multiple of 8, at most
 * tesseral_row_bytes, and rows are aligned to 8. For a model of L layers each call of tesseral_compute makes L − 1 forward exchanges, then L − 1 reverse ones, on
 * every rank in the same order and with the same `bytes`.
 *
 * Return 0, or anything else to give up: tesseral_compute then makes no further exchange and fails. */
typedef struct {
    void *context;
    /* Fill the rows of ghosts with those of their owners: a copy of bytes. Not those of copies (`images`), nor those of ghosts that are no owned atom's neighbour, neither
     * themselves nor by a copy: what is there is not read. */
    int (*forward)(void *context, void *rows, size_t bytes);
    /* Add the rows of ghosts to those of their owners, as numbers: of float if dtype is TESSERAL_F32, of double if it is TESSERAL_F64. The same rows as in `forward`:
     * in those of copies there is nothing of use. What is left in the rows of ghosts is not read. */
    int (*reverse)(void *context, void *rows, size_t bytes, uint32_t dtype);
} tesseral_exchange;

/* What is computed. Forces and virials of ghosts belong to their owners: add them there (a reverse exchange of the caller's; in LAMMPS, newton on). */
typedef struct {
    uint32_t size;
    double energy;           /* of the owned atoms, eV; written */
    double virial[6];        /* −Σ v ⊗ dE/dv over the edges v of owned atoms, eV; xx yy zz xy xz yz; written. The sum over ranks is the virial of the system, which is
                                what LAMMPS calls virial[] and −volume · stress (positive when tensile) */
    double *forces;          /* [owned + ghosts][3], eV/Å; added to */
    double *atomic_energies; /* [owned], eV, or NULL; added to */
    double *atomic_virials;  /* [owned + ghosts][6], eV, in the order of `virial`, or NULL; added to. One half of an edge's part for either end, as LAMMPS
                                divides the virial of pairs (compute stress/atom); not that of the heat flux. Not on
                                devices: an error */
} tesseral_results;

/* Energies, forces and virials of a rank's part of the system.
 *
 * `exchange` is NULL where there is one rank, all of whose ghosts are copies of owned atoms, as `images` says: then nothing is exchanged.
 *
 * Every rank has to call it for every step, those without atoms too: they meet in the exchanges. A rank that fails goes through the exchanges that are left, with
 * zeros, and returns its error then, so that nobody waits for it; what the other ranks return in that step is of no use, though their code is 0. So
 * either end all ranks when one has failed (in LAMMPS, error->one), or let them tell one another their codes before results are used. (What is wrong with
 * the structs themselves, a size, NULL or a negative number, is found before anything is exchanged, and ends the call at once.)
 * After an error the next call needs new_list = 1, and `forces` and what else is added to is as before. */
int tesseral_compute(tesseral_domain *domain, const tesseral_atoms *atoms, const tesseral_exchange *exchange, tesseral_results *results);

#ifdef __cplusplus
}
#endif

#endif
