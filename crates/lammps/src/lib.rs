//! The C interface of `include/tesseral.h`, where it is documented: potentials for programs that spread atoms over processes, such as LAMMPS.
//!
//! Here are only checks of what comes from outside, and translation. Computation is `tesseral_infer`'s ([`tesseral_infer::domain`]), resolution of models
//! `tesseral_loader`'s. Every function catches panics; errors are codes and a message for each thread.
//!
//! The shared library stays mapped once it is loaded (`-z nodelete`), because threads of a pool end some time after it is closed. What links the static
//! library into a plugin that is unloaded has to do the same.

#![allow(unsafe_code, reason = "a C interface: pointers of the caller's, whose contract the header states")]

pub mod error;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;

use tesseral_atoms::{Structure, elements};
use tesseral_infer::domain::{ExchangeError, ExchangeRows, Neighbors, Numbers};
use tesseral_infer::{DeviceChoice, DomainAtoms, DomainCalculator, DomainEvaluation, Dtype, Engine, Exchange, Options, Potential, Threads};
use tesseral_potentials::{PotentialError, batch::species_of};

use crate::error::{AbiError, guarded, guarded_or, utf8};

/// Of this library alone, not of the program that loads it; see "Memory" of `tesseral_infer`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `TESSERAL_ABI` of the header.
pub const ABI: u32 = 2;

/// `tesseral_potential` of the header.
pub struct TesseralPotential(Arc<Opened>);

struct Opened {
    potential: Potential,
    threads: Threads,
    name: CString,
}

/// `tesseral_domain` of the header.
pub struct TesseralDomain {
    calculator: DomainCalculator,
    evaluation: DomainEvaluation,
    /// Kept from call to call for its memory.
    virials: Vec<[f64; 6]>,
    _opened: Arc<Opened>,
}

/// `tesseral_options` of the header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "documented in the header")]
pub struct TesseralOptions {
    pub size: u32,
    pub dtype: u32,
    pub head: *const c_char,
    pub device: *const c_char,
    pub threads: u32,
    pub ranks_here: u32,
    pub exact_radial: u32,
}

/// `tesseral_atoms` of the header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "documented in the header")]
pub struct TesseralAtoms {
    pub size: u32,
    pub owned: i64,
    pub ghosts: i64,
    pub positions: *const f64,
    pub species: *const i32,
    pub tags: *const i64,
    pub images: *const i32,
    pub new_list: u32,
    pub counts: *const i32,
    pub neighbors: *const *const i32,
    pub neighbor_mask: i32,
}

/// `tesseral_exchange` of the header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "documented in the header")]
pub struct TesseralExchange {
    pub context: *mut c_void,
    pub forward: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> c_int>,
    pub reverse: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize, u32) -> c_int>,
}

/// `tesseral_results` of the header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "documented in the header")]
pub struct TesseralResults {
    pub size: u32,
    pub energy: f64,
    pub virial: [f64; 6],
    pub forces: *mut f64,
    pub atomic_energies: *mut f64,
    pub atomic_virials: *mut f64,
}

/// Checks the size that a struct of the caller's says it has.
fn sized<T>(what: &'static str, given: u32) -> Result<(), AbiError> {
    let expected = size_of::<T>();
    if given as usize == expected { Ok(()) } else { Err(AbiError::Size { what, given, expected }) }
}

/// The text at a pointer; NULL and an empty text are none.
///
/// # Safety
/// NULL, or a C string that lives as long as what is returned is used.
unsafe fn text<'a>(pointer: *const c_char, what: &'static str) -> Result<Option<&'a str>, AbiError> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: by the caller's contract.
    let text = utf8(unsafe { CStr::from_ptr(pointer) }, what)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// `len` things at a pointer, which may be NULL if there are none.
///
/// # Safety
/// As many have to be there, for as long as what is returned is used, and nobody changes them.
unsafe fn array<'a, T>(pointer: *const T, len: usize, what: &'static str) -> Result<&'a [T], AbiError> {
    match (pointer.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(AbiError::Null { what }),
        // SAFETY: by the caller's contract.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, len) }),
    }
}

/// As [`array`], to be written.
///
/// # Safety
/// As [`array`], and nobody else reads or writes them.
unsafe fn array_mut<'a, T>(pointer: *mut T, len: usize, what: &'static str) -> Result<&'a mut [T], AbiError> {
    match (pointer.is_null(), len) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(AbiError::Null { what }),
        // SAFETY: by the caller's contract.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) }),
    }
}

/// See `tesseral.h`.
#[unsafe(no_mangle)]
pub extern "C" fn tesseral_abi() -> u32 {
    ABI
}

