#![allow(clippy::unwrap_used, reason = "tests may panic")]

use tesseral_models::PRESETS;

use super::*;
use crate::architecture::{Each, TrainingStatistics, build};

const FILE: &str = "runs/a.toml";

fn parse(text: &str, overrides: &[&str]) -> Result<TrainConfig, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
    TrainConfig::parse(text, Path::new(FILE), &overrides, PRESETS)
}

fn error(text: &str, overrides: &[&str]) -> ConfigError {
    parse(text, overrides).map(|_| ()).unwrap_err()
}

/// All keys of a value, with their tables.
fn keys(value: &toml::Value, path: &str, out: &mut Vec<String>) {
    for (key, value) in value.as_table().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        out.push(path.clone());
        keys(value, &path, out);
    }
}

/// The template, its alternative models apart: `(rest, nequip, sevennet)`, commented keys of the latter two uncommented.
fn parts() -> (String, String, String) {
    let text = template();
    let starts: Vec<usize> = ["# Or NequIP", "# Or SevenNet", "\n[statistics]"].iter().map(|s| text.find(s).unwrap()).collect();
    let uncommented = |range: std::ops::Range<usize>| uncomment(&text[range]);
    let rest = [&text[..starts[0]], &text[starts[2]..]].concat();
    (rest, uncommented(starts[0]..starts[1]), uncommented(starts[1]..starts[2]))
}

/// Lines that are commented-out keys or tables, as they are without the mark.
fn uncomment(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_template_has_every_key_with_its_default() {
    let config = parse(&template(), &[]).unwrap();
    let mut expected = TrainConfig { model: Some(ModelConfig::default()), ..TrainConfig::default() };
    // Paths are relative to the file, and training data have no default.
    expected.data.train = config.data.train.clone();
    assert_eq!(config.data.train.len(), 1);
    expected.output.directory = "runs/run".into();
    assert_eq!(config, expected);

    let (rest, nequip, sevennet) = parts();
    let mut wanted = Vec::new();
    keys(&toml::Value::try_from(&expected).unwrap(), "", &mut wanted);
    let mut written = Vec::new();
    keys(&toml::from_str(&uncomment(&rest)).unwrap(), "", &mut written);
    let missing: Vec<&String> = wanted.iter().filter(|key| !written.contains(key)).collect();
    assert!(missing.is_empty(), "the template lacks {missing:?}");

    for (text, expected) in [
        (nequip, ModelConfig::Nequip(crate::architecture::NequipModelConfig::default())),
        (sevennet, ModelConfig::SevenNet(crate::architecture::SevenNetModelConfig::default())),
    ] {
        assert_eq!(parse(&text, &[]).unwrap().model, Some(expected.clone()));
        let (mut wanted, mut written) = (Vec::new(), Vec::new());
        keys(&toml::Value::try_from(&expected).unwrap(), "model", &mut wanted);
        keys(&toml::from_str(&text).unwrap(), "", &mut written);
        let missing: Vec<&String> = wanted.iter().filter(|key| !written.contains(key)).collect();
        assert!(missing.is_empty(), "the template lacks {missing:?}");
    }
}

#[test]
fn what_the_template_comments_out_is_understood() {
    // The example of a preset is one; the model is given in full.
    let (rest, ..) = parts();
    let config = parse(&uncomment(&rest), &[]).unwrap();
    assert_eq!(config.loss.stage_two, Some(StageTwoConfig { start_epoch: Some(150), ..StageTwoConfig::default() }));
    assert_eq!(config.training.max_time.map(Time::seconds), Some(7200.0));
    assert_eq!(config.finetune.foundation.as_deref(), Some("sevennet-0"));
    // Every line of the template is prose, blank, or TOML.
    for line in template().lines() {
        assert!(!line.starts_with('#') || line == "#" || line.starts_with("# ") || uncomment(line) != line, "{line}");
        assert!(line.chars().count() <= 150, "{line}");
    }
}

#[test]
fn keys_that_do_not_exist_are_named_with_what_may_be_meant() {
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &str, &str, Option<&str>); 12] = [
        ("[trainning]\n", &[], "trainning", "runs/a.toml, line 1", Some("training")),
        ("\n\n[training]\nseed = 1\nmax_epoch = 3\n", &[], "training.max_epoch", "runs/a.toml, line 5", Some("training.max_epochs")),
        ("[training]\nbatch = { frames = 1, edgse = 2 }", &[], "training.batch.edgse", "runs/a.toml, line 2", Some("training.batch.edges")),
        ("[training.batch]\nframe-s = 1", &[], "training.batch.frame-s", "runs/a.toml, line 2", Some("training.batch.frames")),
        ("[model]\nr_maks = 5.0\nfamily = \"mace\"", &[], "model.r_maks", "runs/a.toml, line 2", Some("model.r_max")),
        ("[model]\nfamily = \"mace\"\nmax_l = 5", &[], "model.max_l", "runs/a.toml, line 3", Some("model.max_L")),
        ("[model]\nfamily = \"nequip\"\nconvnet_nonlinearity_gates = { f = \"silu\" }", &[], "model.convnet_nonlinearity_gates.f", "runs/a.toml, line 3", Some("model.convnet_nonlinearity_gates.e")),
        ("seed = 5", &[], "seed", "runs/a.toml, line 1", None),
        ("max_epochs = 5", &[], "max_epochs", "runs/a.toml, line 1", Some("training.max_epochs")),
        ("", &["loss.wieghts.energy=2"], "loss.wieghts", "override `loss.wieghts.energy=2`", Some("loss.weights")),
        ("[data]\ntrian = [\"a\"]", &[], "data.trian", "runs/a.toml, line 2", Some("data.train")),
        ("[loss]\nquark = 1", &[], "loss.quark", "runs/a.toml, line 2", None),
    ];
    for (text, overrides, key, place, meant) in cases {
        let error = error(text, overrides);
        let message = error.to_string();
        assert_eq!(message, format!("{place}: there is no key `{key}`"), "{text}");
        let ConfigError::UnknownKey { known, .. } = &error else { panic!("{error:?}") };
        assert_eq!(known.suggestion.as_deref(), meant, "{text}");
        assert!(!known.names.is_empty());
        let hint = error.hint().unwrap();
        assert!(meant.map_or(hint.contains(known.names[0].as_str()), |meant| hint == format!("did you mean `{meant}`?")), "{hint}");
    }
}

