//! Starting the built program where it must not, or cannot: what it says, and that nothing of others is lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use self::rig::{Namespace, Switch, vsteer, wait_for};

/// Everything in a folder: names, and which files they are.
fn listing(folder: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut list: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino()))
        .collect();
    list.sort();
    list
}

/// A socket that no process has any more.
fn leave_stale_socket(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

/// Why the program ends at once.
fn refusal(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

/// Why a start fails, and `--check` as well: for the same reason.
fn refusal_of_both(args: &[&str]) -> String {
    let check = refusal(&mut vsteer([&["run", "--check"], args].concat()));
    let run = refusal(&mut vsteer([&["run", "--log", "off"], args].concat()));
    assert_eq!(check.lines().next(), run.lines().next());
    check
}

fn port(path: &Path) -> String {
    format!("--port=vm0=vhost-user:{}", path.display())
}

#[test]
fn of_two_that_start_at_once_on_one_path_exactly_one_has_it() {
    for round in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm0");
        // What a switch that was killed leaves behind, in every other round.
        if round % 2 == 0 {
            leave_stale_socket(&path);
        }
        let start = |name: &str| -> Child {
            let control = folder.path().join(name);
            vsteer(["run", "--log", "off", "--control"])
                .arg(control)
                .arg(port(&path))
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut both = ["a", "b"].map(start);
        let mut ended = None;
        wait_for("one of the two ends", || {
            ended = both.iter_mut().position(|process| process.try_wait().unwrap().is_some());
            ended.is_some()
        });
        let loser = ended.unwrap();
        let connected = UnixStream::connect(&path);
        let winner_runs = both[1 - loser].try_wait().unwrap().is_none();
        for process in &mut both {
            let _ = process.kill();
        }
        let [a, b] = both.map(|process| process.wait_with_output().unwrap());
        let loser = if loser == 0 { a } else { b };
        let said = String::from_utf8(loser.stderr).unwrap();
        assert_eq!(loser.status.code(), Some(1), "round {round}: {said}");
        let expected = format!("vsteer: {}: this socket is in use", path.display());
        assert!(said.starts_with(&expected), "round {round}: {said}");
        assert!(winner_runs, "round {round}: both ended");
        connected.unwrap_or_else(|error| panic!("round {round}: nobody answers: {error}"));
    }
}

#[test]
fn start_that_fails_has_neither_replaced_nor_removed_nor_left_anything() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let theirs = UnixListener::bind(path("theirs")).unwrap();
    theirs.set_nonblocking(true).unwrap();
    leave_stale_socket(&path("stale"));
    fs::write(path("file"), "precious").unwrap();
    let before = listing(folder.path());
    for last in ["theirs", "file", "missing/vm", "control"] {
        let ports = ["new", "stale", last]
            .map(|name| format!("--port={}=vhost-user:{}", name.replace('/', "-"), path(name).display()));
        let mut command = vsteer(["run", "--log", "off", "--control"]);
        let said = refusal(command.arg(path("control")).args(ports));
        assert!(said.contains(path(last).to_str().unwrap()), "{said}");
        assert_eq!(listing(folder.path()), before, "{last}");
    }
    assert_eq!(fs::read_to_string(path("file")).unwrap(), "precious");
    UnixStream::connect(path("theirs")).unwrap();
    theirs.accept().unwrap();

    // The control socket of a switch that runs: its ports are out of reach before any is opened.
    let mut running = Switch::start(vsteer(["run", "--control"]).arg(path("control")), &path("control"));
    let said = refusal(vsteer(["run", "--control"]).arg(path("control")).arg(port(&path("stale"))));
    assert!(
        said.starts_with(&format!("vsteer: {}: this socket is in use", path("control").display())),
        "{said}"
    );
    running.ctl(&["port", "list"]);
    assert!(running.end().success());
    assert_eq!(listing(folder.path()), before, "its own socket goes with it");
}

#[test]
fn check_finds_what_run_would_find_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let control = format!("--control={}", path("control"));
    let vm = |name: &str| format!("--port=vm0=vhost-user:{}", path(name));
    let _theirs = UnixListener::bind(path("theirs")).unwrap();
    let _datagrams = UnixDatagram::bind(path("datagrams")).unwrap();
    leave_stale_socket(Path::new(&path("stale")));
    fs::write(path("file"), "precious").unwrap();
    std::os::unix::fs::symlink(path("stale"), path("link")).unwrap();
    std::os::unix::fs::symlink(folder.path(), path("folder")).unwrap();
    let acl = path("acl");
    fs::write(&acl, format!("actions={}1\n", "1,".repeat(5000))).unwrap();
    let before = listing(folder.path());

    // Nothing wrong: it prints what it understood.
    let fine = vsteer(["run", "--check", &control, &vm("stale")]).output().unwrap();
    assert!(fine.status.success(), "{}", String::from_utf8_lossy(&fine.stderr));
    assert!(String::from_utf8(fine.stdout).unwrap().contains("port     vm0=vhost-user:"));
    assert_eq!(listing(folder.path()), before);

    // Each names the value and what to try.
    let long = "x".repeat(108);
    for (args, value, advice) in [
        (&[&vm("theirs")[..]][..], path("theirs"), "choose another path"),
        (&[&vm("datagrams")], path("datagrams"), "choose another path"),
        (&[&vm("file")], path("file"), "remove it, or choose another path"),
        (&[&vm("link")], path("link"), "choose another path"),
        (&[&vm("missing/vm0")], path("missing/vm0"), "make the folder"),
        (&[&vm("file/vm0")], path("file/vm0"), "is no folder"),
        (&[&vm(&long)], path(&long), "at most 107"),
        (&[&vm("control")], path("control"), "is the control socket"),
        (&[&vm("folder/control")], path("folder/control"), "is the control socket"),
        (&[&vm("a"), "--port=vm0=tap:t0"], "\"vm0\"".into(), "use another"),
        (&[&vm("a"), &vm("folder/a").replace("vm0=", "vm1=")], path("folder/a"), "give each port its own"),
        (&["--port=vm0=tap:a-name-too-long-by-far"], "a-name-too-long-by-far".into(), "1 to 15"),
        (&["--port=host=tap:t0,mtu=65522"], "65522".into(), "choose 68 to 65521"),
        (&["--workers=4000"], "4000".into(), "no CPU"),
        (&["--workers=1023"], "1023".into(), "it may use"),
        (&["--fd=0"], "--fd=0".into(), "3 or higher"),
        (&["--log=verbose"], "--log verbose".into(), "use error, warn, info"),
        (&["--rules", &acl], "5001 actions".into(), "go on in another table"),
        (&["--rules=/nonexistent/acl"], "/nonexistent/acl".into(), "check the path"),
    ] {
        if value == "65522" && !Path::new("/dev/net/tun").exists() {
            eprintln!("SKIPPED: the MTU of a TAP needs /dev/net/tun");
            assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI");
            continue;
        }
        let said = refusal(vsteer(["run", "--check", &control]).args(args));
        assert!(said.contains(&value) && said.contains(advice), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let run = refusal(vsteer(["run", &control]).args(args));
        assert_eq!(said, run, "{args:?}");
        assert_eq!(listing(folder.path()), before, "{args:?}");
    }
    for control in [path("theirs"), path("file"), path("missing/c"), path(&long)] {
        let said = refusal_of_both(&["--control", &control]);
        assert!(said.contains(&control) && said.contains("path"), "{said}");
    }
    // All that is wrong is said at once.
    let said = refusal(&mut vsteer(["run", "--check", "--control", &path("theirs"), &vm("file")]));
    assert!(said.lines().all(|line| line.starts_with("vsteer: ")) && said.lines().count() == 2, "{said}");
    assert_eq!(listing(folder.path()), before);
}

/// Runs the program with `socket` as its descriptor 3.
fn passed(socket: OwnedFd, check: &[&str]) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" --fd=3 --log off \"$@\" 3<&0", env!("CARGO_BIN_EXE_vsteer")]);
    refusal(command.args(check).stdin(Stdio::from(socket)))
}

