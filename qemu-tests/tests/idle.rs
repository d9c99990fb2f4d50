//! Idle guests cost nothing, and the first packet after idleness is not late.

use std::thread;
use std::time::{Duration, Instant};

use vsteer_qemu_tests::ensure;
use vsteer_qemu_tests::failure::Result;
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::guest::GuestSpec;
use vsteer_qemu_tests::world::World;

#[test]
fn idle_switch_sleeps_and_wakes_at_once() -> Result<()> {
    let mut world = World::start(&["vm0=vhost-user:{}/vm0.sock", "vm1=vhost-user:{}/vm1.sock"])?;
    let spec = |name: &str, address| GuestSpec::new(name, world.nic(name).address(address));
    let specs = vec![spec("vm0", "10.0.0.1/24"), spec("vm1", "10.0.0.2/24")];
    world.boot(specs)?;
    world.guests[1].run("iperf3 -s -D")?;
    let mut group = Group::new("idle", world, Duration::from_secs(90));

    let mut loaded_ms = f64::NAN;
    group.step("ping under load", |world| {
        let guest = &mut world.guests[0];
        let iperf = guest.start("iperf3 -c 10.0.0.2 -t 4 -J")?;
        thread::sleep(Duration::from_secs(1));
        let ping = guest.ping("10.0.0.2", 20, 0.1)?;
        guest.collect(&iperf, Duration::from_secs(20))?;
        loaded_ms = ping.longest_ms();
        Ok(ping.to_string())
    });
    group.step("two idle guests cost under 1 % of a processor", |world| {
        thread::sleep(Duration::from_secs(1));
        let (start, before) = (Instant::now(), world.switch.process().cpu_time()?);
        thread::sleep(Duration::from_secs(10));
        let used = world.switch.process().cpu_time()? - before;
        let percent = 100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64();
        ensure!(percent < 1.0, "{percent:.2} %");
        Ok(format!("{percent:.3} %"))
    });
    group.step("the first ping after idleness is no slower than one under load", |world| {
        let ping = world.guests[0].ping("10.0.0.2", 1, 1.0)?;
        ensure!(
            ping.lost() == 0 && ping.average_ms() <= loaded_ms,
            "{ping}; under load up to {loaded_ms:.2} ms"
        );
        Ok(format!("{ping}; under load up to {loaded_ms:.2} ms"))
    });
    group.finish()
}