#[test]
fn values_of_other_types_are_named_with_what_is_expected() {
    for (text, overrides, says) in [
        (
            "[training]\nmax_epochs = \"ten\"",
            &[][..],
            "runs/a.toml, line 2: `training.max_epochs` is the text \"ten\", expected a whole number",
        ),
        ("[training]\nmax_epochs = -1", &[], "`training.max_epochs` is the number -1, expected a whole number that is not negative"),
        ("[training]\nmax_epochs = 1.5", &[], "`training.max_epochs` is the number 1.5, expected a whole number"),
        ("[output]\nreport = \"yes\"", &[], "`output.report` is the text \"yes\", expected true or false"),
        ("[output]\nname = 7", &[], "`output.name` is the number 7, expected text in quotes"),
        ("training = 3", &[], "`training` is the number 3, expected a table"),
        ("[loss.weights]\nenergy = []", &[], "line 2: `loss.weights.energy` is a list, expected a number"),
        ("[finetune]\nfreeze = \"a\"", &[], "`finetune.freeze` is the text \"a\", expected a list"),
        ("[finetune]\nfreeze = [\n\"a\",\n5]", &[], "line 4: `finetune.freeze.1` is the number 5, expected text in quotes"),
        (
            "[training]\nmax_time = \"soon\"",
            &[],
            "`training.max_time` is the text \"soon\", expected a time: seconds, or a text such as \"1h30m\"",
        ),
        ("[model]\nfamily = \"mace\"\nr_max = \"5 A\"", &[], "line 3: `model.r_max` is the text \"5 A\", expected a number"),
        (
            "[model]\nfamily = \"mace\"\ncorrelation = true",
            &[],
            "line 3: `model.correlation` is true, expected one value or a list of values",
        ),
        (
            "[model]\nfamily = \"mace\"\ncorrelation = [3, \"x\"]",
            &[],
            "line 3: `model.correlation.1` is the text \"x\", expected a whole number",
        ),
        (
            "[model]\nfamily = \"mace\"\nhidden_irreps = \"64x0\"",
            &[],
            "line 3: `model.hidden_irreps` is wrong: `64x0` is no list of irreps",
        ),
        ("[model]\nr_max = 5.0", &[], "`model.family` is missing"),
        ("", &["training.seed=abc"], "override `training.seed=abc`: `training.seed` is the text \"abc\", expected a whole number"),
        ("[training]\nseed = 99999999999999999999", &[], "`training.seed` is 99999999999999999999, which is out of range"),
        (
            "[finetune]\nnew_elements = true",
            &[],
            "line 2: `finetune.new_elements` is true, expected \"refuse\", \"mean\", or a table such as",
        ),
        ("", &["finetune.new_elements=maen"], "`finetune.new_elements` is the text \"maen\", expected \"refuse\", \"mean\", or a table"),
        (
            "[finetune]\nnew_elements = { like = { Au = 3 } }",
            &[],
            "`finetune.new_elements.like.Au` is the number 3, expected text in quotes",
        ),
    ] {
        let message = error(text, overrides).to_string();
        assert!(message.contains(says), "{text}: {message}");
    }
    for (text, says, meant) in [
        ("[training]\nprecision = \"f23\"", "`training.precision` is `f23`; it can be f32, f64", Some("did you mean `f32`?")),
        ("[loss]\nkind = \"hubber\"", "`loss.kind` is `hubber`; it can be mse, huber, universal, l1l2", Some("did you mean `huber`?")),
        (
            "[model]\nfamily = \"mase\"",
            "runs/a.toml, line 2: `model.family` is `mase`; it can be mace, nequip, sevennet",
            Some("did you mean `mace`?"),
        ),
        ("[model]\nfamily = \"mace\"\nradial_type = \"spline\"", "line 3: `model.radial_type` is `spline`", None),
    ] {
        let error = error(text, &[]);
        assert!(error.to_string().contains(says), "{text}: {error}");
        assert_eq!(error.hint().as_deref(), meant, "{text}");
    }
    let message = error("[training\nseed = 1", &[]).to_string();
    assert!(message.starts_with("runs/a.toml, line 1, column "), "{message}");
    let message = error("[training]\nseed = 1\nseed = 2", &[]).to_string();
    assert!(message.starts_with("runs/a.toml, line 3, column ") && message.contains("duplicate"), "{message}");
}

