//! `tesseral bench`: how fast is a potential on this machine, and how fast could it be?

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tesseral_atoms::{Cell, Structure, elements};
use tesseral_infer::machine;

use crate::args::{BenchArgs, DtypeArg, EngineArgs};
use crate::commands::Outcome;
use crate::commands::evaluate::frames_of;
use crate::errors::Hinted;
use crate::output::{DIM, HEADING, Output};
use crate::settings;

/// Atoms of the built-in structure.
const ATOMS: usize = 512;
/// Standard deviation of the moves of a step, Å.
const MOVE: f64 = 5e-3;
/// Atomic number of the built-in structure, where the model knows it.
const SILICON: u8 = 14;

#[derive(Serialize)]
struct StageJson {
    name: &'static str,
    /// Seconds a step, added up over threads.
    cpu_seconds: f64,
}

#[derive(Serialize)]
struct BenchJson {
    model: String,
    structure: String,
    atoms: usize,
    neighbors_per_atom: f64,
    dtype: &'static str,
    exact_radial: bool,
    skin: f64,
    steps: usize,
    us_per_atom: f64,
    us_per_atom_median: f64,
    gflop_per_step: f64,
    gflops: f64,
    peak_gflops: f64,
    share_of_peak: f64,
    copy_gb_per_s: f64,
    stages: Vec<StageJson>,
    bytes_per_atom: f64,
    peak_rss_mib: Option<f64>,
    load_seconds: f64,
    first_step_seconds: f64,
    machine: String,
    device: String,
    threads: usize,
    instruction_set: &'static str,
    version: &'static str,
    commit: &'static str,
}

pub(crate) fn run(args: &BenchArgs) -> Result<Outcome> {
    if !(args.skin >= 0.0 && args.skin.is_finite()) {
        return Err(Hinted::new(format!("--skin {}: a length of at least 0 Å is needed", args.skin)).usage().into());
    }
    let start = Instant::now();
    let artifact = tesseral_loader::artifact(args.model.model.as_deref())?;
    let engine = EngineArgs { exact_radial: args.exact_radial, device: args.device.clone(), ..EngineArgs::default() };
    let potential = settings::potential(&artifact, args.model.head.as_deref(), args.dtype, &engine)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let (name, structure) = structure(args, potential.header().elements())?;
    let mut calculator = potential.calculator(args.skin)?;

    let start = Instant::now();
    calculator.evaluate(&structure).with_context(|| format!("cannot evaluate {name}"))?;
    let first_step_seconds = start.elapsed().as_secs_f64();
    let mut moved = structure.clone();
    let mut random = Random(0x5eed);
    let mut step = |calculator: &mut tesseral_infer::Calculator| -> Result<f64> {
        for (to, from) in moved.positions.iter_mut().zip(&structure.positions) {
            *to = std::array::from_fn(|x| from[x] + MOVE * random.normal());
        }
        let start = Instant::now();
        calculator.evaluate(&moved)?;
        Ok(start.elapsed().as_secs_f64())
    };
    step(&mut calculator)?;
    calculator.take_stages();
    let mut seconds = (0..args.steps.get()).map(|_| step(&mut calculator)).collect::<Result<Vec<f64>>>()?;
    let stages = calculator.take_stages();
    // Right after the steps: the rates of shared machines drift.
    let single = args.dtype == DtypeArg::F32;
    let device = potential.devices().first();
    let peak = match device {
        Some(device) if single => machine::device_peak_flops::<f32>(device)?,
        Some(device) => machine::device_peak_flops::<f64>(device)?,
        None if single => machine::peak_flops::<f32>(),
        None => machine::peak_flops::<f64>(),
    };
    let copy = device.map_or_else(|| Ok(machine::copy_bandwidth()), machine::device_copy_bandwidth)?;
    seconds.sort_by(f64::total_cmp);
    let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
    let atoms = structure.len() as f64;
    let flops = calculator.flops();
    let result = BenchJson {
        model: potential.header().name.clone(),
        structure: name,
        atoms: structure.len(),
        neighbors_per_atom: calculator.num_edges() as f64 / atoms,
        dtype: if args.dtype == DtypeArg::F32 { "f32" } else { "f64" },
        exact_radial: args.exact_radial,
        skin: args.skin,
        steps: seconds.len(),
        us_per_atom: 1e6 * best / atoms,
        us_per_atom_median: 1e6 * median / atoms,
        gflop_per_step: 1e-9 * flops,
        gflops: 1e-9 * flops / best,
        peak_gflops: 1e-9 * peak,
        share_of_peak: flops / best / peak,
        copy_gb_per_s: 1e-9 * copy,
        stages: stages
            .into_iter()
            .map(|(stage, total)| StageJson { name: stage.name(), cpu_seconds: total / args.steps.get() as f64 })
            .collect(),
        bytes_per_atom: calculator.bytes() as f64 / atoms,
        peak_rss_mib: peak_memory(),
        load_seconds,
        first_step_seconds,
        machine: processor(),
        device: device.map_or_else(|| "cpu".to_owned(), |device| device.name().to_owned()),
        threads: rayon::current_num_threads(),
        instruction_set: machine::instruction_set(),
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("TESSERAL_COMMIT"),
    };
    let mut output = Output::default();
    if args.json {
        output.json(&result)?;
    } else {
        table(&result, &mut output);
    }
    output.flush()?;
    Ok(Outcome::Success)
}