#[test]
fn descriptors_that_no_front_end_can_use_are_refused_at_the_start() {
    for check in [&["--check"][..], &[]] {
        let file = fs::File::open("/dev/null").unwrap();
        assert!(passed(file.into(), check).contains("--fd=3: not a socket"));
        let datagrams = UnixDatagram::unbound().unwrap();
        assert!(passed(datagrams.into(), check).contains("--fd=3: not a stream socket"));
        let internet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(passed(internet.into(), check).contains("--fd=3: not a unix socket"));
    }
}

#[test]
fn folders_that_another_user_may_not_write_to_are_found() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root, to become another user");
        assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI");
        return;
    }
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The program may lie where only root may look.
    let program = folder.path().join("vsteer");
    // Not copied by this process: a child of another test would inherit the file, and a file that is open cannot run.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_vsteer")).arg(&program).status().unwrap().success());
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    leave_stale_socket(&shared.join("stale"));
    fs::set_permissions(shared.join("stale"), fs::Permissions::from_mode(0o666)).unwrap();
    let before = (listing(folder.path()), listing(&shared));
    let nobody = |args: &[&str], port: &Path| {
        let mut command = Command::new(&program);
        command.uid(65_534).gid(65_534).args(["run", "--log", "off"]).args(args).arg(self::port(port));
        command.arg(format!("--control={}", shared.join("control").display()));
        refusal(&mut command)
    };
    for args in [&["--check"][..], &[]] {
        let said = nobody(args, &folder.path().join("vm0"));
        assert!(said.contains("Permission denied") && said.contains("vsteer runs as user 65534"), "{said}");
        let said = nobody(args, &shared.join("stale"));
        assert!(
            said.contains("cannot remove the stale socket") && said.contains("run as its owner"),
            "{said}"
        );
        let said = nobody(args, Path::new("/proc/vm0"));
        assert!(said.contains("/proc/vm0"), "{said}");
        let mut tap = Command::new(&program);
        tap.uid(65_534).gid(65_534).args(["run", "--log", "off", "--port=host=tap:vsteer-t"]).args(args);
        let said = refusal(tap.arg(format!("--control={}", shared.join("control").display())));
        let tun = Path::new("/dev/net/tun").exists();
        let expected = if tun { "needs CAP_NET_ADMIN; run as root" } else { "/dev/net/tun is missing" };
        assert!(said.contains("tap vsteer-t: ") && said.contains(expected), "{said}");
    }
    assert_eq!((listing(folder.path()), listing(&shared)), before);
}