#[test]
fn values_that_make_no_sense_are_named() {
    for (text, says) in [
        ("[training]\n\nmax_epochs = 0", "runs/a.toml, line 3: `training.max_epochs` is 0"),
        ("[training.batch]\nframes = 0", "line 1: `training.batch` has no limit"),
        ("[training]\nnan = \"rollback\"\ncheckpoint = { epochs = 0, time = 0 }", "line 2: `training.nan`"),
        ("[training]\nmax_time = 0", "`training.max_time` is 0"),
        ("[training]\nrollback_factor = 2.0", "`training.rollback_factor`"),
        ("[loss]\nweights = { energy = -1.0 }", "`loss.weights.energy` is -1"),
        ("[loss]\nweights = { energy = 0, forces = 0 }", "`loss.weights` are all 0"),
        ("[loss]\nhuber_delta = 0", "`loss.huber_delta`"),
        ("[loss.stage_two]\nstart_epoch = 200", "`loss.stage_two.start_epoch` is 200, but training ends after 200 epochs"),
        ("[finetune]\nfoundation = \"sevennet-0\"\nmode = \"frozen\"", "`finetune.freeze` names nothing"),
        ("[finetune]\nfoundation = \"sevennet-0\"\nmode = \"multihead\"", "`finetune.replay.files` names nothing"),
        ("[finetune]\nfoundation = \"sevennet-0\"\nlora = { rank = 0 }", "`finetune.lora.rank`"),
        ("[finetune]\nfoundation = \"sevennet-0\"\nreplay = { files = [\"a\"], ratio = 0 }", "`finetune.replay.ratio` is 0"),
        (
            "[finetune]\nfoundation = \"sevennet-0\"\nmode = \"ewc\"\nreplay = { files = [\"a\"], labels = \"foundation\" }",
            "`finetune.replay.labels` is `foundation`",
        ),
        ("[optimizer]\neps = -1", "`optimizer.eps` cannot be used: -1 is not a number from 0 upwards"),
        ("[optimizer]\nkind = \"lbfgs\"\nclip_norm = 10.0", "line 3: `optimizer.clip_norm` cannot be used: 10 makes no sense with L-BFGS"),
        ("[finetune]\nmode = \"lora\"\nfreeze = [\"embedding\"]", "line 3: `finetune.freeze` names parameters, but"),
        ("[finetune]\nmode = \"multihead\"", "`finetune.replay.files` names nothing"),
        (
            "[finetune.new_elements.like]\nAu = \"Ag\"\nAx = \"Cu\"",
            "line 3: `finetune.new_elements.like.Ax` is for `Ax`, which is not a chemical symbol",
        ),
        (
            "[finetune]\nnew_elements = { like = { Au = \"X\" } }",
            "line 2: `finetune.new_elements.like.Au` is `X`, which is not a chemical symbol",
        ),
        ("[finetune]\nnew_elements = { like = { Au = \"au\" } }", "`finetune.new_elements.like.Au` is the element itself"),
        (
            "[finetune]\nnew_elements = { like = { Au = \"Ag\", au = \"Cu\" } }",
            "`finetune.new_elements.like.au` is the same element as `Au`",
        ),
        ("[finetune]\nnew_elements = { like = {} }", "`finetune.new_elements.like` names no element"),
        ("[output]\nname = \"a/b\"", "cannot be the name of a file"),
        ("[output]\ndirectory = \"\"", "`output.directory` is empty"),
    ] {
        let message = error(text, &[]).to_string();
        assert!(message.contains(says), "{text}: {message}");
    }
    let required = |text: &str| parse(text, &[]).unwrap().require_training(Path::new(FILE)).map_err(|e| e.to_string());
    assert_eq!(required("[model]\nfamily = \"mace\"").unwrap_err(), "runs/a.toml, line 1: `data.train` is missing");
    assert_eq!(required("data.train = [\"a\"]").unwrap_err(), "runs/a.toml, line 1: `model.family` is missing");
    assert!(required("data.train = [\"a\"]\nmodel.family = \"mace\"\nfinetune.foundation = \"x\"").unwrap_err().contains("keep one"));
    let without = required("data.train = [\"a\"]\nmodel.family = \"mace\"\nfinetune.mode = \"lora\"").unwrap_err();
    assert!(without.contains("`finetune.mode` is for a model to start from"), "{without}");
    required("data.train = [\"a\"]\nmodel.family = \"mace\"").unwrap();
    required("data.train = [\"a\"]\nfinetune.foundation = \"x\"").unwrap();
    assert_eq!(StageTwoConfig::default().first_epoch(200), 150);
    assert_eq!(StageTwoConfig::default().first_epoch(1), 0);
}

