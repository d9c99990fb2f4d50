//! Lists of CPUs, as `--workers 1,3` gives them and as messages name them: `0-3,8`.

use std::fmt;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::error::Problem;

/// CPUs in the order they were written, none twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// The CPUs that this process may run on.
    ///
    /// # Errors
    /// The operating system refuses to tell.
    pub fn allowed() -> std::io::Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        Ok(Self((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()))
    }

    /// The CPUs, in the order they were written.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// Reads `1,3` or `4-7`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let mut list = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (parse_cpu(first, part)?, parse_cpu(last, part)?);
            if first > last {
                return Err(format!("the range {part:?} is upside down; write the smaller CPU first").into());
            }
            for cpu in first..=last {
                list.push(cpu)?;
            }
        }
        Ok(list)
    }

    fn push(&mut self, cpu: usize) -> Result<(), Problem> {
        if self.0.contains(&cpu) {
            return Err(format!("CPU {cpu} stands twice; give each worker a CPU of its own").into());
        }
        self.0.push(cpu);
        Ok(())
    }

    /// Refuses CPUs that are not among `allowed`.
    pub(crate) fn check(&self, allowed: &CpuList) -> Result<(), Problem> {
        match self.0.iter().find(|cpu| !allowed.0.contains(cpu)) {
            Some(cpu) => Err(format!("no CPU {cpu} for this process; it may use {allowed}").into()),
            None => Ok(()),
        }
    }
}

/// Confines the calling thread to `cpu`.
///
/// # Errors
/// The operating system refuses: the CPU went offline, or was taken from this process.
pub(crate) fn pin_to(cpu: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn parse_cpu(text: &str, part: &str) -> Result<usize, Problem> {
    match text.parse() {
        Ok(cpu) if cpu < CpuSet::count() => Ok(cpu),
        _ => Err(format!("{part:?} is no CPU; write numbers as in 1,3 or 4-7").into()),
    }
}

impl fmt::Display for CpuList {
    /// Ascending runs fold to ranges: `0-3,8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, run) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let separator = if i == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{separator}{first}-{last}")?,
                run => write!(f, "{separator}{}", run[0])?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_their_order_and_fold_to_ranges() {
        assert_eq!(CpuList::parse("3,1").unwrap().as_slice(), [3, 1]);
        assert_eq!(CpuList::parse("0-3,8").unwrap().as_slice(), [0, 1, 2, 3, 8]);
        assert_eq!(CpuList::parse("0,1,2,8,10-11").unwrap().to_string(), "0-2,8,10-11");
    }

    #[test]
    fn bad_lists_say_what_to_write() {
        let error = |text| CpuList::parse(text).unwrap_err().to_string();
        assert_eq!(error("1,x"), "\"x\" is no CPU; write numbers as in 1,3 or 4-7");
        assert_eq!(error("0-999999999"), "\"0-999999999\" is no CPU; write numbers as in 1,3 or 4-7");
        assert_eq!(error("3-1"), "the range \"3-1\" is upside down; write the smaller CPU first");
        assert_eq!(error("1,1"), "CPU 1 stands twice; give each worker a CPU of its own");
    }

    #[test]
    fn cpus_outside_the_allowed_set_are_refused_and_the_set_named() {
        let allowed = CpuList::parse("0-1,4").unwrap();
        assert_eq!(CpuList::parse("4,0").unwrap().check(&allowed), Ok(()));
        let problem = CpuList::parse("0,3").unwrap().check(&allowed).unwrap_err();
        assert_eq!(problem.to_string(), "no CPU 3 for this process; it may use 0-1,4");
    }

    #[test]
    fn the_process_may_run_somewhere() {
        assert!(!CpuList::allowed().unwrap().as_slice().is_empty());
    }
}
