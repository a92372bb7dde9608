//! What can go wrong while weights are moved.

/// Saved numbers that are not those of this optimiser or average.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An array that is needed is not there.
    #[error("the saved state has no `{name}`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// An array of another shape.
    #[error("`{name}` of the saved state has shape {found:?}, {expected:?} is needed")]
    Shape {
        /// Its name.
        name: String,
        /// Shape that was saved.
        found: Vec<usize>,
        /// Shape that is needed.
        expected: Vec<usize>,
    },
    /// An array of another type.
    #[error("`{name}` of the saved state holds {found}, {expected} is needed")]
    Type {
        /// Its name.
        name: String,
        /// Type that was saved.
        found: &'static str,
        /// Type that is needed.
        expected: &'static str,
    },
    /// A number that cannot be what it stands for.
    #[error("`{name}` of the saved state is {value}, which cannot be")]
    Value {
        /// Its name.
        name: String,
        /// What was saved.
        value: i64,
    },
    /// An array that nothing asks for.
    #[error("nothing here is called `{name}`, which is in the saved state")]
    Unexpected {
        /// Its name.
        name: String,
    },
    /// A parameter that is neither f32 nor f64.
    #[error("parameter `{name}` is of type {dtype}; only f32 and f64 can be trained")]
    Unsupported {
        /// Its name.
        name: String,
        /// Its type.
        dtype: &'static str,
    },
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl StateError {
    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } | Self::Shape { .. } | Self::Type { .. } | Self::Unexpected { .. } => {
                Some("resume with the architecture, the optimiser, the frozen parts and the precision that the checkpoint was written with")
            }
            Self::Value { .. } => Some("the checkpoint was not written by this program"),
            Self::Unsupported { .. } | Self::Candle(_) => None,
        }
    }
}

/// Errors of optimisers.
#[derive(Debug, thiserror::Error)]
pub enum OptimizerError {
    /// A setting that makes no sense.
    #[error("optimizer.{key}: {reason}")]
    Config {
        /// The setting.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A pattern that no parameter has.
    #[error("optimizer.{key}: no parameter is called `{pattern}`{}", nearest.as_ref().map_or(String::new(), |n| format!("; the nearest is `{n}`")))]
    UnmatchedPattern {
        /// The setting.
        key: String,
        /// The pattern.
        pattern: String,
        /// The most similar name, if any is similar.
        nearest: Option<String>,
    },
    /// A gradient of something that is not trained.
    #[error("there is a gradient of `{name}`, which is not a parameter of the optimiser")]
    UnknownGradient {
        /// The name it came under.
        name: String,
    },
    /// A gradient that does not fit its parameter.
    #[error("the gradient of `{name}` is {found}, the parameter is {expected}")]
    Gradient {
        /// The parameter.
        name: String,
        /// Type and shape of the gradient.
        found: String,
        /// Type and shape of the parameter.
        expected: String,
    },
    /// NaN, infinity, or numbers whose squares overflow.
    #[error("the {what} of `{name}` is {value} at element {index}")]
    NotFinite {
        /// What it is: gradient, value.
        what: &'static str,
        /// The parameter, the first by name.
        name: String,
        /// Row-major index of the element.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// The loss at the start of a step of L-BFGS.
    #[error("the loss is {0}")]
    Loss(f64),
    /// L-BFGS was given gradients instead of a function.
    #[error("L-BFGS evaluates the loss several times a step: call `minimize`")]
    NeedsFunction,
    /// A first-order optimiser was given a function.
    #[error("only L-BFGS takes a function: call `step` with gradients")]
    NeedsGradients,
    /// A saved state that does not fit.
    #[error(transparent)]
    State(#[from] StateError),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl OptimizerError {
    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::UnmatchedPattern { .. } => {
                Some("patterns are names or their beginnings, segment by segment, with * for any part of a segment: layers.*.linear")
            }
            Self::NotFinite { .. } | Self::Loss(_) => {
                Some("lower the learning rate, clip gradients, or look at the frames of the last batch")
            }
            Self::State(e) => e.hint(),
            _ => None,
        }
    }
}
