//! A switch for tests that drive the built program from outside.
#![allow(dead_code, reason = "each test file uses its part")]

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A switch in a network namespace of its own, so that its interfaces meet no others.
pub(crate) struct Switch {
    process: Child,
    folder: TempDir,
    pub(crate) namespace: Option<String>,
}

impl Switch {
    /// Starts a switch with the configuration file `config`.
    pub(crate) fn start(config: &str, namespace: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vsteer.toml"), config).unwrap();
        let namespace = namespace.map(|name| format!("{name}-{}", std::process::id()));
        if let Some(name) = &namespace {
            assert!(Command::new("ip").args(["netns", "add", name]).status().unwrap().success());
            // The interfaces say nothing by themselves, so counters are exact.
            let quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
            assert!(program(Some(name), "sh").args(["-c", quiet]).status().unwrap().success());
        }
        let mut command = program(namespace.as_deref(), env!("CARGO_BIN_EXE_vsteer"));
        command.args(["run", "--log", "warn", "--config"]).arg(folder.path().join("vsteer.toml"));
        command.arg("--control").arg(folder.path().join("control"));
        let process = command.spawn().unwrap();
        let switch = Self { process, folder, namespace };
        let begun = Instant::now();
        while UnixStream::connect(switch.path("control")).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the switch does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        switch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsteer"));
        command.args(["ctl", "--socket"]).arg(self.path("control")).args(args);
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.ctl_command(args).output().unwrap()
    }

    /// What `vsteer ctl` prints.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[args, &["--json"]].concat())).unwrap()
    }

    /// Why `vsteer ctl` refuses.
    pub(crate) fn refusal(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The number of packets that the rule with `cookie` has matched.
    pub(crate) fn packets(&self, cookie: &str) -> u64 {
        let rules = self.json(&["flow", "dump-flows", &format!("cookie={cookie}/-1")]);
        rules[0]["packets"].as_u64().unwrap()
    }

    /// Gives the host's side of the port `a` an address, 10.0.0.1, and a neighbour, 10.0.0.2, that never answers.
    pub(crate) fn address_a(&self) {
        self.in_namespace("ip addr add 10.0.0.1/24 dev a");
        self.in_namespace("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev a nud permanent");
    }

    /// Sends `count` UDP packets of two bytes to `port` of 10.0.0.2: frames of 44 bytes that come in by `a`.
    pub(crate) fn send_udp(&self, port: u16, count: usize) {
        self.in_namespace(&format!("for n in $(seq {count}); do echo x > /dev/udp/10.0.0.2/{port}; done"));
    }

    pub(crate) fn in_namespace(&self, script: &str) {
        let status = program(self.namespace.as_deref(), "bash").args(["-ec", script]).status().unwrap();
        assert!(status.success(), "{script}");
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(name) = &self.namespace {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A command that runs `name`, within a network namespace if one is given.
pub(crate) fn program(namespace: Option<&str>, name: &str) -> Command {
    match namespace {
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace, name]);
            command
        }
        None => Command::new(name),
    }
}

/// Whether TAP interfaces and namespaces can be made here; says so aloud if not.
pub(crate) fn has_privilege() -> bool {
    let name = format!("vsteer-probe-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
    let has = made.is_ok_and(|status| status.success()) && Path::new("/dev/net/tun").exists();
    let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
    if !has {
        eprintln!("SKIPPED: needs root, iproute2, bash and /dev/net/tun for TAP ports");
        assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI");
    }
    has
}

pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
