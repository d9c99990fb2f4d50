//! The command line as operators and QEMU's tools use it: side-car options, sockets, ends and errors.

#![allow(unsafe_code, reason = "lets a child inherit a descriptor")]

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use vsteer_qemu_tests::failure::{Context, Result};
use vsteer_qemu_tests::namespace::Namespace;
use vsteer_qemu_tests::process::{Finished, Process, run};
use vsteer_qemu_tests::switch::Switch;
use vsteer_qemu_tests::{assets, ensure, fail, wait};

const LIMIT: Duration = Duration::from_secs(5);

/// VHOST_USER_F_PROTOCOL_FEATURES and VIRTIO_F_VERSION_1: without either no front-end of today works.
const FEATURES: u64 = 1 << 30 | 1 << 32;

#[test]
fn socket_path_serves_a_front_end_and_sigterm_removes_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("vm.sock");
    let mut sidecar = sidecar(&format!("--socket-path={}", socket.display()), folder.path())?;
    let connect = || match sidecar.ended()? {
        Some(status) => fail!("the side-car ended: {status}\n{}", sidecar.output()),
        None => Ok(UnixStream::connect(&socket).ok()),
    };
    let front_end = wait::until("the socket", LIMIT, connect)?;
    let features = get_features(front_end)?;
    ensure!(features & FEATURES == FEATURES, "features {features:#x}");
    ends_quickly(&mut sidecar)?;
    ensure!(!socket.exists(), "the socket file is still there");
    Ok(())
}

#[test]
fn fd_serves_the_connection_it_names() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(assets::vsteer()?);
    let number = theirs.as_raw_fd();
    command.arg(format!("--fd={number}"));
    let inherit = move || {
        // SAFETY: F_SETFD takes no pointers; it clears close-on-exec, in the child only.
        match unsafe { libc::fcntl(number, libc::F_SETFD, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(inherit) };
    let mut sidecar = Process::spawn("vsteer --fd", command, &folder.path().join("log"), None)?;
    drop(theirs);
    let features =
        get_features(ours).map_err(|failure| format!("{failure}\n{}", sidecar.output())).context("--fd")?;
    ensure!(features & FEATURES == FEATURES, "features {features:#x}");
    ends_quickly(&mut sidecar)
}

#[test]
fn print_capabilities_is_json_of_a_net_back_end() -> Result<()> {
    let finished = vsteer(&["--print-capabilities"])?;
    ensure!(finished.status.success(), "{finished:?}");
    let capabilities: serde_json::Value = serde_json::from_str(&finished.stdout).context(&finished.stdout)?;
    ensure!(capabilities["type"] == "net", "{capabilities}");
    Ok(())
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("vm0.sock");
    drop(UnixListener::bind(&socket)?);
    let namespace = Namespace::new()?;
    let port = format!("vm0=vhost-user:{}", socket.display());
    let mut switch = Switch::start(std::slice::from_ref(&port), folder.path(), &namespace)?;
    get_features(UnixStream::connect(&socket)?)?;

    let second = folder.path().join("second.sock").display().to_string();
    refused(&["run", "--port", &port, "--control", &second], &[&socket.display().to_string()])?;
    get_features(UnixStream::connect(&socket)?).context("the first switch lost its socket")?;
    let taken = switch.terminate()?;
    ensure!(taken < Duration::from_secs(1), "SIGTERM took {taken:?}");
    Ok(())
}

#[test]
fn ports_come_and_go_while_running() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let namespace = Namespace::new()?;
    let socket = |name: &str| folder.path().join(name);
    let port = |name: &str| format!("{name}=vhost-user:{}", socket(name).display());
    let mut switch = Switch::start(&[port("first")], folder.path(), &namespace)?;
    // What the first port added at run time sets up for good (thread arenas of the allocator) is no leak.
    switch.ctl_text(&format!("port add {}", port("warm-up")))?;
    get_features(UnixStream::connect(socket("warm-up"))?)?;
    switch.ctl_text("port del warm-up")?;
    let before = switch.process().holdings()?;
    switch.ctl_text(&format!("port add {}", port("second")))?;
    get_features(UnixStream::connect(socket("second"))?)?;
    ensure!(switch.ctl_text("port list")?.contains("second"), "the new port is not listed");
    switch.ctl_text("port del second")?;
    ensure!(!switch.ctl_text("port list")?.contains("second"), "the removed port is listed");
    ensure!(!socket("second").exists(), "the removed port left its socket file");
    ensure!(switch.ctl_text("port del second").is_err(), "an unknown port was removed");
    vsteer_qemu_tests::switch::settles(switch.process(), before, LIMIT)?;
    for query in ["port show first", "fdb show", "fdb flush", "flow dump", "stats"] {
        switch.ctl(query)?;
        switch.ctl_text(query)?;
    }
    Ok(())
}

