//! Arguments of `tesseral ipi`.

use std::num::NonZeroUsize;

use clap::{ArgGroup, Args};

use super::{FieldArgs, StructureArgs};

pub(crate) const IPI_HELP: &str = "\
i-PI moves the atoms and asks for forces; <ffsocket> of its input says where it listens (mode='unix' with <address>NAME</address>, or mode='inet' with <port>). The \
structure gives the elements and their order, which have to be those of i-PI's own file, and the periodic directions: i-PI sends positions and a cell alone. A molecule \
(pbc=\"F F F\") stays one whatever cell i-PI has around it.

Several structures at a time (<batch_size>8</batch_size> in <ffsocket>) are evaluated together. Start as many clients as you like; each has to be given the same models.

A client ends when i-PI says so. If a structure cannot be evaluated, it closes the connection and ends with an error; i-PI waits for another client. Where i-PI is gone, it \
tries to connect again for --reconnect seconds: i-PI can be killed and started again from its RESTART file. ASE's SocketIOCalculator speaks the same language, but hangs up \
when it has done: --reconnect 0 takes that for the end.

Extras are JSON, in hartree and hartree/bohr: energy_spread and force_spread of a committee (-m A -m B), energies of atoms with --per-atom; <trajectory> extras </trajectory> of \
i-PI's <output> writes them.

Example: tesseral ipi water.extxyz --unix water";

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("socket").required(true).args(["unix", "port"])))]
pub(crate) struct IpiArgs {
    #[command(flatten)]
    pub(crate) structure: StructureArgs,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// The unix socket: its name, as in the address of i-PI's ffsocket, or its path
    #[arg(long, value_name = "NAME|PATH", conflicts_with = "address")]
    pub(crate) unix: Option<String>,
    /// The machine where i-PI listens [default: localhost]
    #[arg(long, value_name = "HOST")]
    pub(crate) address: Option<String>,
    /// The port where i-PI listens
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// How long to try to connect where there is no i-PI, at first and whenever the connection is lost, s
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub(crate) reconnect: f64,
    /// Structures at a time that i-PI has to send: an error where it says otherwise [default: as it says]
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<NonZeroUsize>,
    /// How far beyond the cutoff neighbours are listed, Å, where one replica is sent at a time: its list is kept while atoms move less than half of it. With 0, forces depend on
    /// the positions alone, to the bit, whichever client computes them
    #[arg(long, value_name = "Å", default_value = "0")]
    pub(crate) skin: f64,
    /// Send the energy of every atom as extras
    #[arg(long)]
    pub(crate) per_atom: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    pub(crate) json: bool,
}
