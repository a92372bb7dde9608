//! The `tesseral` binary: reads its arguments, runs one command, reports its outcome.
//!
//! Standard output is data, everything else goes to standard error. Exit codes: 0 success, 1 failure (or a failed check, or
//! frames that were skipped), 2 wrong usage.

mod args;
mod clock;
mod commands;
mod errors;
mod logging;
mod output;
mod progress;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::commands::Outcome;

/// Evaluation allocates and frees large tensors all the time; the system's allocator hands them back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Freed memory stays with the process: every step of a training needs as much again, and new pages cost a third of its time.
#[allow(unsafe_code, reason = "options of the allocator are set through its C interface")]
fn keep_memory() {
    // `mi_option_purge_delay` comes before this one (mimalloc.h, versions 2 and 3); the bindings leave it out.
    let purge_delay = libmimalloc_sys::mi_option_use_numa_nodes - 1;
    // SAFETY: any number may be set for a number of an option; allocators of other versions would take it for another option at worst.
    unsafe { libmimalloc_sys::mi_option_set(purge_delay, -1) };
}

fn main() -> ExitCode {
    tesseral_infer::prepare_evaluation();
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors of clap's too, with exit code 0. A closed pipe is nobody's fault.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    cli.global.color.apply();
    let trains = matches!(cli.command, args::Command::Train(_) | args::Command::Finetune(_));
    // Of processes that train together, one speaks.
    cli.global.quiet |= trains && tesseral_train::communicator::launch().is_some_and(|launch| launch.rank > 0);
    logging::start(&cli.global);
    if trains {
        if let Err(error) = tesseral_train::enable() {
            errors::report(&error.into());
            return ExitCode::FAILURE;
        }
        keep_memory();
    }
    let result = settings::set_threads(cli.global.threads).and_then(|()| commands::run(cli.command));
    match result {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Failure) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(errors::INTERRUPTED),
        Err(error) if errors::is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            errors::report(&error);
            errors::exit_code(&error)
        }
    }
}