#[test]
fn the_command_line_is_over_the_file_and_the_file_over_its_preset() {
    let text = "extends = \"3bpa\"\n[training]\nseed = 7\n[loss.weights]\nforces = 50.0";
    let overrides = [
        "training.seed=8",
        "training.seed = 9",
        "output.name=my model",
        "model.radial_MLP=[16]",
        "training.max_time=3h",
        "output.report=false",
    ];
    let config = parse(text, &overrides).unwrap();
    let Some(ModelConfig::Mace(model)) = &config.model else { panic!("{:?}", config.model) };
    assert_eq!((model.num_channels, model.radial_mlp.as_slice()), (64, &[16][..]));
    assert_eq!((config.training.seed, config.training.batch.frames), (9, 5));
    assert_eq!((config.loss.weights.energy, config.loss.weights.forces), (1.0, 50.0));
    assert_eq!((config.output.name.as_str(), config.output.report), ("my model", false));
    assert_eq!(config.training.max_time.map(Time::seconds), Some(10_800.0));

    // Another family begins from its own defaults; the same one is changed.
    let config = parse("extends = \"3bpa\"\n[model]\nfamily = \"nequip\"\nl_max = 2", &[]).unwrap();
    let Some(ModelConfig::Nequip(model)) = &config.model else { panic!("{:?}", config.model) };
    assert_eq!((model.l_max, model.num_features.clone()), (2, Each::Same(32)));
    let config = parse("extends = \"3bpa\"\n[model]\nfamily = \"mace\"\nmax_L = 0", &[]).unwrap();
    assert!(matches!(&config.model, Some(ModelConfig::Mace(m)) if (m.num_channels, m.max_l) == (64, 0)));

    let wrong = error("extends = \"mace-smal\"", &[]);
    assert_eq!(wrong.to_string(), "runs/a.toml, line 1: there is no preset `mace-smal`");
    assert_eq!(wrong.hint().as_deref(), Some("did you mean `mace-small`?"));
    assert!(error("extends = 5", &[]).to_string().contains("`extends`"));
    for wrong in ["training.seed", "=5", "a b=5", "training..seed=1", "training.seed[0]=1"] {
        assert!(matches!(error("", &[wrong]), ConfigError::Override { .. }), "{wrong}");
    }
    // A line break does not begin another key.
    let message = error("", &["finetune.head=a\nb = 1"]).to_string();
    assert!(message.ends_with("`finetune.head` is \"a\\nb = 1\", which is not a name"), "{message}");
}