/// See `tesseral.h`.
#[unsafe(no_mangle)]
pub extern "C" fn tesseral_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// See `tesseral.h`.
#[unsafe(no_mangle)]
pub extern "C" fn tesseral_last_error() -> *const c_char {
    error::last()
}

fn open(model: Option<&str>, options: &Options, threads: Threads) -> Result<Opened, AbiError> {
    threads.clone().install(move || {
        let artifact = tesseral_loader::artifact(model)?;
        let potential = Potential::new(&artifact, options)?;
        // What cannot be computed in parts is found out here, not when atoms are there.
        potential.domain(threads.clone())?;
        let name = CString::new(potential.header().name.as_str()).unwrap_or_default();
        Ok(Opened { potential, threads, name })
    })
}

/// See `tesseral.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_open(
    model: *const c_char,
    options: *const TesseralOptions,
    potential: *mut *mut TesseralPotential,
) -> c_int {
    guarded(|| {
        if potential.is_null() {
            return Err(AbiError::Null { what: "where the potential goes" });
        }
        // SAFETY: not NULL, and the caller's to be written.
        unsafe { *potential = std::ptr::null_mut() };
        let defaults = TesseralOptions {
            size: size_of::<TesseralOptions>() as u32,
            dtype: 0,
            head: std::ptr::null(),
            device: std::ptr::null(),
            threads: 0,
            ranks_here: 0,
            exact_radial: 0,
        };
        let given = if options.is_null() {
            defaults
        } else {
            // SAFETY: the caller's, of which only the size is read before it is known to be right.
            let size = unsafe { (*options).size };
            sized::<TesseralOptions>("tesseral_options", size)?;
            // SAFETY: a struct of this size.
            unsafe { *options }
        };
        let dtype = match given.dtype {
            0 => Dtype::F32,
            1 => Dtype::F64,
            other => {
                let expected = "TESSERAL_F32 (0) and TESSERAL_F64 (1) are precisions";
                return Err(AbiError::Number { what: "dtype", given: other.into(), expected });
            }
        };
        // SAFETY: C strings or NULL, by the header.
        let (model, head, device) =
            unsafe { (text(model, "the model")?, text(given.head, "the head")?, text(given.device, "the device")?) };
        let options = Options {
            dtype,
            head: head.map(str::to_owned),
            engine: Engine::Compiled { exact_radial: given.exact_radial != 0 },
            memory: None,
            device: device.map_or(Ok(DeviceChoice::Cpu), str::parse)?,
        };
        let threads = match given.threads {
            0 => Threads::share(given.ranks_here as usize),
            threads => threads as usize,
        };
        let opened = open(model, &options, Threads::new(threads)?)?;
        // SAFETY: as above.
        unsafe { *potential = Box::into_raw(Box::new(TesseralPotential(Arc::new(opened)))) };
        Ok(())
    })
}

/// See `tesseral.h`.
///
/// # Safety
/// NULL, or a potential that was opened and not closed yet, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_close(potential: *mut TesseralPotential) {
    if !potential.is_null() {
        // SAFETY: it comes from `tesseral_open`, and this is the only time it is closed.
        let potential = unsafe { Box::from_raw(potential) };
        guarded_or((), || drop(potential));
    }
}

/// See `tesseral.h`.
///
/// # Safety
/// NULL or an open potential.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_name(potential: *const TesseralPotential) -> *const c_char {
    // SAFETY: by the caller's contract.
    unsafe { potential.as_ref() }.map_or(c"".as_ptr(), |potential| potential.0.name.as_ptr())
}

/// See `tesseral.h`.
///
/// # Safety
/// NULL or an open potential.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_cutoff(potential: *const TesseralPotential) -> f64 {
    // SAFETY: by the caller's contract.
    unsafe { potential.as_ref() }.map_or(0.0, |potential| potential.0.potential.header().cutoff())
}

/// See `tesseral.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_species(potential: *const TesseralPotential, symbol: *const c_char, species: *mut i32) -> c_int {
    guarded(|| {
        // SAFETY: by the caller's contract.
        let (potential, symbol, species) = unsafe { (potential.as_ref(), text(symbol, "the symbol")?, species.as_mut()) };
        let header = potential.ok_or(AbiError::Null { what: "the potential" })?.0.potential.header();
        let symbol = symbol.ok_or(AbiError::Null { what: "the symbol of an element" })?;
        let species = species.ok_or(AbiError::Null { what: "where the species goes" })?;
        let number = elements::atomic_number(symbol).ok_or_else(|| AbiError::NoElement { symbol: symbol.to_owned() })?;
        let found = species_of(&Structure::molecule(vec![number], vec![[0.0; 3]]), header.elements()).map_err(|error| match error {
            PotentialError::UnknownElement { symbol, known, .. } => AbiError::UnknownElement { symbol, model: header.name.clone(), known },
            other => AbiError::Infer(other.into()),
        })?;
        *species = found[0] as i32;
        Ok(())
    })
}

