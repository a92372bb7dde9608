//! Built models against imported ones of the same hyperparameters, and as potentials.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;

use candle_core::{DType, Device};
use tesseral_atoms::Structure;
use tesseral_potentials::{Evaluation, Model};
use tesseral_testkit::{Random, derivative, relative_error};

use super::*;
use crate::testing::golden;

fn config(text: &str) -> ModelConfig {
    toml::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn statistics(elements: &[u8], heads: usize) -> TrainingStatistics {
    TrainingStatistics {
        elements: elements.to_vec(),
        e0s: vec![vec![0.0; elements.len()]; heads],
        scale: vec![1.0; heads],
        shift: vec![0.0; heads],
        avg_num_neighbors: 6.0,
    }
}

fn names(heads: &[&str]) -> Vec<String> {
    heads.iter().map(|&h| h.to_owned()).collect()
}

fn shapes(artifact: &Artifact) -> BTreeMap<String, Vec<usize>> {
    artifact.names().map(|name| (name.to_owned(), artifact.shape(name).unwrap().to_vec())).collect()
}

const OXIDE: &[u8] = &[8, 14, 26];
const ORGANIC: &[u8] = &[1, 6, 8];
const SALT: &[u8] = &[11, 17, 22, 52, 56];
const MACE: &str = "family = \"mace\"\nr_max = 4.0\nnum_radial_basis = 5\nmax_ell = 2\nMLP_irreps = \"4x0e\"\nradial_MLP = [8, 6]\n";

/// The golden MACE models: file, elements, heads, and what differs from the defaults of the script that made them.
#[rustfmt::skip]
const GOLDEN_MACE: [(&str, &[u8], &[&str], &str); 19] = [
    ("residual_lmax3_nu3", OXIDE, &["Default"], "max_ell = 3\ncorrelation = 3\nradial_MLP = [64, 64, 64]\nhidden_irreps = \"4x0e+4x1o\""),
    ("residual_float32", OXIDE, &["Default"],
        "num_channels = 8\nmax_L = 2\ncorrelation = 3\nradial_MLP = [64, 64, 64]\nMLP_irreps = \"16x0e\"\nnum_cutoff_basis = 6"),
    ("plain_residual_agnesi_zbl", SALT, &["Default"],
        "num_channels = 4\nmax_L = 2\ninteraction_first = \"RealAgnosticInteractionBlock\"\ncorrelation = 3\ndistance_transform = \"agnesi\"\npair_repulsion = true\nr_max = 6.0"),
    ("density_two_heads_agnesi_zbl", OXIDE, &["pbe", "r2scan"],
        "num_channels = 4\ninteraction_first = \"density\"\ninteraction = \"density-residual\"\nmax_ell = 3\ndistance_transform = \"Agnesi\"\npair_repulsion = true\nnum_cutoff_basis = 6"),
    ("nonlinear_charge_spin", ORGANIC, &["Default"],
        "num_channels = 6\nmax_L = 2\ninteraction_first = \"residual-non-linear\"\ninteraction = \"residual-non-linear\"\nnum_interactions = 3\nr_max = 4.5\nedge_irreps = \"4x0e+4x1o+4x2e\"\napply_cutoff = false\nuse_embedding_readout = true\n\
         [[embedding_specs]]\nname = \"total_spin\"\ntype = \"categorical\"\nnum_classes = 11\nemb_dim = 3\n\
         [[embedding_specs]]\nname = \"total_charge\"\ntype = \"categorical\"\nnum_classes = 21\noffset = 10\nemb_dim = 5"),
    ("nonlinear_three_heads_agnostic", OXIDE, &["omat", "r2scan", "spice"],
        "num_channels = 4\ninteraction_first = \"residual-non-linear\"\ninteraction = \"residual-non-linear\"\ndistance_transform = \"agnesi\"\npair_repulsion = true\ncorrelation = 3\nedge_irreps = \"4x0e+4x1o\"\nuse_edge_irreps_first = true\napply_cutoff = false\nuse_agnostic_product = true"),
    ("one_layer_gaussian", ORGANIC, &["Default"],
        "hidden_irreps = \"6x0e+6x1o\"\ninteraction_first = \"plain\"\nnum_interactions = 1\nradial_type = \"gaussian\"\nnum_radial_basis = 7\nmax_ell = 1\ncorrelation = 1"),
    ("one_layer_nu4", OXIDE, &["Default"], "num_channels = 5\nmax_L = 0\nnum_interactions = 1\ncorrelation = 4\nnum_cutoff_basis = 8"),
    ("three_layers_odd_scalars_chebyshev", ORGANIC, &["Default"],
        "hidden_irreps = \"3x0e+3x0o+3x1o+3x1e\"\ninteraction_first = \"plain\"\nnum_interactions = 3\nradial_type = \"chebyshev\"\nnum_radial_basis = 4\ndistance_transform = \"agnesi\""),
    ("soft_so3_tanh", ORGANIC, &["Default"], "num_channels = 4\ndistance_transform = \"soft\"\ngate = \"tanh\"\ncorrelation = 3\nuse_so3 = true"),
    ("plain_both_last_readout_no_gate", OXIDE, &["Default"],
        "num_channels = 4\ninteraction_first = \"plain\"\ninteraction = \"plain\"\ngate = \"None\"\nuse_last_readout_only = true\nkeep_last_layer_irreps = true"),
    ("density_both_no_cutoff_abs", OXIDE, &["Default"],
        "num_channels = 4\ninteraction_first = \"density\"\ninteraction = \"density\"\ngate = \"abs\"\nmax_ell = 1\napply_cutoff = false"),
    ("density_residual_both_edge_irreps", OXIDE, &["Default"],
        "num_channels = 5\ninteraction_first = \"density-residual\"\ninteraction = \"density-residual\"\nnum_interactions = 3\ncorrelation = [1, 3, 2]\nedge_irreps = \"3x0e+3x1o\"\nuse_edge_irreps_first = true"),
    ("bias_readout_two_heads", OXIDE, &["a", "b"], "num_channels = 4\nreadout = \"non-linear-bias\"\nMLP_irreps = \"3x0e\"\nedge_irreps = \"3x0e+3x1o\""),
    ("attention_residual", OXIDE, &["Default"],
        "num_channels = 3\ninteraction_first = \"attention-residual\"\ninteraction = \"attention-residual\"\nmax_ell = 1"),
    ("continuous_charge", ORGANIC, &["Default"],
        "num_channels = 5\nmax_L = 0\ninteraction_first = \"plain\"\n[[embedding_specs]]\nname = \"total_charge\"\ntype = \"continuous\"\nemb_dim = 4"),
    ("plain_class_two_heads_zbl", OXIDE, &["x", "y"], "num_channels = 4\nmax_L = 0\nscale_shift = false\npair_repulsion = true"),
    ("keep_last_layer", OXIDE, &["Default"], "num_channels = 4\nmax_L = 2\nkeep_last_layer_irreps = true\nMLP_irreps = \"6x0e\""),
    ("reduced_cg", OXIDE, &["Default"], "num_channels = 4\nmax_ell = 3\ncorrelation = 3\nuse_reduced_cg = true"),
];

/// Hyperparameters of a golden MACE model: lines that are given twice count as the variant has them.
fn golden_mace(variant: &str) -> ModelConfig {
    let key = |line: &str| line.split_once(" = ").map(|(key, _)| key.to_owned());
    let given: Vec<String> = variant.lines().take_while(|l| !l.starts_with('[')).filter_map(key).collect();
    let defaults = [MACE, "correlation = 2\n"].concat();
    let kept = defaults.lines().filter(|line| key(line).is_none_or(|k| !given.contains(&k)));
    config(&kept.chain(variant.lines()).collect::<Vec<_>>().join("\n"))
}

#[test]
fn mace_has_the_tensors_of_mace_torch() {
    for (name, elements, heads, variant) in GOLDEN_MACE {
        let imported = golden(&format!("mace/{name}.model.gz"));
        let built = build(&golden_mace(variant), &statistics(elements, heads.len()), &names(heads), 1, name).unwrap();
        assert_eq!(built.header().architecture, imported.header().architecture, "{name}");
        let (mut ours, mut theirs) = (shapes(&built), shapes(&imported));
        if name == "reduced_cg" {
            // Another basis of the same functions: the number of its monomials is its own.
            for tensors in [&mut ours, &mut theirs] {
                tensors.retain(|n, _| !n.contains(".monomials.") && !n.contains(".basis."));
            }
        }
        assert_eq!(ours, theirs, "{name}");
        // What is no random number is the same.
        for tensor in theirs.keys().filter(|n| {
            matches!(n.as_str(), "covalent_radii" | "zbl" | "radial.transform" | "radial.centers" | "radial.prefactor")
                || (n.starts_with("radial.") && name != "residual_float32")
                || n.contains(".basis.")
        }) {
            let error = relative_error(&built.f64(tensor).unwrap(), &imported.f64(tensor).unwrap());
            assert!(error < 2e-7, "{name}, {tensor}: {error}");
        }
    }
}

const SEVENNET_0: &str = "family = \"sevennet\"\ncutoff = 5.0\nchannel = [128, 64, 32]\nlmax = 2\nis_parity = false\nnum_convolution_layer = 5\n\
    cutoff_function = \"XPLOR\"\ncutoff_on = 4.5\nself_connection_type = \"linear\"\nconv_denominator = \"sqrt_avg_num_neigh\"";

#[test]
fn sevennet_0_is_sevennet_0() {
    let published = Artifact::from_static(tesseral_models::default_artifact(), "sevennet-0").unwrap();
    let mut elements = published.header().elements().to_vec();
    elements.sort_unstable();
    let listed = format!("{SEVENNET_0}\nirreps_manual = [\"128x0e\"{}, \"128x0e\"]", ", \"128x0e+64x1e+32x2e\"".repeat(4));
    for text in [SEVENNET_0, &listed] {
        let built = build(&config(text), &statistics(&elements, 1), &[], 1, "x").unwrap();
        assert_eq!(shapes(&built), shapes(&published));
        assert_eq!(built.num_parameters(), published.num_parameters());
        // SevenNet sorts its elements by symbol.
        let (Architecture::Nequip(mut ours), Architecture::Nequip(theirs)) =
            (built.header().architecture.clone(), published.header().architecture.clone())
        else {
            panic!("SevenNet is of the family of NequIP");
        };
        ours.elements.clone_from(&theirs.elements);
        assert_eq!(ours, theirs);
        assert!(relative_error(&built.f64("layers.1.denominator").unwrap(), &[6f64.sqrt()]) < 1e-15);
    }
}

#[test]
fn sevennet_has_the_tensors_of_sevenn() {
    let base = "family = \"sevennet\"\ncutoff = 4.0\nchannel = 4\nlmax = 2\nis_parity = false\nweight_nn_hidden_neurons = [6, 5]\nbessel_basis_num = 5\nself_connection_type = \"linear\"\nconv_denominator = 6.0\n";
    let variants: [(&str, &[u8], &[(&str, &str)]); 4] = [
        ("parity_nequip_connection.pth.gz", &[26, 8, 14], &[("is_parity", "true"), ("self_connection_type", "\"nequip\"")]),
        (
            // With `tanh` in place of `abs`, which would make odd scalars even.
            "parity_readout_fcn.pth",
            &[26, 8, 14],
            &[
                ("is_parity", "true"),
                ("readout_as_fcn", "true"),
                ("readout_fcn_hidden_neurons", "[7, 4]"),
                ("readout_fcn_activation", "\"silu\""),
                ("irreps_manual", "[\"4x0e\", \"4x0e+3x0o+2x1o+2x1e+2x2e\", \"4x0e\"]"),
                ("num_convolution_layer", "2"),
                ("act_radial", "\"ssp\""),
                ("act_gate", "{ e = \"ssp\" }"),
            ],
        ),
        (
            "lmax3_edge_node.pth",
            &[6, 1],
            &[
                ("lmax", "3"),
                ("lmax_node", "1"),
                ("num_convolution_layer", "2"),
                ("cutoff_function", "\"poly_cut\""),
                ("poly_cut_p_value", "4"),
            ],
        ),
        ("raw_harmonics_scalar_scale.pth", &[6, 1], &[("num_convolution_layer", "2"), ("lmax_edge", "1")]),
    ];
    for (file, elements, changes) in variants {
        let mut table: toml::Table = toml::from_str(base).unwrap();
        for (key, value) in changes {
            table.insert((*key).to_owned(), value.parse().unwrap());
        }
        let mut sorted = elements.to_vec();
        sorted.sort_unstable();
        let built = build(&table.try_into().unwrap(), &statistics(&sorted, 1), &[], 1, file).unwrap();
        let imported = golden(&format!("sevennet/{file}"));
        assert_eq!(shapes(&built), shapes(&imported), "{file}");
        let (Architecture::Nequip(mut ours), Architecture::Nequip(mut theirs)) =
            (built.header().architecture.clone(), imported.header().architecture.clone())
        else {
            panic!("SevenNet is of the family of NequIP");
        };
        ours.elements.clone_from(&theirs.elements);
        theirs.normalize_harmonics = true;
        if theirs.activations.scalars_odd == "abs" {
            (theirs.activations.scalars_odd, theirs.activations.gates_odd) = ("tanh".into(), "tanh".into());
        }
        assert_eq!(ours, theirs, "{file}");
    }
}

#[test]
fn nequip_has_the_tensors_of_nequip() {
    let base = "family = \"nequip\"\nr_max = 4.0\nnum_bessels = 5\nradial_mlp_width = 6\n";
    let variants: [(&str, &[u8], &str); 3] = [
        (
            "parity_zbl_per_type.ckpt.gz",
            ORGANIC,
            "num_layers = 3\nl_max = 2\nnum_features = 3\nradial_mlp_depth = 2\nbessel_trainable = true\npair_potential = true",
        ),
        (
            "no_parity_edge_cutoffs.nequip.zip.gz",
            OXIDE,
            "num_layers = 2\nl_max = 3\nparity = false\nnum_features = [5, 4, 3, 2]\ntype_embed_num_features = 6\npolynomial_cutoff_p = 8\nreadout_mlp_hidden_layers_depth = 1\nreadout_mlp_hidden_layers_width = 7",
        ),
        (
            "preset_s.ckpt.gz",
            ORGANIC,
            "num_layers = 2\nl_max = 1\nparity = false\nnum_features = [6, 4]\ntype_embed_num_features = 4\nreadout_mlp_hidden_layers_depth = 2\nreadout_mlp_nonlinearity = \"none\"",
        ),
    ];
    for (file, elements, variant) in variants {
        let built = build(&config(&[base, variant].concat()), &statistics(elements, 1), &[], 1, file).unwrap();
        let imported = golden(&format!("nequip/{file}"));
        // Divisors and cutoffs by element are not among what is built.
        let but_by_element = |artifact: &Artifact| {
            let mut shapes = shapes(artifact);
            shapes.retain(|name, _| name != "pair_cutoffs" && !name.ends_with(".denominator"));
            shapes
        };
        assert_eq!(but_by_element(&built), but_by_element(&imported), "{file}");
        let (Architecture::Nequip(mut ours), Architecture::Nequip(theirs)) =
            (built.header().architecture.clone(), imported.header().architecture.clone())
        else {
            panic!("NequIP is of its family");
        };
        ours.elements.clone_from(&theirs.elements);
        if let (Some(ours), Some(theirs)) = (&mut ours.zbl, &theirs.zbl) {
            assert!((ours.coulomb / theirs.coulomb - 1.0).abs() < 1e-6);
            ours.coulomb = theirs.coulomb;
        }
        for (a, b) in ours.readout.iter_mut().zip(&theirs.readout) {
            assert!((a.scale / b.scale - 1.0).abs() < 1e-15);
            a.scale = b.scale;
        }
        assert_eq!(ours, theirs, "{file}");
    }
}

/// Small models of every kind.
#[rustfmt::skip]
const POTENTIALS: [(&str, bool); 10] = [
    ("family = \"mace\"\nnum_channels = 16\nmax_ell = 2", true),
    ("family = \"mace\"\nnum_channels = 8\nmax_L = 2\ncorrelation = [3, 2]\nuse_reduced_cg = true\ninteraction_first = \"density\"\ninteraction = \"density-residual\"\ndistance_transform = \"agnesi\"\npair_repulsion = true", true),
    ("family = \"mace\"\nnum_channels = 8\nmax_ell = 2\ncorrelation = 2\ninteraction_first = \"residual-non-linear\"\ninteraction = \"residual-non-linear\"\napply_cutoff = false\nreadout = \"non-linear-bias\"\nuse_agnostic_product = true", true),
    ("family = \"mace\"\nnum_channels = 8\nmax_ell = 2\ncorrelation = 2\nuse_so3 = true\nradial_type = \"gaussian\"\ndistance_transform = \"soft\"\nnum_interactions = 3", false),
    ("family = \"mace\"\nhidden_irreps = \"6x0e+6x0o+6x1o+6x1e\"\nmax_ell = 1\ncorrelation = 2\ninteraction_first = \"plain\"", true),
    ("family = \"nequip\"\nnum_layers = 3\nl_max = 2\nnum_features = 8", true),
    ("family = \"nequip\"\nnum_layers = 3\nl_max = 2\nnum_features = [12, 8, 4]\nparity = false\nconvnet_resnet = true\npair_potential = true\nreadout_mlp_hidden_layers_depth = 1\nlearnable_shift = true", true),
    ("family = \"sevennet\"", true),
    ("family = \"sevennet\"\nis_parity = false\nchannel = [16, 8, 4]\nlmax = 2\nself_connection_type = [\"nequip\", \"linear\", \"linear\"]\nuse_bias_in_linear = true\nconv_denominator = \"sqrt_avg_num_neigh\"\ncutoff_function = \"XPLOR\"\ncutoff_on = 4.0", false),
    ("family = \"sevennet\"\nreadout_as_fcn = true\nreadout_fcn_activation = \"silu\"\nchannel = 8\nconv_denominator = 5.0", true),
];

fn molecule(random: &mut Random, atoms: usize) -> Structure {
    let numbers = (0..atoms).map(|k| ORGANIC[k % 3]).collect();
    // About one atom in each cube of 1.4 Å.
    let side = (atoms as f64).cbrt().ceil() as usize;
    let place =
        |k: usize, random: &mut Random| [k % side, k / side % side, k / side / side].map(|x| 1.4 * x as f64 + 0.25 * random.number());
    let positions = (0..atoms).map(|k| place(k, random)).collect();
    Structure::molecule(numbers, positions)
}

fn evaluate(model: &Model, structure: &Structure) -> Evaluation {
    let prepared = model.prepare(structure).unwrap();
    let batch = model.batch(&[&prepared], &[structure], 0).unwrap();
    model.evaluate(&batch).unwrap().remove(0)
}

fn load(text: &str, seed: u64) -> Model {
    let mut statistics = statistics(ORGANIC, 1);
    statistics.avg_num_neighbors = 10.0;
    let artifact = build(&config(text), &statistics, &[], seed, "test").unwrap_or_else(|e| panic!("{text}: {e}"));
    Model::load(&artifact, DType::F64, &Device::Cpu).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// An orthogonal matrix from a random quaternion.
fn rotation(random: &mut Random) -> [[f64; 3]; 3] {
    let q = [(); 4].map(|()| random.number());
    let norm = q.iter().map(|x| x * x).sum::<f64>().sqrt();
    let [w, x, y, z] = q.map(|x| x / norm);
    [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
    ]
}

fn turned(m: &[[f64; 3]; 3], v: &[f64; 3]) -> [f64; 3] {
    m.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
}

#[test]
fn untrained_models_are_invariant_potentials() {
    let mut random = Random::new(5);
    for (text, inversion) in POTENTIALS {
        let model = load(text, 3);
        let structure = molecule(&mut random, 5);
        let here = evaluate(&model, &structure);
        assert!(here.energy.is_finite() && here.forces.as_flattened().iter().all(|f| f.is_finite()), "{text}");

        let mut matrices = vec![rotation(&mut random)];
        if inversion {
            matrices.push([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]);
        }
        for matrix in matrices {
            let mut other = structure.clone();
            other.positions.iter_mut().for_each(|r| *r = turned(&matrix, r));
            let there = evaluate(&model, &other);
            assert!(
                (there.energy - here.energy).abs() < 1e-10 * here.energy.abs().max(1.0),
                "{text}: {} and {}",
                here.energy,
                there.energy
            );
            let expected: Vec<[f64; 3]> = here.forces.iter().map(|f| turned(&matrix, f)).collect();
            assert!(relative_error(there.forces.as_flattened(), expected.as_flattened()) < 1e-10, "{text}");
        }

        let energy = |x: &[f64]| {
            let mut moved = structure.clone();
            moved.positions = x.as_chunks().0.to_vec();
            -evaluate(&model, &moved).energy
        };
        let numeric = derivative(structure.positions.as_flattened(), 2e-3, energy);
        let error = relative_error(here.forces.as_flattened(), &numeric);
        assert!(error < 1e-7, "{text}: forces differ by {error:e} from finite differences");
    }
}

#[test]
fn energies_of_untrained_models_are_of_order_one() {
    let mut random = Random::new(8);
    for (text, _) in POTENTIALS {
        // The pair repulsion is as large as it is.
        let text = text.replace("pair_repulsion = true", "").replace("pair_potential = true", "");
        // Products of messages have long tails, in mace-torch as well, so that one seed in ten may give anything.
        let mut deviations: Vec<f64> = (0..5)
            .map(|seed| {
                let energies = evaluate(&load(&text, seed), &molecule(&mut random, 16)).atomic_energies;
                (energies.iter().map(|e| e * e).sum::<f64>() / energies.len() as f64).sqrt()
            })
            .collect();
        deviations.sort_by(f64::total_cmp);
        assert!((0.005..10.0).contains(&deviations[2]), "{text}: root mean squares {deviations:?}");
    }
}

#[test]
fn weights_begin_as_their_packages_begin_them() {
    let made = |text: &str| build(&config(text), &statistics(ORGANIC, 1), &[], 1, "x").unwrap();
    let deviation = |artifact: &Artifact, name: &str| {
        let values = artifact.f64(name).unwrap();
        (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
    };
    let check = |artifact: &Artifact, name: &str, expected: f64| {
        let found = deviation(artifact, name);
        // Four standard errors of the deviation of normal numbers.
        let tolerance = 4.0 / (2.0 * artifact.f64(name).unwrap().len() as f64).sqrt();
        assert!((found / expected - 1.0).abs() < tolerance, "{name}: {found}, expected {expected}");
    };
    let mace = made("family = \"mace\"\nnum_channels = 64\nradial_MLP = [32, 16]");
    for name in ["embedding.weight", "layers.0.up.weight", "layers.1.skip.weight", "layers.1.radial.2.weight", "readouts.1.linear_1.weight"]
    {
        check(&mace, name, 1.0);
    }
    // The numbers of paths are those of model definitions §2.7.
    for (block, counts) in [(0, [1, 4, 23]), (1, [1, 6, 51])] {
        for (nu, paths) in counts.into_iter().enumerate() {
            let name = format!("layers.0.product.{block}.weights.{}", nu + 1);
            assert_eq!(mace.shape(&name).unwrap(), [3, paths, 64]);
            check(&mace, &name, 1.0 / paths as f64);
        }
    }
    let frequencies: Vec<f64> = (1..=8).map(|n| f64::from(n) * std::f64::consts::PI / 5.0).collect();
    assert!(relative_error(&mace.f64("radial.frequencies").unwrap(), &frequencies) < 1e-15);

    let nonlinear = made(
        "family = \"mace\"\nnum_channels = 32\ninteraction_first = \"residual-non-linear\"\nreadout = \"non-linear-bias\"\ncorrelation = 1",
    );
    check(&nonlinear, "layers.0.radial.1.weight", (1f64 / (3.0 * 64.0)).sqrt());
    check(&nonlinear, "layers.0.source.weight", 0.001 / 3f64.sqrt());
    assert_eq!((nonlinear.f64("layers.0.alpha").unwrap(), nonlinear.f64("layers.0.beta").unwrap()), (vec![20.0], vec![0.0]));
    assert_eq!(nonlinear.f64("readouts.1.linear_mid.bias").unwrap(), [0.0; 16]);

    // The self connection of an element is a sum over its row of the table.
    let nequip = made("family = \"nequip\"\nnum_layers = 2\ntype_embed_num_features = 16");
    let table = nequip.f64("embedding.weight").unwrap();
    let rows = nequip.f64("layers.1.self_connection.weight").unwrap();
    for (row, attributes) in rows.chunks(rows.len() / 3).zip(table.chunks(16)) {
        let norm = attributes.iter().map(|a| a * a).sum::<f64>().sqrt();
        let found = (row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64).sqrt();
        assert!((found / norm - 1.0).abs() < 4.0 / (2.0 * row.len() as f64).sqrt(), "{found}, {norm}");
    }
    check(&nequip, "layers.0.radial.0.weight", 1.0);
    assert!(nequip.f64("layers.0.radial.0.weight").unwrap().iter().all(|w| w.abs() < 3f64.sqrt()));
}

#[test]
fn seeds_and_names_decide_the_weights() {
    let text = "family = \"nequip\"\nnum_layers = 2\nnum_features = 4";
    let make = |text: &str, seed| build(&config(text), &statistics(ORGANIC, 1), &[], seed, "x").unwrap();
    let (a, b, c) = (make(text, 1), make(text, 1), make(text, 2));
    assert!(a.names().all(|n| a.f64(n).unwrap() == b.f64(n).unwrap()));
    assert_ne!(a.f64("layers.0.linear_1.weight").unwrap(), c.f64("layers.0.linear_1.weight").unwrap());
    // A layer more does not change the first.
    let deeper = make(&text.replace("num_layers = 2", "num_layers = 3"), 1);
    for name in ["embedding.weight", "layers.0.linear_1.weight", "layers.0.radial.0.weight"] {
        assert_eq!(a.f64(name).unwrap(), deeper.f64(name).unwrap(), "{name}");
    }
}

#[test]
fn energies_of_atoms_and_scales_come_from_the_statistics() {
    let mut statistics = statistics(ORGANIC, 2);
    statistics.e0s = vec![vec![-13.0, -1000.0, -2000.0], vec![-14.0, -1001.0, -2001.0]];
    (statistics.scale, statistics.shift) = (vec![2.0, 3.0], vec![0.5, -0.5]);
    let heads = names(&["pbe", "r2scan"]);
    let text = "family = \"mace\"\nnum_channels = 2\nmax_ell = 1\ncorrelation = 1\ninteraction_first = \"plain\"";
    let atom = |artifact: &Artifact, head: &str| {
        let model = Model::load(artifact, DType::F64, &Device::Cpu).unwrap();
        let atom = Structure::molecule(vec![6], vec![[0.0; 3]]);
        let batch = model.batch(&[&model.prepare(&atom).unwrap()], &[&atom], model.head(Some(head)).unwrap()).unwrap();
        model.evaluate(&batch).unwrap()[0].energy
    };
    let scaled = build(&config(text), &statistics, &heads, 1, "x").unwrap();
    assert_eq!((scaled.f64("scale").unwrap(), scaled.f64("shift").unwrap()), (vec![2.0, 3.0], vec![0.5, -0.5]));
    assert_eq!((atom(&scaled, "pbe"), atom(&scaled, "r2scan")), (-999.5, -1001.5));
    let plain = build(&config(&format!("{text}\nscale_shift = false")), &statistics, &heads, 1, "x").unwrap();
    assert!(!plain.contains("shift"));
    assert_eq!((atom(&plain, "pbe"), atom(&plain, "r2scan")), (-999.5, -1001.5));

    let error = build(&config("family = \"nequip\""), &statistics, &heads, 1, "x").unwrap_err();
    assert!(error.to_string().contains("pbe, r2scan"), "{error}");
    (statistics.e0s, statistics.scale, statistics.shift) = (vec![vec![-13.0, -1000.0, -2000.0]], vec![2.0], vec![0.5]);
    let nequip = build(&config("family = \"nequip\"\nnum_features = 2"), &statistics, &[], 1, "x").unwrap();
    assert_eq!(nequip.f64("shift").unwrap(), [-12.5, -999.5, -1999.5]);
    assert_eq!(nequip.f64("scale").unwrap(), [2.0; 3]);
    let model = Model::load(&nequip, DType::F64, &Device::Cpu).unwrap();
    assert_eq!(evaluate(&model, &Structure::molecule(vec![6], vec![[0.0; 3]])).energy, -999.5);
}

#[test]
fn what_makes_no_model_is_named() {
    let says = |text: &str| build(&config(text), &statistics(ORGANIC, 1), &[], 1, "x").map(|_| ()).unwrap_err().to_string();
    for (text, part) in [
        ("family = \"mace\"\nnum_channels = 0", "model.num_channels"),
        ("family = \"mace\"\ncorrelation = [1, 2, 3]", "model.correlation` has 3 entries for 2 layers"),
        ("family = \"mace\"\ncorrelation = 9", "correlation"),
        ("family = \"mace\"\nhidden_irreps = \"4x0e+2x1o\"", "model.hidden_irreps"),
        ("family = \"mace\"\nhidden_irreps = \"4x1o+4x0e\"", "even scalars come first"),
        ("family = \"mace\"\nhidden_irreps = \"4x0e+4x1o+4x1o\"", "twice"),
        ("family = \"mace\"\nMLP_irreps = \"4x1o\"", "model.MLP_irreps"),
        ("family = \"mace\"\ngate = \"softsign\"", "softsign"),
        ("family = \"mace\"\nnum_interactions = 1\nuse_last_readout_only = true", "without a readout"),
        ("family = \"mace\"\nuse_embedding_readout = true", "embeds nothing"),
        ("family = \"mace\"\nr_max = -1.0", "cutoff"),
        ("family = \"nequip\"\nnum_features = [1, 2, 3]", "3 entries for 2 degrees"),
        ("family = \"nequip\"\nconvnet_nonlinearity_gates = { o = \"abs\" }", "keeps their parity"),
        ("family = \"nequip\"\nnum_layers = 0", "model.num_layers"),
        ("family = \"sevennet\"\ncutoff_function = \"XPLOR\"", "model.cutoff_on"),
        ("family = \"sevennet\"\ncutoff_function = \"XPLOR\"\ncutoff_on = 5.0", "not below the cutoff"),
        ("family = \"sevennet\"\nirreps_manual = [\"4x0e\"]", "3 layers need 4"),
        ("family = \"sevennet\"\nconv_denominator = 0", "conv_denominator"),
        ("family = \"sevennet\"\nact_radial = \"swish\"", "swish"),
    ] {
        let message = says(text);
        assert!(message.contains(part), "{text}: {message}");
    }
    let wrong = |change: fn(&mut TrainingStatistics)| {
        let mut statistics = statistics(ORGANIC, 1);
        change(&mut statistics);
        build(&ModelConfig::default(), &statistics, &[], 1, "x").map(|_| ()).unwrap_err().to_string()
    };
    assert!(wrong(|s| s.elements.reverse()).contains("ascending"));
    assert!(wrong(|s| s.e0s.clear()).contains("0 heads"));
    assert!(wrong(|s| s.e0s[0].truncate(2)).contains("2 elements"));
    assert!(wrong(|s| s.scale[0] = 0.0).contains("scale"));
    assert!(wrong(|s| s.shift[0] = f64::NAN).contains("NaN"));
    assert!(wrong(|s| s.avg_num_neighbors = 0.0).contains("no atom sees another"));
}

#[test]
fn configurations_survive_toml_and_know_what_is_trained() {
    for text in POTENTIALS.iter().map(|p| p.0.to_owned()).chain(GOLDEN_MACE.iter().map(|g| format!("family = \"mace\"\n{}", g.3))) {
        let config = config(&text);
        assert_eq!(toml::from_str::<ModelConfig>(&toml::to_string(&config).unwrap()).unwrap(), config, "{text}");
    }
    let trained = |text: &str, tensor: &str| config(text).is_trained(tensor);
    assert!(trained("family = \"mace\"", "layers.0.up.weight") && !trained("family = \"mace\"", "radial.frequencies"));
    assert!(!trained("family = \"mace\"", "atomic_energies") && !trained("family = \"mace\"", "shift"));
    assert!(trained("family = \"sevennet\"", "radial.frequencies") && !trained("family = \"sevennet\"", "layers.3.denominator"));
    assert!(trained("family = \"sevennet\"\ntrain_denominator = true", "layers.3.denominator"));
    assert!(trained("family = \"sevennet\"\ntrain_shift_scale = true", "scale"));
    assert!(
        !trained("family = \"nequip\"", "radial.frequencies")
            && trained("family = \"nequip\"\nbessel_trainable = true", "radial.frequencies")
    );
    assert!(trained("family = \"nequip\"\nper_type_energy_shifts_trainable = true", "shift"));
}
