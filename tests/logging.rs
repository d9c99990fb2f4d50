//! What the switch says on standard error, and that nobody who reads it slowly, or not at all, stops anything.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Far longer than anything takes that waits for nobody.
const LIMIT: Duration = Duration::from_secs(20);

/// A switch with one guest's port and a control socket.
struct Switch {
    process: Child,
    folder: TempDir,
}

impl Switch {
    fn start(stderr: impl Into<Stdio>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsteer"));
        command.arg("run").arg("--control").arg(folder.path().join("control"));
        command.arg(format!("--port=vm0=vhost-user:{}", folder.path().join("vm0").display()));
        let process =
            command.env_remove("VSTEER_LOG").env_remove("JOURNAL_STREAM").stderr(stderr).spawn().unwrap();
        let switch = Self { process, folder };
        switch.wait_for("the switch starts", || UnixStream::connect(switch.path("control")).is_ok());
        switch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < LIMIT, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A front-end that connects, says that the port is its own, asks for the features and goes.
    fn front_end_comes_and_goes(&self) {
        const SET_OWNER: [u32; 3] = [3, 1, 0];
        const GET_FEATURES: [u32; 3] = [1, 1, 0];
        let mut front_end = UnixStream::connect(self.path("vm0")).unwrap();
        front_end.set_read_timeout(Some(LIMIT)).unwrap();
        front_end
            .write_all(
                &[SET_OWNER, GET_FEATURES]
                    .as_flattened()
                    .iter()
                    .flat_map(|word| word.to_ne_bytes())
                    .collect::<Vec<_>>(),
            )
            .unwrap();
        front_end.read_exact(&mut [0; 20]).unwrap();
    }

    /// Ends the switch as a supervisor does.
    fn end(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "SIGTERM does not end the switch");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Ended already, unless the test fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A pipe that is full, and its other end.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while match writer.write(&[b'\n'; 4096]) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    } {}
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer.into())
}

#[test]
fn standard_error_that_nobody_reads_stops_nothing() {
    let (_reader, stderr) = full_pipe();
    let mut switch = Switch::start(stderr);
    (0..20).for_each(|_| switch.front_end_comes_and_goes());
    let mut ctl = Command::new(env!("CARGO_BIN_EXE_vsteer"));
    let ctl = ctl.args(["ctl", "mirror", "list", "--socket"]).arg(switch.path("control")).output().unwrap();
    assert!(ctl.status.success(), "{}", String::from_utf8_lossy(&ctl.stderr));
    assert!(switch.end().success());
}

#[test]
fn what_was_queued_is_written_once_somebody_reads() {
    let (mut reader, stderr) = full_pipe();
    let mut switch = Switch::start(stderr);
    switch.front_end_comes_and_goes();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert!(switch.end().success());
    let text = reading.join().unwrap();
    for line in ["port added", "front-end connected", "front-end disconnected", "ending signal=\"SIGTERM\""] {
        assert!(text.contains(line), "{line}: {}", text.trim());
    }
    assert!(!text.contains("are lost"), "{}", text.trim());
}

#[test]
fn front_end_that_comes_and_goes_all_the_time_has_ten_lines_and_a_sum() {
    const TIMES: usize = 300;
    let mut switch = Switch::start(Stdio::piped());
    let mut stderr = switch.process.stderr.take().unwrap();
    (0..TIMES).for_each(|_| switch.front_end_comes_and_goes());
    assert!(switch.end().success());
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    for event in ["front-end connected", "front-end disconnected"] {
        let (sums, lines): (Vec<_>, Vec<_>) = text
            .lines()
            .filter(|line| line.contains(event))
            .partition(|line| line.contains("more of the same"));
        // One more for each minute that the test takes.
        assert!((10..13).contains(&lines.len()), "{text}");
        assert!(sums.iter().all(|sum| sum.contains("port=\"vm0\": and ")), "{text}");
        let summed: usize = sums
            .iter()
            .map(|sum| sum.split("and ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap())
            .sum();
        assert_eq!(lines.len() + summed, TIMES, "{text}");
    }
}

#[test]
fn why_a_start_fails_is_said_even_if_standard_error_is_slow() {
    let (mut reader, stderr) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsteer"));
    command.args(["run", "--control", "/nonexistent/control", "--port=vm0=vhost-user:/nonexistent/vm0"]);
    let mut process = command.stderr(stderr).spawn().unwrap();
    drop(command);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(1));
    assert!(text.trim().starts_with("vsteer: /nonexistent/control: "), "{text}");
}
