//! Which parameter has which learning rate and which weight decay.
//!
//! A pattern is a name or its beginning, segment by segment (segments are separated by dots); `*` stands for any part of one segment.
//! `layers.*.product` names everything in the products of all layers, `layers.0.radial.*.weight` the matrices of one radial network.

use super::config::OptimizerConfig;
use super::error::OptimizerError;

/// Settings of one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParameterSettings {
    /// What the learning rate is multiplied with.
    pub learning_rate_factor: f64,
    /// Weight decay λ.
    pub weight_decay: f64,
}

/// Whether a pattern names a parameter.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut segments = name.split('.');
    pattern.split('.').all(|p| segments.next().is_some_and(|s| segment_matches(p.as_bytes(), s.as_bytes())))
}

/// Whether `*`, any bytes, makes the pattern equal to the text.
fn segment_matches(pattern: &[u8], text: &[u8]) -> bool {
    // Greedy, going back to the last star; linear in both for one star.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// What decays if the configuration does not say: as in `mace_run_train`, the weights called `linear` (and, in attention blocks, `skip_linear`)
/// of the interactions and everything in the products; embeddings, `up`, radial networks and readouts do not. In the NequIP family, whose codes
/// decay all or nothing, the corresponding map is `linear_2`, the one after the messages.
pub fn decays_by_default(name: &str, names: &[&str]) -> bool {
    let Some((layer, part)) = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else { return false };
    let has = |part: &str| names.contains(&format!("layers.{layer}.{part}").as_str());
    // In the non-linear block both maps have numbers in MACE, and neither decays.
    let non_linear = has("residual.weight");
    match part {
        "linear.weight" | "linear_2.weight" => !non_linear,
        "skip.weight" => has("down.weight"),
        _ => part.starts_with("product."),
    }
}

/// The settings of parameters, in their order.
///
/// # Errors
/// [`OptimizerError::UnmatchedPattern`] for a pattern that names none of them.
pub fn settings(config: &OptimizerConfig, names: &[&str]) -> Result<Vec<ParameterSettings>, OptimizerError> {
    let patterns = config.decay.iter().flatten().map(|p| ("decay".to_owned(), p)).chain(
        config
            .groups
            .iter()
            .enumerate()
            .flat_map(|(k, group)| group.parameters.iter().map(move |p| (format!("groups[{k}].parameters"), p))),
    );
    for (key, pattern) in patterns {
        if !names.iter().any(|name| matches(pattern, name)) {
            return Err(OptimizerError::UnmatchedPattern { key, pattern: pattern.clone(), nearest: nearest(pattern, names) });
        }
    }
    let any = |patterns: &[String], name: &str| patterns.iter().any(|p| matches(p, name));
    let of = |name: &str| {
        let decays = config.decay.as_ref().map_or_else(|| decays_by_default(name, names), |patterns| any(patterns, name));
        let common = if decays { config.weight_decay } else { 0.0 };
        let group = config.groups.iter().find(|group| any(&group.parameters, name));
        ParameterSettings {
            learning_rate_factor: group.map_or(1.0, |g| g.learning_rate_factor),
            weight_decay: group.and_then(|g| g.weight_decay).unwrap_or(common),
        }
    };
    Ok(names.iter().map(|name| of(name)).collect())
}

/// The name, or the beginning of a name with as many segments as the pattern, that is most similar to it.
fn nearest(pattern: &str, names: &[&str]) -> Option<String> {
    let segments = pattern.split('.').count();
    names
        .iter()
        .map(|name| name.split('.').take(segments).collect::<Vec<_>>().join("."))
        .map(|name| (strsim::jaro_winkler(pattern, &name), name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::GroupConfig;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("embedding.weight", "embedding.weight", true),
            ("embedding", "embedding.weight", true),
            ("embed", "embedding.weight", false),
            ("embed*", "embedding.weight", true),
            ("layers.*.linear", "layers.12.linear.weight", true),
            ("layers.*.linear", "layers.0.product.linear.weight", false),
            ("layers.*.linear.weight.x", "layers.0.linear.weight", false),
            ("layers.*.rad*l.*.w*t", "layers.0.radial.3.weight", true),
            ("*", "scale", true),
            ("*a*b*", "xaab", true),
            ("*a*b*c", "xaab", false),
            ("", "scale", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn decay_of_mace() {
        let names = [
            "embedding.weight",
            "layers.0.up.weight",
            "layers.0.linear.weight",
            "layers.0.skip.weight",
            "layers.0.radial.0.weight",
            "layers.0.product.0.weights.3",
            "layers.0.product.linear.weight",
            "layers.1.linear.weight",
            "layers.1.linear_2.weight",
            "layers.1.residual.weight",
            "layers.2.skip.weight",
            "layers.2.down.weight",
            "readouts.0.linear_1.weight",
        ];
        let decaying: Vec<&str> = names.into_iter().filter(|name| decays_by_default(name, &names)).collect();
        let expected = ["layers.0.linear.weight", "layers.0.product.0.weights.3", "layers.0.product.linear.weight", "layers.2.skip.weight"];
        assert_eq!(decaying, expected);
        let nequip = ["layers.0.linear_1.weight", "layers.0.linear_2.weight", "layers.0.self_connection.weight", "readout.0.weight"];
        assert_eq!(nequip.map(|name| decays_by_default(name, &nequip)), [false, true, false, false]);
    }

    #[test]
    fn the_first_group_that_names_a_parameter_counts() {
        let group = |pattern: &str, learning_rate_factor, weight_decay| GroupConfig {
            parameters: vec![pattern.to_owned()],
            learning_rate_factor,
            weight_decay,
        };
        let mut config = OptimizerConfig {
            weight_decay: 0.25,
            groups: vec![group("layers.0", 0.5, None), group("layers", 0.1, Some(0.0))],
            ..OptimizerConfig::default()
        };
        let names = ["layers.0.linear.weight", "layers.1.linear.weight", "readouts.0.linear_1.weight"];
        let of = |learning_rate_factor, weight_decay| ParameterSettings { learning_rate_factor, weight_decay };
        assert_eq!(settings(&config, &names).unwrap(), [of(0.5, 0.25), of(0.1, 0.0), of(1.0, 0.0)]);
        config.decay = Some(vec!["readouts".into()]);
        assert_eq!(settings(&config, &names).unwrap(), [of(0.5, 0.0), of(0.1, 0.0), of(1.0, 0.25)]);
        config.decay = Some(vec!["readout.*.linear_1".into()]);
        let error = settings(&config, &names).unwrap_err();
        assert!(
            matches!(&error, OptimizerError::UnmatchedPattern { key, nearest: Some(n), .. } if key == "decay" && n == "readouts.0.linear_1"),
            "{error}"
        );
    }
}
