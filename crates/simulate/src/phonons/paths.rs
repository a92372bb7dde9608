//! Paths through the Brillouin zone.

mod tables;

use super::crystal::{Crystal, centred};
use crate::error::SimulateError;
use crate::matrix::{self, Matrix};

/// A wave vector with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecialPoint {
    /// "Γ", "X", "P₂".
    pub label: String,
    /// Fractional coordinates in the reciprocal lattice of the primitive cell of a [`Crystal`].
    pub q: [f64; 3],
}

/// A path: pieces that hang together, each a list of points joined by straight lines.
#[derive(Debug, Clone, PartialEq)]
pub struct BandPath {
    /// Where the path comes from: the extended Bravais lattice of Hinuma et al., such as "cF2", or "given".
    pub kind: String,
    /// The pieces; between them the path jumps.
    pub pieces: Vec<Vec<SpecialPoint>>,
}

/// One wave vector of a path, for drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct PathPoint {
    /// Distance along the path, 1/Å (without 2π); jumps take none.
    pub distance: f64,
    /// Fractional coordinates in the reciprocal lattice of the primitive cell.
    pub q: [f64; 3],
    /// The name, at the ends of lines.
    pub label: Option<String>,
    /// True at the first point of a piece.
    pub begins: bool,
}

impl BandPath {
    /// The path that Hinuma, Pizzi, Kumagai, Oba & Tanaka recommend for the crystal's lattice (Comput. Mater. Sci. 128, 140 (2017), Tables 69–92), with respect to the
    /// crystal's own primitive cell. Frequencies at q and −q are the same, so that crystals without inversion need no other path.
    pub fn standard(crystal: &Crystal) -> Self {
        let (name, cell_in_unit, parameters) = classify(crystal);
        let table = tables::of(name);
        let value = |expression: &str| linear(expression, &parameters);
        let point = |label: &str| {
            let found = table.points.iter().find(|p| p.0 == label);
            let q = found.map_or([0.0; 3], |p| {
                let mut parts = p.1.split_whitespace().map(value);
                [0, 1, 2].map(|_| parts.next().unwrap_or(0.0))
            });
            // No −0.
            let q = crystal.to_primitive(q, &cell_in_unit).map(|x| if x.abs() < 1e-12 { 0.0 } else { x });
            SpecialPoint { label: label.to_owned(), q }
        };
        let pieces = table.path.split('|').map(|piece| piece.split_whitespace().map(point).collect()).collect();
        Self { kind: name.to_owned(), pieces }
    }

