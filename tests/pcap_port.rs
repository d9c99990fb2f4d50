//! Captures as ports of the built program: what is played, what is recorded, and what becomes of bad files. With them, what
//! wrappers do to any port.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod switch;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use vsteer::pcap::{Capture, PcapWriter};

use self::switch::{Switch, has_privilege, wait_for};

/// Frames from one station, which differ in their last bytes, of 60 to 1500 bytes.
fn frames(count: usize) -> Vec<Vec<u8>> {
    let frame = |n: usize| {
        let mut frame = vec![0; 60 + n * 37 % 1440];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        let end = frame.len();
        frame[end - 8..].copy_from_slice(&n.to_be_bytes());
        frame
    };
    (0..count).map(frame).collect()
}

/// Writes a capture of `frames` to `path`.
fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapWriter::begin(File::create(path).unwrap()).unwrap();
    for frame in frames {
        writer.append(1, frame.len() as u64, frame).unwrap();
    }
    writer.flush().unwrap();
}

/// The frames of the capture at `path`, if it ends with a whole one.
fn try_read(path: &Path) -> Option<Vec<Vec<u8>>> {
    let mut capture = Capture::new(File::open(path).unwrap()).ok()?;
    let (mut frames, mut bytes) = (Vec::new(), Vec::new());
    while capture.next(&mut bytes).ok()?.is_some() {
        frames.push(bytes.clone());
    }
    Some(frames)
}

/// The frames of the capture at `path`.
fn read(path: &Path) -> Vec<Vec<u8>> {
    try_read(path).expect("a whole capture")
}

/// A switch whose port `b` plays nothing and, if `out` is given, records in it.
fn switch_with_recorder(out: Option<&Path>) -> Switch {
    let switch = Switch::start("", None);
    write(&switch.path("empty"), &[]);
    let out = out.map_or(String::new(), |out| format!(",out={}", out.display()));
    switch.ctl(&["port", "add", &format!("b=pcap:{}{out}", switch.path("empty").display())]);
    switch
}

fn play(switch: &Switch, path: &Path, options: &str) {
    switch.ctl(&["port", "add", &format!("a=pcap:{}{options}", path.display())]);
}

fn port(switch: &Switch, name: &str) -> Value {
    switch.json(&["port", "show", name])
}

fn activity(switch: &Switch, name: &str) -> String {
    port(switch, name)["activity"].as_str().unwrap().to_owned()
}

fn counter(switch: &Switch, name: &str, counter: &str) -> u64 {
    port(switch, name)["counters"][counter].as_u64().unwrap()
}

#[test]
fn capture_is_played_once_and_what_leaves_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let frames = frames(1000);
    write(&input, &frames);
    fs::write(&output, [b'x'; 1 << 20]).unwrap();
    let switch = switch_with_recorder(Some(&output));
    // Fewer than wait for the disk at most: none is dropped.
    play(&switch, &input, "");
    wait_for("the capture is played", || activity(&switch, "a") == "finished: 1000 packets played");
    wait_for("all is recorded", || activity(&switch, "b").ends_with("1000 packets recorded"));
    assert!(activity(&switch, "b").starts_with("finished: 0 packets played"));
    let bytes: usize = frames.iter().map(Vec::len).sum();
    for (name, packets, bytes_of) in [("a", "rx_pkts", "rx_bytes"), ("b", "tx_pkts", "tx_bytes")] {
        assert_eq!((counter(&switch, name, packets), counter(&switch, name, bytes_of)), (1000, bytes as u64));
    }
    assert_eq!(read(&output), frames);
    // What is recorded can be played.
    assert!(
        switch.refusal(&["port", "add", &format!("c=pcap:{}", output.display())]).contains("being recorded")
    );
    switch.ctl(&["port", "del", "b"]);
    switch.ctl(&["port", "add", &format!("c=pcap:{}", output.display())]);
    wait_for("the recording is played", || activity(&switch, "c") == "finished: 1000 packets played");
}

