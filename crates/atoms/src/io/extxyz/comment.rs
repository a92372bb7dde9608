//! The key-value grammar of the comment line, as ASE's `key_val_str_to_dict` has it.
//!
//! Keys and values are separated by `=`, pairs by white space; a key alone means true. Values may be enclosed in `"…"`,
//! `'…'`, `{…}` or `[…]`; a backslash takes the next character as it is. Where ASE goes wrong the intention is followed:
//! an empty quoted value is an empty text, brackets nest, and a quote that is never closed is an error.

use serde_json::Value;

use crate::info::{InfoValue, Matrix};
use crate::io::error::Problem;

/// A value of the comment line before it is interpreted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawValue {
    pub(super) text: String,
    /// The text came in square brackets and holds square brackets: a nested list.
    nested: bool,
}

/// One side of an `=` while it is being read.
#[derive(Default)]
struct Part {
    text: String,
    /// Something was written here, if only an empty pair of quotes.
    present: bool,
    nested: bool,
}

/// Splits a comment line into keys and uninterpreted values, in order.
pub(super) fn split_pairs(line: &str) -> Result<Vec<(String, RawValue)>, Problem> {
    let mut pairs: Vec<Vec<Part>> = vec![vec![Part::default()]];
    let mut escaped = false;
    // Opening and closing character, where it opened, and how deep brackets are nested.
    let mut enclosed: Option<(char, char, usize, usize)> = None;

    for (index, c) in line.trim().chars().enumerate() {
        let Some(part) = pairs.last_mut().and_then(|pair| pair.last_mut()) else { break };
        if escaped {
            part.text.push(c);
            part.present = true;
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if let Some((open, close, at, depth)) = enclosed {
            if c == close && depth == 0 {
                enclosed = None;
            } else {
                part.text.push(c);
                enclosed = Some((open, close, at, depth));
                if open != close && c == open {
                    part.nested |= open == '[';
                    enclosed = Some((open, close, at, depth + 1));
                } else if c == close {
                    enclosed = Some((open, close, at, depth - 1));
                }
            }
        } else if let Some(close) = closing(c) {
            part.present = true;
            enclosed = Some((c, close, index + 1, 0));
        } else if c.is_whitespace() {
            if part.present {
                pairs.push(vec![Part::default()]);
            }
        } else if c == '=' {
            if !part.present && pairs.last().is_some_and(|pair| pair.len() == 1) {
                // White space before the sign began a new pair: it belongs to the key before.
                pairs.pop();
            }
            let Some(pair) = pairs.last_mut() else {
                return Err(header("=", "stands without a key before it"));
            };
            pair.push(Part::default());
        } else {
            part.text.push(c);
            part.present = true;
        }
    }
    if let Some((quote, _, character, _)) = enclosed {
        return Err(Problem::UnterminatedQuote { quote, character });
    }

    let mut result = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let mut parts = pair.into_iter();
        let Some(key) = parts.next().filter(|key| key.present) else { continue };
        let values: Vec<Part> = parts.collect();
        let nested = values.iter().any(|part| part.nested);
        let text = match values.len() {
            0 => "T".to_owned(),
            _ => values.into_iter().map(|part| part.text).collect::<Vec<_>>().join("="),
        };
        result.push((key.text, RawValue { text, nested }));
    }
    Ok(result)
}

fn closing(open: char) -> Option<char> {
    match open {
        '"' | '\'' => Some(open),
        '{' => Some('}'),
        '[' => Some(']'),
        _ => None,
    }
}

fn header(key: &str, reason: impl Into<String>) -> Problem {
    Problem::HeaderValue { key: key.to_owned(), reason: reason.into() }
}

/// The words of a value: separated by white space or commas.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty())
}