    /// A path by names of the standard path's points, "Γ X M Γ" or "G X M G", with `|` where it jumps; or by coordinates in the reciprocal lattice of the primitive cell, three
    /// numbers a point after an optional name: "G 0 0 0 X 1/2 0 0 | 1/2 1/2 0  0 0 0".
    ///
    /// # Errors
    /// If a name is unknown, or there is no line.
    pub fn parse(crystal: &Crystal, text: &str) -> Result<Self, SimulateError> {
        let standard = Self::standard(crystal);
        let known = || {
            let mut names: Vec<&str> = standard.pieces.iter().flatten().map(|p| p.label.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            names.join(" ")
        };
        let usage = || format!("names of this lattice's points ({}), or three numbers for each point", known());
        let mut pieces = Vec::new();
        for piece in text.split('|') {
            let words: Vec<&str> = piece.split([' ', ',', '\t', '\n', '-']).filter(|w| !w.is_empty()).collect();
            // Minus signs of numbers are no separators.
            let words = if words.iter().any(|w| fraction(w).is_some()) {
                piece.split([' ', ',', '\t', '\n']).filter(|w| !w.is_empty()).collect()
            } else {
                words
            };
            let mut points = Vec::new();
            let mut rest = &words[..];
            while let Some(word) = rest.first() {
                let numbers = |from: usize| -> Option<[f64; 3]> {
                    let words = rest.get(from..from + 3)?;
                    Some([fraction(words[0])?, fraction(words[1])?, fraction(words[2])?])
                };
                if let Some(q) = numbers(0) {
                    points.push(SpecialPoint { label: name_of(q), q });
                    rest = &rest[3..];
                } else if let Some(q) = numbers(1).filter(|_| fraction(word).is_none()) {
                    points.push(SpecialPoint { label: greek(word), q });
                    rest = &rest[4..];
                } else {
                    let label = greek(word);
                    let same =
                        standard.pieces.iter().flatten().find(|p| p.label == label || plain(&p.label).eq_ignore_ascii_case(&plain(&label)));
                    let Some(found) = same else {
                        return Err(SimulateError::input(format!("the path has no point \"{word}\""), usage()));
                    };
                    points.push(found.clone());
                    rest = &rest[1..];
                }
            }
            if points.len() < 2 {
                return Err(SimulateError::input(format!("a path of {} points", points.len()), usage()));
            }
            pieces.push(points);
        }
        Ok(Self { kind: "given".to_owned(), pieces })
    }

    /// Points along the path, with about `per_line` of them on a line of average length, ends included.
    pub fn points(&self, crystal: &Crystal, per_line: usize) -> Vec<PathPoint> {
        // Columns of the inverse are the reciprocal vectors: q · b for rows.
        let reciprocal = matrix::transpose(&matrix::inverse(&crystal.primitive.vectors));
        let length = |a: &SpecialPoint, b: &SpecialPoint| matrix::norm(matrix::row_times(matrix::subtract(b.q, a.q), &reciprocal));
        let lines: Vec<f64> = self.pieces.iter().flat_map(|p| p.windows(2).map(|w| length(&w[0], &w[1]))).collect();
        let mean = lines.iter().sum::<f64>() / lines.len().max(1) as f64;
        let mut points = Vec::new();
        let mut distance = 0.0;
        for piece in &self.pieces {
            let mut begins = true;
            for ends in piece.windows(2) {
                let line = length(&ends[0], &ends[1]);
                let steps = ((per_line as f64 * line / mean.max(1e-12)).round() as usize).max(2);
                for k in usize::from(!begins)..=steps {
                    let t = k as f64 / steps as f64;
                    let q = [0, 1, 2].map(|i| ends[0].q[i] + t * (ends[1].q[i] - ends[0].q[i]));
                    let label = if k == 0 { Some(&ends[0].label) } else { (k == steps).then_some(&ends[1].label) };
                    points.push(PathPoint { distance: distance + t * line, q, label: label.cloned(), begins: begins && k == 0 });
                }
                begins = false;
                distance += line;
            }
        }
        points
    }

    /// The points with names, each once, in the order of the path. Points with the same name are one.
    pub fn special_points(&self) -> Vec<SpecialPoint> {
        let mut all: Vec<SpecialPoint> = Vec::new();
        for point in self.pieces.iter().flatten() {
            if !all.iter().any(|p| p.label == point.label) {
                all.push(point.clone());
            }
        }
        all
    }
}

fn greek(name: &str) -> String {
    match name {
        "G" | "g" | "GAMMA" | "Gamma" | "gamma" | "GM" => "Γ".to_owned(),
        other => other.to_owned(),
    }
}

/// Names with subscripts and Greek letters as one types them: "S₂" is S2.
fn plain(label: &str) -> String {
    label
        .chars()
        .filter(|c| *c != '_')
        .map(|c| match c {
            '₀'..='₉' => char::from_digit(c as u32 - '₀' as u32, 10).unwrap_or(c),
            other => other,
        })
        .collect()
}

fn name_of(q: [f64; 3]) -> String {
    if q == [0.0; 3] {
        return "Γ".to_owned();
    }
    let text: Vec<String> = q.iter().map(|x| format!("{x:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()).collect();
    format!("({})", text.join(" "))
}

/// "0.25", "1/2", "-1/3".
fn fraction(text: &str) -> Option<f64> {
    let value = match text.split_once('/') {
        Some((a, b)) => a.parse::<f64>().ok()? / b.parse::<f64>().ok()?,
        None => text.parse::<f64>().ok()?,
    };
    value.is_finite().then_some(value)
}

/// A sum of fractions and parameters: "1/2+J", "-1+Y", "X".
fn linear(expression: &str, parameters: &[(char, f64)]) -> f64 {
    let mut sum = 0.0;
    let mut rest = expression;
    while !rest.is_empty() {
        let negative = rest.starts_with('-');
        let term = rest.trim_start_matches(['+', '-']);
        let end = term.find(['+', '-']).unwrap_or(term.len());
        let word = &term[..end];
        let parameter = word.chars().next().and_then(|c| parameters.iter().find(|p| p.0 == c));
        let value = parameter.map_or_else(|| fraction(word).unwrap_or(f64::NAN), |p| p.1);
        sum += if negative { -value } else { value };
        rest = &term[end..];
    }
    sum
}

/// The extended Bravais lattice, its primitive cell in units of the unit cell's vectors, and the parameters of its points.
fn classify(crystal: &Crystal) -> (&'static str, Matrix, Vec<(char, f64)>) {
    let conventional = matrix::product(&crystal.conventional_in_unit, &crystal.unit.cell.vectors);
    let [a, b, c] = conventional.map(matrix::norm);
    let primitive = matrix::product(&centred(crystal.number, crystal.centring), &crystal.conventional_in_unit);
    let (a2, b2, c2) = (a * a, b * b, c * c);
    let number = crystal.number;
    let (name, parameters): (_, Vec<(char, f64)>) = match (number, crystal.centring) {
        (195..=206, 'P') => ("cP1", vec![]),
        (195.., 'P') => ("cP2", vec![]),
        (195..=206, 'F') => ("cF1", vec![]),
        (195.., 'F') => ("cF2", vec![]),
        (195.., _) => ("cI1", vec![]),
        (143..=194, 'R') if 3f64.sqrt() * a <= 2f64.sqrt() * c => {
            let delta = a2 / (4.0 * c2);
            ("hR1", vec![('Y', 5.0 / 6.0 - 2.0 * delta), ('N', 1.0 / 3.0 + delta)])
        }
        (143..=194, 'R') => {
            let zeta = 1.0 / 6.0 - c2 / (9.0 * a2);
            ("hR2", vec![('H', 0.5 - 2.0 * zeta), ('N', 0.5 + zeta)])
        }
        (143..=149 | 151 | 153 | 157 | 159..=163, _) => ("hP1", vec![]),
        (143..=194, _) => ("hP2", vec![]),
        (75..=142, 'I') if c <= a => ("tI1", vec![('H', (1.0 + c2 / a2) / 4.0)]),
        (75..=142, 'I') => ("tI2", vec![('H', (1.0 + a2 / c2) / 4.0), ('Z', a2 / (2.0 * c2))]),
        (75..=142, _) => ("tP1", vec![]),
        (16..=74, 'F') if 1.0 / a2 > 1.0 / b2 + 1.0 / c2 => {
            ("oF1", vec![('J', (1.0 + a2 / b2 - a2 / c2) / 4.0), ('H', (1.0 + a2 / b2 + a2 / c2) / 4.0)])
        }
        (16..=74, 'F') if 1.0 / c2 > 1.0 / a2 + 1.0 / b2 => {
            ("oF2", vec![('J', (1.0 + c2 / a2 - c2 / b2) / 4.0), ('K', (1.0 + c2 / a2 + c2 / b2) / 4.0)])
        }
        (16..=74, 'F') => {
            let of = |x: f64, y: f64, z: f64| (1.0 + x / y - x / z) / 4.0;
            ("oF3", vec![('H', of(a2, b2, c2)), ('K', of(b2, a2, c2)), ('P', of(c2, b2, a2))])
        }
        (16..=74, 'I') if c >= a && c >= b => {
            let of = |x: f64| (1.0 + x / c2) / 4.0;
            ("oI1", vec![('Z', of(a2)), ('H', of(b2)), ('D', (b2 - a2) / (4.0 * c2)), ('N', (a2 + b2) / (4.0 * c2))])
        }
        (16..=74, 'I') if a >= b => {
            let of = |x: f64| (1.0 + x / a2) / 4.0;
            ("oI2", vec![('Z', of(b2)), ('H', of(c2)), ('D', (c2 - b2) / (4.0 * a2)), ('N', (b2 + c2) / (4.0 * a2))])
        }
        (16..=74, 'I') => {
            let of = |x: f64| (1.0 + x / b2) / 4.0;
            ("oI3", vec![('Z', of(c2)), ('Y', of(a2)), ('D', (a2 - c2) / (4.0 * b2)), ('M', (c2 + a2) / (4.0 * b2))])
        }
        (16..=74, 'C') if a <= b => ("oC1", vec![('X', (1.0 + a2 / b2) / 4.0)]),
        (16..=74, 'C') => ("oC2", vec![('X', (1.0 + b2 / a2) / 4.0)]),
        (16..=74, 'A') if b <= c => ("oA1", vec![('X', (1.0 + b2 / c2) / 4.0)]),
        (16..=74, 'A') => ("oA2", vec![('X', (1.0 + c2 / b2) / 4.0)]),
        (16..=74, _) => ("oP1", vec![]),
        (3..=15, centring) => {
            let cos = matrix::dot(conventional[0], conventional[2]) / (a * c);
            let sin2 = 1.0 - cos * cos;
            monoclinic(centring, a, b, c, cos, sin2)
        }
        _ => return triclinic(&conventional, &crystal.unit.cell.vectors),
    };
    (name, primitive, parameters)
}

fn monoclinic(centring: char, a: f64, b: f64, c: f64, cos: f64, sin2: f64) -> (&'static str, Vec<(char, f64)>) {
    let (a2, b2) = (a * a, b * b);
    if centring == 'P' {
        let eta = (1.0 + a / c * cos) / (2.0 * sin2);
        return ("mP1", vec![('Y', eta), ('N', 0.5 + eta * c * cos / a)]);
    }
    if b2 < a2 * sin2 {
        let zeta = (2.0 + a / c * cos) / (4.0 * sin2);
        let psi = 0.75 - b2 / (4.0 * a2 * sin2);
        return ("mC1", vec![('Z', zeta), ('H', 0.5 - 2.0 * zeta * c * cos / a), ('S', psi), ('P', psi - (0.75 - psi) * a * cos / c)]);
    }
    let zeta = (a2 / b2 + (1.0 + a / c * cos) / sin2) / 4.0;
    if -a * cos / c + a2 * sin2 / b2 <= 1.0 {
        let mu = (1.0 + a2 / b2) / 4.0;
        let delta = -a * c * cos / (2.0 * b2);
        let xi = 0.5 - 2.0 * zeta * c * cos / a;
        return ("mC2", vec![('Z', zeta), ('M', mu), ('D', delta), ('X', xi), ('P', 1.0 + zeta - 2.0 * mu), ('S', xi - 2.0 * delta)]);
    }
    let rho = 1.0 - zeta * b2 / a2;
    let eta = 0.5 - 2.0 * zeta * c * cos / a;
    let phi = eta / 2.0 + a2 / (4.0 * b2) + a * c * cos / (2.0 * b2);
    let nu = 2.0 * phi - zeta;
    let omega = c / (2.0 * a * cos) * (1.0 - 4.0 * nu + a2 * sin2 / b2);
    let delta = -0.25 + omega / 2.0 - zeta * c * cos / a;
    ("mC3", vec![('Z', zeta), ('R', rho), ('E', eta), ('F', phi), ('U', nu), ('W', omega), ('D', delta)])
}

/// Triclinic crystals: the reciprocal lattice is reduced (Niggli), its axes exchanged cyclically so that |k_a k_b cos γ| is smallest, and their signs chosen so that its angles are
/// all obtuse (aP2) or all acute (aP3).
fn triclinic(conventional: &Matrix, unit: &Matrix) -> (&'static str, Matrix, Vec<(char, f64)>) {
    let reciprocal = matrix::transpose(&matrix::inverse(conventional));
    let reduced = moyo::base::Lattice::from_basis(reciprocal).unchecked_niggli_reduce().0.basis;
    let mut k = [0, 1, 2].map(|j| [0, 1, 2].map(|i| reduced[(i, j)]));
    let products = [matrix::dot(k[1], k[2]), matrix::dot(k[2], k[0]), matrix::dot(k[0], k[1])].map(f64::abs);
    let smallest = (0..3).min_by(|&a, &b| products[a].total_cmp(&products[b])).unwrap_or(2);
    // The axis opposite to the smallest product becomes the third.
    k = [k[(smallest + 1) % 3], k[(smallest + 2) % 3], k[smallest]];
    let sign = |x: f64| if x > 0.0 { 1.0 } else { -1.0 };
    let (ab, bc, ca) = (sign(matrix::dot(k[0], k[1])), sign(matrix::dot(k[1], k[2])), sign(matrix::dot(k[2], k[0])));
    let odd = if ab == bc {
        if bc == ca { None } else { Some(1) }
    } else if ab == ca {
        Some(0)
    } else {
        Some(2)
    };
    // Turning round the axis opposite to the pair that stands alone changes the other two.
    if let Some(odd) = odd {
        k[odd] = k[odd].map(|x| -x);
    }
    let obtuse = matrix::dot(k[0], k[1]) <= 0.0;
    let k = if matrix::determinant(&k) < 0.0 { k.map(|v| v.map(|x| -x)) } else { k };
    let cell = matrix::transpose(&matrix::inverse(&k));
    let in_unit = matrix::product(&cell, &matrix::inverse(unit));
    let exact = matrix::to_integers(&in_unit, 1e-4).map_or(in_unit, |m| matrix::to_floats(&m));
    (if obtuse { "aP2" } else { "aP3" }, exact, vec![])
}
