//! Live migration between two ports of one switch, idle and under load, with the guest's memory compared.

use std::thread;
use std::time::{Duration, Instant};

use vsteer_qemu_tests::failure::{Context, Result};
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::guest::{Guest, GuestSpec};
use vsteer_qemu_tests::measure::{Ping, Throughput};
use vsteer_qemu_tests::world::World;
use vsteer_qemu_tests::{ensure, wait};

const PEER: usize = 0;
const MOVER: usize = 1;
const MOVER_ADDRESS: &str = "10.0.0.2";

/// Echo requests, 0.1 s apart, that a move may cost.
const LOSS_LIMIT: u32 = 5;

#[test]
fn a_guest_moves_between_ports() -> Result<()> {
    let mut world = World::start(&[
        "peer=vhost-user:{}/peer.sock",
        "left=vhost-user:{}/left.sock",
        "right=vhost-user:{}/right.sock",
    ])?;
    let peer =
        GuestSpec { memory_mib: 384, ..GuestSpec::new("peer", world.nic("peer").address("10.0.0.1/24")) };
    let mover = GuestSpec::new("mover", world.nic("left").address(&format!("{MOVER_ADDRESS}/24")));
    world.boot(vec![peer, GuestSpec { memory_mib: 384, ..mover }])?;
    world.guests[MOVER].run("iperf3 -s -D")?;
    let mut group = Group::new("migration", world, Duration::from_secs(240));

    let mut sum = String::new();
    group.step("memory is filled", |world| {
        let fill = "dd if=/dev/urandom of=/tmp/still bs=1M count=48 2>/dev/null; md5sum </tmp/still";
        sum = world.guests[MOVER].run_for(fill, Duration::from_secs(40))?;
        Ok("")
    });
    group.step("moves under ping", |world| {
        let (ping, taken) = move_under_ping(world, "right")?;
        Ok(format!("in {taken:.2} s; {ping}"))
    });
    group.step("moves back under iperf3 and ping", |world| {
        let iperf = world.guests[PEER].start(&format!("iperf3 -c {MOVER_ADDRESS} -t 12 -J"))?;
        thread::sleep(Duration::from_secs(1));
        let (ping, taken) = move_under_ping(world, "left")?;
        let tcp = world.guests[PEER].collect(&iperf, Duration::from_secs(40))?;
        let tcp = Throughput::parse(&tcp.text)?;
        ensure!(tcp.last_interval_gbits_per_s > 0.01, "TCP did not survive: {tcp:?}");
        Ok(format!("in {taken:.2} s; {ping}; {tcp}"))
    });
    group.step("what is received while moving arrives whole", |world| {
        // The switch writes into pages that were sent already: each must be marked dirty, or the copy is stale.
        let fill =
            "dd if=/dev/urandom of=/tmp/sent bs=1M count=80 2>/dev/null; wc -c </tmp/sent; md5sum </tmp/sent";
        let sent = world.guests[PEER].run_for(fill, Duration::from_secs(60))?;
        // The fifo is a standard input without an end: at its end nc would close its side of the connection.
        let receive = "mkfifo /run/open; nc -l -p 9000 <>/run/open >/tmp/received";
        let receive = world.guests[MOVER].start(receive)?;
        wait::until("nc to listen", Duration::from_secs(5), || {
            Ok(world.guests[MOVER].run("netstat -ltn")?.contains(":9000").then_some(()))
        })?;
        let send = world.guests[PEER].start(&format!("nc -w 20 {MOVER_ADDRESS} 9000 </tmp/sent"))?;
        let taken = migrate(world, "right")?;
        world.guests[PEER].collect(&send, Duration::from_secs(60))?;
        world.guests[MOVER].collect(&receive, Duration::from_secs(60))?;
        let received = world.guests[MOVER]
            .run_for("wc -c </tmp/received; md5sum </tmp/received", Duration::from_secs(30))?;
        ensure!(received == sent, "sent {sent}, received {received}");
        Ok(format!("in {:.2} s", taken.as_secs_f64()))
    });
    group.step("memory that rested is the same after three moves", |world| {
        let now = world.guests[MOVER].run_for("md5sum </tmp/still", Duration::from_secs(30))?;
        ensure!(now == sum, "before {sum}, after {now}");
        Ok("")
    });
    group.finish()
}

