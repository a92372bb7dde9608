/* Evaluates what standard input describes through tesseral.h, or provokes errors and prints what they say. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tesseral.h"

static int64_t owned, ghosts;
static int32_t *owners; /* the owned atom that each ghost is an image of */
static int calls, give_up_at;

static int forward(void *context, void *rows, size_t bytes) {
    char *row = rows;
    if (context != &calls || ++calls == give_up_at) return 7;
    for (int64_t g = 0; g < ghosts; g++) memcpy(row + (owned + g) * bytes, row + owners[g] * bytes, bytes);
    return 0;
}

static int reverse(void *context, void *rows, size_t bytes, uint32_t dtype) {
    if (context != &calls || ++calls == give_up_at) return 7;
    for (int64_t g = 0; g < ghosts; g++) {
        if (dtype == TESSERAL_F64) {
            size_t n = bytes / sizeof(double);
            double *to = (double *)rows + owners[g] * n, *from = (double *)rows + (owned + g) * n;
            for (size_t k = 0; k < n; k++) to[k] += from[k];
        } else {
            size_t n = bytes / sizeof(float);
            float *to = (float *)rows + owners[g] * n, *from = (float *)rows + (owned + g) * n;
            for (size_t k = 0; k < n; k++) to[k] += from[k];
        }
    }
    return 0;
}

static void check(int code, const char *what) {
    if (code != TESSERAL_OK) {
        fprintf(stderr, "%s: %s\n", what, tesseral_last_error());
        exit(1);
    }
}

static void *room(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p) exit(2);
    return p;
}

static double number(void) {
    double x;
    if (scanf("%lf", &x) != 1) exit(3);
    return x;
}

/* Prints a code and the first line and hint of the message. */
static void say(const char *what, int code) {
    printf("%s: %d: %s\n", what, code, code == TESSERAL_OK ? "" : tesseral_last_error());
}

static void layout(void) {
    printf("options %zu %zu %zu %zu %zu %zu %zu\n", sizeof(tesseral_options), offsetof(tesseral_options, dtype), offsetof(tesseral_options, head),
           offsetof(tesseral_options, device), offsetof(tesseral_options, threads), offsetof(tesseral_options, ranks_here),
           offsetof(tesseral_options, exact_radial));
    printf("atoms %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu\n", sizeof(tesseral_atoms), offsetof(tesseral_atoms, owned), offsetof(tesseral_atoms, ghosts),
           offsetof(tesseral_atoms, positions), offsetof(tesseral_atoms, species), offsetof(tesseral_atoms, tags), offsetof(tesseral_atoms, images), offsetof(tesseral_atoms, new_list),
           offsetof(tesseral_atoms, counts), offsetof(tesseral_atoms, neighbors), offsetof(tesseral_atoms, neighbor_mask));
    printf("exchange %zu %zu %zu\n", sizeof(tesseral_exchange), offsetof(tesseral_exchange, forward), offsetof(tesseral_exchange, reverse));
    printf("results %zu %zu %zu %zu %zu %zu\n", sizeof(tesseral_results), offsetof(tesseral_results, energy), offsetof(tesseral_results, virial),
           offsetof(tesseral_results, forces), offsetof(tesseral_results, atomic_energies), offsetof(tesseral_results, atomic_virials));
    printf("codes %d %d %d %u\n", TESSERAL_OK, TESSERAL_ERROR, TESSERAL_DEFECT, (unsigned)TESSERAL_ABI);
}

/* Standard input: dtype, owned, ghosts; x y z, symbol of each atom; owners of ghosts; for each owned atom the number of its neighbours, and them. Alone: ghosts are said to be copies,
 * and nothing is exchanged. */