#[test]
fn every_key_can_be_given_on_the_command_line_and_misspelt() {
    let models = [
        ModelConfig::default(),
        ModelConfig::Nequip(crate::architecture::NequipModelConfig::default()),
        ModelConfig::SevenNet(crate::architecture::SevenNetModelConfig::default()),
    ];
    for (k, model) in models.into_iter().enumerate() {
        let full = TrainConfig { model: Some(model), ..TrainConfig::default() };
        let value = toml::Value::try_from(&full).unwrap();
        let family = format!("model.family={}", value["model"]["family"]);
        let mut names = Vec::new();
        keys(&value, "", &mut names);
        let leaf = |name: &str| name.split('.').fold(&value, |v, part| &v[part]);
        let leaves: Vec<&String> = names.iter().filter(|n| !leaf(n).is_table() && (k == 0 || n.starts_with("model."))).collect();
        assert!(leaves.len() > 15, "{leaves:?}");
        for name in leaves {
            let given = format!("{name}={}", leaf(name));
            // One limit of a batch takes the place of the others.
            if !name.contains("batch.") {
                assert_eq!(parse("", &[&family, &given]).unwrap_or_else(|e| panic!("{given}: {e}")), full, "{given}");
            }
            if name == "model.family" {
                continue;
            }
            let wrong = error("", &[&family, &format!("{name}x={}", leaf(name))]);
            assert_eq!(wrong.hint(), Some(format!("did you mean `{name}`?")), "{wrong}");
        }
    }
}

#[test]
fn files_extend_files_and_paths_start_where_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    write("base/base.toml", "extends = \"mace-small\"\ndata.valid = [\"v.xyz\"]\n[finetune.replay]\nfiles = [\"old.xyz\"]");
    write("base/model.safetensors", "");
    let path = write(
        "run/a.toml",
        "extends = \"../base/base.toml\"\n[data]\ntrain = [\"t.xyz\", { path = \"/data/u.xyz\" }, { path = \"w.xyz\" }]\n[output]\ndirectory = \"out\"",
    );
    let read =
        |path: &Path, overrides: &[&str]| TrainConfig::read(path, &overrides.iter().map(|&o| o.to_owned()).collect::<Vec<_>>(), PRESETS);
    let config = read(&path, &["data.test=[\"here.xyz\"]"]).unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let text = |value: &[toml::Value]| toml::to_string(&toml::Table::from_iter([("x".to_owned(), value.to_vec().into())])).unwrap();
    let train = text(&config.data.train.iter().map(|f| toml::Value::try_from(f).unwrap()).collect::<Vec<_>>());
    assert!(train.contains(&at("run/t.xyz")) && train.contains("\"/data/u.xyz\"") && train.contains(&at("run/w.xyz")), "{train}");
    assert_eq!(config.finetune.replay.files, [folder.path().join("run/../base/old.xyz")]);
    assert_eq!(config.output.directory, folder.path().join("run/out"));
    let full = config.to_toml().unwrap();
    assert!(full.contains(&at("run/../base/v.xyz")));
    assert!(full.contains(&std::path::absolute("here.xyz").unwrap().to_string_lossy().into_owned()), "{full}");

    // A model beside the file is a path, a name stays one.
    let foundation = |text: &str, overrides: &[&str]| read(&write("base/f.toml", text), overrides).unwrap().finetune.foundation.unwrap();
    assert_eq!(foundation("finetune.foundation = \"model.safetensors\"", &[]), at("base/model.safetensors"));
    assert_eq!(foundation("finetune.foundation = \"sevennet-0\"", &[]), "sevennet-0");
    assert_eq!(foundation("", &["finetune.foundation=model.safetensors"]), "model.safetensors");

    write("base/x.toml", "extends = \"y.toml\"");
    assert!(matches!(read(&write("base/y.toml", "extends = \"x.toml\""), &[]), Err(ConfigError::EndlessExtends { .. })));
    assert!(matches!(read(&write("base/z.toml", "extends = \"none.toml\""), &[]), Err(ConfigError::Io { .. })));
    let error = read(&write("base/w.toml", "extends = \"wrong.toml\""), &[]);
    assert!(matches!(error, Err(ConfigError::Io { .. })));
    write("base/wrong.toml", "\n[training]\nsed = 1");
    let message = read(&folder.path().join("base/w.toml"), &[]).unwrap_err().to_string();
    assert_eq!(message, format!("{}, line 3: there is no key `training.sed`", at("base/wrong.toml")));
}

