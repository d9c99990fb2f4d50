//! A switch that runs out of descriptors, and has some again later: the built program, its limit lowered while it runs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use self::rig::{LIMIT, Namespace, Switch, vsteer, wait_for};

/// A switch whose log goes to a file.
struct Rig {
    switch: Switch,
    folder: TempDir,
}

impl Rig {
    /// Starts a switch by `command`, which gets its control socket.
    fn start(mut command: Command, prepare: impl FnOnce(&mut Command, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control");
        command.arg("--control").arg(&control).stderr(File::create(folder.path().join("log")).unwrap());
        prepare(&mut command, folder.path());
        Self { switch: Switch::start(&mut command, &control), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn times_logged(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.switch.process.id())).unwrap().count()
    }

    /// Sets how many descriptors the switch may have.
    fn set_limit(&self, limit: usize) {
        let pid = self.switch.process.id().to_string();
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status();
        assert!(set.unwrap().success());
    }

    /// Leaves the switch one descriptor for a client of the control socket, and none beyond that.
    fn run_short(&self) {
        // Clients that have gone have given back theirs.
        let mut before = 0;
        wait_for("the number of descriptors settles", || {
            thread::sleep(Duration::from_millis(50));
            let now = self.descriptors();
            std::mem::replace(&mut before, now) == now
        });
        self.set_limit(before + 1);
    }

    /// A client that is served and stays.
    fn client(&self) -> UnixStream {
        let mut client = UnixStream::connect(self.path("control")).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\"}\n").unwrap();
        let mut reply = String::new();
        BufReader::new(&client).read_line(&mut reply).unwrap();
        assert!(reply.contains("\"protocol\""), "{reply}");
        client
    }
}

/// A front-end that connects and asks for the features.
fn front_end(path: &Path) {
    const GET_FEATURES: [u32; 3] = [1, 1, 0];
    let mut front_end = UnixStream::connect(path).unwrap();
    front_end.set_read_timeout(Some(LIMIT)).unwrap();
    front_end.write_all(&GET_FEATURES.map(u32::to_ne_bytes).concat()).unwrap();
    front_end.read_exact(&mut [0; 20]).unwrap();
}

const SHORT: &str = "the control socket takes no more clients for now";
const OVER: &str = "the control socket takes clients again";

#[test]
fn control_socket_serves_one_client_without_descriptors_and_all_of_them_afterwards() {
    let rig = Rig::start(vsteer(["run"]), |_, _| ());
    rig.run_short();
    // One after the other.
    for _ in 0..5 {
        rig.switch.ctl(&["port", "list"]);
    }
    let vm0 = format!("vm0=vhost-user:{}", rig.path("vm0").display());
    let said = rig.switch.refusal(&["port", "add", &vm0]);
    assert!(said.contains("Too many open files") && said.contains("raise the limit of open files"), "{said}");
    assert!(!rig.path("vm0").exists());

    // The second waits for the first to go, or for descriptors.
    for is_raised in [false, true] {
        rig.run_short();
        let first = rig.client();
        let second = vsteer(["ctl", "port", "list", "--socket"])
            .arg(rig.path("control"))
            .stdout(Stdio::piped())
            .spawn();
        wait_for("it is said that clients wait", || rig.times_logged(SHORT) > 0);
        thread::sleep(Duration::from_millis(300));
        if is_raised {
            rig.set_limit(1024);
            let output = second.unwrap().wait_with_output().unwrap();
            assert!(output.status.success());
            drop(first);
        } else {
            drop(first);
            assert!(second.unwrap().wait_with_output().unwrap().status.success());
        }
    }
    wait_for("it is said that they are served again", || rig.times_logged(OVER) > 0);
    rig.switch.ctl(&["port", "add", &vm0]);
    front_end(&rig.path("vm0"));
    // A line when it begins and one when it is over, however long it lasts.
    let (short, over) = (rig.times_logged(SHORT), rig.times_logged(OVER));
    assert!(short <= 10 && over <= short, "{}", rig.log());
}