/// See `tesseral.h`.
///
/// # Safety
/// NULL or an open potential.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_row_bytes(potential: *const TesseralPotential) -> usize {
    // SAFETY: by the caller's contract.
    let potential = unsafe { potential.as_ref() };
    guarded_or(0, || potential.and_then(|potential| potential.0.potential.row_bytes().into_iter().max()).unwrap_or(0))
}

/// See `tesseral.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_domain_new(potential: *mut TesseralPotential, domain: *mut *mut TesseralDomain) -> c_int {
    guarded(|| {
        if domain.is_null() {
            return Err(AbiError::Null { what: "where the domain goes" });
        }
        // SAFETY: not NULL, and the caller's to be written; the potential is NULL or open.
        let potential = unsafe {
            *domain = std::ptr::null_mut();
            potential.as_ref()
        };
        let opened = potential.ok_or(AbiError::Null { what: "the potential" })?.0.clone();
        let made = TesseralDomain {
            calculator: opened.potential.domain(opened.threads.clone())?,
            evaluation: DomainEvaluation::default(),
            virials: Vec::new(),
            _opened: opened,
        };
        // SAFETY: as above.
        unsafe { *domain = Box::into_raw(Box::new(made)) };
        Ok(())
    })
}

/// See `tesseral.h`.
///
/// # Safety
/// NULL, or a domain that was made and not freed yet, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_domain_free(domain: *mut TesseralDomain) {
    if !domain.is_null() {
        // SAFETY: it comes from `tesseral_domain_new`, and this is the only time it is freed.
        let domain = unsafe { Box::from_raw(domain) };
        guarded_or((), || drop(domain));
    }
}

/// Lists of neighbours as LAMMPS has them.
struct Lists<'a> {
    counts: &'a [i32],
    neighbors: &'a [*const i32],
    mask: u32,
}

// SAFETY: the caller does not change its lists while they are read, on whatever thread.
unsafe impl Sync for Lists<'_> {}

impl Lists<'_> {
    /// No count is negative, and no list NULL that has neighbours.
    fn check(&self) -> Result<(), AbiError> {
        for (count, list) in self.counts.iter().zip(self.neighbors) {
            if *count < 0 {
                return Err(AbiError::Number { what: "a number of neighbours", given: (*count).into(), expected: "it cannot be negative" });
            }
            if *count > 0 && list.is_null() {
                return Err(AbiError::Null { what: "the list of neighbours of an atom" });
            }
        }
        Ok(())
    }
}

impl Neighbors for Lists<'_> {
    fn append(&self, atom: usize, to: &mut Vec<u32>) {
        if self.counts[atom] > 0 {
            // SAFETY: checked not to be NULL, and as many are there by the caller's contract.
            let list = unsafe { std::slice::from_raw_parts(self.neighbors[atom], self.counts[atom] as usize) };
            to.extend(list.iter().map(|&j| j as u32 & self.mask));
        }
    }
}

/// Exchanges by the caller's functions.
struct Callbacks<'a>(&'a TesseralExchange);

impl Exchange for Callbacks<'_> {
    fn forward(&mut self, rows: ExchangeRows<'_>) -> Result<(), ExchangeError> {
        let call = self.0.forward.ok_or("its function is NULL")?;
        let (rows, bytes, _) = raw(rows);
        // SAFETY: the function has as many rows of this size as the caller has atoms, and uses them during the call only.
        said(unsafe { call(self.0.context, rows, bytes) })
    }

    fn reverse(&mut self, rows: ExchangeRows<'_>) -> Result<(), ExchangeError> {
        let call = self.0.reverse.ok_or("its function is NULL")?;
        let (rows, bytes, dtype) = raw(rows);
        // SAFETY: as above.
        said(unsafe { call(self.0.context, rows, bytes, dtype) })
    }
}

/// Address, bytes of a row, precision.
fn raw(rows: ExchangeRows<'_>) -> (*mut c_void, usize, u32) {
    match rows.numbers {
        Numbers::F32(numbers) => (numbers.as_mut_ptr().cast(), rows.width * 4, 0),
        Numbers::F64(numbers) => (numbers.as_mut_ptr().cast(), rows.width * 8, 1),
    }
}

