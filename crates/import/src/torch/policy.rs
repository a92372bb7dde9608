//! Which Python names a pickle may mention.
//!
//! Nothing is ever called, so the list is not what keeps the reader safe: it keeps a checkpoint honest. A file that
//! mentions `os.system` is refused and named, instead of being imported with a curious record inside.

/// Whether a pickle may mention `module.name`, as an inert record or as one of the few calls that are interpreted.
#[must_use]
pub fn is_allowed(module: &str, name: &str) -> bool {
    if !is_dotted_identifier(module) || !is_identifier(name) {
        return false;
    }
    let top = module.split('.').next().unwrap_or(module);
    match top {
        // Model code: classes of the potentials themselves and of what they are built from.
        "mace" | "e3nn" | "sevenn" | "nequip" | "allegro" | "opt_einsum_fx" | "cuequivariance" | "cuequivariance_torch" => true,
        // Classes of TorchScript programs.
        "__torch__" => true,
        "torch" => is_allowed_torch(module, name),
        "numpy" => is_allowed_numpy(module, name),
        "builtins" | "__builtin__" => matches!(
            name,
            "set" | "frozenset" | "dict" | "list" | "tuple" | "slice" | "complex" | "bytearray" | "bytes" | "int"
                | "float" | "str" | "bool" | "object" | "range"
                // Only to name an activation: see `is_activation`.
                | "getattr"
        ),
        "collections" => module == top && matches!(name, "OrderedDict" | "defaultdict" | "Counter" | "deque"),
        "_codecs" => module == top && name == "encode",
        "copyreg" | "copy_reg" => module == top && name == "_reconstructor",
        // Configurations of the training frameworks around NequIP.
        "omegaconf" => matches!(
            name,
            "DictConfig"
                | "ListConfig"
                | "AnyNode"
                | "ContainerMetadata"
                | "Metadata"
                | "IntegerNode"
                | "FloatNode"
                | "StringNode"
                | "BooleanNode"
        ),
        "typing" => module == top && matches!(name, "Any" | "Union" | "Optional" | "Dict" | "List" | "Tuple"),
        "pathlib" => matches!(name, "Path" | "PosixPath" | "WindowsPath" | "PurePath" | "PurePosixPath" | "PureWindowsPath"),
        "argparse" => module == top && name == "Namespace",
        "lightning" | "pytorch_lightning" => name == "AttributeDict",
        _ => false,
    }
}

fn is_allowed_torch(module: &str, name: &str) -> bool {
    match module {
        "torch" => {
            name.ends_with("Storage")
                || matches!(name, "Size" | "device" | "Tensor")
                || crate::torch::tensor::DType::from_torch_name(name).is_some()
                || is_activation(name)
                || matches!(name, "strided" | "contiguous_format" | "preserve_format")
        }
        "torch._utils" => matches!(
            name,
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3" | "_rebuild_parameter" | "_rebuild_parameter_with_state"
        ),
        "torch._tensor" => name == "_rebuild_from_type_v2",
        "torch.storage" => matches!(name, "UntypedStorage" | "TypedStorage"),
        "torch.serialization" => name == "_get_layout",
        "torch.nn.parameter" => matches!(name, "Parameter" | "Buffer"),
        "torch._C" => name == "_VariableFunctionsClass",
        "torch._C._nn" | "torch.nn.functional" => is_activation(name),
        "torch.fx.graph_module" => matches!(name, "reduce_graph_module" | "reduce_package_graph_module" | "GraphModule"),
        "torch.fx._symbolic_trace" => name == "Tracer",
        "torch.torch_version" => name == "TorchVersion",
        "torch.jit._pickle" => {
            matches!(name, "build_intlist" | "build_doublelist" | "build_boollist" | "build_tensorlist" | "restore_type_tag")
        }
        _ => module.starts_with("torch.nn.modules.") || module.starts_with("torch.optim."),
    }
}

