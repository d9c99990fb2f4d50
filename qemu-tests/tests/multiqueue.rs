//! Two queue pairs: both carry traffic, and one that the guest disables loses nothing.

use std::time::Duration;

use vsteer_qemu_tests::failure::Result;
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::guest::{Guest, GuestSpec};
use vsteer_qemu_tests::measure::Throughput;
use vsteer_qemu_tests::world::World;
use vsteer_qemu_tests::{ensure, wait};

/// How long QEMU tries in vain.
const TRIES: Duration = Duration::from_secs(8);

#[test]
fn qemu_with_more_queue_pairs_than_the_port_offers_is_told_so_once() -> Result<()> {
    let mut world = World::start(&["vm0=vhost-user:{}/vm0.sock,queues=2"])?;
    let spec = GuestSpec::new("vm0", world.nic("vm0").address("10.0.0.1/24").queues(4));
    let mut qemu = Guest::spawn(spec, world.folder.path())?;
    let what_to_do = "start it with queues=2 at most, or add the port with queues=N";
    wait::until("the port to say so", Duration::from_secs(30), || {
        Ok(world.switch.ctl("port show vm0")?.to_string().contains(what_to_do).then_some(()))
    })?;
    // It never gets as far as booting, and connects again after each refusal.
    std::thread::sleep(TRIES);
    ensure!(qemu.qemu().ended()?.is_none(), "{}", qemu.diagnosis());
    let port = world.switch.ctl("port show vm0")?;
    let log = world.switch.process().output();
    ensure!(port.to_string().contains(what_to_do), "{port}");
    ensure!(log.matches(what_to_do).count() == 1, "{log}");
    let tries = qemu.qemu().output().matches("asking more queues than supported").count() as u64;
    ensure!((1..=2 * TRIES.as_secs()).contains(&tries), "{tries} tries in {TRIES:?}\n{}", qemu.diagnosis());
    Ok(())
}

#[test]
fn two_queue_pairs_share_the_traffic() -> Result<()> {
    let mut world =
        World::start(&["vm0=vhost-user:{}/vm0.sock,queues=2", "vm1=vhost-user:{}/vm1.sock,queues=2"])?;
    let spec = |name: &str, address| GuestSpec::new(name, world.nic(name).address(address).queues(2));
    let specs = vec![spec("vm0", "10.0.0.1/24"), spec("vm1", "10.0.0.2/24")];
    world.boot(specs)?;
    // Eight more addresses: flows that differ in their layer-3 hash too.
    for n in 11..19 {
        world.guests[1].run(&format!("ip addr add 10.0.0.{n}/24 dev eth0"))?;
    }
    world.guests[1].run("iperf3 -s -D")?;
    let mut group = Group::new("multiqueue", world, Duration::from_secs(150));

    group.step("the guest sees two queue pairs", |world| {
        let channels = world.guests[0].run("ethtool -l eth0")?;
        ensure!(channels.matches("Combined:\t2").count() == 2, "{channels}");
        Ok("")
    });
    group.step("both queue pairs carry traffic in both directions", |world| {
        world.guests[0].iperf("10.0.0.2", 4, "-P 8")?;
        world.guests[0].iperf("10.0.0.2", 4, "-P 8 -R")?;
        let (mut seen, mut least) = (String::new(), u64::MAX);
        for guest in &mut world.guests {
            for counter in ["rx_queue_0", "rx_queue_1", "tx_queue_0", "tx_queue_1"] {
                let packets = queue_packets(guest, counter)?;
                least = least.min(packets);
                seen += &format!("{} {counter} {packets}; ", guest.name());
            }
        }
        ensure!(least > 100, "{seen}");
        Ok(seen)
    });
    group.step("with one queue pair disabled nothing is lost", |world| {
        world.guests[1].run("ethtool -L eth0 combined 1")?;
        no_flow_lost(&mut world.guests[0])?;
        let before = queue_packets(&mut world.guests[1], "rx_queue_0")?;
        world.guests[0].iperf("10.0.0.2", 3, "-P 4")?;
        let after = queue_packets(&mut world.guests[1], "rx_queue_0")?;
        ensure!(after > before + 100, "queue pair 0 got {before} packets before and {after} after");
        Ok("")
    });
    group.step("enabled again, both carry traffic again", |world| {
        world.guests[1].run("ethtool -L eth0 combined 2")?;
        no_flow_lost(&mut world.guests[0])?;
        let before = queue_packets(&mut world.guests[1], "rx_queue_1")?;
        world.guests[0].iperf("10.0.0.2", 3, "-P 8")?;
        let after = queue_packets(&mut world.guests[1], "rx_queue_1")?;
        ensure!(after > before + 100, "queue pair 1 got {before} packets before and {after} after");
        Ok("")
    });
    group.step("changed back and forth under traffic, the connection lives", |world| {
        let [vm0, vm1] = &mut world.guests[..] else { unreachable!() };
        let iperf = vm0.start("iperf3 -c 10.0.0.2 -t 8 -P 4 -J")?;
        for pairs in [1, 2, 1, 2, 1, 2] {
            std::thread::sleep(Duration::from_millis(500));
            vm1.run(&format!("ethtool -L eth0 combined {pairs}"))?;
        }
        let result = vm0.collect(&iperf, Duration::from_secs(30))?;
        let result = Throughput::parse(&result.text)?;
        ensure!(result.last_interval_gbits_per_s > 0.005, "TCP stalled: {result:?}");
        no_flow_lost(vm0)?;
        Ok(result.to_string())
    });
    group.finish()
}

fn no_flow_lost(guest: &mut Guest) -> Result<()> {
    for n in 11..19 {
        let ping = guest.ping(&format!("10.0.0.{n}"), 5, 0.05)?;
        ensure!(ping.lost() == 0, "10.0.0.{n}: {ping}");
    }
    Ok(())
}

fn queue_packets(guest: &mut Guest, queue: &str) -> Result<u64> {
    let statistics = guest.run("ethtool -S eth0")?;
    let label = format!("{queue}_packets:");
    match statistics.lines().find_map(|line| line.trim().strip_prefix(&label)?.trim().parse().ok()) {
        Some(packets) => Ok(packets),
        None => vsteer_qemu_tests::fail!("no {label} in {statistics}"),
    }
}
