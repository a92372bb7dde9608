//! Honest checkpoints are read whole.

#[allow(unreachable_pub, reason = "shared with the other test files")]
mod assembler;

use std::path::PathBuf;

use assembler::{Pickle, f32_bytes, tiny_mace, torch_zip, zip_of};
use tesseral_import::torch::describe::Detail;
use tesseral_import::torch::module::{Role, irreps_text};
use tesseral_import::torch::tensor::{DType, TensorData};
use tesseral_import::{CheckpointKind, Error, ForeignCheckpoint, Limits};

fn open(bytes: Vec<u8>) -> Result<ForeignCheckpoint, Error> {
    ForeignCheckpoint::from_bytes("test.model", bytes, Limits::default())
}

#[test]
fn a_module_gives_its_state_dict_and_attributes() {
    let checkpoint = open(tiny_mace()).unwrap();
    assert_eq!(checkpoint.kind(), &CheckpointKind::MaceModule { class: "mace.modules.models.ScaleShiftMACE".into() });
    let state = checkpoint.state_dict().unwrap();
    let summary: Vec<(&str, DType, &[u64], Role)> =
        state.iter().map(|entry| (&*entry.name, entry.tensor.dtype, &*entry.tensor.shape, entry.role)).collect();
    assert_eq!(
        summary,
        [
            ("r_max", DType::F64, &[][..], Role::Buffer),
            ("atomic_numbers", DType::I64, &[2], Role::Buffer),
            ("interactions.0.linear_up.weight", DType::F32, &[4], Role::Parameter),
            ("interactions.0.linear.weight", DType::F32, &[4], Role::Parameter),
        ]
    );
    let read = |name: &str| checkpoint.tensor(name, state.get(name).unwrap()).unwrap();
    assert_eq!(read("r_max").item(), Some(4.5));
    assert_eq!(read("atomic_numbers").data, TensorData::I64(vec![1, 8]));
    assert_eq!(read("interactions.0.linear.weight").data, TensorData::F32(vec![5.0, 6.0, 7.0, 8.0]));

    let root = checkpoint.root();
    assert_eq!(root.require_f64("interactions.0.avg_num_neighbors").unwrap(), 17.25);
    assert_eq!(root.path("heads.0").unwrap().as_str(), Some("Default"));
    let irreps = root.require_irreps("interactions.0.linear_up.irreps_in").unwrap();
    assert_eq!(irreps_text(&irreps), "2x0e+2x1o");
    let error = root.require_f64("interactions.0.density").unwrap_err();
    assert_eq!(error.to_string(), "`interactions.0.density` is missing in the object of class `mace.modules.models.ScaleShiftMACE`");
    let text = checkpoint.describe(Detail::default());
    assert!(text.contains("avg_num_neighbors: 17.25"), "{text}");
    assert!(text.contains("irreps_out: 2x0e"), "{text}");
}