/// Interprets the value of a key.
pub(super) fn interpret(key: &str, raw: &RawValue) -> Result<InfoValue, Problem> {
    if raw.nested
        && let Some(value) = parse_json(&format!("[{}]", raw.text)).map(from_json)
        && !matches!(value, InfoValue::Json(_))
    {
        return Ok(value);
    }
    if key.eq_ignore_ascii_case("uid") {
        return Ok(InfoValue::Text(raw.text.clone()));
    }
    let value = interpret_text(&raw.text).ok_or_else(|| header(key, "announces JSON, but its value is not valid JSON"))?;
    if !is_tensor_key(key) {
        return Ok(value);
    }
    match value.to_reals().as_deref() {
        // Nine numbers are columns first.
        Some(&[xx, yx, zx, xy, yy, zy, xz, yz, zz]) if !matches!(value, InfoValue::RealMatrix(_) | InfoValue::IntMatrix(_)) => {
            Ok([[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]].into())
        }
        Some(numbers) if numbers.len() == 9 => Ok(Matrix::new(3, 3, numbers.to_vec()).map_or(value, InfoValue::RealMatrix)),
        Some(numbers) if numbers.len() == 6 => Ok(InfoValue::RealVector(numbers.to_vec())),
        _ => Err(header(key, format!("should be 6 or 9 numbers, but is {}", value.describe()))),
    }
}

/// Keys whose nine numbers ASE reads and writes as a 3 × 3 matrix.
pub(super) fn is_tensor_key(key: &str) -> bool {
    key == "stress" || key == "virial"
}

/// The value that a text stands for: integers, real numbers, logical values, JSON, or itself. `None` for broken JSON.
pub(super) fn interpret_text(text: &str) -> Option<InfoValue> {
    if let Some(json) = text.strip_prefix("_JSON ") {
        return parse_json(json).map(from_json);
    }
    if words(text).next().is_none() {
        return Some(InfoValue::Text(text.to_owned()));
    }
    if let Some(ints) = words(text).map(|word| word.parse().ok()).collect::<Option<Vec<i64>>>() {
        return Some(if let [int] = ints[..] { InfoValue::Int(int) } else { InfoValue::IntVector(ints) });
    }
    if let Some(reals) = words(text).map(|word| word.parse().ok()).collect::<Option<Vec<f64>>>() {
        return Some(if let [real] = reals[..] { InfoValue::Real(real) } else { InfoValue::RealVector(reals) });
    }
    if let Some(bools) = words(text).map(parse_bool).collect::<Option<Vec<bool>>>() {
        return Some(if let [b] = bools[..] { InfoValue::Bool(b) } else { InfoValue::BoolVector(bools) });
    }
    Some(InfoValue::Text(text.to_owned()))
}

/// `T`, `true`, `True`, `TRUE` and their opposites.
pub(super) fn parse_bool(word: &str) -> Option<bool> {
    match word {
        "T" | "true" | "True" | "TRUE" => Some(true),
        "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` are let through as the texts of these names, which
/// [`from_json`] turns back into numbers where all others are numbers.
fn parse_json(text: &str) -> Option<Value> {
    serde_json::from_str(text).or_else(|_| serde_json::from_str(&quote_not_finite(text))).ok()
}

fn quote_not_finite(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut in_string = false;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        if in_string {
            if c == '\\' {
                taken += rest[taken..].chars().next().map_or(0, char::len_utf8);
            }
            in_string = c != '"';
        } else if c == '"' {
            in_string = true;
        } else if let Some(word) = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word)) {
            result.push('"');
            result.push_str(word);
            result.push('"');
            rest = &rest[word.len()..];
            continue;
        }
        result.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    result
}

/// Numbers, vectors and rectangular matrices of one type become typed values; the rest stays JSON.
fn from_json(value: Value) -> InfoValue {
    match &value {
        Value::Bool(b) => InfoValue::Bool(*b),
        Value::String(text) => InfoValue::Text(text.clone()),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => InfoValue::Int(int),
            (None, Some(real)) => InfoValue::Real(real),
            _ => InfoValue::Json(value),
        },
        Value::Array(items) => from_json_array(items).unwrap_or(InfoValue::Json(value)),
        _ => InfoValue::Json(value),
    }
}