#[test]
fn rate_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    write(&input, &frames(21));
    let switch = switch_with_recorder(None);
    let begun = Instant::now();
    play(&switch, &input, ",rate=40");
    let first = activity(&switch, "a");
    wait_for("the capture is played", || activity(&switch, "a").starts_with("finished: 21"));
    // The last of 21 packets is due 20 fortieths of a second after the first.
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}, {first}", begun.elapsed());
    assert_eq!(counter(&switch, "b", "tx_pkts"), 21);
}

#[test]
fn ports_of_a_configuration_are_there_before_the_first_packet() {
    let folder = tempfile::tempdir().unwrap();
    let (input, empty) = (folder.path().join("in"), folder.path().join("empty"));
    write(&input, &frames(300));
    write(&empty, &[]);
    let config = format!(
        "[port.a]\ntype=\"pcap\"\nfile=\"{}\"\n[port.b]\ntype=\"pcap\"\nfile=\"{}\"\n",
        input.display(),
        empty.display()
    );
    let switch = Switch::start(&config, None);
    wait_for("the capture is played", || activity(&switch, "a").starts_with("finished: 300"));
    wait_for("all of it arrives", || counter(&switch, "b", "tx_pkts") == 300);
}

#[test]
fn damaged_capture_is_played_up_to_the_damage_and_the_port_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    write(&input, &frames(300));
    let whole = fs::read(&input).unwrap();
    fs::write(&input, &whole[..whole.len() - 1]).unwrap();
    let switch = switch_with_recorder(None);
    play(&switch, &input, "");
    wait_for("the damage is told", || port(&switch, "a")["state"] == "stopped");
    assert_eq!(port(&switch, "a")["fault"], "the capture is damaged at packet 300; capture it again");
    wait_for("what came before arrives", || counter(&switch, "b", "tx_pkts") == 299);
    switch.ctl(&["port", "del", "a"]);
}

#[test]
fn bad_files_are_refused_with_the_reason_and_nothing_is_written() {
    let switch = switch_with_recorder(None);
    let at = |name: &str| switch.path(name).display().to_string();
    write(&switch.path("in"), &frames(1));
    write(&switch.path("wifi"), &[]);
    let mut wifi = fs::read(switch.path("wifi")).unwrap();
    wifi[20] = 105;
    fs::write(switch.path("wifi"), wifi).unwrap();
    fs::write(switch.path("zero"), "").unwrap();
    fs::write(switch.path("text"), "precious\n".repeat(9)).unwrap();
    fs::hard_link(switch.path("in"), switch.path("link")).unwrap();
    mkfifo(&switch.path("fifo"), Mode::S_IRWXU).unwrap();
    let refused = |spec: String| switch.refusal(&["port", "add", &format!("a=pcap:{spec}")]);
    for (spec, reason) in [
        (at("none"), "cannot be opened: No such file or directory"),
        (at("fifo"), "is no regular file"),
        (at("."), "is no regular file"),
        ("/dev/null".to_owned(), "is no regular file"),
        (at("zero"), "is no capture file"),
        (at("text"), "is no capture file"),
        (at("wifi"), "has packets of link type 105"),
        (format!("{0},out={0}", at("in")), "is the file that is played"),
        (format!("{},out={}", at("in"), at("link")), "is the file that is played"),
        (format!("{},out={}", at("in"), at("fifo")), "is no regular file"),
        (format!("{},out={}", at("in"), at("no/out")), "cannot be written: No such file or directory"),
        (format!("{},rate=0", at("in")), "use a number from 1"),
        (format!("{},out=", at("in")), "path is empty"),
        (format!("{},queues=2", at("in")), "is an option of vhost-user and tap ports"),
    ] {
        let refusal = refused(spec);
        assert!(refusal.contains(reason), "{refusal}");
    }
    // A recording that another port has, by whatever name.
    play(&switch, &switch.path("in"), &format!(",out={}", at("out")));
    fs::hard_link(switch.path("out"), switch.path("same")).unwrap();
    for (out, reason) in [("out", "is already port a's"), ("same", "is in use by another port")] {
        let spec = format!("c=pcap:{},out={}", at("in"), at(out));
        let refusal = switch.refusal(&["port", "add", &spec]);
        assert!(refusal.contains(reason), "{refusal}");
    }
    assert_eq!(read(&switch.path("in")), frames(1));

    // A start that fails has emptied nothing.
    let output = Command::new(env!("CARGO_BIN_EXE_vsteer"))
        .args(["run", "--control", &at("other"), "--port"])
        .arg(format!("a=pcap:{},out={}", at("in"), at("text")))
        .args(["--port", &format!("b=pcap:{}", at("none"))])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(switch.path("text")).unwrap(), "precious\n".repeat(9));
}

