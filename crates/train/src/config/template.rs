//! The configuration that `tesseral train --init` writes: every key, what it means, its default.
//!
//! A line of prose begins with `# `; a key without a default is commented out, `#key = example`.

/// One part for each section, in the order in which people decide things.
const PARTS: [&str; 12] = [HEAD, DATA, DOCTOR, MODEL, STATISTICS, LOSS, OPTIMIZER, SCHEDULE, AVERAGE, TRAINING, FINETUNE, OUTPUT];

const HEAD: &str = "\
# Training of an interatomic potential.
#
# Every key may be left out but `data.train` and, for a new model, `model.family`; the values here are the defaults.
# Lengths are in angstrom, energies in eV, forces in eV/angstrom, stresses in eV/angstrom^3 (positive when tensile).
# Paths are relative to the folder of this file. Any key can be given on the command line too, as training.max_epochs=50.

# A preset, or another file such as base.toml, that this one changes.
#extends = \"mace-small\"
";

const DATA: &str = r#"
[data]
# Files to train on, extended XYZ (.gz too): paths, or tables such as { path = "a.xyz", head = "pbe", group = "bulk", weight = 2.0 }.
train = ["train.xyz"]
# Files to validate on. Without them a part of the training frames is held back.
valid = []
# Files to measure the finished model on.
test = []
# Part of the training frames that is held back where there are no files to validate on.
valid_fraction = 0.05
# What happens to a frame without a label that other frames have: "error", or "mask" (the label counts for nothing in that frame).
missing_labels = "error"
# Folder for frames of data sets larger than memory; without it frames are kept in memory.
#cache = "cache"
# How the cache sees that a file has changed: by its "contents", or faster by its "metadata" (size and time).
cache_fingerprint = "contents"

[data.split]
# What goes to one side of the split as a whole: every frame by itself ("seed"), a "group" (config_type), a "file".
by = "seed"
# Seed of the split.
seed = 0

# Keys in the files. Without them the usual names are tried; with them only what is named is read.
[data.keys]
# Total energy, forces, stress or virial (stress = -virial / volume).
#energy = "energy"
#forces = "forces"
#stress = "stress"
#virial = "virial"
# Atoms whose forces count (one value for each atom, 0 or 1).
#force_mask = "forces_mask"
# Kind of configuration, and head that learns from it.
#group = "config_type"
#head = "head"
# Weights of a frame: a factor of all three, and of each.
#weight = "config_weight"
#energy_weight = "config_energy_weight"
#forces_weight = "config_forces_weight"
#stress_weight = "config_stress_weight"

# Factors of the weights of all frames of a kind; 1 for kinds that are not named.
[data.config_type_weights]
#surface = 0.5
"#;

const DOCTOR: &str = r#"
# The check of the data before a training (`tesseral doctor`).
[doctor]
# Codes of errors that are known to be no errors, such as "energy-force": they are listed as warnings.
allow = []
# Frames whose atoms differ by less than this are near-copies, angstrom.
near_duplicate = 0.01
# Atoms closer than this are too close, angstrom.
closest = 0.5
# Robust standard deviations from the median beyond which a force or an energy is an outlier.
outlier = 12.0
# Most frames that a finding names.
examples = 5
"#;

const MODEL: &str = r#"
# A new model: MACE, under the names of `mace_run_train`. NequIP and SevenNet follow it.
[model]
family = "mace"
# Cutoff radius, angstrom.
r_max = 5.0
# Channels of every irrep, and highest degree of the features that atoms send.
num_channels = 128
max_L = 1
# The same written out, in place of the two: scalars first, as many channels of each.
#hidden_irreps = "128x0e+128x1o"
# Highest degree of the edge harmonics.
max_ell = 3
# Message-passing layers.
num_interactions = 2
# Correlation order: one, or one for each layer, [3, 2].
correlation = 3
# Interaction blocks of the first and the later layers: "plain", "residual", "density", "density-residual", "residual-non-linear",
# "attention-residual", or the names of MACE's classes. With "plain" or "density" first, isolated atoms have exactly their energies.
interaction_first = "residual"
interaction = "residual"
# Radial basis ("bessel", "gaussian", "chebyshev"), how many functions, and the exponent of their envelope.
radial_type = "bessel"
num_radial_basis = 8
num_cutoff_basis = 5
# Transform of distances before the basis: "none", "agnesi", "soft".
distance_transform = "none"
# Whether the envelope multiplies the basis, or what the radial network makes of it.
apply_cutoff = true
# Hidden sizes of the radial network.
radial_MLP = [64, 64, 64]
# Hidden scalars of the last readout for each head, its activation ("silu", "tanh", "abs", "none"), and its form ("non-linear", "non-linear-bias").
MLP_irreps = "16x0e"
gate = "silu"
readout = "non-linear"
# Whether energies are scaled and shifted (ScaleShiftMACE).
scale_shift = true
# Whether the Ziegler-Biersack-Littmark repulsion of close pairs is added.
pair_repulsion = false
# Features that are sent along edges, where they are to be fewer, and whether in the first layer too.
#edge_irreps = "64x0e+64x1o"
use_edge_irreps_first = false
# Whether the product basis is free of redundancy: fewer weights for the same functions.
use_reduced_cg = false
# Whether features are equivariant under rotations only, not reflections.
use_so3 = false
# Whether all elements share the weights of the product basis.
use_agnostic_product = false
# Whether only the last layer is read out, and whether it keeps all irreps.
use_last_readout_only = false
keep_last_layer_irreps = false
# Whether charge and spin, embedded as below, have a readout of their own.
use_embedding_readout = false
# Charge, spin and the like: [[model.embedding_specs]] with name, type ("categorical" with num_classes and offset, or "continuous"),
# per ("graph", "node"), emb_dim, default.
#embedding_specs = [{ name = "total_charge", type = "continuous", emb_dim = 16 }]