static void evaluate(int alone) {
    tesseral_options options = {0};
    options.size = sizeof options;
    options.dtype = (uint32_t)number();
    options.threads = 2;
    owned = (int64_t)number();
    ghosts = (int64_t)number();
    int64_t all = owned + ghosts;

    tesseral_potential *potential = NULL;
    tesseral_domain *domain = NULL;
    check(tesseral_open(NULL, &options, &potential), "open");
    check(tesseral_domain_new(potential, &domain), "domain");

    double *positions = room(3 * all, sizeof *positions), *forces = room(3 * all, sizeof *forces), *virials = room(6 * all, sizeof *virials);
    double *energies = room(owned, sizeof *energies);
    int32_t *species = room(all, sizeof *species), *counts = room(owned, sizeof *counts), **lists = room(owned, sizeof *lists);
    int64_t *tags = room(all, sizeof *tags);
    owners = room(ghosts, sizeof *owners);
    for (int64_t i = 0; i < all; i++) {
        char symbol[8];
        for (int x = 0; x < 3; x++) positions[3 * i + x] = number();
        if (scanf("%7s", symbol) != 1) exit(3);
        check(tesseral_species(potential, symbol, &species[i]), "species");
    }
    for (int64_t g = 0; g < ghosts; g++) owners[g] = (int32_t)number();
    for (int64_t i = 0; i < all; i++) tags[i] = 1 + (i < owned ? i : owners[i - owned]);
    for (int64_t i = 0; i < owned; i++) {
        counts[i] = (int32_t)number();
        lists[i] = room(counts[i], sizeof **lists);
        /* Bits that LAMMPS has for special bonds. */
        for (int32_t k = 0; k < counts[i]; k++) lists[i][k] = (int32_t)number() | (k % 4) << 30;
    }
    tesseral_atoms atoms = {0};
    atoms.size = sizeof atoms;
    atoms.owned = owned;
    atoms.ghosts = ghosts;
    atoms.positions = positions;
    atoms.species = species;
    atoms.tags = tags;
    atoms.images = alone ? owners : NULL;
    atoms.new_list = 1;
    atoms.counts = counts;
    atoms.neighbors = (const int32_t *const *)lists;
    atoms.neighbor_mask = 0x1FFFFFFF;
    tesseral_exchange exchange = {&calls, forward, reverse};
    tesseral_results results = {0};
    results.size = sizeof results;
    results.forces = forces;
    results.atomic_energies = energies;
    results.atomic_virials = virials;
    check(tesseral_compute(domain, &atoms, alone ? NULL : &exchange, &results), "compute");

    /* Again, with the list that is held, and without what is not needed; the domain holds its potential alive. Forces are added to. */
    double first = results.energy;
    tesseral_close(potential);
    atoms.new_list = 0;
    atoms.species = NULL;
    atoms.tags = NULL;
    atoms.images = NULL;
    atoms.counts = NULL;
    atoms.neighbors = NULL;
    results.atomic_energies = NULL;
    results.atomic_virials = NULL;
    check(tesseral_compute(domain, &atoms, alone ? NULL : &exchange, &results), "compute");
    if (first != results.energy) exit(4);
    for (int64_t i = 0; i < 3 * all; i++) forces[i] *= 0.5;

    for (int64_t g = 0; g < ghosts; g++) {
        for (int x = 0; x < 3; x++) forces[3 * owners[g] + x] += forces[3 * (owned + g) + x];
        for (int x = 0; x < 6; x++) virials[6 * owners[g] + x] += virials[6 * (owned + g) + x];
    }
    printf("%.17g\n", results.energy);
    for (int x = 0; x < 6; x++) printf("%.17g ", results.virial[x]);
    printf("\n");
    for (int x = 0; x < 6; x++) {
        double sum = 0;
        for (int64_t i = 0; i < owned; i++) sum += virials[6 * i + x];
        printf("%.17g ", sum);
    }
    printf("\n");
    for (int64_t i = 0; i < owned; i++)
        printf("%.17g %.17g %.17g %.17g\n", energies[i], forces[3 * i], forces[3 * i + 1], forces[3 * i + 2]);
    tesseral_domain_free(domain);
}

