//! A small pickle assembler and archive writer: the tests of the reader build their files in code.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Bytes of a pickle, opcode by opcode. Methods push one value each unless they say otherwise.
#[derive(Clone, Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    /// Protocol 2, as `torch.save` writes.
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn str(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    pub fn long(self, value: i64) -> Self {
        self.raw(b"\x8a\x08").raw(&value.to_le_bytes())
    }

    pub fn float(self, value: f64) -> Self {
        self.raw(b"G").raw(&value.to_be_bytes())
    }

    pub fn none(self) -> Self {
        self.raw(b"N")
    }

    pub fn bool(self, value: bool) -> Self {
        self.raw(if value { b"\x88" } else { b"\x89" })
    }

    /// A tuple of what `items` pushes.
    pub fn tuple(self, items: impl FnOnce(Self) -> Self) -> Self {
        items(self.raw(b"(")).raw(b"t")
    }

    pub fn list(self, items: impl FnOnce(Self) -> Self) -> Self {
        items(self.raw(b"](")).raw(b"e")
    }

    /// A dictionary of what `items` pushes: key, value, key, value.
    pub fn dict(self, items: impl FnOnce(Self) -> Self) -> Self {
        items(self.raw(b"}(")).raw(b"u")
    }

    /// `module.name(*args)`.
    pub fn call(self, module: &str, name: &str, args: impl FnOnce(Self) -> Self) -> Self {
        self.global(module, name).tuple(args).raw(b"R")
    }

    /// An instance of a class with the state that `attributes` pushes as keys and values.
    pub fn object(self, module: &str, name: &str, attributes: impl FnOnce(Self) -> Self) -> Self {
        self.global(module, name).raw(b")\x81").dict(attributes).raw(b"b")
    }

    /// A module with children, parameters and buffers, each pushed as keys and values.
    pub fn module(
        self,
        module: &str,
        name: &str,
        attributes: impl FnOnce(Self) -> Self,
        parameters: impl FnOnce(Self) -> Self,
        buffers: impl FnOnce(Self) -> Self,
        children: impl FnOnce(Self) -> Self,
    ) -> Self {
        self.object(module, name, |p| {
            attributes(p).str("_parameters").dict(parameters).str("_buffers").dict(buffers).str("_modules").dict(children)
        })
    }

    pub fn storage(self, class: &str, key: &str, numel: i64) -> Self {
        self.tuple(|p| p.str("storage").global("torch", class).str(key).str("cpu").long(numel)).raw(b"Q")
    }

    pub fn longs(self, values: &[i64]) -> Self {
        self.tuple(|p| values.iter().fold(p, |p, &value| p.long(value)))
    }

    /// A tensor: a view of a storage.
    pub fn tensor(self, class: &str, key: &str, numel: i64, offset: i64, shape: &[i64], stride: &[i64]) -> Self {
        self.call("torch._utils", "_rebuild_tensor_v2", |p| {
            p.storage(class, key, numel).long(offset).longs(shape).longs(stride).bool(false).call("collections", "OrderedDict", |p| p)
        })
    }

    /// `Irreps` of e3nn, from (multiplicity, degree, parity).
    pub fn irreps(self, blocks: &[(i32, i32, i32)]) -> Self {
        let new = |p: Self, class: &str| p.global("e3nn.o3._irreps", class);
        new(self, "Irreps")
            .tuple(|p| {
                p.tuple(|p| {
                    blocks.iter().fold(p, |p, &(mul, l, parity)| {
                        let p = new(p, "_MulIr");
                        p.tuple(|p| {
                            p.tuple(|p| {
                                let p = new(p.int(mul), "Irrep");
                                p.tuple(|p| p.tuple(|p| p.int(l).int(parity))).raw(b"\x81")
                            })
                        })
                        .raw(b"\x81")
                    })
                })
            })
            .raw(b"\x81")
    }

    /// The finished pickle.
    pub fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// A zip archive of stored entries.
pub fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    zip_with(entries, CompressionMethod::Stored)
}

pub fn zip_with(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in entries {
        writer.start_file(*name, options).expect("a name that zip allows");
        writer.write_all(bytes).expect("memory does not fail");
    }
    writer.finish().expect("memory does not fail").into_inner()
}

/// What `torch.save` writes: a pickle and its storages.
pub fn torch_zip(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<String> = storages.iter().map(|(key, _)| format!("m/data/{key}")).collect();
    let mut entries: Vec<(&str, &[u8])> = vec![("m/data.pkl", pickle), ("m/byteorder", b"little")];
    entries.extend(names.iter().zip(storages).map(|(name, (_, bytes))| (name.as_str(), *bytes)));
    entries.push(("m/version", b"3\n"));
    zip_of(&entries)
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A small model with the structure of a MACE `.model`.
pub fn tiny_mace() -> Vec<u8> {
    let linear = |p: Pickle, key: &str| {
        p.module(
            "e3nn.o3._linear",
            "Linear",
            |p| p.str("irreps_in").irreps(&[(2, 0, 1), (2, 1, -1)]).str("irreps_out").irreps(&[(2, 0, 1)]),
            |p| {
                p.str("weight").call("torch._utils", "_rebuild_parameter", |p| {
                    p.tensor("FloatStorage", key, 4, 0, &[4], &[1]).bool(true).call("collections", "OrderedDict", |p| p)
                })
            },
            |p| p,
            |p| p,
        )
    };
    let interaction = |p: Pickle| {
        p.module(
            "mace.modules.blocks",
            "RealAgnosticInteractionBlock",
            |p| p.str("avg_num_neighbors").float(17.25),
            |p| p,
            |p| p,
            |p| {
                let p = p.str("linear_up");
                let p = linear(p, "2").str("linear");
                linear(p, "3")
            },
        )
    };
    let pickle = Pickle::new()
        .module(
            "mace.modules.models",
            "ScaleShiftMACE",
            |p| p.str("heads").list(|p| p.str("Default")).str("training").bool(false),
            |p| p,
            |p| {
                p.str("r_max").tensor("DoubleStorage", "0", 1, 0, &[], &[]).str("atomic_numbers").tensor(
                    "LongStorage",
                    "1",
                    2,
                    0,
                    &[2],
                    &[1],
                )
            },
            |p| p.str("interactions").module("torch.nn.modules.container", "ModuleList", |p| p, |p| p, |p| p, |p| interaction(p.str("0"))),
        )
        .stop();
    torch_zip(
        &pickle,
        &[
            ("0", &4.5f64.to_le_bytes()),
            ("1", &[1i64, 8].iter().flat_map(|z| z.to_le_bytes()).collect::<Vec<_>>()),
            ("2", &f32_bytes(&[1.0, 2.0, 3.0, 4.0])),
            ("3", &f32_bytes(&[5.0, 6.0, 7.0, 8.0])),
        ],
    )
}
