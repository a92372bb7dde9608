//! Messages of the libraries on standard error: `warning: …`, and more with -v.

use std::fmt;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::args::GlobalArgs;
use crate::errors::{ERROR, WARNING};
use crate::progress;

/// Starts logging. `TESSERAL_LOG` (for example `tesseral_import=trace`) goes before -v and -q.
pub(crate) fn start(global: &GlobalArgs) {
    progress::set_quiet(global.quiet);
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        // What `--device auto` has chosen is said without being asked. What moyo warns of in its searches is found out otherwise.
        (false, 0) => "warn,moyo=error,tesseral_infer::device=info",
        (false, 1) => "info,moyo=error,tesseral=info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_env("TESSERAL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).event_format(Plain).with_writer(Stderr).init();
}

/// `warning: message field=value`.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (style, label) = match *event.metadata().level() {
            Level::ERROR => (ERROR, "error"),
            Level::WARN => (WARNING, "warning"),
            Level::INFO => (AnsiColor::Green.on_default(), "info"),
            Level::DEBUG => (Style::new().dimmed(), "debug"),
            Level::TRACE => (Style::new().dimmed(), "trace"),
        };
        write!(writer, "{style}{label}{style:#}: ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Standard error, without colour where there should be none, between redraws of a progress bar.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        progress::suspend(|| anstream::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        anstream::stderr().lock().flush()
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}
