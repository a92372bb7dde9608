//! Reading lines with a bound on their length, their numbers, and one line of looking back.

use std::io::{BufRead, Read};

use super::error::{Fault, Problem};

/// Longest line that is kept in memory.
pub(crate) const MAX_LINE: usize = 16 << 20;

/// A source of lines that counts them.
pub(crate) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
    unread: bool,
    limit: usize,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), number: 0, unread: false, limit: MAX_LINE }
    }

    /// 1-based number of the line last returned.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Makes the line last returned come again.
    pub(crate) fn unread(&mut self) {
        self.unread = true;
    }

    /// The next line without its end, or `None` at the end of the source. A byte-order mark is dropped.
    ///
    /// A line over the bound is skipped whole and reported; the next call goes on after it.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        if self.unread {
            self.unread = false;
            return Ok(Some(&self.buffer));
        }
        self.buffer.clear();
        let io = |number: u64| move |error| Fault::at(number + 1, Problem::Io(error)).last();
        let bound = self.limit as u64 + 1;
        let read = self.reader.by_ref().take(bound).read_until(b'\n', &mut self.buffer).map_err(io(self.number))?;
        if read == 0 {
            return Ok(None);
        }
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if read > self.limit {
            self.buffer.clear();
            self.buffer.shrink_to(1 << 16);
            self.reader.skip_until(b'\n').map_err(io(self.number))?;
            self.number += 1;
            return Err(Fault::at(self.number, Problem::LineTooLong { limit: self.limit }));
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        if self.number == 0 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        self.number += 1;
        Ok(Some(&self.buffer))
    }

    /// The next line as text; bytes that are not UTF-8 become U+FFFD.
    pub(crate) fn next_text(&mut self) -> Result<Option<String>, Fault> {
        Ok(self.next()?.map(|line| String::from_utf8_lossy(line).into_owned()))
    }

    /// The next line as text.
    pub(crate) fn expect_text(&mut self, expected: &'static str) -> Result<String, Fault> {
        match self.next_text()? {
            Some(line) => Ok(line),
            None => Err(Fault::at(self.number, Problem::UnexpectedEnd { expected }).last()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_marks_and_numbers() {
        let mut lines = Lines::new(&b"\xef\xbb\xbfone\r\ntwo\n\nfour"[..]);
        assert_eq!(lines.next().unwrap(), Some(&b"one"[..]));
        assert_eq!(lines.next().unwrap(), Some(&b"two"[..]));
        lines.unread();
        assert_eq!(lines.next().unwrap(), Some(&b"two"[..]));
        assert_eq!(lines.number(), 2);
        assert_eq!(lines.next().unwrap(), Some(&b""[..]));
        assert_eq!(lines.next().unwrap(), Some(&b"four"[..]));
        assert_eq!(lines.next().unwrap(), None);
        assert_eq!(lines.number(), 4);
    }

    #[test]
    fn long_lines_are_skipped() {
        let mut lines = Lines::new(&b"12345\n123456\n12345"[..]);
        lines.limit = 5;
        assert_eq!(lines.next().unwrap(), Some(&b"12345"[..]));
        let fault = lines.next().unwrap_err();
        assert!(matches!(fault.problem, Problem::LineTooLong { limit: 5 }));
        assert_eq!(fault.line, Some(2));
        assert_eq!(lines.next().unwrap(), Some(&b"12345"[..]));
        assert_eq!(lines.number(), 3);
        assert_eq!(lines.next().unwrap(), None);
    }
}
