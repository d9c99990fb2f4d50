//! DPDK's virtio_user as front-end: every packet sent is delivered, or counted as dropped, exactly.

use std::time::{Duration, Instant};

use vsteer_qemu_tests::failure::{Context, Failure, Result};
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

/// Restarts of the switch that a front-end has to live through.
const RESTARTS: u32 = 100;

/// Restarts of the front-end, every other one together with the switch. Each takes seconds.
const FRONT_END_RESTARTS: u32 = 12;

/// The longest that packets may stay away: virtio_user notices at once that its back-end has gone, and the new switch
/// connects as soon as it runs.
const GAP_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn front_ends_that_listen_live_through_restarts_of_the_switch() -> Result<()> {
    let ports = ["from=vhost-user:{}/from.sock,mode=client", "to=vhost-user:{}/to.sock,mode=client"];
    let mut world = World::start(&ports)?;
    let folder = world.folder.path().to_owned();
    let ring = Ring { queues: 1, size: 256, mergeable: true };
    let socket = world.socket("to");
    let start_receiver = || -> Result<Testpmd> {
        let mut receiver = Testpmd::listening("receiver", &socket, ring, "rxonly", &folder)?;
        receiver.command("start")?;
        Ok(receiver)
    };
    let mut receiver = start_receiver()?;
    let mut sender = Testpmd::listening("sender", &world.socket("from"), ring, "txonly", &folder)?;
    sender.command("start")?;
    arrives(&mut world, &mut receiver).context("before any restart")?;
    let mut gaps = Vec::new();
    for round in 1..=RESTARTS {
        world.switch.process().kill();
        let killed = Instant::now();
        world.switch.restart(&world.host)?;
        let back = arrives(&mut world, &mut receiver).context(format!("restart {round}"))?;
        gaps.push(back.duration_since(killed));
    }
    gaps.sort();
    let longest = gaps[gaps.len() - 1];
    println!("dpdk: {RESTARTS} restarts, gaps: median {:?}, longest {longest:?}", gaps[gaps.len() / 2]);
    ensure!(longest <= GAP_LIMIT, "packets stayed away for {longest:?}");
    for round in 1..=FRONT_END_RESTARTS {
        receiver.process().kill();
        let is_both = round % 2 == 0;
        if is_both {
            world.switch.process().kill();
            world.switch.restart(&world.host)?;
        }
        // It has no prompt before the switch connects.
        receiver = start_receiver()?;
        arrives(&mut world, &mut receiver).context(format!("restart {round} of the front-end"))?;
    }
    Ok(())
}

/// Waits until the switch delivers, and the receiver receives, more than it did; when that was seen.
fn arrives(world: &mut World, receiver: &mut Testpmd) -> Result<Instant> {
    let sent = world.switch.counters("to")?.tx_pkts;
    let wait = wait::until("packets to arrive", Duration::from_secs(30), || {
        Ok((world.switch.counters("to")?.tx_pkts > sent).then(Instant::now))
    });
    let seen = wait.map_err(|failure| Failure::new(format!("{failure}\n{}", world.switch.diagnosis())))?;
    let before = receiver.counters()?.received;
    wait::until("the receiver to receive", Duration::from_secs(10), || {
        Ok((receiver.counters()?.received > before).then_some(()))
    })?;
    Ok(seen)
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