fn said(code: c_int) -> Result<(), ExchangeError> {
    if code == 0 { Ok(()) } else { Err(format!("the program gave up with the code {code}").into()) }
}

fn number(what: &'static str, given: i64) -> Result<usize, AbiError> {
    usize::try_from(given).map_err(|_| AbiError::Number { what, given, expected: "it cannot be negative" })
}

fn add<const N: usize>(to: &mut [[f64; N]], from: &[[f64; N]]) {
    to.iter_mut().flatten().zip(from.as_flattened()).for_each(|(to, from)| *to += from);
}

/// What [`tesseral_compute`] does, once there is what it needs.
fn compute(
    domain: &mut TesseralDomain,
    atoms: &TesseralAtoms,
    exchange: Option<&TesseralExchange>,
    results: &mut TesseralResults,
) -> Result<(), AbiError> {
    sized::<TesseralAtoms>("tesseral_atoms", atoms.size)?;
    sized::<TesseralResults>("tesseral_results", results.size)?;
    let (owned, ghosts) = (number("owned", atoms.owned)?, number("ghosts", atoms.ghosts)?);
    let all = owned.checked_add(ghosts).filter(|all| *all < u32::MAX as usize);
    let all = all.ok_or(AbiError::Number { what: "owned + ghosts", given: atoms.owned, expected: "it has to fit 32 bits" })?;
    // SAFETY: the header says what these point to, for the time of the call.
    let (positions, species, tags, images, forces, energies, virials) = unsafe {
        (
            array(atoms.positions.cast::<[f64; 3]>(), all, "positions")?,
            array(atoms.species.cast::<u32>(), if atoms.new_list == 0 { 0 } else { all }, "species")?,
            if atoms.tags.is_null() { None } else { Some(array(atoms.tags, all, "tags")?) },
            if atoms.images.is_null() || atoms.new_list == 0 { None } else { Some(array(atoms.images.cast::<u32>(), ghosts, "images")?) },
            array_mut(results.forces.cast::<[f64; 3]>(), all, "forces")?,
            if results.atomic_energies.is_null() { None } else { Some(array_mut(results.atomic_energies, owned, "atomic_energies")?) },
            if results.atomic_virials.is_null() {
                None
            } else {
                Some(array_mut(results.atomic_virials.cast::<[f64; 6]>(), all, "atomic_virials")?)
            },
        )
    };
    let lists = if atoms.new_list == 0 {
        None
    } else {
        // SAFETY: as above.
        let (counts, neighbors) = unsafe { (array(atoms.counts, owned, "counts")?, array(atoms.neighbors, owned, "neighbors")?) };
        let mask = if atoms.neighbor_mask == 0 { u32::MAX } else { atoms.neighbor_mask as u32 };
        let lists = Lists { counts, neighbors, mask };
        lists.check()?;
        Some(lists)
    };
    let evaluation = &mut domain.evaluation;
    evaluation.atomic_virials = virials.is_some().then(|| std::mem::take(&mut domain.virials));
    let atoms = DomainAtoms { owned, positions, species, tags, images, neighbors: lists.as_ref().map(|lists| lists as &dyn Neighbors) };
    let mut callbacks = exchange.map(Callbacks);
    domain.calculator.evaluate_into(&atoms, callbacks.as_mut().map(|callbacks| callbacks as &mut dyn Exchange), evaluation)?;
    results.energy = evaluation.energy;
    results.virial = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)].map(|(a, b)| evaluation.virial[a][b]);
    add(forces, &evaluation.forces);
    if let Some(energies) = energies {
        energies.iter_mut().zip(&evaluation.atomic_energies).for_each(|(to, from)| *to += from);
    }
    if let (Some(to), Some(from)) = (virials, evaluation.atomic_virials.take()) {
        add(to, &from);
        domain.virials = from;
    }
    Ok(())
}

/// See `tesseral.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says, and nobody else uses the domain during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tesseral_compute(
    domain: *mut TesseralDomain,
    atoms: *const TesseralAtoms,
    exchange: *const TesseralExchange,
    results: *mut TesseralResults,
) -> c_int {
    guarded(|| {
        // SAFETY: by the caller's contract.
        let (domain, atoms, exchange, results) = unsafe { (domain.as_mut(), atoms.as_ref(), exchange.as_ref(), results.as_mut()) };
        let domain = domain.ok_or(AbiError::Null { what: "the domain" })?;
        let atoms = atoms.ok_or(AbiError::Null { what: "tesseral_atoms" })?;
        let results = results.ok_or(AbiError::Null { what: "tesseral_results" })?;
        compute(domain, atoms, exchange, results)
    })
}
