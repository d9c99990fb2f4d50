//! Memory of a running switch under clients of its control socket that ask for much: the built program, and what the kernel
//! says of its resident memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: usize = 1024 * 1024;

/// The longest line that the control socket takes.
const LINE_BYTES: usize = 16 * MIB;

/// A switch without ports.
struct Switch {
    process: Child,
    folder: TempDir,
}

impl Switch {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsteer"));
        command.args(["run", "--log", "warn", "--control"]).arg(folder.path().join("control"));
        let switch = Self { process: command.spawn().unwrap(), folder };
        let begun = Instant::now();
        while UnixStream::connect(switch.path("control")).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the switch does not start");
            thread::sleep(Duration::from_millis(10));
        }
        switch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("control")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// The reply to one request, which is sent whole before it is read.
    fn reply_to(&self, line: &str) -> Value {
        let mut stream = self.connect();
        stream.write_all(line.as_bytes()).unwrap();
        stream.write_all(b"\n").unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        serde_json::from_str(&reply).unwrap()
    }

    fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsteer"));
        command.args(["ctl", "--socket"]).arg(self.path("control")).args(args);
        command.output().unwrap()
    }

    /// Resident bytes.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Most resident bytes at any time while `work` is done.
    fn most_resident(&self, work: impl FnOnce()) -> usize {
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut most = self.resident();
                while !is_done.load(Ordering::Relaxed) {
                    most = most.max(self.resident());
                    thread::sleep(Duration::from_millis(2));
                }
                most
            });
            work();
            is_done.store(true, Ordering::Relaxed);
            watching.join().unwrap()
        })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn request(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
}

#[test]
fn many_clients_with_large_files_of_rules_take_no_more_than_a_bound_and_small_requests_pass() {
    let switch = Switch::start();
    // As many rules as fit a request; the last is wrong, so that none is kept.
    let mut text = String::new();
    for number in 0.. {
        let line = format!("priority={},udp,tp_dst={},actions=drop\n", number / 65_536 + 1, number % 65_536);
        if text.len() + line.len() + number + 2 > LINE_BYTES - 1024 {
            break;
        }
        text.push_str(&line);
    }
    text.push_str("actions=wrong\n");
    let large = request("rule_add", &json!({"text": text, "source": "acl"}));
    assert!(large.len() < LINE_BYTES);
    drop(text);

    let before = switch.resident();
    let is_done = AtomicBool::new(false);
    let most = switch.most_resident(|| {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..24).map(|_| scope.spawn(|| switch.reply_to(&large))).collect();
            let small = scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    assert!(switch.reply_to(&request("port_list", &json!({})))["result"].is_array());
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let (mut read, mut busy) = (0, 0);
            for client in clients {
                let error = client.join().unwrap()["error"].clone();
                match error["code"].as_i64() {
                    // Its turn came, and it was read to the end.
                    Some(-32602) => {
                        assert!(error["message"].as_str().unwrap().contains(": found \"wrong\""), "{error}");
                        read += 1;
                    }
                    // Its turn did not come in time.
                    Some(4) => busy += 1,
                    _ => panic!("{error}"),
                }
            }
            is_done.store(true, Ordering::Relaxed);
            small.join().unwrap();
            assert!(read >= 1 && read + busy == 24, "{read} {busy}");
        });
    });
    let grown = most.saturating_sub(before);
    println!("{} MiB more at most", grown / MIB);
    assert!(grown < 1024 * MIB, "{} MiB", grown / MIB);
}

#[test]
fn long_replies_that_nobody_takes_are_not_in_memory() {
    let switch = Switch::start();
    let rules: String = (0..100_000)
        .map(|number| {
            format!("priority={},udp,tp_dst={},actions=drop\n", number / 65_536 + 1, number % 65_536)
        })
        .collect();
    let added = switch.reply_to(&request("rule_add", &json!({"text": rules})));
    assert_eq!(added["result"]["added"], 100_000, "{added}");
    let before = switch.resident();
    let mut clients = Vec::new();
    let most = switch.most_resident(|| {
        for _ in 0..24 {
            let mut stream = switch.connect();
            stream.write_all(format!("{}\n", request("rule_dump", &json!({}))).as_bytes()).unwrap();
            clients.push(BufReader::with_capacity(1, stream));
        }
        // Each reply has begun.
        for client in &mut clients {
            assert_eq!(client.fill_buf().unwrap(), b"{");
        }
        assert!(switch.reply_to(&request("port_list", &json!({})))["result"].is_array());
    });
    let grown = most.saturating_sub(before);
    println!("{} MiB more at most", grown / MIB);
    // A reply has twenty megabytes.
    assert!(grown < 160 * MIB, "{} MiB", grown / MIB);

    // Whoever takes it gets it all.
    let all = switch.reply_to(&request("rule_dump", &json!({})));
    assert_eq!(all["result"].as_array().map(Vec::len), Some(100_001));
}

#[test]
fn request_over_the_limit_gets_its_reason_and_the_client_says_so_beforehand() {
    let switch = Switch::start();
    // Somebody who does not know the limit, and sends everything before it looks.
    let reply = switch.reply_to(&" ".repeat(LINE_BYTES + 8 * MIB));
    assert_eq!(reply["error"]["code"], -32600);
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("line longer than 16777216 bytes") && message.contains("in parts"),
        "{message}"
    );

    let line = "priority=1,udp,tp_dst=1,actions=drop\n";
    let acl = switch.path("acl");
    std::fs::write(&acl, line.repeat(LINE_BYTES / line.len() + 1)).unwrap();
    for command in ["add-flows", "replace-flows"] {
        let output = switch.ctl(&["flow", command, acl.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let expected = format!("vsteer: {}: makes a request of more than 16777216 bytes", acl.display());
        assert!(error.starts_with(&expected) && error.contains("split it and add the parts"), "{error}");
    }
    // A request that fits, and would take more than all requests may.
    let words = request("rule_add", &json!({"text": format!("actions={}1", "1,".repeat(5_000_000))}));
    let refused = switch.reply_to(&words);
    assert_eq!(refused["error"]["code"], 3, "{refused}");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("MiB of memory") && message.contains("in parts"), "{message}");
    assert!(switch.ctl(&["port", "list"]).status.success());
}
