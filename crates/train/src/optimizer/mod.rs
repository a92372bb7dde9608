//! What moves the weights: Adam and its variants, gradient descent, L-BFGS.
//!
//! Parameters are candle variables by name, in f32 or f64; what is kept for them has their type. On the CPU a step is one pass over
//! the elements of each parameter, where they lie; on other devices it is made of candle's ops. Every step gives the same bits whatever the number
//! of threads.

mod adam;
mod config;
mod error;
pub mod gradients;
pub mod groups;
mod lbfgs;
mod sgd;
pub(crate) mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use tesseral_ops::real::Real;
use tesseral_potentials::{NamedTensor, Numbers};

pub use config::{GroupConfig, LbfgsConfig, OptimizerConfig, OptimizerKind};
pub use error::{OptimizerError, StateError};
pub use gradients::{check_finite, clip_factor, global_norm, named_gradients};
pub use groups::{ParameterSettings, matches};
pub use lbfgs::{LbfgsEnd, LbfgsReport};
pub use state::{load_variables, save_variables};

use state::{Pair, Saved, Slice, Slots, count, with_pair, with_slice};

/// Elements that one thread updates at a time.
const CHUNK: usize = 1 << 14;

/// What differs between steps and parameters.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Steps of this parameter, this one included.
    count: u64,
    learning_rate: f64,
    weight_decay: f64,
    /// What the gradient is multiplied with first (clipping).
    gradient_scale: f64,
}

#[derive(Debug, Clone)]
struct Parameter {
    name: String,
    var: Var,
    settings: ParameterSettings,
    /// Steps in which it had a gradient.
    steps: u64,
    slots: Slots,
}

#[derive(Debug, Clone)]
enum Rule {
    Adam(adam::Adam),
    Sgd(sgd::Sgd),
    Lbfgs(LbfgsConfig, lbfgs::Memory),
}

impl Rule {
    fn slots(&self) -> &'static [&'static str] {
        match self {
            Self::Adam(adam) => adam.slots(),
            Self::Sgd(sgd) => sgd.slots(),
            Self::Lbfgs(..) => &[],
        }
    }

    fn update<T: Real>(&self, step: &Step, w: &mut [T], g: &[T], slots: &mut [Vec<T>]) {
        match self {
            Self::Adam(adam) => adam.update(step, w, g, slots),
            Self::Sgd(sgd) => sgd.update(step, w, g, slots),
            Self::Lbfgs(..) => unreachable!("`Optimizer::step` refuses it"),
        }
    }

    fn update_on_device(&self, step: &Step, w: &Tensor, g: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        match self {
            Self::Adam(adam) => adam.update_on_device(step, w, g, slots),
            Self::Sgd(sgd) => sgd.update_on_device(step, w, g, slots),
            Self::Lbfgs(..) => unreachable!("`Optimizer::step` refuses it"),
        }
    }
}

/// An optimiser with its parameters and all that it remembers.
#[derive(Debug, Clone)]
pub struct Optimizer {
    rule: Rule,
    learning_rate: f64,
    parameters: Vec<Parameter>,
}

impl Optimizer {
    /// An optimiser that has not made a step.
    ///
    /// # Errors
    /// If a setting makes no sense, a pattern names no parameter, or a parameter is neither f32 nor f64.
    pub fn new(config: &OptimizerConfig, variables: &BTreeMap<String, Var>) -> Result<Self, OptimizerError> {
        config.validate()?;
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        let settings = groups::settings(config, &names)?;
        let rule = match config.kind {
            OptimizerKind::Adam | OptimizerKind::AdamW => Rule::Adam(adam::Adam {
                betas: config.betas,
                eps: config.eps,
                amsgrad: config.amsgrad,
                decoupled: config.kind == OptimizerKind::AdamW,
            }),
            OptimizerKind::Sgd => Rule::Sgd(sgd::Sgd { momentum: config.momentum, nesterov: config.nesterov }),
            OptimizerKind::Lbfgs => Rule::Lbfgs(config.lbfgs.clone(), lbfgs::Memory::default()),
        };
        let parameters = variables
            .iter()
            .zip(settings)
            .map(|((name, var), settings)| {
                let slots = Slots::zeros(name, var, rule.slots().len())?;
                Ok(Parameter { name: name.clone(), var: var.clone(), settings, steps: 0, slots })
            })
            .collect::<Result<_, StateError>>()?;
        // What L-BFGS has in place of a learning rate is a factor of the lengths that its line searches try first.
        let learning_rate = if config.kind == OptimizerKind::Lbfgs { 1.0 } else { config.learning_rate };
        Ok(Self { rule, learning_rate, parameters })
    }