#[test]
fn what_was_used_can_be_read_again() {
    for (name, _) in PRESETS {
        let config =
            parse(&format!("extends = \"{name}\"\ndata.train = [\"/a.xyz\", {{ path = \"/b.xyz\", head = \"h\" }}]"), &[]).unwrap();
        let text = config.to_toml().unwrap();
        let again = TrainConfig::parse(&text, Path::new("/elsewhere/config.toml"), &[], &[]).unwrap();
        assert_eq!(again.to_toml().unwrap(), text, "{name}");
        let mut expected = config;
        expected.output.directory = std::path::absolute(&expected.output.directory).unwrap();
        assert_eq!(again, expected, "{name}");
    }
}

#[test]
fn new_elements_are_a_word_or_a_table() {
    let of = |text: &str, overrides: &[&str]| parse(text, overrides).unwrap().finetune.new_elements;
    let like = |pairs: &[(&str, &str)]| NewElements::Like(pairs.iter().map(|(new, old)| ((*new).to_owned(), (*old).to_owned())).collect());
    assert_eq!(of("", &[]), NewElements::Refuse);
    assert_eq!(of("", &["finetune.new_elements=mean"]), NewElements::Mean);
    assert_eq!(of("", &["finetune.new_elements={ like = { Au = \"Ag\" } }"]), like(&[("Au", "Ag")]));
    let file = "[finetune]\nnew_elements = { like = { Au = \"Ag\", Po = \"Te\" } }";
    assert_eq!(of(file, &[]), like(&[("Au", "Ag"), ("Po", "Te")]));
    assert_eq!(of(file, &["finetune.new_elements=refuse"]), NewElements::Refuse);
    assert_eq!(of(file, &["finetune.new_elements.like.Po=Se"]), like(&[("Au", "Ag"), ("Po", "Se")]));
    let error = error("[finetune]\nnew_elements = { liek = { Au = \"Ag\" } }", &[]);
    assert_eq!(error.hint().as_deref(), Some("did you mean `finetune.new_elements.like`?"), "{error}");
    for text in [file, "finetune.new_elements = \"mean\""] {
        let config = parse(text, &[]).unwrap();
        let again = TrainConfig::parse(&config.to_toml().unwrap(), Path::new("/c.toml"), &[], &[]).unwrap();
        assert_eq!(again.finetune, config.finetune);
    }
}

#[test]
fn presets_make_models() {
    let mut sizes = Vec::new();
    for (name, text) in PRESETS {
        let config =
            TrainConfig::parse(text, Path::new(name), &["data.train=[\"a\"]".to_owned()], &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
        config.require_training(Path::new(name)).unwrap();
        let Some(model) = config.model else { continue };
        let statistics = TrainingStatistics {
            elements: vec![1, 6, 7, 8],
            e0s: vec![vec![0.0; 4]],
            scale: vec![1.0],
            shift: vec![0.0],
            avg_num_neighbors: 15.0,
        };
        let artifact = build(&model, &statistics, &[], config.training.seed, name).unwrap_or_else(|e| panic!("{name}: {e}"));
        tesseral_potentials::Model::load(&artifact, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        sizes.push((*name, artifact.num_parameters()));
    }
    // Larger models have more parameters.
    let size = |name: &str| sizes.iter().find(|s| s.0 == name).unwrap().1;
    for family in ["mace", "nequip"] {
        let [small, medium, large] = ["small", "medium", "large"].map(|s| size(&format!("{family}-{s}")));
        assert!(small < medium && medium < large, "{sizes:?}");
    }
    assert!(size("3bpa") < size("mace-medium"), "{sizes:?}");
}