/// Functions of torch that models keep as attributes. Those written in C++, such as `torch.tanh`, are pickled as
/// `getattr(torch._C._VariableFunctionsClass, 'tanh')`, which is the only form of `getattr` that is understood.
pub(crate) fn is_activation(name: &str) -> bool {
    matches!(
        name,
        "abs"
            | "celu"
            | "cos"
            | "elu"
            | "erf"
            | "gelu"
            | "hardtanh"
            | "leaky_relu"
            | "log_sigmoid"
            | "logsigmoid"
            | "mish"
            | "relu"
            | "selu"
            | "sigmoid"
            | "silu"
            | "sin"
            | "softplus"
            | "softsign"
            | "tanh"
            | "tanhshrink"
    )
}

fn is_allowed_numpy(module: &str, name: &str) -> bool {
    match module {
        "numpy" => matches!(
            name,
            "dtype"
                | "ndarray"
                | "bool"
                | "bool_"
                | "int8"
                | "int16"
                | "int32"
                | "int64"
                | "uint8"
                | "uint16"
                | "uint32"
                | "uint64"
                | "float16"
                | "float32"
                | "float64"
                | "str_"
                | "intc"
                | "longlong"
        ),
        "numpy.core.multiarray" | "numpy._core.multiarray" => matches!(name, "_reconstruct" | "scalar"),
        "numpy.core.numeric" | "numpy._core.numeric" => name == "_frombuffer",
        "numpy.dtypes" => name.ends_with("DType"),
        _ => false,
    }
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_dotted_identifier(module: &str) -> bool {
    module.len() <= 1024 && module.split('.').all(is_identifier)
}

/// What to do about a refused name.
pub(crate) fn hint(module: &str, name: &str) -> String {
    let top = module.split('.').next().unwrap_or(module);
    match (top, name) {
        ("builtins" | "__builtin__", "getattr") | ("types", "MethodType") => {
            "the model was saved with bound methods, as accelerated (cuEquivariance, OpenEquivariance) MACE models \
             are; convert it back with `mace_cueq_to_e3nn` or save it with acceleration off"
                .into()
        }
        ("torch", "_load_from_bytes") => "the pickle nests another `torch.load`; save the model anew with `torch.save(model, path)`".into(),
        (
            "os" | "posix" | "nt" | "subprocess" | "sys" | "builtins" | "__builtin__" | "runpy" | "shutil" | "socket" | "importlib" | "pty"
            | "webbrowser" | "commands",
            _,
        ) => "the file would run code when loaded in Python; do not load it there, and get it from its publisher".into(),
        _ => "MACE models (`torch.save(model)`), SevenNet checkpoints and NequIP packages can be read; \
              is this a model of another program?"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn names_of_models_pass_and_callables_of_python_do_not() {
        for (module, name) in [
            ("mace.modules.models", "ScaleShiftMACE"),
            ("e3nn.o3._irreps", "Irreps"),
            ("torch", "FloatStorage"),
            ("torch", "bfloat16"),
            ("torch.nn.modules.container", "ModuleList"),
            ("collections", "OrderedDict"),
            ("__builtin__", "set"),
            ("numpy.core.multiarray", "scalar"),
        ] {
            assert!(is_allowed(module, name), "{module}.{name}");
        }
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("__builtin__", "exec"),
            ("torch", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("torch.jit", "load"),
            ("functools", "partial"),
            ("operator", "attrgetter"),
            ("collections", "namedtuple"),
            ("numpy", "load"),
            ("numpy.core.multiarray", "os"),
            // Chains of attributes and names that only look like allowed ones.
            ("mace.tools", "os.system"),
            ("torch", "hub.load"),
            ("mace ", "x"),
            ("macex", "x"),
            ("", "x"),
            ("mace", ""),
            ("mace..os", "x"),
        ] {
            assert!(!is_allowed(module, name), "{module}.{name}");
        }
    }
}