static void errors(void) {
    tesseral_potential *potential = NULL;
    tesseral_domain *domain = NULL;
    int32_t species = -7;
    printf("before: %s|\n", tesseral_last_error());
    printf("version %s abi %u\n", tesseral_version(), tesseral_abi());

    say("nowhere", tesseral_open(NULL, NULL, NULL));
    say("no such name", tesseral_open("sevenet-0", NULL, &potential));
    say("no such file", tesseral_open("./nowhere.safetensors", NULL, &potential));
    say("no text", tesseral_open("\xff\xfe", NULL, &potential));
    tesseral_options options = {0};
    say("options size", tesseral_open(NULL, &options, &potential));
    options.size = sizeof options;
    options.dtype = 2;
    say("dtype", tesseral_open(NULL, &options, &potential));
    options.dtype = TESSERAL_F32;
    options.head = "mp";
    say("head", tesseral_open(NULL, &options, &potential));
    options.head = "";
    options.device = "gpu";
    say("device", tesseral_open(NULL, &options, &potential));
    options.device = "cuda:0";
    say("cuda", tesseral_open(NULL, &options, &potential));
    printf("still %d\n", potential == NULL);
    options.device = "cpu";
    options.ranks_here = 1000;
    say("open", tesseral_open("", &options, &potential));

    printf("name %s cutoff %g row %zu\n", tesseral_name(potential), tesseral_cutoff(potential), tesseral_row_bytes(potential));
    printf("nothing '%s' %g %zu\n", tesseral_name(NULL), tesseral_cutoff(NULL), tesseral_row_bytes(NULL));
    say("Cl", tesseral_species(potential, "Cl", &species));
    printf("species %d\n", species >= 0);
    say("Q", tesseral_species(potential, "Q", &species));
    say("Og", tesseral_species(potential, "Og", &species));
    say("no symbol", tesseral_species(potential, NULL, &species));
    say("no potential", tesseral_species(NULL, "Cl", &species));
    say("no species", tesseral_species(potential, "Cl", NULL));
    say("domain of nothing", tesseral_domain_new(NULL, &domain));
    say("domain to nowhere", tesseral_domain_new(potential, NULL));
    say("domain", tesseral_domain_new(potential, &domain));

    double positions[6] = {0, 0, 0, 0, 0, 2.5}, forces[6] = {1, 1, 1, 1, 1, 1};
    int32_t kinds[2] = {species, species}, counts[2] = {1, 1}, first[1] = {1}, second[1] = {0};
    const int32_t *lists[2] = {first, second};
    int64_t tags[2] = {11, 12};
    tesseral_atoms good = {sizeof good, 2, 0, positions, kinds, tags, NULL, 1, counts, lists, 0}, bad;
    tesseral_exchange exchange = {&calls, forward, reverse}, broken;
    tesseral_results results = {sizeof results, 0, {0}, forces, NULL, NULL}, wrong;
    owned = 2;
    ghosts = 0;

    say("no domain", tesseral_compute(NULL, &good, &exchange, &results));
    say("no atoms", tesseral_compute(domain, NULL, &exchange, &results));
    say("no results", tesseral_compute(domain, &good, &exchange, NULL));
#define WRONG(what, change) bad = good, change, say(what, tesseral_compute(domain, &bad, &exchange, &results))
    WRONG("atoms size", bad.size = 8);
    WRONG("owned", bad.owned = -1);
    WRONG("ghosts", bad.ghosts = -1);
    WRONG("positions", bad.positions = NULL);
    WRONG("kinds", bad.species = NULL);
    WRONG("counts", bad.counts = NULL);
    WRONG("lists", bad.neighbors = NULL);
    WRONG("no list yet", bad.new_list = 0);
    wrong = results, wrong.size = 1;
    say("results size", tesseral_compute(domain, &good, &exchange, &wrong));
    wrong = results, wrong.forces = NULL;
    say("forces", tesseral_compute(domain, &good, &exchange, &wrong));
    counts[1] = -1;
    say("count", tesseral_compute(domain, &good, &exchange, &results));
    counts[1] = 0;
    say("half", tesseral_compute(domain, &good, &exchange, &results));
    counts[1] = 1;
    second[0] = 5;
    say("neighbour", tesseral_compute(domain, &good, &exchange, &results));
    second[0] = 0;
    kinds[1] = 1000;
    say("kind", tesseral_compute(domain, &good, &exchange, &results));
    kinds[1] = species;
    positions[5] = NAN;
    say("nan", tesseral_compute(domain, &good, &exchange, &results));
    positions[5] = 1e-4;
    say("spot", tesseral_compute(domain, &good, &exchange, &results));
    positions[5] = 2.5;
    int32_t images[1] = {5};
    WRONG("image", (bad.owned = 1, bad.ghosts = 1, bad.images = images));
    bad = good, bad.owned = 1, bad.ghosts = 1;
    say("alone", tesseral_compute(domain, &bad, NULL, &results));
    broken = exchange, broken.reverse = NULL;
    say("no reverse", tesseral_compute(domain, &good, &broken, &results));
    calls = 0, give_up_at = 3;
    say("gave up", tesseral_compute(domain, &good, &exchange, &results));
    printf("calls %d\n", calls);
    give_up_at = 0;
    for (int x = 0; x < 6; x++)
        if (forces[x] != 1) exit(5);
    say("good", tesseral_compute(domain, &good, &exchange, &results));
    say("good alone", tesseral_compute(domain, &good, NULL, &results));
    printf("force %d energy %d\n", fabs(forces[2] - 1) > 1e-3, results.energy < -1);
    tesseral_domain_free(domain);
    tesseral_domain_free(NULL);
    tesseral_close(potential);
    tesseral_close(NULL);
}

int main(int argc, char **argv) {
    if (argc != 2 || tesseral_abi() != TESSERAL_ABI) return 9;
    if (!strcmp(argv[1], "layout")) layout();
    if (!strcmp(argv[1], "evaluate")) evaluate(0);
    if (!strcmp(argv[1], "alone")) evaluate(1);
    if (!strcmp(argv[1], "errors")) errors();
    return 0;
}