#[test]
fn a_sevennet_dictionary_gives_weights_and_config() {
    let dtype = |p: Pickle, code: &str, order: &str| {
        p.call("numpy", "dtype", |p| p.str(code).bool(false).bool(true))
            .tuple(|p| p.int(3).str(order).none().none().none().int(-1).int(-1).int(0))
            .raw(b"b")
    };
    let latin = |p: Pickle, bytes: &[u8]| {
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        p.call("_codecs", "encode", |p| p.str(&text).str("latin1"))
    };
    let array = |p: Pickle| {
        let p = p.call("numpy.core.multiarray", "_reconstruct", |p| {
            let p = p.global("numpy", "ndarray").tuple(|p| p.int(0));
            latin(p, b"b")
        });
        p.tuple(|p| {
            let p = dtype(p.int(1).tuple(|p| p.int(2).int(2)), "f4", "<").bool(true);
            latin(p, &f32_bytes(&[1.0, 2.0, 3.0, -4.5]))
        })
        .raw(b"b")
    };
    let pickle = Pickle::new()
        .dict(|p| {
            p.str("model_state_dict")
                .call("collections", "OrderedDict", |p| p)
                .raw(b"(")
                .str("0 convolution.denumerator")
                .tensor("FloatStorage", "0", 6, 1, &[3, 1], &[2, 9])
                .raw(b"u")
                .dict(|p| p.str("_metadata").none())
                .raw(b"b")
                .str("config")
                .dict(|p| {
                    let p = p.str("cutoff").float(5.0).str("_type_map").dict(|p| p.int(8).int(0));
                    let p = array(p.str("shift")).str("energy");
                    p.call("numpy.core.multiarray", "scalar", |p| {
                        let p = dtype(p, "f8", ">");
                        latin(p, &2.5f64.to_be_bytes())
                    })
                    .str("device")
                    .call("torch", "device", |p| p.str("cuda").int(1))
                    .str("bad")
                    .float(f64::NAN)
                })
        })
        .stop();
    let storage = f32_bytes(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let checkpoint = open(torch_zip(&pickle, &[("0", &storage)])).unwrap();
    assert_eq!(checkpoint.kind(), &CheckpointKind::SevenNet);
    let state = checkpoint.state_dict().unwrap();
    let name = "0 convolution.denumerator";
    let tensor = checkpoint.tensor(name, state.get(name).unwrap()).unwrap();
    assert_eq!((tensor.shape, tensor.data), (vec![3, 1], TensorData::F32(vec![1.0, 3.0, 5.0])));
    let config = checkpoint.to_json(checkpoint.root().get("config").unwrap()).unwrap();
    assert_eq!(
        config,
        serde_json::json!({
            "cutoff": 5.0,
            "_type_map": {"8": 0},
            // The array is in Fortran order.
            "shift": [[1.0, 3.0], [2.0, -4.5]],
            "energy": 2.5,
            "device": "cuda:1",
            "bad": "NaN",
        })
    );
}

#[test]
fn every_opcode_of_protocols_0_to_5_is_understood() {
    use tesseral_import::torch::pickle::load;
    // Python's own pickles of one structure: `pickle.dumps(obj, protocol)` of
    // {'a': (1, -2, 300, 70000, 2**70), 'b': [1.5, None, True], 'c': {'x'}, 'd': b'\xff', 'é': ''}
    let protocols: [&[u8]; 6] = [
        b"(dp0\nVa\np1\n(I1\nI-2\nI300\nI70000\nL1180591620717411303424L\ntp2\nsVb\np3\n(lp4\nF1.5\naNaI01\nasVc\np5\n\
          c__builtin__\nset\np6\n((lp7\nVx\np8\natp9\nRp10\nsVd\np11\nc_codecs\nencode\np12\n(V\xff\np13\nVlatin1\np14\n\
          tp15\nRp16\nsV\xe9\np17\nV\np18\ns.",
        b"}q\x00(X\x01\x00\x00\x00aq\x01(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00L1180591620717411303424L\ntq\x02X\x01\
          \x00\x00\x00bq\x03]q\x04(G?\xf8\x00\x00\x00\x00\x00\x00NI01\neX\x01\x00\x00\x00cq\x05c__builtin__\nset\nq\x06(\
          ]q\x07X\x01\x00\x00\x00xq\x08atq\tRq\nX\x01\x00\x00\x00dq\x0bc_codecs\nencode\nq\x0c(X\x02\x00\x00\x00\xc3\xbfq\
          \x0dX\x06\x00\x00\x00latin1q\x0etq\x0fRq\x10X\x02\x00\x00\x00\xc3\xa9q\x11X\x00\x00\x00\x00q\x12u.",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x09\x00\x00\x00\x00\x00\
          \x00\x00\x00@tq\x02X\x01\x00\x00\x00bq\x03]q\x04(G?\xf8\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00cq\x05c__\
          builtin__\nset\nq\x06]q\x07X\x01\x00\x00\x00xq\x08a\x85q\tRq\nX\x01\x00\x00\x00dq\x0bc_codecs\nencode\nq\x0cX\
          \x02\x00\x00\x00\xc3\xbfq\x0dX\x06\x00\x00\x00latin1q\x0e\x86q\x0fRq\x10X\x02\x00\x00\x00\xc3\xa9q\x11X\x00\x00\
          \x00\x00q\x12u.",
        b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x09\x00\x00\x00\x00\x00\
          \x00\x00\x00@tq\x02X\x01\x00\x00\x00bq\x03]q\x04(G?\xf8\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00cq\x05c\
          builtins\nset\nq\x06]q\x07X\x01\x00\x00\x00xq\x08a\x85q\tRq\nX\x01\x00\x00\x00dq\x0bC\x01\xffq\x0cX\x02\x00\x00\
          \x00\xc3\xa9q\x0dX\x00\x00\x00\x00q\x0eu.",
        b"\x80\x04\x95?\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x09\
          \x00\x00\x00\x00\x00\x00\x00\x00@t\x94\x8c\x01b\x94]\x94(G?\xf8\x00\x00\x00\x00\x00\x00N\x88e\x8c\x01c\x94\x8f\
          \x94(\x8c\x01x\x94\x90\x8c\x01d\x94C\x01\xff\x94\x8c\x02\xc3\xa9\x94\x8c\x00\x94u.",
        b"\x80\x05\x95?\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x09\
          \x00\x00\x00\x00\x00\x00\x00\x00@t\x94\x8c\x01b\x94]\x94(G?\xf8\x00\x00\x00\x00\x00\x00N\x88e\x8c\x01c\x94\x8f\
          \x94(\x8c\x01x\x94\x90\x8c\x01d\x94\x96\x01\x00\x00\x00\x00\x00\x00\x00\xff\x94\x8c\x02\xc3\xa9\x94\x8c\x00\x94u.",
    ];
    for (protocol, bytes) in protocols.into_iter().enumerate() {
        let pickle = match load(bytes, &Limits::default()) {
            Ok(pickle) => pickle,
            // Integers beyond 64 bits as decimal text belong to no checkpoint of this century.
            Err(error) if protocol < 2 => {
                assert!(error.to_string().contains("not an integer of 64 bits"), "{error}");
                continue;
            }
            Err(error) => panic!("protocol {protocol}: {error}"),
        };
        let root = pickle.root();
        let numbers: Vec<Option<i64>> = root.get("a").unwrap().as_sequence().unwrap().map(|v| v.as_i64()).collect();
        assert_eq!(numbers, [Some(1), Some(-2), Some(300), Some(70000), None], "protocol {protocol}");
        assert_eq!(root.path("b.0").unwrap().as_f64(), Some(1.5));
        assert!(root.path("b.1").unwrap().is_none());
        assert_eq!(root.path("b.2").unwrap().as_bool(), Some(true));
        assert_eq!(root.path("c.0").unwrap().as_str(), Some("x"));
        assert_eq!(root.get("d").unwrap().as_bytes(), Some(&b"\xff"[..]));
        assert_eq!(root.get("é").unwrap().as_str(), Some(""));
    }
    // Opcodes that Python no longer writes.
    let old: &[u8] = b"((I7\nI00\nS'a\\x41\\n'\nU\x01bT\x01\x00\x00\x00cVx\\u00e9\nF-1e3\nlp5\n0(g5\n1(i__builtin__\nset\n\
        (c__builtin__\nlist\nh\x05o(Vk\nL5L\ndt.";
    let pickle = load(old, &Limits::default()).unwrap();
    let items: Vec<String> = pickle.root().as_sequence().unwrap().map(|v| v.kind()).collect();
    assert_eq!(items, ["a set of 0", "a list of 7", "a dictionary of 1"]);
    let list: Vec<String> = pickle.root().path("1").unwrap().as_sequence().unwrap().map(|v| v.kind()).collect();
    assert_eq!(
        list,
        ["the integer 7", "False", "the text \"aA\\n\"", "the text \"b\"", "the text \"c\"", "the text \"xé\"", "the float -1000"]
    );
}