fn table(r: &BenchJson, output: &mut Output) {
    output.line(format_args!(
        "{HEADING}{}{HEADING:#} on {}, {} atoms, {:.1} neighbours an atom",
        r.model, r.structure, r.atoms, r.neighbors_per_atom
    ));
    let exact = if r.exact_radial { ", exact radial functions" } else { "" };
    let place = if r.device == "cpu" {
        format!("{}, {} threads, {}", r.machine, r.threads, r.instruction_set)
    } else {
        format!("{}, with {}", r.device, r.machine)
    };
    output.line(format_args!("{DIM}{place}, {}{exact}; tesseral {} ({}){DIM:#}", r.dtype, r.version, r.commit));
    output.line(format_args!(""));
    output.line(format_args!("{:<22}{:>10.2} µs/atom   median {:.2}, best of {}", "step", r.us_per_atom, r.us_per_atom_median, r.steps));
    output.line(format_args!(
        "{:<22}{:>10.1} GFLOP/s   {:.0} % of {:.0} measured; copying {:.1} GB/s",
        "rate",
        r.gflops,
        100.0 * r.share_of_peak,
        r.peak_gflops,
        r.copy_gb_per_s
    ));
    let peak = r.peak_rss_mib.map_or_else(String::new, |m| format!("   peak of the process {m:.0} MiB"));
    output.line(format_args!("{:<22}{:>10.1} kB/atom{peak}", "memory", 1e-3 * r.bytes_per_atom));
    output.line(format_args!(
        "{:<22}{:>10.1} ms        first step {:.1} ms",
        "model loaded in",
        1e3 * r.load_seconds,
        1e3 * r.first_step_seconds
    ));
    output.line(format_args!(""));
    let total: f64 = r.stages.iter().map(|s| s.cpu_seconds).sum();
    for stage in &r.stages {
        let per_atom = 1e6 * stage.cpu_seconds / r.atoms as f64;
        output.line(format_args!(
            "{:<22}{per_atom:>10.2} µs/atom   {:>3.0} % of the threads' time",
            stage.name,
            100.0 * stage.cpu_seconds / total
        ));
    }
}

fn structure(args: &BenchArgs, known: &[u8]) -> Result<(String, Structure)> {
    let (name, cell) = match &args.structure {
        Some(path) => {
            let mut frames = frames_of(path).map_err(|e| e.error)?;
            let Some(frame) = frames.next() else { return Err(Hinted::new(format!("{} holds no structure", path.display())).into()) };
            (path.display().to_string(), frame.map_err(|e| e.error)?.structure)
        }
        None => built_in(known)?,
    };
    let wanted = args.atoms.map(usize::from).or(args.structure.is_none().then_some(ATOMS)).unwrap_or(cell.len());
    if cell.is_empty() || wanted <= cell.len() {
        return Ok((name, cell));
    }
    if !cell.is_periodic() {
        return Err(Hinted::new(format!("{name} is not periodic: it cannot be repeated to {wanted} atoms")).usage().into());
    }
    Ok((name, repeated(&cell, wanted)))
}

/// The structure repeated until it has at least `wanted` atoms, the shortest periodic direction first.
fn repeated(cell: &Structure, wanted: usize) -> Structure {
    let lengths = cell.cell.lengths();
    let mut repeats = [1usize; 3];
    while cell.len() * repeats.iter().product::<usize>() < wanted {
        let shortest =
            (0..3).filter(|&d| cell.pbc[d]).min_by(|&a, &b| (lengths[a] * repeats[a] as f64).total_cmp(&(lengths[b] * repeats[b] as f64)));
        repeats[shortest.unwrap_or(0)] += 1;
    }
    let mut all = Structure { pbc: cell.pbc, ..Structure::default() };
    for d in 0..3 {
        all.cell.vectors[d] = cell.cell.vectors[d].map(|x| x * repeats[d] as f64);
    }
    for n in 0..repeats.iter().product::<usize>() {
        let image = [n / (repeats[1] * repeats[2]), n / repeats[2] % repeats[1], n % repeats[2]];
        let shift = cell.cell.cartesian(image.map(|i| i as f64));
        all.numbers.extend_from_slice(&cell.numbers);
        all.positions.extend(cell.positions.iter().map(|r| std::array::from_fn(|x| r[x] + shift[x])));
    }
    all
}

/// Diamond silicon, or rock salt of the model's first and last elements, rattled.
fn built_in(known: &[u8]) -> Result<(String, Structure)> {
    let fcc = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]];
    let (Some(&first), Some(&last)) = (known.first(), known.last()) else {
        return Err(Hinted::new("the model knows no element").into());
    };
    let (name, a, other, shift) = if known.contains(&SILICON) {
        ("silicon".to_owned(), 5.431, [SILICON; 2], [0.25; 3])
    } else {
        let symbol = |z| elements::symbol(z).unwrap_or("?");
        (format!("rock salt of {} and {}", symbol(first), symbol(last)), 5.0, [first, last], [0.5, 0.0, 0.0])
    };
    let mut random = Random(7);
    let (mut numbers, mut positions) = (Vec::new(), Vec::new());
    for site in fcc {
        for (z, at) in [(other[0], site), (other[1], std::array::from_fn(|x| site[x] + shift[x]))] {
            numbers.push(z);
            positions.push(at.map(|x| x * a + 0.05 * random.normal()));
        }
    }
    Ok((name, Structure::crystal(Cell::cubic(a), numbers, positions)))
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of mean 0 and variance 1, nearly normal: twelve uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Peak resident memory of the process, MiB, where the system tells.
fn peak_memory() -> Option<f64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// Name of the processor, where the system tells.
fn processor() -> String {
    let info = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name").and_then(|rest| rest.split_once(':')));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
