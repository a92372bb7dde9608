//! One module per command.

mod bench;
mod evaluate;
mod fetch;
mod import;
mod info;
mod ipi;
mod md;
mod mechanics;
mod models;
mod phonons;
mod relax;
pub(crate) mod running;
mod shell;
mod train;
mod verify;

use crate::args::Command;

/// How a command that did not break off ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything was done.
    Success,
    /// A check failed, or frames were skipped; what there is to say has been said.
    Failure,
    /// It was told to end, and saved what it had.
    Interrupted,
}

/// Runs a command.
pub(crate) fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Relax(args) => relax::run(&args),
        Command::Md(args) => md::run(&args),
        Command::Phonons(args) => phonons::run(&args),
        Command::Elastic(args) => mechanics::elastic::run(&args),
        Command::Eos(args) => mechanics::eos::run(&args),
        Command::Neb(args) => mechanics::neb::run(&args),
        Command::Modes(args) => mechanics::modes::run(&args),
        Command::Ipi(args) => ipi::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Finetune(args) => train::finetune(&args),
        Command::Doctor(args) => train::doctor(&args),
        Command::Info(args) => info::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Fetch(args) => fetch::run(&args),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { output } => shell::man(output.as_deref()),
    }
}
