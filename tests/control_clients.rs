//! Clients of the control socket that are careless or mean no good, and the operator beside them: the built program.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use self::rig::{LIMIT, Switch, vsteer, wait_for};

/// More than the switch serves at one time.
const MANY: usize = 80;

struct Rig {
    switch: Switch,
    folder: TempDir,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control");
        let switch = Switch::start(vsteer(["run", "--log", "warn", "--control"]).arg(&control), &control);
        Self { switch, folder }
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.control()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Makes sure that an operator is served.
    fn assert_usable(&self) {
        assert!(self.switch.ctl(&["mirror", "list"]).starts_with("no mirrors"));
        self.switch.ctl(&["flow", "add", "priority=5,arp,actions=drop"]);
    }

    fn status(&self, field: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.switch.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn threads(&self) -> usize {
        self.status("Threads:")
    }
}

fn read_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

/// Sends what the socket takes.
fn send_what_fits(stream: &mut UnixStream, bytes: &[u8]) {
    stream.set_nonblocking(true).unwrap();
    let mut left = bytes;
    while !left.is_empty() {
        match stream.write(left) {
            Ok(count) => left = &left[count..],
            // Full, or the switch has ended the connection.
            Err(error) => {
                let expected = [ErrorKind::WouldBlock, ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
                assert!(expected.contains(&error.kind()), "{error}");
                return;
            }
        }
    }
}

#[test]
fn thousand_silent_connections_leave_room_for_the_operator_and_end_no_watch() {
    // Both ends of each are descriptors of some process.
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--nofile=4096:"]).status().unwrap();
    assert!(raised.success(), "the limit of open files cannot be raised to 4096");
    let rig = Rig::start();
    let mut watching = rig.connect();
    watching.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"monitor\"}\n").unwrap();
    assert!(read_line(&watching).contains("\"result\":null"));
    let silent: Vec<UnixStream> = (0..1000).map(|_| rig.connect()).collect();
    for _ in 0..10 {
        rig.assert_usable();
    }
    watching.set_nonblocking(true).unwrap();
    assert_eq!(watching.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the watch goes on");
    drop(silent);
    wait_for("threads end with their connections", || rig.threads() < 20);
}

#[test]
fn lines_without_an_end_hold_nobody_up_and_no_thread_waits_for_one_who_is_gone() {
    let rig = Rig::start();
    let before = rig.threads();
    let megabyte = vec![b'['; 1024 * 1024];
    let mut endless: Vec<UnixStream> = (0..MANY).map(|_| rig.connect()).collect();
    endless.iter_mut().for_each(|stream| send_what_fits(stream, &megabyte));
    for _ in 0..10 {
        rig.assert_usable();
    }
    // Of several hundred that come and go, a few wait for a place at any time.
    for _ in 0..10 {
        let mut more: Vec<UnixStream> = (0..MANY).map(|_| rig.connect()).collect();
        more.iter_mut().for_each(|stream| send_what_fits(stream, &megabyte));
        rig.assert_usable();
        assert!(rig.threads() < before + 2 * MANY, "{} threads", rig.threads());
    }
    drop(endless);
    wait_for("threads end with their connections", || rig.threads() <= before + 1);
}

#[test]
fn what_is_no_request_gets_its_reason_and_half_a_request_ends_with_its_connection() {
    let rig = Rig::start();
    let deep = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    let nested = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"port_list","params":{}}}"#, deep(1_000_000));
    let object = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"port_show","params":{}1{}}}"#,
        r#"{"name":"#.repeat(100_000),
        "}".repeat(100_000)
    );
    let id = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"port_list"}}"#, deep(1_000_000));
    for (line, code) in [
        (&b"\xff\xfe\x80"[..], -32700),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"port\xff\"}", -32700),
        (b"\0\0\0\0", -32700),
        (nested.as_bytes(), -32602),
        (object.as_bytes(), -32602),
        (id.as_bytes(), -32600),
        (deep(4_000_000).as_bytes(), -32600),
        (&b"[".repeat(8_000_000), -32700),
    ] {
        let mut stream = rig.connect();
        stream.write_all(line).unwrap();
        stream.write_all(b"\n").unwrap();
        let reply: Value = serde_json::from_str(&read_line(&stream)).unwrap();
        assert_eq!(
            reply["error"]["code"],
            code,
            "{:?}: {reply}",
            String::from_utf8_lossy(&line[..line.len().min(60)])
        );
        assert!(reply.to_string().len() < 2000, "a reason is short");
        rig.assert_usable();
    }
    let before = rig.threads();
    for half in [&b"{\"jsonrpc\":\"2.0\",\"id\":1,"[..], b"{", &b" ".repeat(100_000)] {
        let mut stream = rig.connect();
        stream.write_all(half).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "no answer, and the end");
    }
    rig.assert_usable();
    wait_for("threads end with their connections", || rig.threads() <= before + 1);
}

#[test]
fn clients_that_never_read_their_replies_hold_nobody_up() {
    let rig = Rig::start();
    let before = (rig.threads(), rig.status("VmRSS:"));
    let requests = r#"{"jsonrpc":"2.0","id":1,"method":"stats"}
"#
    .repeat(20_000);
    let mut deaf: Vec<UnixStream> = (0..MANY).map(|_| rig.connect()).collect();
    deaf.iter_mut().for_each(|stream| send_what_fits(stream, requests.as_bytes()));
    for _ in 0..10 {
        rig.assert_usable();
    }
    let grown = rig.status("VmRSS:").saturating_sub(before.1);
    assert!(grown < 64 * 1024, "{grown} kB");
    // They are given up while they are still there.
    wait_for("threads of clients that read nothing end", || rig.threads() <= before.0 + 1);
    drop(deaf);
}
