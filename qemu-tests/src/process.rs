//! Child processes that cannot outlive a test, and what `/proc` tells about them.
//!
//! # Invariants
//! 1. A child gets SIGKILL when the thread that started it ends (PR_SET_PDEATHSIG), so even an aborted test run leaves
//!    nothing behind. Whoever starts a process must keep its own thread as long as the process is needed.
//! 2. A child is in a session of its own: the scheduler weighs sessions, and the terminal's signals are not for it.
//! 3. Only processes started here are signalled, through a `Child` that was not yet reaped, so a process id cannot
//!    have been reused.

#![allow(unsafe_code, reason = "prctl, setsid and setns between fork and exec, kill")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::wait;

/// A running child process, killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process holds of the kernel; equal before and after whatever must not leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// Open file descriptors.
    pub fds: usize,
    /// Memory mappings.
    pub mappings: usize,
    /// Threads.
    pub threads: usize,
}

/// How a finished program ended and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Process {
    /// Starts `command` with its output appended to `log`, inside the network namespace behind the descriptor if given.
    pub fn spawn(
        name: &str,
        mut command: Command,
        log: &Path,
        namespace: Option<&dyn AsRawFd>,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log).context(log.display())?;
        command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
        bind_to_thread(&mut command, namespace.map(|namespace| namespace.as_raw_fd()));
        let child = command.spawn().context(format!("cannot start {name} ({:?})", command.get_program()))?;
        Ok(Process { name: name.into(), child, log: log.into() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the process wrote so far.
    pub fn output(&self) -> String {
        read_lossy(&self.log)
    }

    /// Writes to the standard input of the process.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().ok_or_else(|| Failure::new("standard input is closed"))?;
        stdin.write_all(text.as_bytes()).context(&self.name)
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context(&self.name)
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        wait::until(&format!("{} to end", self.name), limit, || Ok(child.try_wait()?))
    }

    /// Asks the process to end.
    pub fn terminate(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            let pid = i32::try_from(self.pid())?;
            // SAFETY: kill takes no pointers; by invariant 3 the id is our child's.
            let result = unsafe { libc::kill(pid, libc::SIGTERM) };
            if result != 0 {
                return Err(io::Error::last_os_error().into());
            }
        }
        Ok(())
    }

    /// Kills the process, as `kill -9` does, and reaps it.
    pub fn kill(&mut self) {
        // Both fail only when the process was reaped before, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Counts what the process holds now.
    pub fn holdings(&self) -> Result<Holdings> {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()));
        Ok(Holdings {
            fds: fs::read_dir(proc.join("fd")).context(&self.name)?.count(),
            mappings: fs::read_to_string(proc.join("maps")).context(&self.name)?.lines().count(),
            threads: fs::read_dir(proc.join("task")).context(&self.name)?.count(),
        })
    }

    /// The memory map and the targets of all descriptors, to find a leak in.
    pub fn inventory(&self) -> String {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()));
        let mut text = fs::read_to_string(proc.join("maps")).unwrap_or_default();
        for entry in fs::read_dir(proc.join("fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            text += &format!("fd {} {}\n", entry.file_name().to_string_lossy(), target.display());
        }
        text
    }

    /// Memory that is in use, shared memory included.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).context(&self.name)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().parse().context("VmRSS")
    }

    /// Processor time of all threads so far, from `/proc/PID/task/*/schedstat`: nanoseconds, where `stat` has ticks.
    pub fn cpu_time(&self) -> Result<Duration> {
        let mut total_ns = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid())).context(&self.name)? {
            let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
            total_ns += schedstat.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total_ns))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end, inside the network namespace behind the descriptor if given.
pub fn run(
    name: &str,
    mut command: Command,
    limit: Duration,
    namespace: Option<&dyn AsRawFd>,
) -> Result<Finished> {
    let folder = tempfile::tempdir()?;
    let (stdout, stderr) = (folder.path().join("stdout"), folder.path().join("stderr"));
    command.stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
    bind_to_thread(&mut command, namespace.map(|namespace| namespace.as_raw_fd()));
    let child = command.spawn().context(format!("cannot start {name} ({:?})", command.get_program()))?;
    let mut process = Process { name: name.into(), child, log: stderr.clone() };
    let status = process.wait(limit).map_err(|failure| {
        Failure::new(format!("{failure}\n{}{}", read_lossy(&stdout), read_lossy(&stderr)))
    })?;
    Ok(Finished { status, stdout: read_lossy(&stdout), stderr: read_lossy(&stderr) })
}

/// The file's text, or nothing; consoles may hold any byte.
pub fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Makes the child die with the starting thread, and enter the namespace behind the descriptor.
fn bind_to_thread(command: &mut Command, namespace: Option<RawFd>) {
    let enter = move || {
        // SAFETY: prctl with PR_SET_PDEATHSIG takes no pointers.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: setsid takes no pointers.
        if unsafe { libc::setsid() } < 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(fd) = namespace {
            // SAFETY: setns takes no pointers; a descriptor that is no namespace is an error it reports.
            if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes three system calls, allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter) };
}
