//! `tesseral ipi`: forces for i-PI.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tesseral_atoms::{ForceError, ForceField, Structure};
use tesseral_simulate::ipi::{Address, Answer, Client, Counts, Ending, Event, Extras, Serve, Settings};

use crate::args::IpiArgs;
use crate::commands::{Outcome, running};
use crate::errors::Hinted;
use crate::output::Output;
use crate::settings::Field;

/// Lines of progress (-v) follow one another after this long.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Longer waits for a server are no waits.
const LONGEST_WAIT: f64 = 1e9;

/// What is printed at the end with --json.
#[derive(Serialize)]
struct SummaryJson<'a> {
    outcome: &'static str,
    model: String,
    #[serde(flatten)]
    counts: &'a Counts,
}

/// One structure by itself, several together.
struct Models<'f> {
    field: &'f Field,
    one: Box<dyn ForceField>,
    skin: f64,
}

impl Serve for Models<'_> {
    fn evaluate(&mut self, structures: &[Structure]) -> Vec<Result<Answer, ForceError>> {
        match structures {
            // Without a skin, and several always: listed anew, which takes a few percent, so that results depend on positions alone.
            [_] if self.skin > 0.0 => Serve::evaluate(&mut &mut *self.one, structures),
            _ => {
                let evaluated = self.field.evaluate(structures).into_iter();
                evaluated.map(|result| result.map(|(evaluation, spread)| Answer { evaluation, spread })).collect()
            }
        }
    }
}

pub(crate) fn run(args: &IpiArgs) -> Result<Outcome> {
    let settings = settings(args)?;
    let structure = args.structure.read()?;
    let field = Field::new(&args.field)?;
    field.check(&structure)?;
    let mut models = Models { one: field.force_field(args.skin)?, field: &field, skin: args.skin };
    let stop = running::on_signals()?;
    let formula = structure.formula();
    let mut client = Client::new(settings, structure, &mut models)?;
    let mut teller = Teller { since: Instant::now(), structures: 0 };
    let ending = client.run(&|| stop.load(Ordering::Relaxed), &mut |event| teller.tell(&event));
    let counts = *client.counts();
    // What was done is said also where it ended badly.
    let outcome = match &ending {
        Ok(Ending::Exit) => "exit",
        Ok(Ending::HungUp) => "hung up",
        Ok(Ending::Stopped) => "interrupted",
        Err(_) => "failed",
    };
    let mut output = Output::default();
    if args.json {
        output.json(&SummaryJson { outcome, model: field.name(), counts: &counts })?;
    } else if counts.connections > 0 {
        output.line(format_args!("{}", summary(&formula, &counts)));
    }
    output.flush()?;
    match ending? {
        Ending::Exit | Ending::HungUp => Ok(Outcome::Success),
        Ending::Stopped => {
            tracing::warn!("interrupted; i-PI waits for another client");
            Ok(Outcome::Interrupted)
        }
    }
}

fn settings(args: &IpiArgs) -> Result<Settings> {
    let wrong = |message: String| -> anyhow::Error { Hinted::new(message).usage().into() };
    if !(args.skin >= 0.0 && args.skin.is_finite()) {
        return Err(wrong(format!("--skin {}: a length of at least 0 Å is needed", args.skin)));
    }
    if !(0.0..=LONGEST_WAIT).contains(&args.reconnect) {
        return Err(wrong(format!("--reconnect {}: a number of seconds, 0 or more, is needed", args.reconnect)));
    }
    let address = match (&args.unix, args.port) {
        (Some(name), _) if name.is_empty() => return Err(wrong("--unix: a name or a path is needed".to_owned())),
        (Some(name), _) => Address::unix(name),
        (None, port) => {
            let host = args.address.clone().unwrap_or_else(|| "localhost".to_owned());
            Address::Tcp { host, port: port.context("--port or --unix is needed")? }
        }
    };
    Ok(Settings {
        address,
        reconnect: Duration::from_secs_f64(args.reconnect),
        batch: args.batch.map(Into::into),
        extras: Extras { atomic_energies: args.per_atom, spread: args.field.models.len() > 1 },
    })
}

fn summary(formula: &str, counts: &Counts) -> String {
    let Counts { structures, forces, statuses, connections, seconds, .. } = *counts;
    let each = if structures > 0 { format!(", {} each", running::duration(seconds / structures as f64)) } else { String::new() };
    let again = if connections > 1 { format!(", {connections} connections") } else { String::new() };
    format!("{structures} structures of {formula} in {forces} messages ({} round trips{again}){each}", forces + statuses)
}

/// Says what happens.
struct Teller {
    since: Instant,
    structures: u64,
}

impl Teller {
    fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Waiting(address, wait, error) => {
                tracing::warn!("no server at {address} ({error}); trying for {}", running::duration(wait.as_secs_f64()));
            }
            Event::Connected(address) => tracing::info!("connected to {address}"),
            Event::Initialised { replica, batch } => tracing::info!("begins with replica {replica}, {batch} structures at a time"),
            Event::Sent(counts) => {
                let elapsed = self.since.elapsed();
                if elapsed >= SAY_EVERY {
                    let rate = (counts.structures - self.structures) as f64 / elapsed.as_secs_f64();
                    let energy = counts.last_energy.unwrap_or(f64::NAN);
                    tracing::info!("{} structures, {rate:.1} a second, last energy {energy:.6} eV", counts.structures);
                    (self.since, self.structures) = (Instant::now(), counts.structures);
                }
            }
            Event::CellOfNonPeriodic => tracing::warn!(
                "i-PI changes the cell, but the structure is not periodic in all directions: it has no stress, the virial is zero, and constant pressure means nothing"
            ),
            Event::Lost(address, error) => tracing::warn!("lost the connection to {address} ({error}); trying to connect again"),
        }
    }
}
