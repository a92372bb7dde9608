//! What a step of dynamics allocates: nothing, once its neighbour list stands.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly, and says what it finds")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tesseral_atoms::{Cell, Structure};
use tesseral_infer::{Dtype, Evaluation, Options, Potential};
use tesseral_potentials::Artifact;
use tesseral_testkit::Random;
use tesseral_tests::golden;

struct Counting;

/// Whether allocations are looked at.
static WATCHING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static OF_PRODUCTS: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    // Looking allocates as well.
    if !WATCHING.swap(false, Ordering::Relaxed) {
        return;
    }
    let trace = Backtrace::force_capture().to_string();
    // Matrix products pack their operands into memory that their library allocates.
    if trace.contains("gemm_basic") {
        OF_PRODUCTS.fetch_add(1, Ordering::Relaxed);
    } else {
        println!("{bytes} bytes\n{trace}");
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
    WATCHING.store(true, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rock salt of `n`³ cells.
fn rock_salt(n: usize) -> Structure {
    let a = 5.64;
    let mut structure = Structure::crystal(Cell::cubic(a * n as f64), Vec::new(), Vec::new());
    for cell in 0..n * n * n {
        let [x, y, z] = [cell % n, cell / n % n, cell / (n * n)];
        for site in [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]] {
            structure.numbers.push(if site.iter().sum::<usize>() % 2 == 0 { 11 } else { 17 });
            structure.positions.push(
                [x, y, z]
                    .map(|c| c as f64 * a)
                    .iter()
                    .zip(site)
                    .map(|(c, s)| c + s as f64 * a / 2.0)
                    .collect::<Vec<_>>()
                    .try_into()
                    .unwrap(),
            );
        }
    }
    structure
}

/// Allocations of our own and by matrix products in a later step, on one thread; more have rayon's queues, which grow now and then.
fn of_a_step(artifact: &Artifact, structure: &Structure, dtype: Dtype) -> (usize, usize, usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let potential = Potential::new(artifact, &Options { dtype, ..Options::default() }).unwrap();
    let mut calculator = potential.calculator(1.0).unwrap();
    let mut structure = structure.clone();
    let mut random = Random::new(5);
    let mut evaluation = Evaluation::default();
    let mut step = |size: f64| {
        structure.positions.iter_mut().flatten().for_each(|x| *x += size * random.number());
        calculator.evaluate_into(&structure, &mut evaluation).unwrap();
    };
    let counts = || [&CALLS, &BYTES, &OF_PRODUCTS].map(|c| c.load(Ordering::Relaxed));
    let before = counts();
    pool.install(|| {
        // Edges come and go; buffers have to have seen the most of them.
        (0..10).for_each(|_| step(0.002));
        WATCHING.store(true, Ordering::Relaxed);
        step(0.0001);
        WATCHING.store(false, Ordering::Relaxed);
    });
    let after = counts();
    (after[0] - before[0], after[1] - before[1], after[2] - before[2])
}

/// One test, so that nothing else allocates beside it.
#[test]
fn a_step_allocates_nothing() {
    tesseral_infer::prepare_evaluation();
    let sevennet = Artifact::from_static(tesseral_models::default_artifact(), "the default model").unwrap();
    let mut cases = vec![("SevenNet-0".to_owned(), sevennet, rock_salt(2))];
    let some = ["density_residual_both_edge_irreps", "keep_last_layer", "plain_residual_agnesi_zbl"];
    for model in golden("mace") {
        if some.iter().any(|name| model.name.contains(name)) {
            cases.push((model.name, model.artifact, model.frames[0].clone()));
        }
    }
    assert_eq!(cases.len(), 1 + some.len());
    for (name, artifact, structure) in cases {
        for dtype in [Dtype::F32, Dtype::F64] {
            let (calls, bytes, products) = of_a_step(&artifact, &structure, dtype);
            println!("{name}, {dtype:?}: {calls} allocations, {bytes} bytes; {products} allocations by matrix products");
            assert_eq!((calls, bytes), (0, 0), "{name}, {dtype:?}");
            // The test can fail: allocations are seen, and told apart.
            assert!(products > 0);
        }
    }
}