fn from_json_array(items: &[Value]) -> Option<InfoValue> {
    if items.iter().any(Value::is_array) {
        let rows: Vec<&Vec<Value>> = items.iter().map(Value::as_array).collect::<Option<_>>()?;
        let columns = rows.first().map_or(0, |row| row.len());
        if columns == 0 || rows.iter().any(|row| row.len() != columns) {
            return None;
        }
        let flat: Vec<&Value> = rows.iter().flat_map(|row| row.iter()).collect();
        return Some(match uniform(&flat)? {
            InfoValue::BoolVector(v) => InfoValue::BoolMatrix(Matrix::new(rows.len(), columns, v)?),
            InfoValue::IntVector(v) => InfoValue::IntMatrix(Matrix::new(rows.len(), columns, v)?),
            InfoValue::RealVector(v) => InfoValue::RealMatrix(Matrix::new(rows.len(), columns, v)?),
            _ => return None,
        });
    }
    uniform(&items.iter().collect::<Vec<_>>())
}

fn uniform(items: &[&Value]) -> Option<InfoValue> {
    if items.is_empty() {
        return Some(InfoValue::RealVector(Vec::new()));
    }
    if let Some(bools) = items.iter().map(|v| v.as_bool()).collect() {
        return Some(InfoValue::BoolVector(bools));
    }
    if let Some(ints) = items.iter().map(|v| v.as_i64()).collect() {
        return Some(InfoValue::IntVector(ints));
    }
    if !items.iter().any(|v| v.is_number()) && !items.iter().all(|v| not_finite(v).is_some()) {
        return None;
    }
    items.iter().map(|v| v.as_f64().or_else(|| not_finite(v))).collect::<Option<_>>().map(InfoValue::RealVector)
}

