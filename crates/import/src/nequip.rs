//! NequIP models → artifacts (model definitions §4).
//!
//! | file | hyperparameters from | weights |
//! |---|---|---|
//! | package (`.nequip.zip`, from 0.7 on) | the pickled modules | of the eager model |
//! | Lightning checkpoint (`.ckpt`, from 0.7 on) | `hyper_parameters` | the moving average if there is one |
//! | training folder (up to 0.6) | `config.yaml` | `best_model.pth` |
//! | deployed model (`.pth`, up to 0.6) | `extra/config` | the tensors of the TorchScript module; its code is not read |
//!
//! A self connection contracts a table of types (or a one-hot vector) with a weight of three axes; artifacts hold the product, one matrix for each
//! element. A tensor that no step has used is an error, so that nothing a model does is left out silently.

mod config;
mod hyperparameters;
mod layers;
mod package;
mod state;
mod training;

use std::path::Path;

use tesseral_o3::{Irrep, Irreps, MulIrrep};
use tesseral_ops::radial::ZblConstants;
use tesseral_potentials::nequip::{Envelope, NequipConfig, ReadoutLayer, ZblConfig};
use tesseral_potentials::{Architecture, Artifact, Header, PotentialError, Provenance};

use self::hyperparameters::{Generation, Hyperparameters, ReadoutActivation, option_error, version};
use self::layers::{LayerConverter, rows};
use self::state::{Output, State, wrong_shape};
use self::training::Training;
use crate::source::{CheckpointKind, ForeignCheckpoint};
use crate::torch::module::ModuleError;
pub use crate::yaml::YamlError;

/// What keeps a NequIP model from being converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NequipError {
    /// The model is Allegro, another architecture.
    #[error("the model is Allegro, which is not supported")]
    Allegro,
    /// A module of a class that is not known.
    #[error("module `{path}` is of class `{class}`, which is not known")]
    UnknownModule {
        /// Where it is.
        path: String,
        /// Dotted name of its class.
        class: String,
    },
    /// A tensor that belongs to nothing that is known.
    #[error("tensor `{name}` belongs to a part of the model that is not known")]
    UnknownTensor {
        /// Its name inside the energy network.
        name: String,
    },
    /// An option is missing, or has a value that is not understood.
    #[error("the NequIP option `{key}` {reason}")]
    Option {
        /// The option.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The file holds more than one model.
    #[error("the file holds several models, among them `{first}` and `{second}`")]
    SeveralModels {
        /// Name of one, or the prefix of its tensors.
        first: String,
        /// Name of another.
        second: String,
    },
    /// A deployed model whose weights were folded into its code.
    #[error("the model was frozen when it was deployed: its weights are constants of its code")]
    Frozen,
    /// A tensor is missing.
    #[error("the model has no tensor `{name}`")]
    MissingTensor {
        /// Its name inside the energy network.
        name: String,
    },
    /// A tensor does not have the size that the hyperparameters imply.
    #[error("tensor `{name}` has shape {found:?}, the hyperparameters imply {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that is needed; 0 stands for any length.
        expected: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("tensor `{name}` is not finite at element {index}")]
    NotFinite {
        /// Its name.
        name: String,
        /// Where, counting row-major.
        index: usize,
    },
    /// The weights and their moving average do not belong together.
    #[error("the moving average of the weights does not fit the model at `{tensor}`")]
    MovingAverage {
        /// The first tensor that does not fit.
        tensor: String,
    },
    /// A stored 3j tensor is neither the known one nor its negative.
    #[error("the 3j tensor of degrees {degrees:?} in layer {layer} is not the one of e3nn")]
    Coupling {
        /// The layer, from 0 on.
        layer: usize,
        /// Degrees of feature, edge and message.
        degrees: [usize; 3],
    },
    /// A configuration that is not YAML.
    #[error("the configuration is not understood: {0}")]
    Yaml(#[from] YamlError),
    /// A file of a training folder cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The checkpoint is not NequIP's.
    #[error("{kind} is not a NequIP model")]
    NotNequip {
        /// What it is.
        kind: String,
    },
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] crate::Error),
    /// The artifact could not be made.
    #[error(transparent)]
    Artifact(#[from] PotentialError),
}

