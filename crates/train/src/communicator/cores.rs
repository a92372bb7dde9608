//! How many threads a rank computes with where several share a machine.

use super::{Communicator, CommunicatorError};

/// Threads that this rank should compute with: its share of the cores that it may run on. Launchers may bind ranks to cores; a core that several
/// ranks of one machine may use is divided among them.
///
/// All ranks have to call it together.
///
/// # Errors
/// Those of [`Communicator::gather`].
pub fn threads_of_rank(communicator: &dyn Communicator) -> Result<usize, CommunicatorError> {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let said = communicator.gather(format!("{}\n{}", communicator.node(), cores.trim()).as_bytes())?;
    let all: Vec<(String, Vec<usize>)> = said
        .iter()
        .map(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let (node, cores) = text.split_once('\n').unwrap_or((&*text, ""));
            (node.to_owned(), parse(cores).unwrap_or_default())
        })
        .collect();
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(share(&all, communicator.rank(), available))
}

/// The numbers in a list such as `0-3,8`.
fn parse(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?);
    }
    Some(numbers)
}

/// The share of one rank in the `available` cores that it may run on, from the machine and the cores of all ranks; where the system does not tell the cores, they
/// are those of the machine. At least one.
fn share(all: &[(String, Vec<usize>)], rank: usize, available: usize) -> usize {
    let (node, cores) = &all[rank];
    let here: Vec<&Vec<usize>> = all.iter().filter(|(other, _)| other == node).map(|(_, cores)| cores).collect();
    let share = if cores.is_empty() {
        1.0 / here.len() as f64
    } else {
        let of_core = |core: &usize| 1.0 / here.iter().filter(|cores| cores.contains(core)).count() as f64;
        cores.iter().map(of_core).sum::<f64>() / cores.len() as f64
    };
    // Thirds of a core do not add up to whole cores exactly.
    ((available as f64 * share + 1e-6) as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        assert_eq!(parse("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse("5"), Some(vec![5]));
        assert_eq!(parse(""), None);
        assert_eq!(parse("a-b"), None);
    }

    #[test]
    fn ranks_divide_the_cores_that_they_share() {
        let of = |node: &str, cores: &str| (node.to_owned(), parse(cores).unwrap_or_default());
        // Not bound: three ranks on 8 cores, a fourth one elsewhere.
        let free = [of("a", "0-7"), of("a", "0-7"), of("a", "0-7"), of("b", "0-7")];
        assert_eq!([0, 1, 2, 3].map(|rank| share(&free, rank, 8)), [2, 2, 2, 8]);
        // Bound to a core each, and two to each socket.
        assert_eq!(share(&[of("a", "0"), of("a", "1")], 1, 1), 1);
        let sockets = [of("a", "0-15"), of("a", "0-15"), of("a", "16-31"), of("a", "16-31")];
        assert_eq!(share(&sockets, 2, 16), 8);
        // A container has less than what its machine has.
        assert_eq!(share(&[of("a", "0-63"), of("a", "0-63")], 0, 4), 2);
        // Nothing is known; more ranks than cores.
        assert_eq!(share(&[of("a", ""), of("a", "")], 0, 6), 3);
        assert_eq!(share(&[of("a", "0"), of("a", "0")], 0, 1), 1);
        // Thirds.
        let three = [of("a", "0-5"), of("a", "0-5"), of("a", "0-5")];
        assert_eq!(share(&three, 0, 6), 2);
    }

    #[test]
    fn one_process_has_all_cores() {
        let available = std::thread::available_parallelism().unwrap().get();
        assert_eq!(threads_of_rank(&super::super::SingleProcess).unwrap(), available);
    }
}
