//! `tesseral completions` and `tesseral man`: what clap knows about the command line.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::commands::Outcome;
use crate::output;

pub(crate) fn completions(shell: Shell) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tesseral", &mut script);
    print(&script)
}

pub(crate) fn man(folder: Option<&Path>) -> Result<Outcome> {
    if let Some(folder) = folder {
        fs_err::create_dir_all(folder)?;
        clap_mangen::generate_to(Cli::command(), folder)?;
        return Ok(Outcome::Success);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(&page)
}

/// Prints bytes as they are.
fn print(bytes: &[u8]) -> Result<Outcome> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(output::write_error)?;
    Ok(Outcome::Success)
}