#[test]
fn interfaces_that_are_taken_are_found_and_nothing_is_left_of_those_made_before() {
    let Some(namespace) = Namespace::new("start") else { return };
    let inside = |program: &str| namespace.command(program);
    let folder = tempfile::tempdir().unwrap();
    let interfaces = || {
        let output = inside("ip").args(["-br", "link"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    let run = |args: &[&str], control: &str| {
        let mut command = inside(env!("CARGO_BIN_EXE_vsteer"));
        command.args(["run", "--log", "off", "--control"]).arg(folder.path().join(control)).args(args);
        command
    };
    let ip =
        |words: &str| assert!(inside("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
    ip("tuntap add dev many mode tap multi_queue");
    ip("tuntap add dev tun mode tun");
    let control = folder.path().join("control");
    let running = Switch::start(&mut run(&["--port=a=tap:a"], "control"), &control);
    let before = interfaces();
    for (name, expected) in [
        ("a", "tap a: in use by another process"),
        ("many", "tap many: an interface of that name exists and is not a TAP with a single queue"),
        ("tun", "tap tun: an interface of that name exists"),
        ("lo", "tap lo: an interface of that name exists"),
    ] {
        let ports = ["--port=new=tap:new", &format!("--port=x=tap:{name}")].map(str::to_owned);
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        for check in [&["--check"][..], &[]] {
            let said = refusal(&mut run(&[&ports, check].concat(), "other"));
            assert!(said.contains(expected), "{name} {check:?}: {said}");
            assert_eq!(interfaces(), before, "{name} {check:?}");
        }
    }
    let fine =
        run(&["--check", "--port=many=tap:many,queues=2", "--port=new=tap:new"], "other").output().unwrap();
    assert!(fine.status.success(), "{}", String::from_utf8_lossy(&fine.stderr));
    assert_eq!(interfaces(), before);
    running.ctl(&["port", "show", "a"]);
}