#[test]
fn supervisor_is_told_and_signals_are_taken_after_a_shortage() {
    let mut notified = None;
    let mut rig = Rig::start(vsteer(["run"]), |command, folder| {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        command.env("NOTIFY_SOCKET", &path);
        notified = Some(socket);
    });
    let told = || {
        let mut buffer = [0; 256];
        let count = notified.as_ref().unwrap().recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert!(told().contains("READY=1"));
    rig.run_short();
    let client = rig.client();
    thread::sleep(Duration::from_millis(300));
    rig.set_limit(1024);
    rig.switch.ctl(&["port", "list"]);
    assert!(rig.switch.end().success());
    assert!(told().contains("STOPPING=1"));
    drop(client);
}

#[test]
fn signals_are_taken_during_a_shortage() {
    let mut rig = Rig::start(vsteer(["run"]), |_, _| ());
    rig.run_short();
    let _client = rig.client();
    assert!(rig.switch.end().success());
    assert!(!rig.path("control").exists());
}

#[test]
fn nothing_needs_a_folder_for_temporary_files() {
    let rig = Rig::start(vsteer(["run"]), |command, folder| {
        command
            .env("TMPDIR", "/nonexistent")
            .arg(format!("--port=vm0=vhost-user:{}", folder.join("vm0").display()));
    });
    front_end(&rig.path("vm0"));
    rig.switch.ctl(&["port", "show", "vm0"]);
    rig.switch.ctl(&["flow", "add", "priority=5,arp,actions=drop"]);
    rig.switch.ctl(&["top", "--interval", "0.1", "--count", "1"]);
}

#[test]
fn packets_are_switched_counted_and_handed_out_during_a_shortage_and_after_it() {
    let Some(namespace) = Namespace::new("short") else { return };
    let bash = |script: &str| namespace.run(script);
    bash("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
    let mut run = namespace.command(env!("CARGO_BIN_EXE_vsteer"));
    run.args(["run", "--port=a=tap:a", "--port=b=tap:b"]);
    let rig = Rig::start(run, |_, _| ());
    bash("ip addr add 10.0.0.1/24 dev a; ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev a nud permanent");
    let send =
        |count: usize| bash(&format!("for n in $(seq {count}); do echo x > /dev/udp/10.0.0.2/7; done"));
    rig.switch.ctl(&["flow", "add", "cookie=1,priority=9,udp,actions=controller(id=4),normal"]);
    let monitor = rig.path("monitor");
    let watching = vsteer(["ctl", "monitor", "--id", "4", "--socket"])
        .arg(rig.path("control"))
        .stdout(File::create(&monitor).unwrap())
        .spawn()
        .unwrap();
    let mut watching = rig::Killed(watching);
    let seen = || fs::read_to_string(&monitor).unwrap().lines().count();
    let mut sent = 0;
    wait_for("the monitor has begun", || {
        send(1);
        sent += 1;
        thread::sleep(Duration::from_millis(100));
        seen() > 0
    });
    let first = sent - seen();
    let counted = |packets: usize| {
        let rules = rig.switch.ctl(&["flow", "dump-flows", "cookie=1/-1"]);
        rules.contains(&format!("n_packets={packets},"))
    };

    // During the shortage.
    rig.run_short();
    let tap = rig.switch.refusal(&["port", "add", "c=tap:c"]);
    assert!(tap.contains("tap c: ") && tap.contains("raise the limit of open files"), "{tap}");
    let client = rig.client();
    send(5);
    sent += 5;
    wait_for("packets are handed out", || seen() == sent - first);
    drop(client);
    wait_for("packets are counted", || counted(sent));

    // After it.
    rig.set_limit(1024);
    send(5);
    sent += 5;
    wait_for("packets are handed out", || seen() == sent - first);
    wait_for("packets are counted", || counted(sent));
    rig.switch.ctl(&["port", "add", "c=tap:c"]);
    let counters = rig.switch.ctl(&["port", "show", "b", "--json"]);
    assert!(counters.contains(&format!("\"tx_pkts\": {sent}")), "{counters}");
    rig.switch.ctl(&["port", "del", "c"]);
    assert!(watching.0.try_wait().unwrap().is_none());
}
