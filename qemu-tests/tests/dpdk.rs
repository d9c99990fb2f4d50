//! DPDK's virtio_user as front-end: every packet sent is delivered, or counted as dropped, exactly.

use std::time::Duration;

use vsteer_qemu_tests::failure::{Context, Result};
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::testpmd::{Ring, Testpmd};
use vsteer_qemu_tests::world::World;
use vsteer_qemu_tests::{ensure, wait};

#[test]
fn every_packet_is_delivered_or_counted() -> Result<()> {
    let world =
        World::start(&["from=vhost-user:{}/from.sock,queues=2", "to=vhost-user:{}/to.sock,queues=2"])?;
    let mut group = Group::new("dpdk", world, Duration::from_secs(180));
    for queues in [1, 2] {
        for mergeable in [false, true] {
            for size in [256, 1024] {
                let ring = Ring { queues, size, mergeable };
                group.step(&format!("{ring:?}"), |world| flood(world, ring, "64"));
            }
        }
    }
    let ring = Ring { queues: 1, size: 256, mergeable: true };
    group.step("frames of two segments", |world| flood(world, ring, "64,1200"));
    group.finish()
}

/// Sends as fast as virtio_user can for a second, then accounts for every packet.
fn flood(world: &mut World, ring: Ring, sizes: &str) -> Result<String> {
    let before = [world.switch.counters("from")?, world.switch.counters("to")?];
    let folder = world.folder.path();
    let mut receiver = Testpmd::front_end("receiver", &world.socket("to"), ring, "rxonly", folder)?;
    let mut sender = Testpmd::front_end("sender", &world.socket("from"), ring, "txonly", folder)?;
    sender.command(&format!("set txpkts {sizes}"))?;
    receiver.command("start")?;
    sender.command("start")?;
    std::thread::sleep(Duration::from_secs(1));
    sender.command("stop")?;
    let sent = sender.counters()?;

    // What was on the rings when the sender stopped is still being switched and received.
    let mut seen = Vec::new();
    wait::until("all packets to be accounted for", Duration::from_secs(5), || {
        let received = receiver.counters()?;
        let after = [world.switch.counters("from")?, world.switch.counters("to")?];
        let drops = after[0].drops - before[0].drops + after[1].drops - before[1].drops;
        let taken = after[0].rx_pkts - before[0].rx_pkts;
        let delivered = after[1].tx_pkts - before[1].tx_pkts;
        seen = vec![sent.sent, taken, delivered, received.received, drops];
        ensure!(received.sent == 0, "the receiver sent {} packets", received.sent);
        Ok((taken == sent.sent && delivered == received.received && taken == delivered + drops).then_some(()))
    })
    .map_err(|failure| {
        format!(
            "{failure}; sent, taken by the switch, delivered by it, received, dropped: {seen:?}\n{}",
            world.switch.ctl_text("stats").unwrap_or_default()
        )
    })
    .context(format!("{ring:?}"))?;
    ensure!(seen[3] > 1000, "next to nothing arrived: {seen:?}");
    Ok(format!("sent {} = received {} + dropped {}", seen[0], seen[3], seen[4]))
}