#[test]
fn torchscript_and_packages_are_recognised() {
    let script = |class: &str| {
        let pickle = Pickle::new()
            .object(class, "Model", |p| p.str("r_max").float(5.0).str("shift").tensor("FloatStorage", "0", 2, 0, &[2], &[1]))
            .stop();
        zip_of(&[
            ("d/data.pkl", &pickle),
            ("d/data/0", &f32_bytes(&[1.0, 2.0])),
            ("d/constants.pkl", b"\x80\x02)."),
            ("d/code/__torch__.py", b"def forward(self): ..."),
            ("d/extra/n_species", b"2"),
        ])
    };
    let nequip = open(script("__torch__.nequip.nn")).unwrap();
    assert!(matches!(nequip.kind(), CheckpointKind::NequipScript { .. }));
    assert_eq!(nequip.state_dict().unwrap().iter().next().unwrap().name, "shift");
    assert_eq!(nequip.text_entry("extra/n_species").unwrap().as_deref(), Some("2"));
    let mace = open(script("__torch__.mace.calculators.lammps_mace")).unwrap_err();
    assert!(matches!(mace.kind(), Error::DeployedScript { .. }), "{mace}");
    assert!(mace.hint().unwrap().contains(".model"), "{:?}", mace.hint());

    let pickle = Pickle::new()
        .module(
            "torch.nn.modules.container",
            "ModuleDict",
            |p| p,
            |p| p.str("w").tensor("FloatStorage", "0", 2, 0, &[2], &[1]),
            |p| p,
            |p| p,
        )
        .stop();
    let package = zip_of(&[
        ("d/.data/0.storage", &f32_bytes(&[1.0, 2.0])),
        ("d/.data/extern_modules", b"torch"),
        ("d/model/eager_model.pkl", &pickle),
        ("d/model/package_metadata.txt", b"atom_types: {0: C}"),
    ]);
    let package = open(package).unwrap();
    assert!(matches!(package.kind(), CheckpointKind::NequipPackage { .. }));
    let state = package.state_dict().unwrap();
    assert_eq!(package.tensor("w", state.get("w").unwrap()).unwrap().to_f64(), [1.0, 2.0]);
}

