//! The four maps one edge at a time in f64, from the values, gradients and Hessians of [`tesseral_o3::SphericalHarmonics`].

use tesseral_o3::{SphericalHarmonics, SphericalHarmonicsError};

/// Values, gradients and Hessians of all harmonics at one vector.
struct Point {
    y: Vec<f64>,
    dy: Vec<[f64; 3]>,
    ddy: Vec<[[f64; 3]; 3]>,
}

fn points(vectors: &[f64], lmax: usize, normalize: bool) -> Result<Vec<Point>, SphericalHarmonicsError> {
    let harmonics = SphericalHarmonics::new(lmax)?;
    let n = harmonics.len();
    let at = |v: &[f64]| {
        let mut p = Point { y: vec![0.0; n], dy: vec![[0.0; 3]; n], ddy: vec![[[0.0; 3]; 3]; n] };
        harmonics.evaluate_with_hessians([v[0], v[1], v[2]], normalize, &mut p.y, &mut p.dy, &mut p.ddy);
        p
    };
    Ok(vectors.chunks_exact(3).map(at).collect())
}

/// Y(v): `vectors` `[E, 3]` → `[E, n]`.
///
/// # Errors
/// If the reference does not know the degree; likewise for the other three maps.
pub fn evaluate(vectors: &[f64], lmax: usize, normalize: bool) -> Result<Vec<f64>, SphericalHarmonicsError> {
    Ok(points(vectors, lmax, normalize)?.into_iter().flat_map(|p| p.y).collect())
}

/// ∇_v ⟨g, Y(v)⟩: `[E, 3]`, `[E, n]` → `[E, 3]`.
///
/// # Errors
/// As [`evaluate`].
pub fn adjoint(vectors: &[f64], g: &[f64], lmax: usize, normalize: bool) -> Result<Vec<f64>, SphericalHarmonicsError> {
    let n = super::count(lmax);
    let points = points(vectors, lmax, normalize)?;
    let one = |(p, g): (&Point, &[f64])| (0..3).map(|a| (0..n).map(|i| g[i] * p.dy[i][a]).sum()).collect::<Vec<f64>>();
    Ok(points.iter().zip(g.chunks_exact(n)).flat_map(one).collect())
}

/// (u·∇) Y(v): `[E, 3]`, `[E, 3]` → `[E, n]`.
///
/// # Errors
/// As [`evaluate`].
pub fn tangent(vectors: &[f64], u: &[f64], lmax: usize, normalize: bool) -> Result<Vec<f64>, SphericalHarmonicsError> {
    let points = points(vectors, lmax, normalize)?;
    let one = |(p, u): (&Point, &[f64])| p.dy.iter().map(|d| (0..3).map(|a| u[a] * d[a]).sum()).collect::<Vec<f64>>();
    Ok(points.iter().zip(u.chunks_exact(3)).flat_map(one).collect())
}

/// ∇_v ⟨g, (u·∇) Y(v)⟩: `[E, 3]`, `[E, n]`, `[E, 3]` → `[E, 3]`.
///
/// # Errors
/// As [`evaluate`].
pub fn adjoint_tangent(vectors: &[f64], g: &[f64], u: &[f64], lmax: usize, normalize: bool) -> Result<Vec<f64>, SphericalHarmonicsError> {
    let n = super::count(lmax);
    let points = points(vectors, lmax, normalize)?;
    let one = |((p, g), u): ((&Point, &[f64]), &[f64])| {
        let component = |a: usize| (0..n).map(|i| g[i] * (0..3).map(|b| p.ddy[i][a][b] * u[b]).sum::<f64>()).sum::<f64>();
        [component(0), component(1), component(2)]
    };
    Ok(points.iter().zip(g.chunks_exact(n)).zip(u.chunks_exact(3)).flat_map(one).collect())
}
