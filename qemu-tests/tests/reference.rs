//! The rig without the switch under test: guests and virtio_user talk through DPDK's testpmd as back-end. A failure
//! here is the fault of the machine or the harness, and explains every other.

use std::time::Duration;

use vsteer_qemu_tests::ensure;
use vsteer_qemu_tests::failure::Result;
use vsteer_qemu_tests::guest::{Guest, GuestSpec, Nic};
use vsteer_qemu_tests::testpmd::{Ring, Testpmd};

#[test]
fn guests_talk_through_testpmd_and_survive_its_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sockets = ["vm0", "vm1"].map(|name| folder.path().join(format!("{name}.sock")));
    let mut switch = Testpmd::back_end([&sockets[0], &sockets[1]], false, folder.path())?;
    let boot = |n: usize| {
        let nic = Nic::new(sockets[n].clone()).address(&format!("10.0.0.{}/24", n + 1));
        Guest::spawn(GuestSpec::new(&format!("vm{n}"), nic), folder.path())
    };
    let mut guests = [boot(0)?, boot(1)?];
    guests.iter_mut().try_for_each(Guest::wait_ready)?;
    let [vm0, vm1] = &mut guests;
    vm0.wait_reachable("10.0.0.2", Duration::from_secs(5))?;
    let ping = vm0.ping("10.0.0.2", 20, 0.1)?;
    println!("ping: {ping}");
    ensure!(ping.lost() == 0, "ping lost packets: {ping}");

    vm1.run("iperf3 -s -D")?;
    println!("iperf3: {}", vm0.iperf("10.0.0.2", 3, "")?);
    let job = vm0.start("iperf3 -c 10.0.0.2 -t 2 -u -b 20M -J")?;
    println!(
        "iperf3: {}",
        vsteer_qemu_tests::measure::Throughput::parse(&vm0.collect(&job, Duration::from_secs(20))?.text)?
    );

    switch.process().kill();
    drop(switch);
    let _switch = Testpmd::back_end([&sockets[0], &sockets[1]], false, folder.path())?;
    println!("back after {:.1} s", vm0.wait_reachable("10.0.0.2", Duration::from_secs(10))?.as_secs_f64());
    Ok(())
}

#[test]
fn virtio_user_counts_what_testpmd_forwards() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sockets = ["p0", "p1"].map(|name| folder.path().join(name));
    let _switch = Testpmd::back_end([&sockets[0], &sockets[1]], false, folder.path())?;
    let ring = Ring { queues: 1, size: 256, mergeable: true };
    let mut receiver = Testpmd::front_end("receiver", &sockets[1], ring, "rxonly", folder.path())?;
    let mut sender = Testpmd::front_end("sender", &sockets[0], ring, "txonly", folder.path())?;
    receiver.command("start")?;
    sender.command("start")?;
    std::thread::sleep(Duration::from_secs(1));
    sender.command("stop")?;
    std::thread::sleep(Duration::from_millis(500));
    let (sent, received) = (sender.counters()?.sent, receiver.counters()?.received);
    ensure!(sent > 0 && received > 0 && received <= sent, "{sent} sent, {received} received");
    Ok(())
}