#[test]
fn trace_has_what_passes_the_port_in_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Fewer than wait for the disk at most: none is missed.
    let frames = frames(900);
    write(&at("in"), &frames);
    let switch = Switch::start("", None);
    write(&at("empty"), &[]);
    switch.ctl(&["port", "add", &format!("b=pcap:{0}/empty,trace={0}/b", folder.path().display())]);
    play(&switch, &at("in"), &format!(",trace={}", at("a").display()));
    for name in ["a", "b"] {
        let told = format!("; trace: 900 packets in {}", at(name).display());
        wait_for("all is traced", || activity(&switch, name).ends_with(&told));
        assert_eq!(read(&at(name)), frames);
    }
    assert!(activity(&switch, "a").starts_with("finished: 900 packets played; trace: "));
    let taken = format!("c=pcap:{0}/in,trace={0}/b", folder.path().display());
    assert!(switch.refusal(&["port", "add", &taken]).contains("is in use by another port"));
    // The port can go, and come again with the same file.
    switch.ctl(&["port", "del", "b"]);
    switch.ctl(&["port", "add", &taken]);
}

/// Plays `frames` from a port with these faults, and returns what is recorded at another, in order, and what the first says.
fn with_faults(frames: &[Vec<u8>], faults: &str) -> (Vec<Vec<u8>>, String, u64) {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    write(&input, frames);
    let switch = switch_with_recorder(Some(&output));
    play(&switch, &input, &format!(",fault={faults}"));
    let dropped = || port(&switch, "a")["counters"]["drops"]["injected_rx"].as_u64().unwrap_or(0);
    wait_for("every packet is dropped or sent", || {
        dropped() + counter(&switch, "b", "tx_pkts") == frames.len() as u64
    });
    let (told, dropped) = (activity(&switch, "a"), dropped());
    switch.ctl(&["port", "del", "b"]);
    (read(&output), told, dropped)
}

#[test]
fn dropped_packets_are_counted_and_the_same_seed_drops_the_same() {
    let frames = frames(900);
    let (first, told, dropped) = with_faults(&frames, "drop:10%+seed:7");
    assert!(told.contains(&format!("; faults: {dropped} dropped, 0 corrupted, 0 delayed, seed 7")), "{told}");
    assert!(dropped > 0 && first.len() as u64 == 900 - dropped);
    assert!(first.iter().all(|frame| frames.contains(frame)));
    assert_eq!(with_faults(&frames, "seed:7+drop:10%").0, first);
    assert_ne!(with_faults(&frames, "drop:10%+seed:8").0, first);
}

#[test]
fn corrupted_packets_differ_in_one_bit() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let frames = frames(300);
    write(&at("in"), &frames);
    write(&at("empty"), &[]);
    let switch = Switch::start("", None);
    // On the way out, where a flipped bit does not change where a packet goes.
    let recorder = format!("b=pcap:{0}/empty,out={0}/out,fault=corrupt:100%", folder.path().display());
    switch.ctl(&["port", "add", &recorder]);
    play(&switch, &at("in"), "");
    wait_for("every packet is sent", || counter(&switch, "b", "tx_pkts") == 300);
    let told = activity(&switch, "b");
    assert!(told.contains(" 300 corrupted"), "{told}");
    switch.ctl(&["port", "del", "b"]);
    for (frame, corrupted) in frames.iter().zip(read(&at("out"))) {
        let bits: u32 = frame.iter().zip(&corrupted).map(|(one, other)| (one ^ other).count_ones()).sum();
        assert_eq!((frame.len(), bits), (corrupted.len(), 1), "{told}");
    }
}

