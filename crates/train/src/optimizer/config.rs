//! Settings of optimisers.

use serde::{Deserialize, Serialize};

use super::error::OptimizerError;

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Adam; weight decay is added to the gradient (L2).
    #[default]
    Adam,
    /// Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Limited-memory BFGS with a strong-Wolfe line search, for small models and full batches: a step is one line search (`lbfgs.iterations`) on its
    /// frames, of which there should be all (`training.batch`, `training.accumulate`).
    Lbfgs,
}

/// The optimiser and its settings. The defaults are those of `mace_run_train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which optimiser. Default: adam.
    pub kind: OptimizerKind,
    /// Learning rate before the schedule. L-BFGS uses neither: its line search finds the length of a step. Default: 0.01.
    pub learning_rate: f64,
    /// Decay of the averages of the gradient and of its square (Adam, AdamW). Default: 0.9, 0.999.
    pub betas: [f64; 2],
    /// Added to the root of the average square (Adam, AdamW). Default: 1e-8.
    pub eps: f64,
    /// Whether the largest average square so far is divided by, not the current one (Adam, AdamW). Default: true.
    pub amsgrad: bool,
    /// Weight decay λ of the parameters that `decay` names. Default: 5e-7.
    pub weight_decay: f64,
    /// Patterns of the parameters that decay. Without it those of `mace_run_train`: the linear maps after the messages and all of the products.
    pub decay: Option<Vec<String>>,
    /// Momentum (SGD). Default: 0.9.
    pub momentum: f64,
    /// Whether the momentum is Nesterov's (SGD). Default: false.
    pub nesterov: bool,
    /// Largest norm of the gradients of all parameters together; longer ones are shortened to it. 0 for no limit. Default: 10; L-BFGS, whose line search
    /// needs gradients as they are, has no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Parameters with a learning rate or a weight decay of their own. A parameter belongs to the first group that names it. Default: none.
    pub groups: Vec<GroupConfig>,
    /// Settings of L-BFGS.
    pub lbfgs: LbfgsConfig,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adam,
            learning_rate: 0.01,
            betas: [0.9, 0.999],
            eps: 1e-8,
            amsgrad: true,
            weight_decay: 5e-7,
            decay: None,
            momentum: 0.9,
            nesterov: false,
            clip_norm: None,
            groups: Vec::new(),
            lbfgs: LbfgsConfig::default(),
        }
    }
}

/// Parameters that are treated alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupConfig {
    /// Patterns of their names (see [`super::groups`]).
    pub parameters: Vec<String>,
    /// What the learning rate is multiplied with. Default: 1.
    pub learning_rate_factor: f64,
    /// Weight decay in place of what `weight_decay` and `decay` say.
    pub weight_decay: Option<f64>,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self { parameters: Vec::new(), learning_rate_factor: 1.0, weight_decay: None }
    }
}

/// L-BFGS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LbfgsConfig {
    /// Pairs of displacement and change of the gradient that are kept; each takes 16 bytes for every trained number, in memory and in checkpoints.
    /// Default: 200.
    pub history: usize,
    /// Line searches a step; more of them save the evaluation that a step begins with, and the average of the weights takes in what the last one comes to.
    /// Default: 1.
    pub iterations: usize,
    /// Evaluations of the loss a line search, at most. Default: 25.
    pub evaluations: usize,
    /// Converged when no element of the gradient is larger. Default: 1e-7.
    pub gradient_tolerance: f64,
    /// Stalled when neither an element of the parameters nor the loss changes by more. Default: 1e-9.
    pub change_tolerance: f64,
}

impl Default for LbfgsConfig {
    fn default() -> Self {
        Self { history: 200, iterations: 1, evaluations: 25, gradient_tolerance: 1e-7, change_tolerance: 1e-9 }
    }
}

impl OptimizerConfig {
    /// The norm that gradients are shortened to; 0 for no limit.
    pub fn largest_norm(&self) -> f64 {
        self.clip_norm.unwrap_or(if self.kind == OptimizerKind::Lbfgs { 0.0 } else { 10.0 })
    }