impl From<ModuleError> for NequipError {
    fn from(error: ModuleError) -> Self {
        Self::Read(error.into())
    }
}

impl NequipError {
    /// What the user can do next, if anything can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read(error) => error.hint(),
            Self::Allegro => Some("NequIP, MACE and SevenNet models can be converted".into()),
            Self::UnknownModule { .. } | Self::UnknownTensor { .. } => {
                Some("models that nequip 0.5 to 0.19 builds from its own modules are known; please report newer ones".into())
            }
            Self::Frozen => Some("import the training folder that it was deployed from".into()),
            Self::Io { .. } => Some("a training folder has `config.yaml` and `best_model.pth`".into()),
            _ => None,
        }
    }
}

/// Converts a checkpoint that was recognised as NequIP's. A bare state dict needs the `config.yaml` beside it.
///
/// # Errors
/// [`NequipError`] naming the option, module or tensor at fault.
pub fn convert(checkpoint: &ForeignCheckpoint, name: &str) -> Result<Artifact, NequipError> {
    match checkpoint.kind() {
        CheckpointKind::NequipPackage { .. } => {
            let hyper = package::hyperparameters(checkpoint)?;
            finish(checkpoint, &hyper, &State::new(checkpoint, state_dict(checkpoint)?)?, Vec::new(), name)
        }
        CheckpointKind::NequipTraining => {
            let training = Training::new(checkpoint)?;
            let hyper = training.hyperparameters()?;
            finish(checkpoint, &hyper, &State::new(checkpoint, training.tensors(checkpoint)?)?, training.notes(), name)
        }
        CheckpointKind::NequipScript { .. } => {
            let missing = || option_error("extra/config", "is missing: the model was deployed by a version that is too old");
            let text = checkpoint.text_entry("extra/config")?.ok_or_else(missing)?;
            match convert_state(checkpoint, &text, name) {
                Err(NequipError::MissingTensor { name }) if name == state::ANCHOR => Err(NequipError::Frozen),
                result => result,
            }
        }
        CheckpointKind::NequipState => {
            let path = checkpoint.path().with_file_name("config.yaml");
            let text = read_configuration(&path)?;
            convert_state(checkpoint, &text, name)
        }
        kind => Err(NequipError::NotNequip { kind: kind.to_string() }),
    }
}

/// Converts a training folder of NequIP up to 0.6: `config.yaml` with `best_model.pth`, or `last_model.pth` where there is no best one.
///
/// # Errors
/// As [`convert`].
pub fn convert_folder(folder: &Path, name: &str) -> Result<Artifact, NequipError> {
    let best = folder.join("best_model.pth");
    let weights = if best.is_file() { best } else { folder.join("last_model.pth") };
    convert(&ForeignCheckpoint::open(weights)?, name)
}

