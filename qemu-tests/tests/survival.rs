//! Guests keep their network whatever restarts: the switch, QEMU, the guest's kernel, its driver, its interface.

use std::thread;
use std::time::{Duration, Instant};

use vsteer_qemu_tests::failure::Result;
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::guest::{Guest, GuestSpec};
use vsteer_qemu_tests::measure::Throughput;
use vsteer_qemu_tests::switch;
use vsteer_qemu_tests::world::World;
use vsteer_qemu_tests::{ensure, wait};

/// From the switch's restart to the first reply in the guest.
const BACK_LIMIT: Duration = Duration::from_secs(2);

const PEER: &str = "10.0.0.2";

#[test]
fn guests_outlive_the_switch_and_the_switch_outlives_guests() -> Result<()> {
    let mut world = World::start(&[
        "vm0=vhost-user:{}/vm0.sock",
        "vm1=vhost-user:{}/vm1.sock",
        "vm2=vhost-user:{}/vm2.sock",
    ])?;
    let specs = vec![spec(&world, "vm0", 1), spec(&world, "vm1", 2)];
    world.boot(specs)?;
    world.guests[1].run("iperf3 -s -D")?;
    let mut group = Group::new("survival", world, Duration::from_secs(300));

    group.step("kill -9 and restart under iperf3, switch as server", kill_and_restart);
    group.step("the same again", kill_and_restart);
    group.step("the guest's kernel is reset", |world| {
        let guest = &mut world.guests[0];
        let boots = guest.boots();
        guest.qmp()?.execute("system_reset", serde_json::json!({}))?;
        guest.wait_boot(boots + 1)?;
        back(guest)
    });
    group.step("the driver is unbound and bound", |world| {
        let guest = &mut world.guests[0];
        guest.run("cd /sys/bus/virtio/drivers/virtio_net && echo virtio0 >unbind && sleep 0.5 && echo virtio0 >bind")?;
        guest.run("ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up")?;
        back(guest)
    });
    group.step("the interface goes down and up", |world| {
        let guest = &mut world.guests[0];
        for _ in 0..3 {
            guest.run("ip link set eth0 down && sleep 0.2 && ip link set eth0 up")?;
        }
        back(guest)
    });
    group.step("QEMU killed and started 20 times leaks nothing", |world| {
        // What is set up lazily by the first connection is no leak.
        for _ in 0..2 {
            short_life(world, Duration::from_secs(3))?;
        }
        thread::sleep(Duration::from_secs(2));
        let before = world.switch.process().holdings()?;
        for round in 0..20 {
            // Death at many phases: while negotiating, in the firmware, while the driver starts, under way.
            short_life(world, Duration::from_millis(200 + 230 * round))?;
        }
        switch::settles(world.switch.process(), before, Duration::from_secs(5))?;
        let mut guest = Guest::spawn(spec(world, "vm2", 3), world.folder.path())?;
        guest.wait_ready()?;
        guest.wait_reachable(PEER, Duration::from_secs(5))?;
        drop(guest);
        switch::settles(world.switch.process(), before, Duration::from_secs(5))?;
        Ok(format!("{before:?}"))
    });
    group.step("the other guests noticed nothing", |world| {
        let ping = world.guests[0].ping(PEER, 20, 0.05)?;
        ensure!(ping.lost() == 0, "{ping}");
        Ok("")
    });
    group.finish()
}

#[test]
fn guests_outlive_the_switch_as_client() -> Result<()> {
    let mut world =
        World::start(&["vm0=vhost-user:{}/vm0.sock,mode=client", "vm1=vhost-user:{}/vm1.sock,mode=client"])?;
    let specs = ["vm0", "vm1"].into_iter().zip(1..).map(|(name, n)| {
        GuestSpec::new(name, world.nic(name).qemu_listens().address(&format!("10.0.0.{n}/24")))
    });
    let specs = specs.collect();
    world.boot(specs)?;
    world.guests[1].run("iperf3 -s -D")?;
    let mut group = Group::new("survival as client", world, Duration::from_secs(120));

    group.step("guests talk", |world| {
        let ping = world.guests[0].ping(PEER, 10, 0.1)?;
        ensure!(ping.lost() == 0, "{ping}");
        Ok(ping.to_string())
    });
    group.step("kill -9 and restart under iperf3, switch as client", kill_and_restart);
    group.step("the same again", kill_and_restart);
    group.step("QEMU is killed and started again", |world| {
        let old = world.guests.remove(0);
        let spec = old.spec().clone();
        drop(old);
        let mut guest = Guest::spawn(spec, world.folder.path())?;
        guest.wait_ready()?;
        world.guests.insert(0, guest);
        back(&mut world.guests[0])
    });
    group.finish()
}

