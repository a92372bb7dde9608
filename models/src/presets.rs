//! Presets of trainings: configurations that others extend.

/// Name and TOML of every preset.
pub const PRESETS: &[(&str, &str)] = &[
    ("mace-small", include_str!("../presets/mace-small.toml")),
    ("mace-medium", include_str!("../presets/mace-medium.toml")),
    ("mace-large", include_str!("../presets/mace-large.toml")),
    ("nequip-small", include_str!("../presets/nequip-small.toml")),
    ("nequip-medium", include_str!("../presets/nequip-medium.toml")),
    ("nequip-large", include_str!("../presets/nequip-large.toml")),
    ("sevennet-0", include_str!("../presets/sevennet-0.toml")),
    ("3bpa", include_str!("../presets/3bpa.toml")),
    ("finetune", include_str!("../presets/finetune.toml")),
];

/// The TOML of a preset.
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(preset, _)| *preset == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_preset_and_says_what_it_is_for() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("presets");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
            .collect();
        files.sort_unstable();
        let mut names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(files, names);
        for (name, text) in PRESETS {
            assert!(text.starts_with("# "), "{name}");
            assert_eq!(preset(name), Some(*text));
        }
        assert_eq!(preset("mace"), None);
    }
}
