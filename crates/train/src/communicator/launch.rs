//! What those who start processes together (mpirun, mpiexec, srun) say of it in the environment.

/// Variables with the rank and the number of ranks: Open MPI; MPICH, Intel MPI and Slurm's PMI; MVAPICH.
const VARIABLES: [(&str, &str); 3] =
    [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE")];
/// PMIx does not say the number; where it is Slurm's, Slurm does. That alone means nothing: batch scripts have it as well.
const PMIX: (&str, &str) = ("PMIX_RANK", "SLURM_NTASKS");

/// One of several processes that were started together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Which one.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
}

/// How this process was started, if it was together with others.
pub fn launch() -> Option<Launch> {
    from(|name| std::env::var(name).ok())
}

fn from(variable: impl Fn(&str) -> Option<String>) -> Option<Launch> {
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    let by_size = VARIABLES.iter().find_map(|(rank, size)| Some(Launch { size: number(size)?, rank: number(rank).unwrap_or(0) }));
    by_size.or_else(|| Some(Launch { rank: number(PMIX.0)?, size: number(PMIX.1)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<(usize, usize)> {
        let of = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        from(of).map(|l| (l.rank, l.size))
    }

    #[test]
    fn launchers_are_known_by_their_variables() {
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3")]), Some((3, 4)));
        assert_eq!(found(&[("PMI_SIZE", "2"), ("PMI_RANK", "1")]), Some((1, 2)));
        assert_eq!(found(&[("PMIX_RANK", "5"), ("SLURM_NTASKS", "8")]), Some((5, 8)));
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "2")]), Some((0, 2)));
        // A batch script of Slurm.
        assert_eq!(found(&[("SLURM_NTASKS", "8")]), None);
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("PMI_SIZE", "many"), ("PMI_RANK", "1")]), None);
    }
}
