//! The built program: what it prints, where, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Command, Output};

fn vsteer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vsteer")).args(args).env_remove("VSTEER_LOG").output().unwrap()
}

/// Standard output of a success that says nothing on standard error.
fn printed(args: &[&str]) -> String {
    let output = vsteer(args);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a failure that prints nothing on standard output.
fn refused(args: &[&str]) -> String {
    let output = vsteer(args);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn capabilities_are_the_whole_output() {
    assert_eq!(printed(&["--print-capabilities"]), "{\"type\": \"net\"}\n");
    assert_eq!(printed(&["--no-such-option", "--print-capabilities"]), "{\"type\": \"net\"}\n");
}

#[test]
fn version_is_printed() {
    assert_eq!(printed(&["--version"]), format!("vsteer {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn check_prints_file_and_command_line_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vsteer.toml");
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (control, vm0, vm1) = (path("control"), path("vm0"), path("vm1"));
    let text = format!(
        "poll = \"busy\"\ncontrol = {control:?}\n[port.vm1]\ntype = \"vhost-user\"\npath = {vm1:?}\n"
    );
    std::fs::write(&file, text).unwrap();
    let port = format!("vm0=vhost-user:{vm0},vlan=10");
    let rules = path("acl.flows");
    std::fs::write(&rules, "actions=resubmit(,acl)\ntable=acl,actions=normal\n").unwrap();
    let args = ["run", "--check", "--config", file.to_str().unwrap(), "--port", &port, "--table", "7=acl"];
    let args = [&args[..], &["--rules", &rules]].concat();
    assert_eq!(
        printed(&args),
        format!(
            "\
workers  1 (not pinned)
poll     busy
control  {control}
vlan-limit 1
fragments normal
port     vm1=vhost-user:{vm1},mac-limit=4096,queues=16,csum=on,tso=on
port     vm0=vhost-user:{vm0},vlan=10,mac-limit=4096,queues=16,csum=on,tso=on
table    7=acl
rules    {rules}
"
        )
    );
}

#[test]
fn errors_are_one_line_on_standard_error() {
    assert_eq!(
        refused(&["run", "--port", "vm0=vhost-usr:/x"]),
        "vsteer: --port vm0=vhost-usr:/x: unknown port type \"vhost-usr\"; use vhost-user:PATH, tap:IFNAME or pcap:FILE\n"
    );
    assert_eq!(
        refused(&["--fd=900000", "--check"]),
        "vsteer: --fd=900000: no such open descriptor (EBADF: Bad file number); the parent must leave it open\n"
    );
    assert_eq!(
        refused(&["run", "--check", "--table", "1=acl", "--table", "2=acl"]),
        "vsteer: --table 2=acl: the name \"acl\" is given to table 1 by --table 1=acl; use another\n"
    );
    let error = refused(&["ctl", "--socket", "/nonexistent/s", "stats"]);
    assert!(error.starts_with("vsteer: --socket /nonexistent/s: No such file or directory"), "{error}");
}

#[test]
fn a_socket_passed_by_number_is_taken() {
    // A shell passes its standard input, here one end of a socket pair, as descriptor 3.
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let output = Command::new("sh")
        .args(["-c", "exec \"$0\" --fd=3 --vm-options vlan=7 --check 3<&0", env!("CARGO_BIN_EXE_vsteer")])
        .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(ours)))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\ncontrol  none\n"), "{text}");
    assert!(text.contains("\nport     vm=vhost-user:fd 3,vlan=7,"), "{text}");
}

#[test]
fn ctl_talks_to_the_socket_it_is_given() {
    use std::io::{BufRead, BufReader, Write};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let answers = [
        r#"{"jsonrpc":"2.0","id":1,"result":{"protocol":1,"version":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":2,"result":[{"vlan":7,"mac":"52:54:00:00:00:01","port":"vm0","age_s":1,"static":false}]}"#,
    ];
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let serving = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for answer in answers {
                stream.read_line(&mut String::new()).unwrap();
                writeln!(stream.get_mut(), "{answer}").unwrap();
            }
        }
    });
    let ask = |path: &Path, format: &[&str]| {
        printed(&[&["ctl", "fdb", "show", "--socket", path.to_str().unwrap()], format].concat())
    };
    let table = ask(&path, &[]);
    assert_eq!(table, "VLAN  MAC                PORT   AGE\n   7  52:54:00:00:00:01  vm0   1.0s\n");
    let json = ask(&path, &["--json"]);
    assert!(json.starts_with("[\n  {\n"), "{json}");
    assert!(json.contains("\"mac\": \"52:54:00:00:00:01\""), "{json}");
    serving.join().unwrap();
}
