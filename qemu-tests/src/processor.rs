//! Which processor a thread runs on, how much it matters, and how long it waited for it.
//!
//! Measurements below a millisecond need this: two threads that share a processor hold each other up for longer.

#![allow(unsafe_code, reason = "sched_setaffinity and sched_setscheduler")]

use std::fs;
use std::io;
use std::mem;

use crate::failure::{Context, Failure, Result};
use crate::process::Process;

/// The thread that calls.
const SELF: i32 = 0;

/// Confines the calling thread to one processor and puts it before all ordinary threads there.
///
/// It must sleep now and then: whoever else runs on that processor gets only what it leaves.
pub fn claim(cpu: usize) -> Result<()> {
    pin(SELF, &[cpu])?;
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters live until the call returns; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(SELF, libc::SCHED_FIFO, &raw const parameters) };
    check(result).context("real-time priority (run as root)")
}

/// Confines the calling thread, and what it starts, to these processors.
pub fn keep_to(cpus: &[usize]) -> Result<()> {
    pin(SELF, cpus)
}

/// Puts a process before all others that are not real-time, as far as the kernel weighs sessions.
pub fn prefer(process: &Process) {
    // A kernel without autogroups weighs threads alone, and then there is nothing to say for a session.
    let _ = fs::write(format!("/proc/{}/autogroup", process.pid()), "-20");
}

/// Confines all threads of `process` but its workers to one processor, and returns the thread of its first worker.
pub fn part_workers(process: &Process, cpu: usize) -> Result<i32> {
    let mut worker = None;
    for task in fs::read_dir(format!("/proc/{}/task", process.pid()))? {
        let path = task?.path();
        let thread: i32 =
            path.file_name().and_then(|name| name.to_str()).unwrap_or_default().parse().context("thread")?;
        let name = fs::read_to_string(path.join("comm"))?;
        if name.starts_with("worker-") {
            worker = worker.or(Some(thread));
        } else {
            pin(thread, &[cpu])?;
        }
    }
    worker.ok_or_else(|| Failure::new("the process has no worker"))
}

/// How long a thread was ready to run and did not, in nanoseconds, since it began.
pub fn waited_ns(process: &Process, thread: i32) -> Result<u64> {
    let path = format!("/proc/{}/task/{thread}/schedstat", process.pid());
    let text = fs::read_to_string(&path).context(&path)?;
    text.split_whitespace().nth(1).unwrap_or_default().parse().context(path)
}

/// How often a thread gave its processor up to wait for something: a lock, memory, a packet.
pub fn blocked(process: &Process, thread: i32) -> Result<u64> {
    let path = format!("/proc/{}/task/{thread}/status", process.pid());
    let text = fs::read_to_string(&path).context(&path)?;
    let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap_or_default().trim().parse().context(path)
}

fn pin(thread: i32, cpus: &[usize]) -> Result<()> {
    // SAFETY: the set is plain bits, all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: CPU_SET checks the bound itself.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set lives until the call returns, and the size is its own.
    let result = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) };
    check(result).context(format!("processors {cpus:?} for thread {thread}"))
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
