//! Two guests and the host talk through the switch, then a rule comes between them; prints what a person wants to see, and
//! ends everything it started.

use std::time::{Duration, Instant};

use vsteer_qemu_tests::assets::Assets;
use vsteer_qemu_tests::ensure;
use vsteer_qemu_tests::failure::Result;
use vsteer_qemu_tests::guest::GuestSpec;
use vsteer_qemu_tests::measure::Ping;
use vsteer_qemu_tests::world::World;

const HOST: &str = "10.0.0.100";

fn main() -> Result<()> {
    let start = Instant::now();
    println!("vsteer demo: two virtual machines and this host on one virtual switch.\n");
    Assets::get()?;
    println!("Starting vsteer with two vhost-user ports (vm0, vm1) and a TAP towards the host (host) ...");
    let mut world =
        World::start(&["vm0=vhost-user:{}/vm0.sock", "vm1=vhost-user:{}/vm1.sock", "host=tap:vsteer0"])?;
    println!("Booting two QEMU guests with Debian's kernel ...");
    let boot = Instant::now();
    let spec = |name: &str, address| GuestSpec::new(name, world.nic(name).address(address));
    let specs = vec![spec("vm0", "10.0.0.1/24"), spec("vm1", "10.0.0.2/24")];
    world.boot(specs)?;
    println!("Both are up after {:.1} s.\n", boot.elapsed().as_secs_f64());
    world.host.run(&format!("ip addr add {HOST}/24 dev vsteer0"))?;
    world.host.run("ip link set vsteer0 up")?;
    let _server = world.host.iperf_server(world.folder.path())?;
    world.guests[1].run("iperf3 -s -D")?;

    let result = talk(&mut world).and_then(|()| rule(&mut world));
    if let Err(failure) = result {
        eprintln!("{}", world.diagnosis());
        return Err(failure);
    }
    println!("\n$ vsteer ctl port list\n{}", world.switch.ctl_text("port list")?.trim_end());
    println!("\n$ vsteer ctl fdb show\n{}", world.switch.ctl_text("fdb show")?.trim_end());
    world.guests.clear();
    let end = world.switch.terminate()?;
    println!(
        "\nvsteer ended {:.2} s after SIGTERM. The demo took {:.0} s.",
        end.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The second scene: a rule, what it does to the guests, and where the switch shows why.
fn rule(world: &mut World) -> Result<()> {
    println!("\nA rule: vm0 may not ping, but all else passes.");
    show(world, "flow add priority=100,icmp,in_port=vm0,actions=drop")?;
    let vm0 = &mut world.guests[0];
    let ping = vm0.ping("10.0.0.2", 5, 0.2)?;
    ensure!(ping.received == 0, "a ping passed the rule: {ping}");
    println!("  vm0 to vm1, ping: {ping}");
    println!("  vm0 to vm1, TCP:  {}", vm0.iperf("10.0.0.2", 2, "")?);

    println!("\nEvery rule counts its packets:");
    show(world, "flow dump-flows")?;
    println!("\nThe flow cache has the decision, with the fields that it rests on:");
    let flows = world.switch.ctl_text("flow dump")?;
    println!("$ vsteer ctl flow dump");
    let mut lines = flows.lines();
    let heading = lines.next().into_iter();
    for line in heading.chain(lines.filter(|line| line.contains("drop") || line.contains("proto=6"))) {
        println!("{line}");
    }
    println!("\nAnd this is how a packet comes to it:");
    show(world, "trace in_port=vm0,icmp,nw_src=10.0.0.1,nw_dst=10.0.0.2,icmp_type=8")?;

    println!("\nWithout the rule:");
    show(world, "flow del-flows icmp")?;
    let ping = world.guests[0].ping("10.0.0.2", 5, 0.2)?;
    ensure!(ping.lost() == 0, "the rule is gone, and still: {ping}");
    println!("  vm0 to vm1, ping: {ping}");
    Ok(())
}

fn show(world: &World, command: &str) -> Result<()> {
    println!("$ vsteer ctl {command}\n{}", world.switch.ctl_text(command)?.trim_end());
    Ok(())
}

fn talk(world: &mut World) -> Result<()> {
    println!("Ping, 10 requests each:");
    let vm0 = &mut world.guests[0];
    vm0.wait_reachable("10.0.0.2", Duration::from_secs(5))?;
    println!("  vm0 (10.0.0.1) to vm1 (10.0.0.2): {}", vm0.ping("10.0.0.2", 10, 0.2)?);
    println!("  vm0 (10.0.0.1) to the host ({HOST}): {}", vm0.ping(HOST, 10, 0.2)?);
    let output = world.host.run("ping -c 10 -i 0.2 10.0.0.2")?;
    println!("  the host ({HOST}) to vm1 (10.0.0.2): {}", Ping::parse(&output)?);

    println!("\niperf3, 3 seconds each:");
    let vm0 = &mut world.guests[0];
    for (peer, address) in [("vm1", "10.0.0.2"), ("the host", HOST)] {
        println!("  TCP vm0 to {peer}: {}", vm0.iperf(address, 3, "")?);
        println!("  TCP {peer} to vm0: {}", vm0.iperf(address, 3, "-R")?);
    }
    println!("  UDP vm0 to vm1, 50 Mbit/s offered: {}", vm0.iperf("10.0.0.2", 3, "-u -b 50M -l 1400")?);
    println!("  (Guests are emulated unless VSTEER_ACCEL=kvm; their own processors limit these rates.)");
    Ok(())
}