    /// Whether the settings make sense, as far as that can be said without the parameters.
    ///
    /// # Errors
    /// [`OptimizerError::Config`] with the setting that is wrong.
    pub fn validate(&self) -> Result<(), OptimizerError> {
        let require = |good: bool, key: &str, reason: String| {
            if good { Ok(()) } else { Err(OptimizerError::Config { key: key.to_owned(), reason }) }
        };
        let not_negative = |key: &str, x: f64| require(x >= 0.0 && x.is_finite(), key, format!("{x} is not a number from 0 upwards"));
        let fraction = |key: &str, x: f64| require((0.0..1.0).contains(&x), key, format!("{x} is not between 0 and 1 (1 excluded)"));
        require(
            self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            "learning_rate",
            format!("{} is not above 0", self.learning_rate),
        )?;
        self.betas.iter().try_for_each(|&beta| fraction("betas", beta))?;
        not_negative("eps", self.eps)?;
        not_negative("weight_decay", self.weight_decay)?;
        if let Some(norm) = self.clip_norm {
            not_negative("clip_norm", norm)?;
            let reason = format!("{norm} makes no sense with L-BFGS, whose line search needs gradients as they are; leave it out");
            require(self.kind != OptimizerKind::Lbfgs || norm == 0.0, "clip_norm", reason)?;
        }
        fraction("momentum", self.momentum)?;
        require(!self.nesterov || self.momentum > 0.0, "nesterov", "it needs a momentum above 0".into())?;
        for (k, group) in self.groups.iter().enumerate() {
            let key = |what: &str| format!("groups[{k}].{what}");
            require(!group.parameters.is_empty(), &key("parameters"), "no parameter is named".into())?;
            not_negative(&key("learning_rate_factor"), group.learning_rate_factor)?;
            group.weight_decay.map_or(Ok(()), |decay| not_negative(&key("weight_decay"), decay))?;
            if self.kind == OptimizerKind::Lbfgs {
                let reason = "L-BFGS has no learning rates; freeze parameters instead".to_owned();
                require(group.learning_rate_factor == 1.0, &key("learning_rate_factor"), reason)?;
            }
        }
        let positive = |key: &str, n: usize| require(n > 0, key, "it must be at least 1".into());
        positive("lbfgs.history", self.lbfgs.history)?;
        positive("lbfgs.iterations", self.lbfgs.iterations)?;
        positive("lbfgs.evaluations", self.lbfgs.evaluations)?;
        not_negative("lbfgs.gradient_tolerance", self.lbfgs.gradient_tolerance)?;
        not_negative("lbfgs.change_tolerance", self.lbfgs.change_tolerance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_from_toml() {
        let text = r#"
            kind = "adamw"
            learning_rate = 0.001
            amsgrad = false
            decay = ["layers.*.product"]
            [[groups]]
            parameters = ["readouts"]
            learning_rate_factor = 0.1
        "#;
        let config: OptimizerConfig = toml::from_str(text).unwrap();
        assert_eq!((config.kind, config.learning_rate, config.amsgrad), (OptimizerKind::AdamW, 0.001, false));
        assert_eq!(config.groups[0], GroupConfig { parameters: vec!["readouts".into()], learning_rate_factor: 0.1, weight_decay: None });
        assert_eq!(config.betas, [0.9, 0.999]);
        config.validate().unwrap();
        let again: OptimizerConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        let error = toml::from_str::<OptimizerConfig>("learning_rat = 0.1").unwrap_err();
        assert!(error.to_string().contains("learning_rat"), "{error}");
    }

    #[test]
    fn senseless_settings_are_named() {
        let group = |factor| vec![GroupConfig { parameters: vec!["a".into()], learning_rate_factor: factor, weight_decay: None }];
        let good = OptimizerConfig::default();
        let lbfgs = OptimizerConfig { kind: OptimizerKind::Lbfgs, ..good.clone() };
        let cases: [(&str, OptimizerConfig); 9] = [
            ("learning_rate", OptimizerConfig { learning_rate: 0.0, ..good.clone() }),
            ("betas", OptimizerConfig { betas: [0.9, 1.0], ..good.clone() }),
            ("eps", OptimizerConfig { eps: f64::NAN, ..good.clone() }),
            ("nesterov", OptimizerConfig { nesterov: true, momentum: 0.0, ..good.clone() }),
            ("groups[0].learning_rate_factor", OptimizerConfig { groups: group(-1.0), ..good.clone() }),
            ("groups[0].learning_rate_factor", OptimizerConfig { groups: group(0.5), ..lbfgs.clone() }),
            ("clip_norm", OptimizerConfig { clip_norm: Some(-1.0), ..good.clone() }),
            ("clip_norm", OptimizerConfig { clip_norm: Some(10.0), ..lbfgs.clone() }),
            ("groups[0].parameters", OptimizerConfig { groups: vec![GroupConfig::default()], ..good.clone() }),
        ];
        good.validate().unwrap();
        lbfgs.validate().unwrap();
        OptimizerConfig { clip_norm: Some(0.0), ..lbfgs.clone() }.validate().unwrap();
        assert_eq!((good.largest_norm(), lbfgs.largest_norm()), (10.0, 0.0));
        for (expected, config) in cases {
            let error = config.validate().unwrap_err();
            assert!(matches!(&error, OptimizerError::Config { key, .. } if key == expected), "{error}");
        }
    }
}