# Or NequIP, under the names of `NequIPGNNModel`.
#[model]
#family = "nequip"
#r_max = 5.0
#num_layers = 4
#l_max = 1
# Whether features of either parity are kept.
#parity = true
# Channels: one number, or one for each degree, [64, 32].
#num_features = 32
#num_bessels = 8
#bessel_trainable = false
#polynomial_cutoff_p = 6
#radial_mlp_depth = 1
#radial_mlp_width = 128
#readout_mlp_hidden_layers_depth = 0
#readout_mlp_nonlinearity = "silu"
#convnet_sc = true
#convnet_resnet = false
#learnable_shift = false
#convnet_nonlinearity_scalars = { e = "silu", o = "tanh" }
#convnet_nonlinearity_gates = { e = "silu", o = "tanh" }
#per_type_energy_scales_trainable = false
#per_type_energy_shifts_trainable = false
#pair_potential = false

# Or SevenNet, under the names of its `input.yaml`.
#[model]
#family = "sevennet"
#cutoff = 4.5
# Channels: one number, or one for each degree, [128, 64, 32].
#channel = 32
#lmax = 1
#is_parity = true
#num_convolution_layer = 3
#bessel_basis_num = 8
#trainable_coeff = true
# "poly_cut", or "XPLOR" with cutoff_on (angstrom).
#cutoff_function = "poly_cut"
#poly_cut_p_value = 6
#weight_nn_hidden_neurons = [64, 64]
#act_radial = "silu"
#act_scalar = { e = "silu", o = "tanh" }
#act_gate = { e = "silu", o = "tanh" }
# "nequip", "linear" or "none"; or one for each layer.
#self_connection_type = "nequip"
# "avg_num_neigh", "sqrt_avg_num_neigh" or a number.
#conv_denominator = "avg_num_neigh"
#train_denominator = false
#train_shift_scale = false
#use_bias_in_linear = false
#readout_as_fcn = false
#readout_fcn_hidden_neurons = [30, 30]
#readout_fcn_activation = "relu"
"#;

const STATISTICS: &str = r#"
[statistics]
# Energies of isolated atoms, eV: "auto" (isolated atoms in the data, else least squares), "isolated", "least-squares", or given,
# { H = -13.6, O = -2042.0 }.
e0s = "auto"
# What energies are scaled with: "rms-forces", "std-energies" or "none".
scaling = "rms-forces"
"#;

const LOSS: &str = r#"
[loss]
# "mse", "huber", "universal" (MACE's Huber with a delta that depends on the force), "l1l2" (absolute energies, lengths of force errors).
kind = "mse"
# Whether energies are compared per atom.
energy_per_atom = true
# Where "huber" and "universal" turn from squares to absolute values: eV (per atom), eV/angstrom, eV/angstrom^3.
huber_delta = 0.01

[loss.weights]
energy = 1.0
forces = 100.0
stress = 0.0

# A second stage with other weights and a smaller learning rate; the section is enough to have it.
#[loss.stage_two]
# First epoch of the stage; three quarters of the training without it.
#start_epoch = 150
#learning_rate = 0.001
#weights = { energy = 1000.0, forces = 100.0, stress = 0.0 }
"#;

const OPTIMIZER: &str = r#"
[optimizer]
# "adam", "adamw", "sgd", or "lbfgs", for which a step should see all frames: training.batch, or batch and accumulate, as large as the data set.
kind = "adam"
# Learning rate before the schedule; "lbfgs" uses neither.
learning_rate = 0.01
# Adam: decay of the averages of gradient and square, what is added to the root, and whether the largest square counts.
betas = [0.9, 0.999]
eps = 1e-8
amsgrad = true
# Weight decay, and the patterns of the parameters that decay; without them those of `mace_run_train`.
weight_decay = 5e-7
#decay = ["layers.*.product"]
# Stochastic gradient descent: momentum, and whether it is Nesterov's.
momentum = 0.9
nesterov = false
# Largest norm of all gradients together; longer ones are shortened. 0 for no limit. 10 without it; none for "lbfgs".
#clip_norm = 10.0
# Parameters with a learning rate or weight decay of their own; the first group that names one counts.
groups = []

