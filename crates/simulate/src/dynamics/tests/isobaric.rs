//! Constant pressure: distributions of volumes and cells that are known exactly.

use super::super::random::Random;
use super::*;

/// What is followed of a run under a barostat: one sample each some steps.
fn sample<T>(settings: Settings, structure: Structure, stiffness: f64, steps: usize, what: impl Fn(&Dynamics) -> T) -> (Vec<T>, Dynamics) {
    let mut field = SpringCell { stiffness };
    let mut dynamics = Dynamics::new(structure, settings, &mut field).unwrap();
    run(&mut dynamics, &mut field, 5000);
    // Deterministic motion loses memory sooner, and costs more.
    let steps = if dynamics.extended.is_some() { steps / 6 } else { steps };
    let mut random = Random::new(3);
    let samples = (0..steps / 10)
        .map(|i| {
            run(&mut dynamics, &mut field, 10);
            if i % 5 == 0 {
                collide(&mut dynamics, &mut random);
            }
            what(&dynamics)
        })
        .collect();
    (samples, dynamics)
}

/// New velocities at the temperature of the bath, 1: what collisions do, without which the directions of motion of an ideal gas only follow the strain of the cell.
fn collide(dynamics: &mut Dynamics, random: &mut Random) {
    let velocities = &mut dynamics.state.velocities;
    velocities.iter_mut().for_each(|v| *v = random.normals());
    if dynamics.freedom.hold_centre {
        let mean = [0, 1, 2].map(|k| velocities.iter().map(|v| v[k]).sum::<f64>() / velocities.len() as f64);
        velocities.iter_mut().for_each(|v| (0..3).for_each(|k| v[k] -= mean[k]));
    }
}

/// The same barostat, faster: for gases.
fn gas_barostat(ensemble: Ensemble) -> Ensemble {
    match ensemble {
        Ensemble::StochasticCell { anisotropic, .. } => {
            Ensemble::StochasticCell { time: fs(0.5), barostat_time: fs(1.0), compressibility: 0.3, anisotropic }
        }
        Ensemble::Mtk { anisotropic, .. } => Ensemble::Mtk { time: fs(0.3), barostat_time: fs(1.0), anisotropic },
        other => other,
    }
}

/// So many atoms in a cube of about their number in Å³.
fn gas(atoms: usize) -> Structure {
    let mut structure = fcc(2, 32.0 / atoms as f64);
    structure.numbers.truncate(atoms);
    structure.positions.truncate(atoms);
    structure
}

/// Volumes of an ideal gas of N atoms at the pressure P have the density V^N exp(−PV/k_B T): a gamma distribution of shape N + 1; N where the centre of mass is held.
#[test]
fn volumes_of_an_ideal_gas() {
    for (name, ensemble) in barostats().into_iter().step_by(2) {
        for held in [true, false] {
            let settings =
                Settings { pressure: Ramp::constant(1.0), fix_centre_of_mass: held, ..reduced(gas_barostat(ensemble), 1.0, 0.025) };
            let (volumes, dynamics) = sample(settings, gas(12), 0.0, 600_000, |d| d.thermo().volume.unwrap());
            let shape = if held { 12.0 } else { 13.0 };
            assert_gamma(&format!("{name}, volume"), &volumes, shape, 1.0, 0.02);
            let cell = dynamics.state().structure.cell;
            assert_eq!(cell, Cell::cubic(cell.vectors[0][0]), "{name}: a cube stays a cube");
        }
    }
}

/// An ideal gas in a cell of springs, U = ½ k tr hᵀh: the density of h is V^(n−2) exp(−U/k_B T) d⁹h with n = N − 1 where the centre of mass is held, so that hᵀh has the
/// Wishart distribution of n + 1 degrees of freedom ν and scale k_B T / k (Muirhead, Aspects of Multivariate Statistical Theory, 1982, section 3.2): tr hᵀh is a gamma variate
/// of shape 3ν/2, and ⟨det hᵀh⟩ = ν(ν − 1)(ν − 2) (k_B T / k)³.
#[test]
fn cells_on_springs() {
    for (name, ensemble) in barostats().into_iter().skip(1).step_by(2) {
        let nu: f64 = 12.0;
        let settings = reduced(gas_barostat(ensemble), 1.0, 0.025);
        let cells = |d: &Dynamics| d.state().structure.cell;
        let (cells, _) = sample(settings, gas(12), 1.0, 600_000, cells);
        let of = |what: &dyn Fn(&Cell) -> f64| cells.iter().map(what).collect::<Vec<f64>>();
        assert_gamma(&format!("{name}, tr hᵀh"), &of(&|h| h.vectors.iter().flatten().map(|x| x * x).sum()), 1.5 * nu, 2.0, 0.02);
        assert_mean(&format!("{name}, det hᵀh"), &of(&|h| h.volume().powi(2)), nu * (nu - 1.0) * (nu - 2.0), 0.06);
        // A non-diagonal element of a Wishart matrix has the variance ν.
        assert_mean(&format!("{name}, (hᵀh)_xy²"), &of(&|h| h.vectors.iter().map(|v| v[0] * v[1]).sum::<f64>().powi(2)), nu, 0.1);
    }
}

/// Volume follows a ramp of pressure, and what is conserved is conserved on the way.
#[test]
fn pressure_ramps() {
    for (name, ensemble) in barostats() {
        let mut field = SpringCell { stiffness: 0.5 };
        let steps = 6000;
        let settings = Settings { pressure: Ramp { from: 1.0, to: 4.0 }, steps, ..reduced(gas_barostat(ensemble), 1.0, 0.01) };
        let mut dynamics = Dynamics::new(fcc(3, 1.0), settings, &mut field).unwrap();
        let start = dynamics.conserved();
        run(&mut dynamics, &mut field, steps as usize);
        let drift = (dynamics.conserved() - start).abs() / 108.0;
        let pressures: Vec<f64> = (0..4000)
            .map(|_| {
                run(&mut dynamics, &mut field, 1);
                dynamics.state().pressure().unwrap()
            })
            .collect();
        eprintln!("{name}: pressure {:?}, drift {drift:.1e}", mean(&pressures));
        assert!((mean(&pressures).0 - 4.0).abs() < 0.1, "{name}: {:?}", mean(&pressures));
        assert!(drift < 0.01, "{name}: {drift}");
    }
}