fn not_finite(value: &Value) -> Option<f64> {
    match value.as_str()? {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Vec<(String, InfoValue)> {
        let pairs = split_pairs(line).unwrap();
        pairs.into_iter().map(|(key, raw)| (key.clone(), interpret(&key, &raw).unwrap())).collect()
    }

    fn one(line: &str) -> InfoValue {
        let mut pairs = parse(line);
        assert_eq!(pairs.len(), 1, "{pairs:?}");
        pairs.remove(0).1
    }

    // The lines below and their meaning are those of ASE's own test of this grammar (test_extxyz.py, complex_key_val).
    #[test]
    fn values_of_the_ase_test() {
        let text = |s: &str| InfoValue::Text(s.to_owned());
        for (line, expected) in [
            ("str=astring", text("astring")),
            ("quot=\"quoted value\"", text("quoted value")),
            ("quote_special=\"a_to_Z_$%%^&*\"", text("a_to_Z_$%%^&*")),
            (r#"escaped_quote="esc\"aped""#, text("esc\"aped")),
            ("true_value", InfoValue::Bool(true)),
            ("false_value = F", InfoValue::Bool(false)),
            ("integer=22", InfoValue::Int(22)),
            ("floating=1.1", InfoValue::Real(1.1)),
            ("int_array={1 2 3}", InfoValue::IntVector(vec![1, 2, 3])),
            ("float_array=\"3.3 4.4\"", InfoValue::RealVector(vec![3.3, 4.4])),
            ("a3x3_array=\"1 4 7 2 5 8 3 6 9\"", InfoValue::IntVector(vec![1, 4, 7, 2, 5, 8, 3, 6, 9])),
            ("bool_array={T F T F}", InfoValue::BoolVector(vec![true, false, true, false])),
            ("bool_array_2=\" T, F, T \"", InfoValue::BoolVector(vec![true, false, true])),
            ("not_bool_array=\" T F S \"", text(" T F S ")),
            ("not_array=\"1.2 3.4 text\"", text("1.2 3.4 text")),
            ("comma_separated=\"7, 4, -1\"", InfoValue::IntVector(vec![7, 4, -1])),
            ("bool_array_commas=[T, T, F, T]", InfoValue::BoolVector(vec![true, true, false, true])),
            ("space_before = 33", InfoValue::Int(33)),
            ("f_dict={ {\"a\" : 1, \"b\": 2}, {\"a\" : 3} }", text(" {\"a\" : 1, \"b\": 2}, {\"a\" : 3} ")),
            ("uninterpreted_json=\"_JSON [1, {\\\"a\\\": 2}]\"", InfoValue::Json(serde_json::json!([1, {"a": 2}]))),
            ("a=b=c", text("b=c")),
            ("key=1e-3", InfoValue::Real(1e-3)),
            ("huge=99999999999999999999", InfoValue::Real(1e20)),
            ("uid=123", text("123")),
        ] {
            assert_eq!(one(line), expected, "{line}");
        }
    }

    #[test]
    fn keys_may_be_quoted() {
        let pairs = parse(r#"" spaced key "=1 'it' f_[x]= 5 last"#);
        let keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, [" spaced key ", "it", "f_x", "last"]);
    }

    #[test]
    fn empty_values_do_not_swallow_what_follows() {
        let pairs = parse("a=\"\" b=5 c=");
        assert_eq!(pairs[0], ("a".into(), InfoValue::Text(String::new())));
        assert_eq!(pairs[1], ("b".into(), InfoValue::Int(5)));
        assert_eq!(pairs[2], ("c".into(), InfoValue::Text(String::new())));
        assert!(parse("   ").is_empty());
    }

    #[test]
    fn nine_numbers_of_a_tensor_are_column_major() {
        let InfoValue::RealMatrix(m) = one("virial=\"1 4 7 2 5 8 3 6 9\"") else { panic!() };
        assert_eq!(m.data(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(one("stress=[1, 2, 3, 4, 5, 6]"), InfoValue::RealVector(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let raw = &split_pairs("stress=5").unwrap()[0].1;
        let error = interpret("stress", raw).unwrap_err();
        assert_eq!(error.to_string(), "`stress` should be 6 or 9 numbers, but is an integer");
    }

    #[test]
    fn json_and_nested_lists() {
        assert_eq!(
            one("m=\"_JSON [[1.5, NaN], [3, -Infinity]]\"").to_reals().map(|v| format!("{v:?}")),
            Some("[1.5, NaN, 3.0, -inf]".into())
        );
        assert_eq!(one("m=\"_JSON [1.5, NaN]\"").to_reals().unwrap()[0], 1.5);
        assert_eq!(one(r#"m="_JSON {\"a NaN\": NaN}""#), InfoValue::Json(serde_json::json!({"a NaN": "NaN"})));
        assert_eq!(one("m=[[1, 2], [3, 4]]"), InfoValue::IntMatrix(Matrix::new(2, 2, vec![1, 2, 3, 4]).unwrap()));
        assert_eq!(one("m=\"_JSON \\\"5\\\"\""), InfoValue::Text("5".into()));
        assert_eq!(one("m=\"_JSON [[true], [false]]\""), InfoValue::BoolMatrix(Matrix::new(2, 1, vec![true, false]).unwrap()));
        let raw = &split_pairs("m=\"_JSON [1,\"").unwrap()[0].1;
        assert!(interpret("m", raw).is_err());
    }

    #[test]
    fn unterminated_quotes_say_where() {
        for (line, quote, character) in [("a=\"1 2", '"', 3), ("a=1 b='x", '\'', 7), ("a=[1 [2]", '[', 3), ("a={", '{', 3)] {
            match split_pairs(line).unwrap_err() {
                Problem::UnterminatedQuote { quote: q, character: c } => assert_eq!((q, c), (quote, character), "{line}"),
                other => panic!("{other}"),
            }
        }
        assert!(split_pairs("=5").is_err());
    }
}
