//! Numbers for people.

/// Rounded to about four significant digits: `0.1234`, `12.34`, `1234`, `1.23 × 10⁻⁵`.
pub fn number(value: f64) -> String {
    if !value.is_finite() || value == 0.0 || !(1e-3..1e6).contains(&value.abs()) {
        return scientific(value, 2);
    }
    let magnitude = value.abs().log10().floor() as i32;
    fixed(value, (3 - magnitude).clamp(0, 5) as usize)
}

/// With a number of decimals, and a minus that is one.
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return scientific(value, 0);
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        // −0.00 is zero.
        Some(digits) if digits.bytes().all(|byte| matches!(byte, b'0' | b'.')) => digits.to_owned(),
        Some(digits) => format!("−{digits}"),
        None => text,
    }
}

/// `1.23 × 10⁻⁵`.
pub fn scientific(value: f64, decimals: usize) -> String {
    if value.is_nan() {
        return "not a number".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "∞" } else { "−∞" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{value:.decimals$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = digits.replace('-', "−");
    format!("{digits} × 10{}", superscript(exponent))
}

/// `10⁻³`.
pub fn power_of_ten(exponent: i32) -> String {
    format!("10{}", superscript(&exponent.to_string()))
}

fn superscript(digits: &str) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    digits.chars().map(|c| c.to_digit(10).map_or('⁻', |digit| DIGITS[digit as usize])).collect()
}

/// In groups of three: `12 345`, with narrow spaces that do not break.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) && digits.len() > 4 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1 h 52 min`, `3 min 12 s`, `4.2 s`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 60.0 {
        return format!("{} s", fixed(seconds, 1));
    }
    let round = |unit: f64| (seconds / unit).round() as u64;
    if seconds < 3570.0 {
        format!("{} min {} s", round(1.0) / 60, round(1.0) % 60)
    } else if seconds < 86_370.0 {
        format!("{} h {} min", round(60.0) / 60, round(60.0) % 60)
    } else {
        format!("{} d {} h", round(3600.0) / 24, round(3600.0) % 24)
    }
}

/// A fraction as a change in percent: `+12.3 %`.
pub fn change(fraction: f64) -> String {
    let percent = fixed(100.0 * fraction, 1);
    if fraction > 0.0 && percent != "0.0" { format!("+{percent} %") } else { format!("{percent} %") }
}

/// Decimals with which all numbers of a column are written, so that they line up: enough for three digits of the smallest, at most four.
/// `None` if they are too far apart, or too small, for that.
pub fn decimals(values: impl IntoIterator<Item = f64>) -> Option<usize> {
    let sizes: Vec<f64> = values.into_iter().map(f64::abs).filter(|v| v.is_finite() && *v > 0.0).collect();
    let smallest = sizes.iter().copied().reduce(f64::min).unwrap_or(1.0);
    let largest = sizes.iter().copied().reduce(f64::max).unwrap_or(1.0);
    if !(1e-3..1e7).contains(&largest) {
        return None;
    }
    let most = if largest >= 1e4 {
        1
    } else if largest >= 100.0 {
        2
    } else {
        4
    };
    Some((2 - smallest.log10().floor() as i32).clamp(0, most) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_sizes() {
        let cases = [
            (0.0, "0"),
            (1.0, "1.000"),
            (-12.345, "−12.35"),
            (0.012345, "0.01235"),
            (999_999.0, "999999"),
            (1.234e-5, "1.23 × 10⁻⁵"),
            (-3.0e12, "−3.00 × 10¹²"),
            (f64::NAN, "not a number"),
            (f64::NEG_INFINITY, "−∞"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(
            (count(1234), count(12_345), count(1_234_567)),
            ("1234".into(), "12\u{202f}345".into(), "1\u{202f}234\u{202f}567".into())
        );
        assert_eq!(change(0.1234), "+12.3 %");
        assert_eq!(change(-0.5), "−50.0 %");
        assert_eq!(change(1e-6), "0.0 %");
    }

    #[test]
    fn times() {
        assert_eq!(duration(4.24), "4.2 s");
        assert_eq!(duration(192.0), "3 min 12 s");
        assert_eq!(duration(6513.0), "1 h 49 min");
        assert_eq!(duration(3599.0), "1 h 0 min");
        assert_eq!(duration(200_000.0), "2 d 8 h");
        assert_eq!(duration(f64::NAN), "not a number s");
    }

    #[test]
    fn columns_line_up() {
        assert_eq!(decimals([12.3, 0.5, 120.0]), Some(2));
        assert_eq!(decimals([1.0, 3.0]), Some(2));
        assert_eq!(decimals([0.0123, 1.0]), Some(4));
        assert_eq!(decimals([1e-6]), None);
        assert_eq!(decimals([]), Some(2));
        assert_eq!(decimals([f64::NAN, 0.0, 25.0]), Some(1));
    }
}
