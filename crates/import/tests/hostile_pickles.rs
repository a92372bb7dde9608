//! Pickles made to do harm, and broken ones, are refused with an error that says where and why.

#[allow(unreachable_pub, reason = "shared with the other test files")]
mod assembler;

use assembler::{Pickle, f32_bytes, tiny_mace, torch_zip};
use tesseral_import::torch::describe::{Detail, describe};
use tesseral_import::torch::module::{ModuleError, named_modules, state_dict};
use tesseral_import::torch::pickle::{PickleError, PickleFault, load};
use tesseral_import::torch::tensor::TensorError;
use tesseral_import::{Error, ForeignCheckpoint, Limits};

fn refused(pickle: Vec<u8>) -> PickleError {
    match load(&pickle, &Limits::default()) {
        Err(error) => error,
        Ok(pickle) => panic!("accepted as {}", pickle.root().kind()),
    }
}

#[track_caller]
fn assert_forbidden(pickle: Vec<u8>, name: &str) {
    let error = refused(pickle);
    assert!(
        matches!(&error.reason, PickleFault::ForbiddenGlobal { module, name: found } if format!("{module}.{found}") == name),
        "{error}"
    );
    assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn calls_into_python_are_named() {
    let call = |module: &str, name: &str| Pickle::new().call(module, name, |p| p.str("echo harm")).stop();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "__import__"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.hub", "load"),
        ("torch.serialization", "load"),
        ("torch.jit", "load"),
        ("torch.utils.cpp_extension", "load"),
        ("runpy", "_run_code"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("pickle", "loads"),
        ("numpy.testing._private.utils", "runstring"),
    ] {
        assert_forbidden(call(module, name), &format!("{module}.{name}"));
    }
}

#[test]
fn every_way_of_naming_a_function_is_checked() {
    // GLOBAL without a call, inside a tuple, as a tensor hook.
    assert_forbidden(Pickle::new().tuple(|p| p.global("os", "system")).stop(), "os.system");
    // STACK_GLOBAL, also with an attribute chain as name.
    let stack_global = |module: &str, name: &str| Pickle::new().str(module).str(name).raw(b"\x93").stop();
    assert_forbidden(stack_global("os", "system"), "os.system");
    assert_forbidden(stack_global("torch", "os.system"), "torch.os.system");
    assert_forbidden(stack_global("collections", "OrderedDict.__class__"), "collections.OrderedDict.__class__");
    // INST and OBJ.
    assert_forbidden(b"(S'echo harm'\nios\nsystem\n.".to_vec(), "os.system");
    assert_forbidden(b"(cos\nsystem\nS'echo harm'\no.".to_vec(), "os.system");
    // As the factory of a dictionary, and as state.
    assert_forbidden(Pickle::new().call("collections", "defaultdict", |p| p.global("os", "system")).stop(), "os.system");
    // Extension codes could stand for any name.
    let error = refused(vec![0x80, 2, 0x82, 1, b'.']);
    assert!(matches!(error.reason, PickleFault::Unsupported { .. }), "{error}");
}

#[test]
fn getattr_names_activations_and_nothing_else() {
    let getattr =
        |owner: &str, class: &str, name: &str| Pickle::new().call("__builtin__", "getattr", |p| p.global(owner, class).str(name)).stop();
    // How `torch.tanh` is pickled.
    let pickle = load(&getattr("torch._C", "_VariableFunctionsClass", "tanh"), &Limits::default()).unwrap();
    assert_eq!(pickle.root().as_global().unwrap().to_string(), "torch.tanh");
    for (owner, class, name) in [
        ("torch._C", "_VariableFunctionsClass", "__init_subclass__"),
        ("torch._C", "_VariableFunctionsClass", "from_file"),
        ("torch.nn.modules.linear", "Linear", "tanh"),
    ] {
        assert_forbidden(getattr(owner, class, name), "__builtin__.getattr");
    }
    // A bound method, as accelerated MACE models have them; the hint says what to do.
    let bound = Pickle::new().call("builtins", "getattr", |p| p.object("e3nn.o3._linear", "Linear", |p| p).str("forward")).stop();
    assert!(refused(bound.clone()).hint().unwrap().contains("mace_cueq_to_e3nn"));
    assert_forbidden(bound, "builtins.getattr");
    // Chains: getattr of getattr, and calling what getattr gives.
    let chain = Pickle::new().call("builtins", "getattr", |p| {
        p.call("builtins", "getattr", |p| p.global("torch._C", "_VariableFunctionsClass").str("tanh")).str("__globals__")
    });
    assert_forbidden(chain.stop(), "builtins.getattr");
    let called = Pickle::new().call("builtins", "getattr", |p| p.global("torch._C", "_VariableFunctionsClass").str("tanh")).raw(b")R");
    let pickle = load(&called.stop(), &Limits::default()).unwrap();
    assert!(pickle.root().as_object().is_some(), "a call of an activation is an inert record");
}

#[test]
fn the_offset_of_the_refused_name_is_given() {
    let start = Pickle::new().str("abc").raw(b"0");
    let offset = start.0.len();
    let error = refused(start.global("os", "system").stop());
    assert_eq!(error.offset, offset);
    assert_eq!(error.to_string(), format!("the pickle refers to `os.system`, which no checkpoint needs; it is refused (at byte {offset})"));
}

#[test]
fn only_names_can_be_called() {
    // The result of a call, a text and a tensor are called.
    let inner = |p: Pickle| p.object("mace.modules.models", "MACE", |p| p);
    for pickle in [
        inner(Pickle::new()).raw(b")R"),
        inner(Pickle::new()).raw(b")\x81"),
        Pickle::new().str("system").raw(b")R"),
        Pickle::new().tensor("FloatStorage", "0", 1, 0, &[1], &[1]).raw(b")R"),
    ] {
        let error = refused(pickle.stop());
        assert!(matches!(error.reason, PickleFault::NotCallable { .. }), "{error}");
    }
    let error = refused(Pickle::new().global("collections", "OrderedDict").int(1).raw(b"R").stop());
    assert!(matches!(error.reason, PickleFault::Type { .. }), "{error}");
}

#[test]
fn a_tensor_subclass_cannot_wrap_itself() {
    let error = refused(
        Pickle::new()
            .call("torch._tensor", "_rebuild_from_type_v2", |p| {
                p.global("torch._tensor", "_rebuild_from_type_v2").global("torch.nn.parameter", "Parameter").tuple(|p| p).none()
            })
            .stop(),
    );
    assert!(matches!(error.reason, PickleFault::Type { .. }), "{error}");
}

#[test]
fn lengths_are_compared_with_what_is_there() {
    let huge = u32::MAX.to_le_bytes();
    let giant = (u64::MAX - 3).to_le_bytes();
    for (opcode, length) in [
        (b'X', &huge[..]),                 // BINUNICODE
        (b'B', &huge),                     // BINBYTES
        (0x8d, &giant),                    // BINUNICODE8
        (0x8e, &giant),                    // BINBYTES8
        (0x96, &giant),                    // BYTEARRAY8
        (0x95, &giant),                    // FRAME
        (b'T', &[0xff, 0xff, 0xff, 0x7f]), // BINSTRING
        (0x8b, &[0xff, 0xff, 0xff, 0x7f]), // LONG4
        (b'U', &[200]),                    // SHORT_BINSTRING
        (0x8a, &[200]),                    // LONG1
    ] {
        let error = refused(Pickle::new().raw(&[opcode]).raw(length).raw(b"abc.").0);
        assert!(matches!(error.reason, PickleFault::Truncated { .. }), "{opcode:#x}: {error}");
    }
    // Negative lengths of the signed opcodes.
    for opcode in [b'T', 0x8b] {
        let error = refused(Pickle::new().raw(&[opcode]).raw(&huge).raw(b"abc.").0);
        assert!(matches!(error.reason, PickleFault::Malformed { .. }), "{error}");
    }
    // An integer that is long enough to be a burden.
    let error = refused(Pickle::new().raw(&[0x8b]).raw(&100_000u32.to_le_bytes()).raw(&vec![1; 100_000]).stop());
    assert!(matches!(error.reason, PickleFault::Limit { .. }), "{error}");
}

#[test]
fn broken_programs_are_refused() {
    let fault = |bytes: &[u8]| refused(bytes.to_vec()).reason;
    assert_eq!(fault(b""), PickleFault::NoStop);
    assert_eq!(fault(b"\x80\x02N"), PickleFault::NoStop);
    assert_eq!(fault(b"\x80\x09N."), PickleFault::Protocol { found: 9 });
    assert_eq!(fault(b"\xffN."), PickleFault::UnknownOpcode(0xff));
    for underflow in [&b"."[..], b"0.", b"2.", b"R.", b"N\x86.", b"b.", b"Na.", b"}Ns.", b"q\x00.", b"(N(s.", b"(o."] {
        let fault = fault(underflow);
        assert!(matches!(fault, PickleFault::StackUnderflow { .. }), "{:?}: {fault:?}", String::from_utf8_lossy(underflow));
    }
    for unmarked in [&b"Nt."[..], b"1.", b"]e.", b"}u.", b"l.", b"d.", b"\x91.", b"\x8f\x90."] {
        assert!(matches!(fault(unmarked), PickleFault::NoMark { .. }));
    }
    for memo in [&b"h\x05."[..], b"j\xff\xff\xff\xff.", b"g77\n."] {
        assert!(matches!(fault(memo), PickleFault::NoMemo(_)));
    }
    for mistyped in [&b"NNa."[..], b"NNNs.", b"N(NNu.", b"N(N\x90.", b"NNb.", b"NN\x93.", b"]}b0N)b."] {
        assert!(matches!(fault(mistyped), PickleFault::Type { .. }), "{:?}", fault(mistyped));
    }
    for malformed in [&b"Iabc\n."[..], b"Fabc\n.", b"Sabc\n.", b"gabc\n.", b"V\\uZZZZ\n.", b"S'\\x4'\n.", b"X\x01\x00\x00\x00\xff."] {
        assert!(matches!(fault(malformed), PickleFault::Malformed { .. }), "{:?}", fault(malformed));
    }
    for unfinished in [&b"I12"[..], b"cos", b"cos\nsys", b"J\x00", b"G\x00\x00"] {
        assert!(matches!(fault(unfinished), PickleFault::Truncated { .. }));
    }
}

#[test]
fn deep_nesting_costs_no_stack() {
    // A list in a list, a million deep; a tuple likewise; marks upon marks.
    let depth = 1_000_000;
    let nested = Pickle::new().raw(&vec![b']'; depth]).raw(&vec![b'a'; depth - 1]).stop();
    let pickle = load(&nested, &Limits::default()).unwrap();
    assert!(describe(pickle.root(), Detail::default()).starts_with("[a list of 1] (1)"));
    drop(pickle);
    let tuples = Pickle::new().raw(b"N").raw(&vec![0x85; depth]).stop();
    drop(load(&tuples, &Limits::default()).unwrap());
    let marks = Pickle::new().raw(&vec![b'('; 10_000_000]).stop();
    assert!(matches!(refused(marks).reason, PickleFault::Limit { .. }));
}

#[test]
fn programs_that_grow_are_stopped() {
    let limits = Limits { objects: 1000, references: 1000, text_bytes: 10_000, stack: 1000, ..Limits::default() };
    let stopped = |bytes: Vec<u8>| {
        let error = load(&bytes, &limits).expect_err("accepted");
        assert!(matches!(error.reason, PickleFault::Limit { .. }), "{error}");
    };
    // Records, memo entries, places on the stack.
    stopped(Pickle::new().raw(&b"]0".repeat(2000)).raw(b"N").stop());
    let memo: Vec<u8> = (0..2000u32).flat_map(|i| [&b"r"[..], &i.to_le_bytes()].concat()).collect();
    stopped(Pickle::new().raw(b"N").raw(&memo).stop());
    stopped(Pickle::new().raw(b"N").raw(&[b'2'; 2000]).stop());
    // One list of 300 made into a set, a tuple and a dictionary over and over.
    let list = |p: Pickle| p.raw(b"](").raw(&[b'N'; 300]).raw(b"eq\x000");
    for (module, name) in [("builtins", "set"), ("builtins", "tuple"), ("torch", "Size"), ("builtins", "list")] {
        let copies = (0..5).fold(list(Pickle::new()), |p, _| p.call(module, name, |p| p.raw(b"h\x00")));
        stopped(copies.stop());
    }
    // One text of 3000 characters encoded over and over.
    let text = Pickle::new().str(&"x".repeat(3000)).raw(b"q\x000");
    let copies = (0..5).fold(text, |p, _| p.call("_codecs", "encode", |p| p.raw(b"h\x00").str("latin1")));
    stopped(copies.stop());
    // Lists that hold each other ten times over: small here, huge when written out.
    let laughs = (0..200).fold(Pickle::new().raw(b"]q\x000"), |p, _| p.raw(b"](").raw(&b"h\x00".repeat(10)).raw(b"eq\x000"));
    let pickle = laughs.raw(b"h\x00").stop();
    stopped(pickle.clone());
    let pickle = load(&pickle, &Limits::default()).unwrap();
    assert!(describe(pickle.root(), Detail::default()).len() < 1 << 20);
}

#[test]
fn records_that_contain_themselves_end() {
    // A list that holds itself; a dictionary that is its own value; an object that is its own state.
    let list = load(&Pickle::new().raw(b"]q\x00h\x00a").stop(), &Limits::default()).unwrap();
    assert!(describe(list.root(), Detail::default()).contains("a list of 1"));
    let dict = load(&Pickle::new().raw(b"}q\x00").str("x").raw(b"h\x00s").stop(), &Limits::default()).unwrap();
    let text = describe(dict.root(), Detail { depth: 5, ..Detail::default() });
    assert_eq!(text.lines().count(), 6);

    // A module that is its own child.
    let looped = Pickle::new()
        .global("mace.modules.models", "MACE")
        .raw(b")\x81q\x00")
        .dict(|p| p.str("_modules").dict(|p| p.str("self").raw(b"h\x00")))
        .raw(b"b")
        .stop();
    let pickle = load(&looped, &Limits::default()).unwrap();
    assert!(matches!(named_modules(pickle.root()), Err(ModuleError::TooLarge { .. })));
    assert!(matches!(state_dict(pickle.root(), &Limits::default()), Err(Error::Module(_))));
    // … and that has itself as child twice, so that the tree doubles at every level.
    let doubled = Pickle::new()
        .global("mace.modules.models", "MACE")
        .raw(b")\x81q\x00")
        .dict(|p| p.str("_modules").dict(|p| p.str("a").raw(b"h\x00").str("b").raw(b"h\x00")))
        .raw(b"b")
        .stop();
    let checkpoint = ForeignCheckpoint::from_bytes("m", torch_zip(&doubled, &[]), Limits::default()).unwrap();
    let error = checkpoint.state_dict().unwrap_err();
    assert!(error.to_string().contains("does a module contain itself?"), "{error}");

    let config = Pickle::new().dict(|p| p.str("model_state_dict").dict(|p| p).str("config").raw(b"}q\x00").str("c").raw(b"h\x00s")).stop();
    let checkpoint = ForeignCheckpoint::from_bytes("m", torch_zip(&config, &[]), Limits::default()).unwrap();
    assert!(matches!(checkpoint.to_json(checkpoint.root()), Err(Error::Module(ModuleError::TooLarge { .. }))));
}

#[test]
fn persistent_ids_name_storages_or_are_refused() {
    let persistent = |build: fn(Pickle) -> Pickle| refused(build(Pickle::new()).raw(b"Q").stop());
    for (build, found) in [
        ((|p| p.str("storage")) as fn(Pickle) -> Pickle, "the text \"storage\""),
        (|p| p.tuple(|p| p.str("storage")), "a tuple of 1"),
        (|p| p.tuple(|p| p.str("module").none().none().none().none()), "the text \"module\""),
        (|p| p.tuple(|p| p.str("storage").str("FloatStorage").str("0").str("cpu").int(1)), "the text \"FloatStorage\""),
        (|p| p.tuple(|p| p.str("storage").global("mace", "FloatStorage").str("0").str("cpu").int(1)), "mace.FloatStorage"),
        (|p| p.tuple(|p| p.str("storage").global("torch", "FloatStorage").none().str("cpu").int(1)), "key None"),
        (|p| p.tuple(|p| p.str("storage").global("torch", "FloatStorage").str("../0").str("cpu").int(1)), "key \"../0\""),
        (|p| p.tuple(|p| p.str("storage").global("torch", "FloatStorage").str("").str("cpu").int(1)), "key \"\""),
        (|p| p.tuple(|p| p.str("storage").global("torch", "FloatStorage").str("0").int(0).int(1)), "location"),
        (|p| p.tuple(|p| p.str("storage").global("torch", "FloatStorage").str("0").str("cpu").int(-1)), "size the integer -1"),
    ] {
        let error = persistent(build);
        assert!(matches!(error.reason, PickleFault::PersistentId { .. }), "{error}");
        assert!(error.to_string().contains(found), "{error}");
    }
    let error = persistent(|p| p.tuple(|p| p.str("storage").global("torch", "ComplexFloatStorage").str("0").str("cpu").int(1)));
    assert!(matches!(error.reason, PickleFault::StorageClass { .. }), "{error}");
    assert!(matches!(refused(b"P0\n.".to_vec()).reason, PickleFault::PersistentId { .. }));
}

#[test]
fn tensors_with_impossible_views_are_refused() {
    // Negative offsets, lengths and strides are wrong in the pickle itself.
    let tensor = |offset: i64, shape: &[i64], stride: &[i64]| Pickle::new().tensor("FloatStorage", "0", 6, offset, shape, stride).stop();
    for pickle in
        [tensor(-1, &[2], &[1]), tensor(0, &[-2], &[1]), tensor(0, &[2], &[-1]), tensor(0, &[2, 3], &[1]), tensor(0, &[1; 65], &[1; 65])]
    {
        let error = refused(pickle);
        assert!(matches!(error.reason, PickleFault::Type { .. }), "{error}");
    }
    // Views beyond the storage are wrong for the tensor, which is named.
    let open = |offset: i64, shape: &[i64], stride: &[i64], bytes: usize| {
        let pickle = Pickle::new()
            .dict(|p| {
                p.str("model_state_dict")
                    .dict(|p| p.str("layer.weight").tensor("FloatStorage", "0", 6, offset, shape, stride))
                    .str("config")
                    .dict(|p| p)
            })
            .stop();
        let storage = f32_bytes(&vec![1.0; bytes / 4]);
        let checkpoint = ForeignCheckpoint::from_bytes("m", torch_zip(&pickle, &[("0", &storage)]), Limits::default());
        let checkpoint = checkpoint.unwrap();
        checkpoint.state_dict().and_then(|state| checkpoint.tensor("layer.weight", state.get("layer.weight").unwrap()))
    };
    assert_eq!(open(0, &[2, 3], &[3, 1], 24).unwrap().to_f64(), [1.0; 6]);
    let fault = |result: Result<_, Error>| match result {
        Err(Error::Tensor(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    };
    assert!(matches!(fault(open(1, &[2, 3], &[3, 1], 24)), TensorError::OutOfBounds { last: 6, .. }));
    assert!(matches!(fault(open(0, &[i64::MAX, 4], &[0, 0], 24)), TensorError::Overflow { .. }));
    assert!(matches!(fault(open(0, &[1 << 40], &[0], 24)), TensorError::Repeated { .. }));
    assert!(matches!(fault(open(0, &[2], &[i64::MAX], 24)), TensorError::OutOfBounds { .. }));
    // The archive holds less, or more, than the storage was declared to have.
    assert!(matches!(fault(open(0, &[6], &[1], 20)), TensorError::StorageSize { declared: 24, found: 20, .. }));
    assert!(matches!(fault(open(0, &[6], &[1], 28)), TensorError::StorageSize { declared: 24, found: 28, .. }));
}

#[test]
fn tensors_that_repeat_their_storage_share_one_budget() {
    // A thousand expanded views of one number, 16 MiB each when decoded.
    let pickle = Pickle::new()
        .dict(|p| {
            p.str("model_state_dict")
                .dict(|p| (0..1000).fold(p, |p, i| p.str(&format!("t{i}")).tensor("FloatStorage", "0", 1, 0, &[1 << 22], &[0])))
                .str("config")
                .dict(|p| p)
        })
        .stop();
    let limits = Limits { tensor_bytes: 1 << 30, ..Limits::default() };
    let checkpoint = ForeignCheckpoint::from_bytes("m", torch_zip(&pickle, &[("0", &[0; 4])]), limits).unwrap();
    let error = checkpoint.state_dict().unwrap_err();
    assert!(matches!(error, Error::Tensor(TensorError::TooLarge { .. })), "{error}");
}

#[test]
fn numpy_data_is_checked_too() {
    let dtype = |p: Pickle, code: &str| {
        p.call("numpy", "dtype", |p| p.str(code).bool(false).bool(true))
            .tuple(|p| p.int(3).str("<").none().none().none().int(-1).int(-1).int(0))
            .raw(b"b")
    };
    // Types with fields, unknown types, scalars of the wrong length.
    let fields = Pickle::new()
        .call("numpy", "dtype", |p| p.str("f8").bool(false).bool(true))
        .tuple(|p| p.int(3).str("<").none().tuple(|p| p.str("x")).none().int(-1).int(-1).int(0))
        .raw(b"b");
    assert!(matches!(refused(fields.stop()).reason, PickleFault::Unsupported { .. }));
    let unknown = Pickle::new().call("numpy", "dtype", |p| p.str("V16").bool(false).bool(true));
    assert!(matches!(refused(unknown.stop()).reason, PickleFault::Type { .. }));
    let scalar =
        Pickle::new().call("numpy.core.multiarray", "scalar", |p| dtype(p, "f8").call("_codecs", "encode", |p| p.str("abc").str("latin1")));
    assert!(matches!(refused(scalar.stop()).reason, PickleFault::Type { .. }));
    let encoding = Pickle::new().call("_codecs", "encode", |p| p.str("abc").str("rot13"));
    assert!(matches!(refused(encoding.stop()).reason, PickleFault::Type { .. }));
    let wide = Pickle::new().call("_codecs", "encode", |p| p.str("\u{100}").str("latin1"));
    assert!(matches!(refused(wide.stop()).reason, PickleFault::Type { .. }));
    // An array that has fewer bytes than its shape needs.
    let array = Pickle::new()
        .call("numpy.core.multiarray", "_reconstruct", |p| p.global("numpy", "ndarray").tuple(|p| p.int(0)).none())
        .tuple(|p| {
            let p = p.int(1).longs(&[1 << 40, 1 << 40]);
            dtype(p, "f8").bool(false).call("_codecs", "encode", |p| p.str("abc").str("latin1"))
        })
        .raw(b"b");
    let pickle = load(&array.stop(), &Limits::default()).unwrap();
    let error = pickle.root().as_array().unwrap().to_tensor(pickle.heap(), "shift").unwrap_err();
    assert!(matches!(&error, TensorError::Overflow { tensor, .. } if tensor == "shift"), "{error}");
}

#[test]
fn damaged_bytes_never_panic() {
    // Every byte of a small model's pickle changed to a few values, and the pickle cut at every byte.
    let archive = tiny_mace();
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&archive)).unwrap();
    let mut pickle = Vec::new();
    std::io::Read::read_to_end(&mut zip.by_name("m/data.pkl").unwrap(), &mut pickle).unwrap();
    let walk = |bytes: &[u8]| {
        if let Ok(pickle) = load(bytes, &Limits::default()) {
            let _ = state_dict(pickle.root(), &Limits::default());
            let _ = describe(pickle.root(), Detail::default());
        }
    };
    for place in 0..pickle.len() {
        assert!(load(&pickle[..place], &Limits::default()).is_err(), "cut at {place}");
        for value in [0, 0x80, 0xff, b'(', b'R', b'.', b'b', pickle[place].wrapping_add(1)] {
            let mut damaged = pickle.clone();
            damaged[place] = value;
            walk(&damaged);
        }
    }
}