fn read_configuration(path: &Path) -> Result<String, NequipError> {
    let io = |source| NequipError::Io { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > 1 << 20 {
        return Err(option_error("config.yaml", format!("has {size} bytes, more than any configuration")));
    }
    std::fs::read_to_string(path).map_err(io)
}

fn state_dict(checkpoint: &ForeignCheckpoint) -> Result<Vec<(String, crate::torch::tensor::TensorRef)>, NequipError> {
    Ok(checkpoint.state_dict()?.iter().map(|entry| (entry.name.clone(), entry.tensor.clone())).collect())
}

/// A state dict of generation one with its configuration.
fn convert_state(checkpoint: &ForeignCheckpoint, configuration: &str, name: &str) -> Result<Artifact, NequipError> {
    let config = crate::yaml::parse(configuration)?;
    let state = State::new(checkpoint, state_dict(checkpoint)?)?;
    let e3nn = checkpoint.text_entry("extra/e3nn_version")?.as_deref().and_then(version);
    let deployed = checkpoint.text_entry("extra/nequip_version")?;
    let hyper = config::hyperparameters(&config, &state, e3nn, deployed.as_deref().filter(|v| !v.is_empty()))?;
    finish(checkpoint, &hyper, &state, Vec::new(), name)
}

/// Writes the tensors and the header.
fn finish(
    checkpoint: &ForeignCheckpoint,
    hyper: &Hyperparameters,
    state: &State<'_>,
    notes: Vec<String>,
    name: &str,
) -> Result<Artifact, NequipError> {
    let mut out = Output::default();
    let z = hyper.elements.len();
    let one = hyper.generation == Generation::One;

    // Radial functions.
    let frequencies = state.get(if one { "radial_basis.basis.bessel_weights" } else { "bessel_encode.bessel_weights" })?;
    let basis_size = frequencies.values.len();
    out.push(
        "radial.frequencies",
        &[basis_size],
        frequencies.values.iter().map(|w| w * hyper.frequency_unit).collect(),
        frequencies.single,
    );
    if !one {
        pair_cutoffs(&mut out, hyper, state)?;
    }

    // Types.
    let table = if one { "chemical_embedding.linear.weight" } else { "type_embed.embed_module.weight" };
    let embedding = state.get(table)?;
    let channels = embedding.values.len() / z;
    if channels == 0 || channels * z != embedding.values.len() {
        return Err(wrong_shape(table, &embedding, &[z, 0]));
    }
    let attributes: Vec<Vec<f64>> = match hyper.generation {
        Generation::One => (0..z).map(|a| (0..z).map(|b| f64::from(u8::from(a == b))).collect()).collect(),
        Generation::Two => rows(&embedding, channels),
    };
    let single = embedding.single;
    out.push("embedding.weight", &[z, channels], embedding.values, single);

    // Layers.
    let converter = LayerConverter { hyper, state, attributes: &attributes, basis_size };
    let scalars = Irreps::new(vec![MulIrrep::new(channels, Irrep::even(0))]);
    let mut irreps = scalars.map_err(|e| option_error("type_embed_num_features", e.to_string()))?;
    let mut layers = Vec::new();
    for t in 0..hyper.layers.len() {
        let layer = converter.convert(&mut out, t, &irreps)?;
        irreps = layer.irreps_out;
        layers.push(layer.config);
    }

    let readout = readout(&mut out, hyper, state, irreps.count(Irrep::even(0)))?;
    let zbl = energies(&mut out, hyper, state)?;
    state.check_all_used()?;

    let header = Header {
        format_version: tesseral_potentials::header::FORMAT_VERSION,
        name: name.to_owned(),
        architecture: Architecture::Nequip(NequipConfig {
            elements: hyper.elements.clone(),
            cutoff: hyper.cutoff,
            modalities: Vec::new(),
            edge_irreps: hyper.edge_irreps.clone(),
            normalize_harmonics: true,
            basis_size,
            basis_prefactor: hyper.basis_prefactor,
            envelope: Envelope::Polynomial { p: hyper.envelope_p },
            channels,
            embedding_scale: if one { 1.0 / (z as f64).sqrt() } else { 1.0 },
            layers,
            readout,
            activations: hyper.activations.clone(),
            zbl,
        }),
        provenance: Provenance {
            source: checkpoint.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            sha256: Some(checkpoint.sha256().to_owned()),
            producer: hyper.producer.clone(),
            notes,
        },
        licence: None,
    };
    Ok(Artifact::new(header, out.0)?)
}

/// Cutoffs by the types of centre and neighbour, which the model stores as reciprocals.
fn pair_cutoffs(out: &mut Output, hyper: &Hyperparameters, state: &State<'_>) -> Result<(), NequipError> {
    let (name, z) = ("edge_norm._rmax_recip", hyper.elements.len());
    let stored = state.get(name)?;
    if stored.shape.is_empty() {
        return Ok(());
    }
    if stored.values.len() != z * z {
        return Err(wrong_shape(name, &stored, &[z * z]));
    }
    // A reciprocal of a reciprocal may end up a rounding error beyond the largest.
    let cutoffs = stored.values.iter().map(|r| (1.0 / r).min(hyper.cutoff)).collect();
    out.push("pair_cutoffs", &[z, z], cutoffs, false);
    Ok(())
}

fn readout(out: &mut Output, hyper: &Hyperparameters, state: &State<'_>, scalars: usize) -> Result<Vec<ReadoutLayer>, NequipError> {
    let mlp = "per_atom_energy_readout.mlp_module.mlp";
    let deep_linear = state.contains(&format!("{mlp}.weights.0"));
    let name = |k: usize| match (hyper.generation, deep_linear) {
        (Generation::One, _) => Some(["conv_to_output_hidden.linear.weight", "output_hidden_to_scalar.linear.weight"].get(k)?.to_string()),
        (Generation::Two, true) => Some(format!("{mlp}.weights.{k}")),
        (Generation::Two, false) => Some(format!("{mlp}.{}.weight", 2 * k)),
    };
    let names: Vec<String> = (0..).map_while(|k| name(k).filter(|n| k == 0 || state.contains(n))).collect();
    let activation = match (&hyper.readout_activation, deep_linear) {
        (Some(ReadoutActivation::Named(activation)), false) => Some((activation.clone(), 1.0)),
        _ => None,
    };
    let mut layers: Vec<ReadoutLayer> = Vec::new();
    for (k, name) in names.iter().enumerate() {
        let size_in = layers.last().map_or(scalars, |l| l.size_out);
        let weights = state.get(name)?;
        // Generation one has flat weights; only the even scalars map to its outputs.
        let size_out = weights.values.len().checked_div(size_in).unwrap_or(0);
        let matrix = hyper.generation == Generation::Two;
        if size_out == 0 || size_in * size_out != weights.values.len() || (matrix && weights.shape != [size_in, size_out]) {
            return Err(wrong_shape(name, &weights, &[size_in, 0]));
        }
        let gain = if k > 0 && activation.is_some() { 2.0 } else { 1.0 };
        out.push(format!("readout.{k}.weight"), &[size_in, size_out], weights.values, weights.single);
        layers.push(ReadoutLayer {
            size_in,
            size_out,
            scale: (gain / size_in as f64).sqrt(),
            activation: activation.clone().filter(|_| k + 1 < names.len()),
            bias: false,
            modal: false,
        });
    }
    Ok(layers)
}

/// Scale and shift of each element, eV, and the pair repulsion.
fn energies(out: &mut Output, hyper: &Hyperparameters, state: &State<'_>) -> Result<Option<ZblConfig>, NequipError> {
    let z = hyper.elements.len();
    let one = hyper.generation == Generation::One;
    // Generation one scales the sum of everything once more.
    let global = if one { state.outer_product("scale_by")? } else { 1.0 };
    if one && state.outer_nonzero("shift_by")? {
        return Err(option_error("global_rescale_shift", "shifts the energy of a structure whatever its size, which is not supported"));
    }
    let module = if one { "per_species_rescale" } else { "per_type_energy_scale_shift" };
    for (what, stored, default) in [("scale", "scales", 1.0), ("shift", "shifts", 0.0)] {
        let name = format!("{module}.{stored}");
        let values = if state.contains(&name) {
            let weights = state.get(&name)?;
            match weights.values.len() {
                0 => vec![default; z],
                1 => vec![weights.values[0]; z],
                n if n == z => weights.values,
                _ => return Err(wrong_shape(&name, &weights, &[z])),
            }
        } else {
            vec![default; z]
        };
        out.push(what, &[1, z], values.into_iter().map(|v| v * global).collect(), false);
    }
    let Some(envelope_p) = hyper.zbl else { return Ok(None) };
    let name = "pair_potential.atomic_numbers";
    let numbers = state.flat(name, z)?;
    if numbers.values.iter().zip(&hyper.elements).any(|(&a, &b)| a != f64::from(b)) {
        return Err(option_error("chemical_species", "of the ZBL term are not the types of the model"));
    }
    // Half of each pair for both of its atoms.
    let coulomb = 2.0 * global * state.flat("pair_potential._qqr2exesquare", 1)?.values[0];
    // Other units, kcal/mol, would make energies of the whole model something other than eV.
    if (coulomb / ZblConstants::LAMMPS.coulomb - 1.0).abs() > 0.5 {
        return Err(option_error("units", format!("of the ZBL term are not `metal`: its Coulomb constant is {coulomb} eV Å")));
    }
    Ok(Some(ZblConfig { envelope_p, coulomb }))
}
