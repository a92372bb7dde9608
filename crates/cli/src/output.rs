//! Standard output: data, in lines.

use std::fmt;
use std::io::{ErrorKind, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::errors::OutputClosed;
use crate::progress;

/// Bold: headings of tables.
pub(crate) const HEADING: Style = Style::new().bold();
/// Dim: units, what is secondary.
pub(crate) const DIM: Style = Style::new().dimmed();
/// Green: passed.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();

/// Collects lines and prints them to standard output, without colour where there should be none.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pending: String,
    muted: bool,
}

impl Output {
    /// Adds a line; [`Output::flush`] prints it.
    pub(crate) fn line(&mut self, line: fmt::Arguments<'_>) {
        if !self.muted {
            // Writing to a string cannot fail.
            fmt::Write::write_fmt(&mut self.pending, line).ok();
            self.pending.push('\n');
        }
    }

    /// Adds a value as one line of JSON. Numbers round-trip; what is not finite becomes `null`.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string(value)?;
        self.line(format_args!("{text}"));
        Ok(())
    }

    /// Prints nothing from now on.
    pub(crate) fn mute(&mut self) {
        self.pending.clear();
        self.muted = true;
    }

    /// Prints what has been added.
    ///
    /// # Errors
    /// [`OutputClosed`] if the reader of standard output is gone, or another error of writing.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.pending);
        progress::suspend(|| {
            let mut stdout = anstream::stdout().lock();
            stdout.write_all(text.as_bytes())?;
            stdout.flush()
        })
        .map_err(write_error)
    }
}

/// The error of writing to standard output.
pub(crate) fn write_error(error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::BrokenPipe {
        OutputClosed.into()
    } else {
        anyhow::Error::new(error).context("cannot write to standard output")
    }
}

/// A number in a column of `width`: fixed with `decimals`, or with an exponent if it would not fit; – for none.
pub(crate) fn number(value: Option<f64>, width: usize, decimals: usize) -> String {
    let Some(value) = value else { return format!("{:>width$}", "–") };
    let fixed = format!("{value:>width$.decimals$}");
    if fixed.chars().count() <= width {
        // No "-0.000000".
        let zero = value < 0.0 && fixed.chars().all(|c| matches!(c, ' ' | '-' | '0' | '.'));
        return if zero { format!("{:>width$.decimals$}", 0.0) } else { fixed };
    }
    let digits = width.saturating_sub(9).min(decimals);
    format!("{value:>width$.digits$e}")
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_keep_their_column() {
        assert_eq!(number(Some(-10.5), 12, 6), "  -10.500000");
        assert_eq!(number(None, 4, 2), "   –");
        assert_eq!(number(Some(-1e-9), 10, 6), "  0.000000");
        assert_eq!(number(Some(1e12), 12, 6), "    1.000e12");
        assert_eq!(number(Some(f64::NAN), 6, 2), "   NaN");
        for value in [1e300, -1e300, -1.234_567_89e-300, f64::INFINITY, 99_999.999_999_9, -1e5] {
            assert_eq!(number(Some(value), 12, 6).chars().count(), 12, "{value}");
        }
    }
}
