//! The `tesseral` binary: reads its arguments, runs one command, reports its outcome.
//!
//! Standard output is data, everything else goes to standard error. Exit codes: 0 success, 1 failure (or a failed check, or
//! frames that were skipped), 2 wrong usage.

mod args;
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

fn main() -> ExitCode {
    tesseral_infer::prepare_evaluation();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors of clap's too, with exit code 0. A closed pipe is nobody's fault.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    cli.global.color.apply();
    logging::start(&cli.global);
    let result = settings::set_threads(cli.global.threads).and_then(|()| commands::run(cli.command));
    match result {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Failure) => ExitCode::FAILURE,
        Err(error) if errors::is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            errors::report(&error);
            errors::exit_code(&error)
        }
    }
}