    /// The learning rate of the next step, before the factors of groups. For L-BFGS, which has none, what the length that a line search tries first is
    /// multiplied with: 1 unless [`Self::set_learning_rate`] has set something else.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Sets the learning rate of the steps to come: what the configuration says times what the schedule says.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learning_rate = learning_rate;
    }

    /// Parameters, their settings, in the order of their names.
    pub fn settings(&self) -> impl Iterator<Item = (&str, ParameterSettings)> {
        self.parameters.iter().map(|p| (p.name.as_str(), p.settings))
    }

    /// Whether it wants a function ([`Self::minimize`]), not gradients ([`Self::step`]).
    pub fn needs_function(&self) -> bool {
        matches!(self.rule, Rule::Lbfgs(..))
    }

    /// One step. The gradients are multiplied with `gradient_scale` first (see [`gradients::clip_factor`]); a parameter without one stays as
    /// it is, and so does what is remembered for it.
    ///
    /// # Errors
    /// If a gradient belongs to no parameter or does not fit its own (then nothing has changed), or candle fails.
    pub fn step(&mut self, gradients: &BTreeMap<String, Tensor>, gradient_scale: f64) -> Result<(), OptimizerError> {
        if self.needs_function() {
            return Err(OptimizerError::NeedsFunction);
        }
        self.check(gradients)?;
        for p in &mut self.parameters {
            let Some(gradient) = gradients.get(&p.name) else { continue };
            p.steps += 1;
            let step = Step {
                count: p.steps,
                learning_rate: self.learning_rate * p.settings.learning_rate_factor,
                weight_decay: p.settings.weight_decay,
                gradient_scale,
            };
            let rule = &self.rule;
            if let Slots::Device(slots) = &mut p.slots {
                let moved = rule.update_on_device(&step, &p.var.as_detached_tensor(), &gradient.detach(), slots)?;
                p.var.set(&moved.detach())?;
                continue;
            }
            let slots = &mut p.slots;
            with_pair(&p.var, gradient, |pair| {
                match (pair, &mut *slots) {
                    (Pair::F32(w, g), Slots::F32(slots)) => rule.update(&step, w, g, slots),
                    (Pair::F64(w, g), Slots::F64(slots)) => rule.update(&step, w, g, slots),
                    _ => unreachable!("slots have the type of their parameter"),
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn check(&self, gradients: &BTreeMap<String, Tensor>) -> Result<(), OptimizerError> {
        for (name, gradient) in gradients {
            let Ok(at) = self.parameters.binary_search_by(|p| p.name.as_str().cmp(name)) else {
                return Err(OptimizerError::UnknownGradient { name: name.clone() });
            };
            let var = &self.parameters[at].var;
            if gradient.dims() != var.dims() || gradient.dtype() != var.dtype() {
                let describe = |t: &Tensor| format!("{} {:?}", t.dtype().as_str(), t.dims());
                return Err(OptimizerError::Gradient { name: name.clone(), found: describe(gradient), expected: describe(var) });
            }
        }
        Ok(())
    }

    /// One step of L-BFGS: as many line searches as the configuration says. `evaluate` gives the loss and its gradients at the parameters as they are set, of
    /// the same data each time it is called; a loss that is not finite says that a trial went too far. Weight decay adds ½ λ w² to the loss. At the end the
    /// parameters are at the lowest accepted point.
    ///
    /// # Errors
    /// Those of `evaluate`; [`OptimizerError`] if this is not L-BFGS, the loss at the start is not finite, or a gradient does not fit. Parameters and what is
    /// remembered are as before then.
    pub fn minimize<E: From<OptimizerError>>(
        &mut self,
        mut evaluate: impl FnMut() -> Result<(f64, BTreeMap<String, Tensor>), E>,
    ) -> Result<LbfgsReport, E> {
        let start = self.gather().map_err(OptimizerError::from)?;
        let Rule::Lbfgs(config, memory) = &mut self.rule else { return Err(OptimizerError::NeedsGradients.into()) };
        let (config, before) = (config.clone(), std::mem::take(memory));
        let mut memory = before.clone();
        let result = lbfgs::minimize(&mut memory, &config, self.learning_rate, start.clone(), |x| {
            let x = self.scatter(x).map_err(OptimizerError::from)?;
            let (mut loss, gradients) = evaluate()?;
            self.check(&gradients)?;
            let mut g = Vec::with_capacity(x.len());
            for p in &self.parameters {
                let at = g.len();
                let n = p.var.elem_count();
                match gradients.get(&p.name) {
                    None => g.resize(at + n, 0.0),
                    Some(gradient) => extend(&mut g, gradient).map_err(OptimizerError::from)?,
                }
                let decay = p.settings.weight_decay;
                loss += 0.5 * decay * lbfgs::dot(&x[at..at + n], &x[at..at + n]);
                g[at..].iter_mut().zip(&x[at..at + n]).for_each(|(g, x)| *g += decay * x);
            }
            Ok::<_, E>((x, loss, g))
        });
        self.rule = Rule::Lbfgs(config, if result.is_ok() { memory } else { before });
        if result.is_err() {
            self.scatter(&start).map_err(OptimizerError::from)?;
        }
        let report = result?;
        if report.loss.is_finite() { Ok(report) } else { Err(OptimizerError::Loss(report.loss).into()) }
    }

    /// Forgets what L-BFGS knows of the curvature, which is of another loss from now on. What other optimisers keep is averages, which follow a change.
    pub fn forget_curvature(&mut self) {
        if let Rule::Lbfgs(_, memory) = &mut self.rule {
            *memory = lbfgs::Memory::default();
        }
    }

    /// All parameters, one after another, in f64.
    fn gather(&self) -> candle_core::Result<Vec<f64>> {
        let mut x = Vec::with_capacity(self.num_elements());
        self.parameters.iter().try_for_each(|p| extend(&mut x, &p.var))?;
        Ok(x)
    }

    /// Sets all parameters, and returns them as they were rounded.
    fn scatter(&self, x: &[f64]) -> candle_core::Result<Vec<f64>> {
        let mut at = 0;
        for p in &self.parameters {
            let n = p.var.elem_count();
            let new = Tensor::from_slice(&x[at..at + n], p.var.shape(), p.var.device())?.to_dtype(p.var.dtype())?;
            p.var.set(&new)?;
            at += n;
        }
        self.gather()
    }

    fn num_elements(&self) -> usize {
        self.parameters.iter().map(|p| p.var.elem_count()).sum()
    }

    /// All that it remembers, exactly: `first_moment/NAME`, `second_moment/NAME`, `largest_second_moment/NAME` (AMSGrad) or `momentum/NAME`
    /// in the shape and type of the parameter, `steps/NAME`; for L-BFGS `displacements` and `gradient_changes`, `[pairs, elements]` in f64.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn state(&self) -> Result<Vec<NamedTensor>, StateError> {
        if let Rule::Lbfgs(_, memory) = &self.rule {
            let array = |name: &str, numbers| NamedTensor {
                name: name.into(),
                shape: vec![memory.pairs.len(), self.num_elements()],
                numbers: Numbers::F64(numbers),
            };
            let displacements = memory.pairs.iter().flat_map(|pair| &pair.0).copied().collect();
            let changes = memory.pairs.iter().flat_map(|pair| &pair.1).copied().collect();
            return Ok(vec![array("displacements", displacements), array("gradient_changes", changes)]);
        }
        let mut state = Vec::new();
        for p in &self.parameters {
            for (k, slot) in self.rule.slots().iter().enumerate() {
                state.push(p.slots.saved(k, format!("{slot}/{}", p.name), &p.var)?);
            }
            state.push(count(format!("steps/{}", p.name), p.steps));
        }
        Ok(state)
    }

    /// Goes on from a saved state; the steps that follow are, to the bit, those that would have followed then. Nothing is changed if it does not fit.
    ///
    /// # Errors
    /// [`StateError`] with the name of the first array that is missing, left over or not what it should be.
    pub fn load_state(&mut self, state: &[NamedTensor]) -> Result<(), StateError> {
        let mut saved = Saved::new(state)?;
        let elements = self.num_elements();
        if let Rule::Lbfgs(config, memory) = &mut self.rule {
            let mut rows = |name: &str| {
                let array = saved.take(name)?;
                match (&array.numbers, array.shape.as_slice()) {
                    (Numbers::F64(x), &[pairs, n]) if n == elements && pairs <= config.history && x.len() == pairs * n => {
                        Ok((0..pairs).map(|k| x[k * n..(k + 1) * n].to_vec()).collect::<Vec<_>>())
                    }
                    (Numbers::F64(_), shape) => Err(StateError::Shape {
                        name: name.to_owned(),
                        found: shape.to_vec(),
                        expected: vec![config.history.min(shape.first().copied().unwrap_or(0)), elements],
                    }),
                    (_, _) => Err(StateError::Type { name: name.to_owned(), found: "other numbers", expected: DType::F64.as_str() }),
                }
            };
            let (s, y) = (rows("displacements")?, rows("gradient_changes")?);
            if s.len() != y.len() {
                let name = "gradient_changes".to_owned();
                return Err(StateError::Shape { name, found: vec![y.len(), elements], expected: vec![s.len(), elements] });
            }
            saved.finish()?;
            memory.pairs = s.into_iter().zip(y).map(Arc::new).collect();
            return Ok(());
        }
        let mut loaded = Vec::with_capacity(self.parameters.len());
        for p in &self.parameters {
            let mut slots = p.slots.clone();
            for (k, slot) in self.rule.slots().iter().enumerate() {
                let name = format!("{slot}/{}", p.name);
                slots.load(k, &name, saved.take(&name)?, &p.var)?;
            }
            loaded.push((slots, saved.take_count(&format!("steps/{}", p.name))?));
        }
        saved.finish()?;
        for (p, (slots, steps)) in self.parameters.iter_mut().zip(loaded) {
            (p.slots, p.steps) = (slots, steps);
        }
        Ok(())
    }
}

fn extend(x: &mut Vec<f64>, tensor: &Tensor) -> candle_core::Result<()> {
    with_slice(tensor, |slice| match slice {
        Slice::F32(s) => x.extend(s.iter().map(|&v| f64::from(v))),
        Slice::F64(s) => x.extend_from_slice(s),
    })
}

/// candle-nn's interface, for code that is written against it. Parameters have no names there: they are called by their position, from `000000` on.
impl candle_nn::Optimizer for Optimizer {
    type Config = OptimizerConfig;

    fn new(vars: Vec<Var>, config: OptimizerConfig) -> candle_core::Result<Self> {
        let variables = vars.into_iter().enumerate().map(|(k, var)| (format!("{k:06}"), var)).collect();
        Self::new(&config, &variables).map_err(candle_core::Error::wrap)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        let variables = self.parameters.iter().map(|p| (p.name.clone(), p.var.clone())).collect();
        let gradients = gradients::named_gradients(grads, &variables);
        self.step(&gradients, 1.0).map_err(candle_core::Error::wrap)
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learning_rate = learning_rate;
    }
}

#[cfg(test)]
pub(crate) mod tests;
