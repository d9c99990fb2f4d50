//! Guests' ports of the built program: what it lacks for a while, and whom it was started for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Far longer than anything takes that is not stuck.
const LIMIT: Duration = Duration::from_secs(30);

const GET_FEATURES: u32 = 1;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_PROTOCOL_FEATURES: u32 = 16;

/// Protocol feature: messages may be acknowledged.
const REPLY_ACK: u64 = 1 << 3;

/// A front-end waits for an answer.
const NEED_REPLY: u32 = 8;

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program, killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already, or the test fails or is over.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    [request, 1 | flags, len].iter().flat_map(|word| word.to_ne_bytes()).chain(body.iter().copied()).collect()
}

/// Memory regions that a front-end shares: as many descriptors come with one message.
const REGIONS: usize = 8;

/// Says what needs descriptors at the other side, and how it is answered: the features, and that the memory is taken.
fn introduce(stream: &UnixStream, memory: &File) -> std::io::Result<()> {
    let mut table = vec![u8::try_from(REGIONS).unwrap(), 0, 0, 0, 0, 0, 0, 0];
    for region in 0..REGIONS as u64 {
        let words = [region << 20, 4096, region << 20, 4096 * region];
        table.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }
    let acknowledged = message(SET_PROTOCOL_FEATURES, 0, &REPLY_ACK.to_ne_bytes());
    let greeting = [message(SET_OWNER, 0, &[]), message(GET_FEATURES, 0, &[]), acknowledged].concat();
    (&mut &*stream).write_all(&greeting)?;
    let table = message(SET_MEM_TABLE, NEED_REPLY, &table);
    let fds = [memory.as_raw_fd(); REGIONS];
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(&table)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    assert_eq!(sent, table.len());
    Ok(())
}

/// Reads both answers; true if they say that all is well.
fn is_served(mut stream: &UnixStream) -> std::io::Result<bool> {
    let mut answers = [0; 40];
    stream.set_read_timeout(Some(LIMIT))?;
    stream.read_exact(&mut answers)?;
    Ok(answers[20] == 5 && answers[32..] == [0; 8])
}

/// A front-end of a port: it connects, or is connected to.
enum FrontEnd {
    Connects(PathBuf),
    Listens(UnixListener),
}

impl FrontEnd {
    fn open(&self) -> UnixStream {
        match self {
            FrontEnd::Connects(path) => UnixStream::connect(path).unwrap(),
            FrontEnd::Listens(listener) => listener.accept().unwrap().0,
        }
    }
}

/// Sets the process's soft limit of open files, which may be raised again.
fn limit_descriptors(pid: u32, limit: usize) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")]);
    assert!(command.status().unwrap().success());
}

fn descriptor_limit(pid: u32) -> usize {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn ports_live_again_when_descriptors_come_back() {
    const PORTS: usize = 10;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsteer"));
    command.env_remove("VSTEER_LOG").arg("run").arg("--control").arg(path("control"));
    let front_ends: Vec<_> = (0..PORTS)
        .map(|n| {
            let socket = path(&format!("vm{n}"));
            let is_client = n % 4 == 3;
            let mode = if is_client { ",mode=client" } else { "" };
            command.arg(format!("--port=vm{n}=vhost-user:{}{mode}", socket.display()));
            if is_client {
                FrontEnd::Listens(UnixListener::bind(socket).unwrap())
            } else {
                FrontEnd::Connects(socket)
            }
        })
        .collect();
    let log = File::create(path("log")).unwrap();
    let mut program = Program(command.stderr(log).spawn().unwrap());
    let pid = program.0.id();
    wait_for("the switch starts", || UnixStream::connect(path("control")).is_ok());
    let limit = descriptor_limit(pid);
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(1 << 20).unwrap();
    let held = |stream: &UnixStream| introduce(stream, &memory);
    for spare in [0, 1, 2, 4, 7, 11] {
        let open = open_descriptors(pid);
        limit_descriptors(pid, open + spare);
        // Those that are connected to have to wait until that works again.
        let early = |front_end: &FrontEnd| match front_end {
            FrontEnd::Connects(_) => Some(front_end.open()),
            FrontEnd::Listens(_) => None,
        };
        let streams: Vec<_> = front_ends.iter().map(early).collect();
        // What is sent by a front-end that was turned away is lost; it comes again below.
        let _ = streams.iter().flatten().try_for_each(held);
        std::thread::sleep(Duration::from_millis(300));
        limit_descriptors(pid, limit);
        for (port, (front_end, mut stream)) in front_ends.iter().zip(streams).enumerate() {
            wait_for(&format!("port {port} lives again ({spare} descriptors were left)"), || {
                let is_live = stream.as_ref().is_some_and(|stream| matches!(is_served(stream), Ok(true)));
                if !is_live {
                    let again = front_end.open();
                    let _ = held(&again);
                    stream = Some(again);
                }
                is_live
            });
        }
        assert!(program.0.try_wait().unwrap().is_none());
        let mut before = 0;
        wait_for("all is closed that the front-ends sent", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = open_descriptors(pid);
            std::mem::replace(&mut before, now) == now
        });
    }
    let log = std::fs::read_to_string(path("log")).unwrap();
    assert!(log.contains("tried again until it works") && log.contains("can be served again"), "{log}");
}

/// The program as a hypervisor's sidecar, with one end of a socket pair as its descriptor 3; the other end.
fn sidecar(errors: &Path) -> (Program, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let process = Command::new("sh")
        .args(["-c", "exec \"$0\" --fd=3 3<&0 </dev/null", env!("CARGO_BIN_EXE_vsteer")])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stderr(File::create(errors).unwrap())
        .env_remove("VSTEER_LOG")
        .spawn()
        .unwrap();
    (Program(process), ours)
}

#[test]
fn sidecar_ends_when_its_vm_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let errors = folder.path().join("errors");
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(1 << 20).unwrap();
    for says_something in [true, false] {
        let (mut program, stream) = sidecar(&errors);
        if says_something {
            introduce(&stream, &memory).unwrap();
            assert!(is_served(&stream).unwrap());
            assert!(program.0.try_wait().unwrap().is_none());
        }
        drop(stream);
        let mut status = None;
        wait_for("the sidecar ends", || {
            status = program.0.try_wait().unwrap();
            status.is_some()
        });
        let said = std::fs::read_to_string(&errors).unwrap();
        assert_eq!(status.unwrap().code(), Some(0), "{said}");
        assert!(said.contains("the VM behind --fd=3 has gone"), "{said}");
    }
}
