//! Network namespaces, so that a test's TAPs and addresses disturb nothing on the host.
//!
//! A namespace lives as long as a descriptor to it does: there is no name in `/run/netns` to clean up.

#![allow(unsafe_code, reason = "unshare")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::assets::Assets;
use crate::failure::{Context, Failure, Result};
use crate::process::{self, Process};
use crate::wait;

/// A network namespace of its own, with loopback up.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes a new namespace. Needs root (CAP_SYS_ADMIN).
    pub fn new() -> Result<Self> {
        // unshare moves the calling thread, hence a thread that ends here.
        let file = thread::spawn(|| {
            // SAFETY: unshare takes no pointers.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .map_err(|_| Failure::new("the thread that makes a namespace panicked"))?
        .context("cannot make a network namespace (run as root)")?;
        let namespace = Namespace { file };
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// Runs one of the guest image's programs here, on the host's kernel; its output, or a failure if its status is not 0.
    pub fn run(&self, command: &str) -> Result<String> {
        self.run_for(command, Duration::from_secs(15))
    }

    /// [`run`](Self::run) with a limit.
    pub fn run_for(&self, command: &str, limit: Duration) -> Result<String> {
        let mut words = command.split_whitespace();
        let program = words.next().ok_or_else(|| Failure::new("no command"))?;
        let finished = process::run(program, self.command(program, words)?, limit, Some(self))?;
        if !finished.status.success() {
            crate::fail!("host: {command}: {}\n{}{}", finished.status, finished.stdout, finished.stderr);
        }
        Ok(finished.stdout)
    }

    /// Starts iperf3 as a server, with its log in `folder`, and waits until it listens.
    pub fn iperf_server(&self, folder: &Path) -> Result<Process> {
        let command = self.command("iperf3", ["-s", "--forceflush"].into_iter())?;
        let server = Process::spawn("iperf3", command, &folder.join("iperf3.log"), Some(self))?;
        wait::until("the host's iperf3", Duration::from_secs(5), || {
            Ok(server.output().contains("listening").then_some(()))
        })?;
        Ok(server)
    }

    fn command<'a>(&self, program: &str, arguments: impl Iterator<Item = &'a str>) -> Result<Command> {
        let mut command = Assets::get()?.tool(program);
        command.args(arguments);
        Ok(command)
    }
}

impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