fn spec(world: &World, name: &str, n: u32) -> GuestSpec {
    GuestSpec::new(name, world.nic(name).address(&format!("10.0.0.{n}/24")))
}

fn kill_and_restart(world: &mut World) -> Result<String> {
    let guest = &mut world.guests[0];
    let iperf = guest.start(&format!("iperf3 -c {PEER} -t 12 -J"))?;
    thread::sleep(Duration::from_secs(2));
    // The guest's own clock tells how long it was cut off; asking it through its serial line would add to that.
    let pings = guest.start(&format!("ping -i 0.1 -c 60 -W 1 {PEER}"))?;
    thread::sleep(Duration::from_secs(1));

    world.switch.process().kill();
    let restart = Instant::now();
    world.switch.restart(&world.host)?;
    let started = restart.elapsed();

    let guest = &mut world.guests[0];
    let pings = guest.collect(&pings, Duration::from_secs(20))?.text;
    let outage = longest_gap(&pings)?;
    let tcp = Throughput::parse(&guest.collect(&iperf, Duration::from_secs(40))?.text)?;
    ensure!(outage <= BACK_LIMIT, "the guest was cut off for {:.1} s\n{pings}", outage.as_secs_f64());
    ensure!(tcp.last_interval_gbits_per_s > 0.01, "TCP did not come back: {tcp:?}");
    let (outage, started) = (outage.as_secs_f64(), started.as_secs_f64());
    Ok(format!("cut off for {outage:.1} s, switch answers after {started:.2} s, iperf3 {tcp}"))
}

/// The longest time without a reply, in a series of 60 requests 0.1 s apart. A request may wait in a ring through the
/// restart and be answered late, so the time of each reply counts, not only whether it came.
fn longest_gap(output: &str) -> Result<Duration> {
    let reply_ms = |line: &str| {
        let seq = line.split_once("seq=")?.1.split(' ').next()?.parse::<u32>().ok()?;
        let time_ms = line.split_once("time=")?.1.split(' ').next()?.parse::<f64>().ok()?;
        Some(f64::from(seq) * 100.0 + time_ms)
    };
    let mut replies_ms: Vec<f64> = output.lines().filter_map(reply_ms).collect();
    replies_ms.sort_by(f64::total_cmp);
    ensure!(replies_ms.first().is_some_and(|time| *time < 500.0), "ping was not answered before: {output}");
    replies_ms.push(6000.0);
    let gap_ms = replies_ms.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    Ok(Duration::from_secs_f64(gap_ms / 1000.0))
}

fn back(guest: &mut Guest) -> Result<String> {
    let after = guest.wait_reachable(PEER, Duration::from_secs(5))?;
    let ping = guest.ping(PEER, 10, 0.1)?;
    ensure!(ping.lost() == 0, "{ping}");
    let tcp = guest.iperf(PEER, 2, "")?;
    ensure!(tcp.gbits_per_s > 0.02, "{tcp}");
    Ok(format!("back after {:.1} s", after.as_secs_f64()))
}

/// Starts QEMU on vm2's socket and kills it after `age`.
fn short_life(world: &mut World, age: Duration) -> Result<()> {
    let mut guest = Guest::spawn(spec(world, "vm2", 3), world.folder.path())?;
    let start = Instant::now();
    wait::until("QEMU to live long enough", age + Duration::from_secs(1), || {
        ensure!(guest.qemu().ended()?.is_none(), "QEMU ended: {}", guest.diagnosis());
        Ok((start.elapsed() >= age).then_some(()))
    })?;
    guest.qemu().kill();
    Ok(())
}
