//! The built program as tests run it: started with arguments, asked by `vsteer ctl`, ended as a supervisor does.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far longer than anything takes that waits for nobody.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A command that runs the program, without what the environment says about its log.
pub(crate) fn vsteer<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsteer"));
    command.args(args).env_remove("VSTEER_LOG").env_remove("JOURNAL_STREAM").stdin(Stdio::null());
    command
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running program, which is killed when a test ends before it.
pub(crate) struct Switch {
    pub(crate) process: Child,
    control: PathBuf,
}

impl Switch {
    /// Starts `command`, which has its control socket at `control`, and waits until it answers there.
    pub(crate) fn start(command: &mut Command, control: &Path) -> Self {
        let switch = Self { process: command.spawn().unwrap(), control: control.to_owned() };
        wait_for("the switch starts", || UnixStream::connect(control).is_ok());
        switch
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap())
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        vsteer(["ctl", "--socket"]).arg(&self.control).args(args).output().unwrap()
    }

    /// What `vsteer ctl` prints.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Why `vsteer ctl` refuses.
    pub(crate) fn refusal(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Ends the switch as a supervisor does.
    pub(crate) fn end(&mut self) -> ExitStatus {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "SIGTERM does not end the switch");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Ended already, unless the test ends in the middle.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that is killed at the end of the test, if it has not ended before.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace, which goes at the end of the test.
pub(crate) struct Namespace(String);

impl Namespace {
    /// A namespace for interfaces that belong to `test`; `None`, said aloud, where TAP interfaces cannot be made.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let name = format!("vsteer-{test}-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
        let namespace = made.is_ok_and(|status| status.success()).then_some(Self(name));
        if namespace.is_some() && Path::new("/dev/net/tun").exists() {
            return namespace;
        }
        eprintln!("SKIPPED: needs root, iproute2, bash and /dev/net/tun for TAP ports");
        assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI");
        None
    }

    /// A command that runs in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.0, program])
            .env_remove("VSTEER_LOG")
            .env_remove("JOURNAL_STREAM");
        command
    }

    /// Runs a script in it.
    pub(crate) fn run(&self, script: &str) {
        assert!(self.command("bash").args(["-ec", script]).status().unwrap().success(), "{script}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}
