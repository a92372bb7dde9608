//! Text as protocol 0 writes it.

/// The bytes of a Python 2 string literal.
pub(super) fn unquote(line: &[u8]) -> Option<Vec<u8>> {
    let line = line.trim_ascii();
    let (&quote, inner) = line.split_first()?;
    let inner = match quote {
        b'\'' | b'"' => inner.strip_suffix(&[quote])?,
        _ => return None,
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, after) = rest.split_first()?;
        rest = after;
        match escape {
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'v' => out.push(11),
            b'x' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            b'0'..=b'7' => {
                let more = rest.iter().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let mut value = u32::from(escape - b'0');
                for digit in &rest[..more] {
                    value = value * 8 + u32::from(digit - b'0');
                }
                out.push(u8::try_from(value).ok()?);
                rest = &rest[more..];
            }
            _ => out.extend([b'\\', escape]),
        }
    }
    Some(out)
}

/// Text in Python's `raw-unicode-escape`: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode_escape(line: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = match after.first() {
            Some(b'u') if byte == b'\\' => 4,
            Some(b'U') if byte == b'\\' => 8,
            _ => {
                out.push(char::from(byte));
                rest = after;
                continue;
            }
        };
        let code = std::str::from_utf8(after.get(1..=digits)?).ok()?;
        out.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        rest = &after[1 + digits..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{raw_unicode_escape, unquote};

    #[test]
    fn escapes_of_python_strings() {
        assert_eq!(unquote(br"'a\\b\'c'"), Some(br"a\b'c".to_vec()));
        assert_eq!(unquote(br#" "\x41\101\n\t\q" "#), Some(b"AA\n\t\\q".to_vec()));
        for wrong in ["", "abc", "'abc", "'abc\"", r"'\x4'", r"'\777'", r"'\"] {
            assert_eq!(unquote(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(raw_unicode_escape(b"a\xe9\\u00e9\\U0001F600\\n").as_deref(), Some("aéé😀\\n"));
        assert_eq!(raw_unicode_escape(br"\ud800"), None);
        assert_eq!(raw_unicode_escape(br"\u12"), None);
    }
}