#[test]
fn errors_name_option_value_and_remedy() -> Result<()> {
    refused(&["run", "--port", "vm0=carrier-pigeon:x"], &["--port", "carrier-pigeon", "vhost-user"])?;
    refused(&["run", "--port", "vm0=vhost-user:/tmp/x,vlan=9999"], &["vlan", "9999"])?;
    refused(&["run", "--port", "vm0=vhost-user:/tmp/x,colour=red"], &["colour", "vlan"])?;
    refused(&["run", "--port", "a=vhost-user:/tmp/x", "--port", "a=vhost-user:/tmp/y"], &["a"])?;
    refused(&["run", "--poll", "sometimes"], &["sometimes", "adaptive"])?;
    refused(&["run", "--config", "/nonexistent.toml"], &["/nonexistent.toml"])?;
    refused(&["--fd=900"], &["900"])?;
    refused(&["ctl", "--socket", "/nonexistent.sock", "stats"], &["/nonexistent.sock"])?;
    refused(&["run", "--port", "vm0=vhost-user:/nonexistent/vm0.sock"], &["/nonexistent"])
}

fn sidecar(argument: &str, folder: &Path) -> Result<Process> {
    let mut command = Command::new(assets::vsteer()?);
    command.arg(argument);
    Process::spawn("vsteer", command, &folder.join("log"), None)
}

fn ends_quickly(process: &mut Process) -> Result<()> {
    let start = Instant::now();
    process.terminate()?;
    let status = process.wait(LIMIT)?;
    let taken = start.elapsed();
    ensure!(
        status.success() && taken < Duration::from_secs(1),
        "{status} after {taken:?}\n{}",
        process.output()
    );
    Ok(())
}

fn vsteer(arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new(assets::vsteer()?);
    command.args(arguments);
    run("vsteer", command, LIMIT, None)
}

/// The command must fail by itself, without a panic, and say all of `words`.
fn refused(arguments: &[&str], words: &[&str]) -> Result<()> {
    let Finished { status, stdout, stderr } = vsteer(arguments).context(format!("vsteer {arguments:?}"))?;
    ensure!(
        status.code().is_some_and(|code| code != 0 && code != 101),
        "{arguments:?}: {status}\n{stdout}{stderr}"
    );
    for word in words {
        ensure!(stderr.contains(word), "{arguments:?}: the message does not say {word:?}: {stderr}");
    }
    Ok(())
}

/// Sends VHOST_USER_GET_FEATURES and reads the reply: header of three 32-bit words, then the features.
fn get_features(mut front_end: UnixStream) -> Result<u64> {
    front_end.set_read_timeout(Some(LIMIT))?;
    let header = [1u32, 1, 0].map(u32::to_le_bytes).concat();
    front_end.write_all(&header)?;
    let mut reply = [0; 20];
    front_end.read_exact(&mut reply).context("no reply to GET_FEATURES")?;
    let (header, payload) = reply.split_at(12);
    ensure!(header[..4] == [1, 0, 0, 0] && header[8..] == [8, 0, 0, 0], "reply's header is {header:?}");
    Ok(u64::from_le_bytes(payload.try_into()?))
}
