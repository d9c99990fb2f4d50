//! VLANs: access ports of different VLANs are apart, a trunk carries tags, untagged traffic leaves untagged.
//!
//! vm2 has two ports: an access port (eth0) and a trunk (eth1), the latter in a namespace of its own inside the guest.

use std::time::Duration;

use vsteer_qemu_tests::failure::{Context, Result};
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::guest::{Guest, GuestSpec};
use vsteer_qemu_tests::measure::Throughput;
use vsteer_qemu_tests::world::World;
use vsteer_qemu_tests::{ensure, wait};

#[test]
fn vlans_are_apart_and_trunks_carry_tags() -> Result<()> {
    let mut world = World::start(&[
        "red0=vhost-user:{}/red0.sock,vlan=10",
        "red1=vhost-user:{}/red1.sock,vlan=10",
        "blue=vhost-user:{}/blue.sock,vlan=20",
        "trunk=vhost-user:{}/trunk.sock,trunks=10+20",
    ])?;
    let red0 = GuestSpec::new("red0", world.nic("red0").address("10.0.0.1/24"));
    let red1 = GuestSpec::new("red1", world.nic("red1").address("10.0.0.2/24"));
    let mut both = GuestSpec::new("blue", world.nic("blue").address("10.0.0.3/24"));
    both.nics.push(world.nic("trunk"));
    world.boot(vec![red0, red1, both])?;
    let guest = &mut world.guests[2];
    guest.run("mkdir -p /run/netns && ip netns add trunk && ip link set eth1 netns trunk")?;
    // Router solicitations would disturb what is counted here.
    inside(guest, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")?;
    inside(guest, "ip link set eth1 up")?;
    for (vlan, address) in [(10, "10.0.0.4"), (20, "10.0.0.4"), (30, "10.0.0.5")] {
        inside(guest, &format!("ip link add link eth1 name eth1.{vlan} type vlan id {vlan}"))?;
        // VLAN 20's subinterface comes up alone, later: both have the address that the access guests know.
        inside(guest, &format!("ip addr add {address}/24 dev eth1.{vlan}"))?;
    }
    let mut group = Group::new("vlan", world, Duration::from_secs(150));

    group.step("ports of one VLAN reach each other", |world| answered(&mut world.guests[0], "10.0.0.2"));
    group.step("ports of different VLANs do not", |world| {
        unanswered(&mut world.guests[0], "10.0.0.3")?;
        unanswered(&mut world.guests[2], "10.0.0.1")
    });
    group.step("a broadcast stays in its VLAN", |world| {
        let capture = watch(&mut world.guests[2], "tcpdump -i eth0 -n -e arp")?;
        unanswered(&mut world.guests[0], "10.0.0.77")?;
        let seen = capture.end(&mut world.guests[2])?;
        ensure!(!seen.contains("10.0.0.77"), "VLAN 20 saw VLAN 10's broadcast: {seen}");
        Ok("")
    });
    group.step("the trunk reaches VLAN 10, and sees its tag", |world| {
        inside(&mut world.guests[2], "ip link set eth1.10 up")?;
        let capture =
            watch(&mut world.guests[2], "ip netns exec trunk tcpdump -i eth1 -n -e icmp or 'vlan and icmp'")?;
        answered(&mut world.guests[0], "10.0.0.4")?;
        let seen = capture.end(&mut world.guests[2])?;
        ensure!(seen.contains("vlan 10"), "no tag of VLAN 10: {seen}");
        Ok("")
    });
    group.step("what leaves an access port is untagged", |world| {
        let capture = watch(&mut world.guests[0], "tcpdump -i eth0 -n -e")?;
        let peer = &mut world.guests[2];
        let output = inside(peer, "ping -c 3 -i 0.2 -W 2 10.0.0.1")?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
        let seen = capture.end(&mut world.guests[0])?;
        ensure!(seen.contains("echo request") && !seen.contains("vlan"), "{seen}");
        Ok("")
    });
    group.step("the trunk reaches VLAN 20 under the same address", |world| {
        inside(&mut world.guests[2], "ip link set eth1.10 down")?;
        inside(&mut world.guests[2], "ip link set eth1.20 up")?;
        answered(&mut world.guests[2], "10.0.0.4")?;
        unanswered(&mut world.guests[0], "10.0.0.4")
    });
    group.step("a VLAN that is not on the trunk passes nothing", |world| {
        inside(&mut world.guests[2], "ip link set eth1.30 up")?;
        let before = world.switch.counters("trunk")?.drops;
        let guest = &mut world.guests[2];
        let output = guest.attempt(
            "ip netns exec trunk ping -I eth1.30 -c 3 -i 0.2 -W 1 10.0.0.1",
            Duration::from_secs(10),
        )?;
        ensure!(output.status != 0, "VLAN 30 was answered: {}", output.text);
        let after = world.switch.counters("trunk")?.drops;
        ensure!(after > before, "no drop was counted: {before} before, {after} after");
        Ok("")
    });
    group.step("TCP crosses from trunk to access port with offloads", |world| {
        for (vlan, state) in [(30, "down"), (20, "down"), (10, "up")] {
            inside(&mut world.guests[2], &format!("ip link set eth1.{vlan} {state}"))?;
        }
        world.guests[0].run("iperf3 -s -D")?;
        let report = world.guests[2]
            .run_for("ip netns exec trunk iperf3 -c 10.0.0.1 -t 3 -J", Duration::from_secs(20))?;
        let tcp = Throughput::parse(&report)?;
        ensure!(tcp.gbits_per_s > 0.02, "{tcp}");
        Ok(tcp.to_string())
    });
    group.finish()
}

fn inside(guest: &mut Guest, command: &str) -> Result<String> {
    guest.run(&format!("ip netns exec trunk {command}"))
}

fn answered(guest: &mut Guest, address: &str) -> Result<&'static str> {
    let ping = guest.ping(address, 5, 0.2)?;
    ensure!(ping.lost() == 0, "{} to {address}: {ping}", guest.name());
    Ok("")
}

fn unanswered(guest: &mut Guest, address: &str) -> Result<&'static str> {
    let ping = guest.ping(address, 5, 0.2)?;
    ensure!(ping.received == 0, "{} was answered by {address}: {ping}", guest.name());
    Ok("")
}

/// A capture that runs in a guest.
struct Capture;

fn watch(guest: &mut Guest, tcpdump: &str) -> Result<Capture> {
    guest.run(&format!("rm -f /run/seen; {tcpdump} -l >/run/seen 2>&1 &"))?;
    let mut text = String::new();
    wait::until("tcpdump to listen", Duration::from_secs(5), || {
        text = guest.run("cat /run/seen")?;
        Ok(text.contains("listening").then_some(()))
    })
    .context(text)?;
    Ok(Capture)
}

impl Capture {
    fn end(self, guest: &mut Guest) -> Result<String> {
        guest.run("sleep 0.3; killall tcpdump; sleep 0.3; cat /run/seen")
    }
}
