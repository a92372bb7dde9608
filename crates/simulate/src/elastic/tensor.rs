//! Tensors of second and fourth rank as vectors and matrices of six.
//!
//! Voigt order is xx, yy, zz, yz, zx, xy. Strains in Voigt notation have doubled shears (γ = 2 ε), stresses and stiffnesses have no factors. Kelvin's notation multiplies shears by √2
//! in both: there a rotation is an orthogonal 6 × 6 matrix, and eigenvalues of a stiffness do not depend on the axes (M. M. Mehrabadi and S. C. Cowin, Q. J. Mech. Appl. Math. 43, 15
//! (1990)).

use nalgebra::{Matrix3, Matrix6, Vector6};

/// Row and column of each Voigt index.
pub const VOIGT: [(usize, usize); 6] = [(0, 0), (1, 1), (2, 2), (1, 2), (2, 0), (0, 1)];

/// A fourth-rank tensor with the minor symmetries, Voigt notation.
pub type Voigt6 = [[f64; 6]; 6];

/// √2 for shears.
fn weight(v: usize) -> f64 {
    if v < 3 { 1.0 } else { std::f64::consts::SQRT_2 }
}

/// Symmetric 3 × 3 matrix of a strain in Voigt notation.
pub fn strain_matrix(voigt: [f64; 6]) -> [[f64; 3]; 3] {
    let [xx, yy, zz, yz, zx, xy] = voigt;
    [[xx, xy / 2.0, zx / 2.0], [xy / 2.0, yy, yz / 2.0], [zx / 2.0, yz / 2.0, zz]]
}

/// A symmetric matrix in Kelvin's notation.
pub(super) fn kelvin(matrix: &Matrix3<f64>) -> Vector6<f64> {
    Vector6::from_fn(|v, _| weight(v) * matrix[VOIGT[v]])
}

/// A stiffness from Voigt's to Kelvin's notation.
pub(super) fn to_kelvin(c: &Voigt6) -> Matrix6<f64> {
    Matrix6::from_fn(|v, w| c[v][w] * weight(v) * weight(w))
}

/// A stiffness from Kelvin's to Voigt's notation.
pub(super) fn from_kelvin(k: &Matrix6<f64>) -> Voigt6 {
    std::array::from_fn(|v| std::array::from_fn(|w| k[(v, w)] / weight(v) / weight(w)))
}

/// What a rotation of space is for symmetric matrices in Kelvin's notation.
pub(super) fn kelvin_rotation(r: &Matrix3<f64>) -> Matrix6<f64> {
    let mut q = Matrix6::zeros();
    for w in 0..6 {
        let (i, j) = VOIGT[w];
        let mut unit = Matrix3::zeros();
        unit[(i, j)] = 1.0 / weight(w);
        unit[(j, i)] = 1.0 / weight(w);
        q.set_column(w, &kelvin(&(r * unit * r.transpose())));
    }
    q
}

/// A stiffness in axes that are rotated: C′ of the crystal that was turned by `rotation` (r′ = R r).
pub fn rotated(c: &Voigt6, rotation: &[[f64; 3]; 3]) -> Voigt6 {
    let q = kelvin_rotation(&Matrix3::from_fn(|i, j| rotation[i][j]));
    from_kelvin(&(q * to_kelvin(c) * q.transpose()))
}

/// The stress–strain coefficients at a finite stress σ (Cauchy, positive when tensile), which relate small strains from there to changes of the Cauchy stress without rotation:
/// B_ijkl = C_ijkl + ½ (σ_jk δ_il + σ_ik δ_jl + σ_jl δ_ik + σ_il δ_jk − 2 σ_ij δ_kl), with C the second derivatives of the energy by Lagrangian strain (T. H. K. Barron and
/// M. L. Klein, Proc. Phys. Soc. 85, 523 (1965)). Without the major symmetry unless σ is isotropic.
pub fn stress_strain_coefficients(c: &Voigt6, stress: &[[f64; 3]; 3]) -> Voigt6 {
    let d = |i: usize, j: usize| f64::from(u8::from(i == j));
    std::array::from_fn(|v| {
        std::array::from_fn(|w| {
            let ((i, j), (k, l)) = (VOIGT[v], VOIGT[w]);
            let s = stress;
            c[v][w] + 0.5 * (s[j][k] * d(i, l) + s[i][k] * d(j, l) + s[j][l] * d(i, k) + s[i][l] * d(j, k) - 2.0 * s[i][j] * d(k, l))
        })
    })
}

/// The largest |C_vw − C_wv|.
pub(super) fn asymmetry(c: &Voigt6) -> f64 {
    (0..36).map(|n| (c[n / 6][n % 6] - c[n % 6][n / 6]).abs()).fold(0.0, f64::max)
}

/// Half the sum of a tensor and its transpose.
pub(super) fn symmetrised(c: &Voigt6) -> Voigt6 {
    std::array::from_fn(|v| std::array::from_fn(|w| 0.5 * (c[v][w] + c[w][v])))
}

/// Young's modulus along a unit direction n, 1/(S_ijkl n_i n_j n_k n_l), with S the inverse of a stiffness; `None` if that has none.
pub fn young_modulus(c: &Voigt6, n: [f64; 3]) -> Option<f64> {
    let compliance = to_kelvin(&symmetrised(c)).try_inverse()?;
    let v = kelvin(&Matrix3::from_fn(|i, j| n[i] * n[j]));
    Some(1.0 / (v.transpose() * compliance * v)[(0, 0)])
}