/// How soon the switch must know where a guest is that moved and says nothing itself.
const ANNOUNCED: Duration = Duration::from_secs(1);

#[test]
fn a_guest_that_does_not_announce_itself_is_found_where_it_went() -> Result<()> {
    let mut world = World::start(&[
        "peer=vhost-user:{}/peer.sock",
        "left=vhost-user:{}/left.sock",
        "right=vhost-user:{}/right.sock",
    ])?;
    let peer = GuestSpec::new("peer", world.nic("peer").address("10.0.0.1/24"));
    let mut nic = world.nic("left").address(&format!("{MOVER_ADDRESS}/24"));
    nic.properties.push("guest_announce=off".into());
    world.boot(vec![peer, GuestSpec::new("mover", nic)])?;
    // Everybody knows everybody, and from now on the mover says nothing by itself.
    world.guests[PEER].ping(MOVER_ADDRESS, 3, 0.2)?;
    let watch = "tcpdump -i eth0 -l -n -c 1 'ether proto 0x8035' >/run/rarp 2>/run/tcpdump.log &";
    world.guests[PEER].run(watch)?;
    wait::until("tcpdump to listen", Duration::from_secs(10), || {
        Ok(world.guests[PEER].run("cat /run/tcpdump.log")?.contains("listening").then_some(()))
    })?;
    let mut group = Group::new("announcement", world, Duration::from_secs(60));
    for port in ["right", "left"] {
        group.step(&format!("moves to {port} in silence"), |world| {
            migrate(world, port)?;
            let moved = Instant::now();
            let found = wait::until("the switch to know", Duration::from_secs(20), || {
                let table = world.switch.ctl("fdb show")?;
                let entries = table.as_array().cloned().unwrap_or_default();
                let is_there = entries.iter().any(|entry| entry["port"] == port);
                Ok(is_there.then(|| moved.elapsed()))
            })?;
            ensure!(found <= ANNOUNCED, "after {found:?}");
            Ok(format!("known after {:.0} ms", 1000.0 * found.as_secs_f64()))
        });
    }
    group.step("its neighbours were told", |world| {
        let heard = world.guests[PEER].run("cat /run/rarp")?;
        ensure!(heard.to_lowercase().contains("reverse"), "heard: {heard}");
        Ok("")
    });
    group.step("it is reached at once", |world| {
        let ping = world.guests[PEER].ping(MOVER_ADDRESS, 5, 0.2)?;
        ensure!(ping.lost() == 0, "{ping}");
        Ok(format!("{ping}"))
    });
    group.finish()
}

fn move_under_ping(world: &mut World, port: &str) -> Result<(Ping, f64)> {
    let pings = world.guests[PEER].start(&format!("ping -i 0.1 -c 60 -W 2 {MOVER_ADDRESS}"))?;
    thread::sleep(Duration::from_secs(1));
    let taken = migrate(world, port)?;
    let pings = world.guests[PEER].collect(&pings, Duration::from_secs(20))?;
    let ping = Ping::parse(&pings.text)?;
    ensure!(ping.lost() <= LOSS_LIMIT, "in {taken:?}: {}", pings.text);
    Ok((ping, taken.as_secs_f64()))
}

/// Moves the guest to `port`; how long QEMU took, from the command to the last page.
fn migrate(world: &mut World, port: &str) -> Result<Duration> {
    let path = world.folder.path().join(format!("move-to-{port}"));
    let mut spec = world.guests[MOVER].spec().clone();
    spec.nics[0].socket = world.socket(port);
    spec.incoming = Some(path.clone());
    let target = Guest::spawn(spec, world.folder.path())?;
    wait::until("the target to listen", Duration::from_secs(10), || Ok(path.exists().then_some(())))?;
    let start = Instant::now();
    let moved = world.guests[MOVER].qmp()?.migrate(&path);
    moved.map_err(|failure| format!("{failure}\n{}", target.diagnosis())).context("migration")?;
    let taken = start.elapsed();
    // The source is stopped and must not come back: its end is what its port sees.
    world.guests[MOVER] = target;
    let _ = std::fs::remove_file(path);
    Ok(taken)
}