#[test]
fn checkpoints_without_a_model_say_what_they_are() {
    let of = |build: fn(Pickle) -> Pickle| {
        let storage = f32_bytes(&[1.0]);
        open(torch_zip(&build(Pickle::new()).stop(), &[("0", &storage)])).unwrap_err()
    };
    let tuning = of(|p| p.dict(|p| p.str("model").dict(|p| p).str("optimizer").dict(|p| p)));
    assert!(matches!(tuning.kind(), Error::MissingHyperparameters { .. }), "{tuning}");
    assert!(tuning.hint().unwrap().contains(".model"));
    let bare = of(|p| p.dict(|p| p.str("w").tensor("FloatStorage", "0", 1, 0, &[1], &[1])));
    assert!(matches!(bare.kind(), Error::MissingHyperparameters { .. }), "{bare}");
    let unknown = of(|p| p.dict(|p| p.str("weights").int(1)));
    assert_eq!(
        unknown.to_string(),
        "test.model: the checkpoint holds a dictionary of 1 with the keys the text \"weights\", which is not a model that can be read"
    );
    let linear = of(|p| p.object("torch.nn.modules.linear", "Linear", |p| p));
    assert!(linear.to_string().contains("class `torch.nn.modules.linear.Linear`"), "{linear}");
    let foreign = of(|p| p.object("chgnet.model.model", "CHGNet", |p| p));
    assert!(foreign.to_string().contains("`chgnet.model.model.CHGNet`"), "{foreign}");
    assert!(of(|p| p.dict(|p| p)).to_string().contains("a dictionary of 0"));
}

#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn shared_checkpoints() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/checkpoints");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped because {} is absent", folder.display());
    None
}

#[test]
fn published_mace_files_give_their_hyperparameters_and_coupling_tensors() {
    let Some(folder) = shared_checkpoints() else { return };
    // File, tensors of the state dict without and in generated code, cutoff, neighbours, first interaction, hidden.
    let expected = [
        ("MACE_SPICE", 66, 0, 4.5, 15.586853981018066, "RealAgnosticInteractionBlock", "32x0e"),
        ("mace_swa", 69, 4, 5.0, 16.42550408932092, "RealAgnosticInteractionBlock", "64x0e+64x1o"),
        ("synth_mp0a_small", 75, 0, 6.0, 60.0, "RealAgnosticResidualInteractionBlock", "128x0e"),
        ("synth_mp0a_medium", 84, 4, 6.0, 60.0, "RealAgnosticResidualInteractionBlock", "128x0e+128x1o"),
        ("synth_mp0b3_mpa0_medium", 95, 4, 6.0, 60.0, "RealAgnosticDensityInteractionBlock", "128x0e+128x1o"),
        ("synth_off23_small", 75, 0, 4.5, 15.0, "RealAgnosticInteractionBlock", "96x0e"),
    ];
    for (name, tensors, generated, r_max, neighbours, class, hidden) in expected {
        let checkpoint = ForeignCheckpoint::open(folder.join(format!("{name}.model"))).unwrap();
        let root = checkpoint.root();
        let state = checkpoint.state_dict().unwrap();
        let w3j = checkpoint.generated_tensors().unwrap();
        assert_eq!((state.len(), w3j.len()), (tensors, generated), "{name}");
        for entry in state.iter() {
            let tensor = checkpoint.tensor(&entry.name, &entry.tensor).unwrap();
            assert!(tensor.to_f64().iter().all(|x| x.is_finite()), "{name}: {}", entry.name);
        }
        for (tensor_name, tensor) in &w3j {
            let square: f64 = tensor.to_f64().iter().map(|x| x * x).sum();
            // 3j symbols have unit norm; some files keep them in single precision.
            assert!((square - 1.0).abs() < 1e-6, "{name}: {tensor_name} has square norm {square}");
        }
        let number = |path: &str| checkpoint.numbers(path, root.require(path).unwrap()).unwrap().item().unwrap();
        assert_eq!(number("r_max"), r_max, "{name}");
        assert_eq!(root.path("interactions").unwrap().children().len(), 2, "{name}");
        assert_eq!(number("radial_embedding.cutoff_fn.p"), 5.0);
        assert_eq!(root.require_f64("interactions.1.avg_num_neighbors").unwrap(), neighbours);
        assert_eq!(root.path("interactions.0").unwrap().class().unwrap().name, class);
        assert_eq!(root.path("readouts.1").unwrap().class().unwrap().name, "NonLinearReadoutBlock");
        let act = "interactions.0.conv_tp_weights.layer0.act.cst";
        assert_eq!(root.require_f64(act).unwrap(), 1.6791767923989418, "{name}");
        let irreps = root.require_irreps("products.0.linear.irreps_out").unwrap();
        assert_eq!(irreps_text(&irreps), hidden, "{name}");
        let is_zbl = root.path("pair_repulsion_fn").is_some();
        assert_eq!(is_zbl, name.contains("mpa0"), "{name}");
    }
}