#[test]
fn delayed_packets_come_later_and_all_of_them_come() {
    let frames = frames(300);
    let begun = Instant::now();
    let (delayed, told, _) = with_faults(&frames, "delay:100%:300ms");
    assert!(told.contains(" 300 delayed"), "{told}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(delayed, frames, "all wait equally long");
    let (mixed, told, _) = with_faults(&frames, "delay:50%:300ms");
    assert!(mixed.len() == 300 && frames.iter().all(|frame| mixed.contains(frame)), "{told}");
    assert_ne!(mixed, frames, "{told}");
}

#[test]
fn faults_meet_what_leaves_by_a_port_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let frames = frames(500);
    write(&at("in"), &frames);
    write(&at("empty"), &[]);
    let switch = Switch::start("", None);
    let recorder =
        format!("b=pcap:{0}/empty,out={0}/out,fault=drop:20%+delay:50%:50ms", folder.path().display());
    switch.ctl(&["port", "add", &recorder]);
    play(&switch, &at("in"), "");
    let dropped = || port(&switch, "b")["counters"]["drops"]["injected_tx"].as_u64().unwrap_or(0);
    wait_for("every packet is dropped or sent", || dropped() + counter(&switch, "b", "tx_pkts") == 500);
    assert!(dropped() > 0 && activity(&switch, "b").contains("seed "), "{}", activity(&switch, "b"));
    let dropped = dropped();
    switch.ctl(&["port", "del", "b"]);
    assert_eq!(read(&at("out")).len() as u64, 500 - dropped);
}

/// A file system of four megabytes, two of which are taken, gone when this is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=4m", "none"];
        assert!(Command::new("mount").args(mount).arg(folder.path()).status().unwrap().success());
        fs::write(folder.path().join("filler"), vec![0; 2 << 20]).unwrap();
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn full_disk_is_told_and_counted_and_the_recording_goes_on_when_there_is_room() {
    if !has_privilege() {
        return;
    }
    let disk = SmallDisk::new();
    let (output, folder) = (disk.0.path().join("out"), tempfile::tempdir().unwrap());
    let input = folder.path().join("in");
    // Ten megabytes, more than the disk and the queue take together.
    let frames: Vec<_> = frames(14_000);
    write(&input, &frames);
    let switch = switch_with_recorder(Some(&output));
    play(&switch, &input, "");
    wait_for("the capture is played", || activity(&switch, "a") == "finished: 14000 packets played");
    wait_for("the full disk is told", || port(&switch, "b")["state"] == "stopped");
    let fault = port(&switch, "b")["fault"].as_str().unwrap().to_owned();
    assert!(fault.contains("No space left on device") && fault.contains("until there is room"), "{fault}");
    // Of an attempt to go on there may be a part in the file for a moment.
    let mut before = None;
    wait_for("the file ends with a whole record", || {
        before = try_read(&output);
        before.is_some()
    });
    let before = before.unwrap();
    assert!(!before.is_empty());

    fs::remove_file(disk.0.path().join("filler")).unwrap();
    wait_for("the recording goes on", || port(&switch, "b")["state"] == "connected");
    let sent = counter(&switch, "b", "tx_pkts");
    let dropped = port(&switch, "b")["counters"]["drops"]["host_queue_full"].as_u64().unwrap();
    assert_eq!(sent + dropped, 14_000);
    switch.ctl(&["port", "del", "b"]);
    let recorded = read(&output);
    assert!(recorded.len() as u64 == sent && recorded.len() > before.len(), "{} of {sent}", recorded.len());
    assert!(recorded.starts_with(&before), "what was in the file stays");
    // What the queue had no room for is missing, before the disk was full as well; nothing else is.
    let mut played = frames.iter();
    assert!(
        recorded.iter().all(|frame| played.any(|other| other == frame)),
        "all of it was played, in this order"
    );
}