[optimizer.lbfgs]
# Pairs of steps and gradients that are kept, line searches a step, evaluations a line search.
history = 200
iterations = 1
evaluations = 25
# Converged and stalled below these.
gradient_tolerance = 1e-7
change_tolerance = 1e-9
"#;

const SCHEDULE: &str = r#"
[schedule]
# "constant", "plateau", "exponential", "cosine"; and what the latter two count, "epoch" or "step".
kind = "plateau"
unit = "epoch"

[schedule.plateau]
# What the learning rate is multiplied with after this many validations without a lower loss.
factor = 0.8
patience = 50
# How much lower counts, and whether "relative" to the best loss or "absolute".
threshold = 1e-4
threshold_mode = "relative"
# Validations after a reduction that do not count, and the lowest learning rate.
cooldown = 0
minimum_learning_rate = 0.0

[schedule.exponential]
# The factor of one epoch or step.
gamma = 0.9993

[schedule.cosine]
# Length of the first half cosine; the rest of the training without it.
#period = 100
# The factor at its end, whether it begins anew there, and what the period is multiplied with then.
minimum = 0.0
restarts = false
period_factor = 1

# A linear rise at the beginning: its length (0 for none), what it counts, and the factor of the first step.
[schedule.warm_up]
length = 0
unit = "step"
start = 0.01
"#;

const AVERAGE: &str = r#"
[average]
# Whether validation and export use a moving average of the weights, how much of it stays in one step, and whether that rises to its value.
enabled = true
decay = 0.99
warm_up = true
"#;

const TRAINING: &str = r#"
[training]
# Passes over the training set, and wall time from the start of the program (reading the data included), at most.
max_epochs = 200
#max_time = "2h"
# Epochs without a better validation loss after which training ends; 0 for never.
patience = 0
# Epochs from one validation to the next.
validate_every = 1
# Batches whose gradients make a step together.
accumulate = 1
# Floating-point type of weights and features, "f32" or "f64". Energies are summed in f64 in any case.
precision = "f32"
# Where it is computed: "cpu", or "cuda" or "cuda:1" with a program that was built for it (feature candle-cuda).
device = "cpu"
# Seed of initial weights and of the order of frames.
seed = 123
# Threads that prepare batches.
threads = 1
# When a loss or gradient is not a number: "stop" and name the frame, or "rollback" to the last checkpoint and multiply the learning rate.
nan = "stop"
rollback_factor = 0.5

# What makes a step: as many frames as fit under every limit; 0 is no limit.
[training.batch]
frames = 10
atoms = 0
edges = 0

# What is validated at once.
[training.valid_batch]
frames = 0
atoms = 0
edges = 10000

[training.checkpoint]
# Epochs and wall time from one checkpoint to the next, whichever comes first; 0 for none.
epochs = 1
time = "10m"
# How many are kept, beside the best.
keep = 2
"#;

const FINETUNE: &str = r#"
[finetune]
# The model to start from, in place of [model]: a file of Tesseral, MACE, SevenNet or NequIP, or the name of a known one.
#foundation = "sevennet-0"
# "plain", "frozen", "lora", "multihead", "ewc".
mode = "plain"
# Patterns of the parameters that stay as they are ("frozen"): names or their beginnings, * for any part between two dots.
freeze = []
# Weight of the penalty of "ewc".
ewc_weight = 1.0
# Head of the new data ("multihead").
head = "finetuned"
# Whether energies of isolated atoms are estimated anew.
reestimate_e0s = true
# Elements of the training frames that the model does not know: "refuse" the data, or add them to the model, their weights the "mean" over the
# elements that it knows, or those of one of them, { like = { Au = "Ag" } }. Energies of their atoms are estimated from the data.
new_elements = "refuse"
# Files of the old domain, on which forgetting is measured before, during and after.
forgetting = []
# Head of the old domain, where a model has several: of old frames that name none, and the one that "multihead" copies.
#old_head = "default"

[finetune.lora]
# W + (alpha / rank) A B
rank = 4
alpha = 4.0

# Frames of the old domain that are trained along, and how many of them for each new frame.
[finetune.replay]
files = []
ratio = 1.0
# "data", or "foundation": what the model to start from says, so that structures are enough.
labels = "data"

# Keys of labels and weights in the files of the old domain, as those of [data.keys].
[finetune.keys]
#energy = "energy"
#forces = "forces"
#stress = "stress"
#virial = "virial"
#force_mask = "forces_mask"
#group = "config_type"
#head = "head"
#weight = "config_weight"
#energy_weight = "config_energy_weight"
#forces_weight = "config_forces_weight"
#stress_weight = "config_stress_weight"
"#;

const OUTPUT: &str = r#"
[output]
# Folder of the run: model, checkpoints, log, report, and this configuration in full.
directory = "run"
# Name of the model.
name = "model"
# Whether report.html and log.jsonl are written.
report = true
log = true
# Whether event files for TensorBoard are written, into its folder `tensorboard`.
tensorboard = false
# Folders of other fine-tunings, whose errors before and after stand in the report beside those of this one.
compare = []
"#;

/// A configuration with every key, its default and what it means, for people to edit.
pub fn template() -> String {
    PARTS.concat()
}
