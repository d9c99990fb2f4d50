//! Rules as operators write them, between real guests: an access list, a router made of rules, a mirror, and a rule that
//! is changed while traffic runs.
//!
//! vm1's port has offloads off: its guest checks every checksum that a rule's rewriting left behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use vsteer_qemu_tests::control::Control;
use vsteer_qemu_tests::failure::{Context, Result};
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::guest::{Guest, GuestSpec};
use vsteer_qemu_tests::load::frame::Udp;
use vsteer_qemu_tests::load::traffic::Traffic;
use vsteer_qemu_tests::world::World;
use vsteer_qemu_tests::{ensure, fail, wait};

/// The router's hardware address.
const ROUTER: &str = "02:00:00:00:00:fe";

/// How soon a changed rule must show.
const EFFECT: Duration = Duration::from_millis(100);

/// Megaflows that are installed when a rule changes under load.
const MEGAFLOWS: u64 = 10_000;

#[test]
fn rules_do_what_they_say() -> Result<()> {
    let mut world = World::start(&[
        "vm0=vhost-user:{}/vm0.sock",
        "vm1=vhost-user:{}/vm1.sock,csum=off,tso=off",
        "vm2=vhost-user:{}/vm2.sock",
        "x=vhost-user:{}/x.sock",
        "y=vhost-user:{}/y.sock",
    ])?;
    let specs = (0..3).map(|n| {
        let name = format!("vm{n}");
        GuestSpec::new(&name, world.nic(&name).address(&format!("10.0.0.{}/24", n + 1)))
    });
    let specs = specs.collect();
    world.boot(specs)?;
    let mut group = Group::new("rules", world, Duration::from_secs(240));

    group.step("an access list lets ssh and ping through, drops the rest, and counts both", access_list);
    group.step("a mirror shows a third guest what two others say", mirror);
    group.step("a changed rule takes effect under load", change_under_load);
    group.step("a router on a stick made of rules: addresses, time to live, checksums", router);
    group.finish()
}

fn access_list(world: &mut World) -> Result<String> {
    let rules = "priority=100,arp,actions=NORMAL
priority=90,icmp,actions=NORMAL
priority=80,tcp,tp_dst=22,actions=NORMAL
priority=80,tcp,tp_src=22,actions=NORMAL
priority=70,tcp,tp_dst=23,actions=drop
priority=1,actions=drop
";
    world.control()?.replace_rules(rules)?;
    let [vm0, vm1, ..] = &mut world.guests[..] else { unreachable!() };
    let ping = vm0.ping("10.0.0.2", 10, 0.1)?;
    ensure!(ping.lost() == 0, "ping: {ping}");
    for port in [22, 23] {
        vm1.start(&format!("while true; do echo hello from {port} | nc -l -p {port} -w 5; done"))?;
    }
    let greeting = vm0.run("nc -w 3 10.0.0.2 22 </dev/null")?;
    ensure!(greeting.contains("hello from 22"), "port 22 said {greeting:?}");
    let refused = vm0.attempt("nc -w 2 10.0.0.2 23 </dev/null", Duration::from_secs(5))?;
    ensure!(refused.status != 0 && !refused.text.contains("hello"), "port 23 said {:?}", refused.text);
    let udp = vm0.attempt("nslookup lost 10.0.0.2", Duration::from_secs(2))?;

    let icmp = packets_at_last(world, 90, "", 20)?;
    ensure!(icmp == 20, "10 pings are 20 packets; the rule counts {icmp}");
    // A connection is three packets to the server at the least, and two of its own.
    let ssh = packets_at_last(world, 80, "tcp_dst", 3)? + packets_at_last(world, 80, "tcp_src", 2)?;
    let telnet = packets_at_last(world, 70, "", 1)?;
    let rest = packets_at_last(world, 1, "", 1)?;
    ensure!(rest >= 1, "nobody counted the datagram: {udp:?}");
    Ok(format!("icmp {icmp}, ssh {ssh}, telnet dropped {telnet}, rest dropped {rest}"))
}

/// The packets of the rule with this priority whose match names `word`, once there are `least` of them.
fn packets_at_last(world: &World, priority: u64, word: &str, least: u64) -> Result<u64> {
    let mut rules = Value::Null;
    wait::until("the rule's count", Duration::from_secs(3), || {
        rules = world.switch.ctl("flow dump-flows")?;
        let rule = rules.as_array().into_iter().flatten().find(|rule| {
            rule["priority"] == priority && rule["match"].as_str().is_some_and(|text| text.contains(word))
        });
        Ok(rule.and_then(|rule| rule["packets"].as_u64()).filter(|packets| *packets >= least))
    })
    .context(format!("priority {priority} {word}, at least {least}: {rules}"))
}

fn mirror(world: &mut World) -> Result<String> {
    world.control()?.replace_rules("actions=NORMAL\n")?;
    world.guests[2].run("ip link set eth0 promisc on")?;
    // Addresses are known and flooding is over before packets are counted.
    let ping = world.guests[0].ping("10.0.0.2", 3, 0.1)?;
    ensure!(ping.lost() == 0, "before the mirror: {ping}");
    let before = received(&mut world.guests[2])?;
    world.guests[0].ping("10.0.0.2", 20, 0.05)?;
    let unmirrored = received(&mut world.guests[2])? - before;
    world.switch.ctl_text("mirror add m,src=vm0,dst=vm0,output=vm2")?;
    let before = received(&mut world.guests[2])?;
    let ping = world.guests[0].ping("10.0.0.2", 20, 0.05)?;
    let mirrored = received(&mut world.guests[2])? - before;
    world.switch.ctl_text("mirror del m")?;
    ensure!(ping.lost() == 0, "under the mirror: {ping}");
    // An address resolution may fall into either count.
    ensure!(unmirrored <= 4, "{unmirrored} packets came without a mirror");
    ensure!((40..=44).contains(&mirrored), "20 pings are 40 packets; the third guest saw {mirrored}");
    Ok(format!("40 packets, {mirrored} seen"))
}

fn received(guest: &mut Guest) -> Result<u64> {
    guest.run("cat /sys/class/net/eth0/statistics/rx_packets")?.trim().parse().context("rx_packets")
}

/// Drops and lets through a stream of datagrams while another pair of ports keeps ten thousand megaflows alive.
fn change_under_load(world: &mut World) -> Result<String> {
    let rules = "priority=100,in_port=x,udp,actions=move:NXM_OF_IP_DST[]->NXM_NX_REG0[],output:y
priority=0,actions=NORMAL
";
    world.control()?.replace_rules(rules)?;
    world.guests[1].run("pidof iperf3 || iperf3 -s -D")?;
    world.guests[0].ping("10.0.0.2", 1, 0.1)?;
    let mut load = Traffic::between(world, "x", "y", Instant::now(), u64::MAX)?;
    let job = world.guests[0].start("iperf3 -c 10.0.0.2 -u -b 8M -l 1000 -t 20")?;
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        scope.spawn(|| keep_flows_alive(&mut load, &done));
        let result = change(world);
        done.store(true, Ordering::Relaxed);
        result
    });
    world.guests[0].collect(&job, Duration::from_secs(30))?;
    result
}

/// Every flow has a packet twice a second.
fn keep_flows_alive(load: &mut Traffic, done: &AtomicBool) {
    let start = Instant::now();
    while !done.load(Ordering::Relaxed) {
        let due = u128::from(2 * MEGAFLOWS) * start.elapsed().as_millis() / 1000;
        while u128::from(load.account().sent) < due {
            let sent = load.send(u64::MAX, |number| {
                let mut udp = Udp::between(8, 9);
                udp.ips[1] = 0x0b00_0000 + u32::try_from(number % MEGAFLOWS).unwrap_or_default();
                udp
            });
            if sent == 0 {
                break;
            }
        }
        load.receive();
        thread::sleep(Duration::from_millis(1));
    }
}

fn change(world: &World) -> Result<String> {
    let mut control = world.control()?;
    let mut flows = 0;
    wait::until("10 000 megaflows", Duration::from_secs(8), || {
        flows = control.megaflows()?;
        Ok((flows >= MEGAFLOWS).then_some(()))
    })
    .context(format!("{flows} megaflows"))?;
    let delivered = |control: &mut Control| -> Result<u64> {
        let port = control.call("port_show", &json!({"name": "vm1"}))?;
        port["counters"]["tx_pkts"].as_u64().ok_or_else(|| format!("no tx_pkts in {port}")).context("vm1")
    };
    wait::until("the stream to run", Duration::from_secs(5), || {
        let before = delivered(&mut control)?;
        thread::sleep(Duration::from_millis(100));
        Ok((delivered(&mut control)? > before + 20).then_some(()))
    })?;

    let start = Instant::now();
    control.call("rule_add", &json!({"text": "priority=200,udp,tp_dst=5201,actions=drop"}))?;
    let mut seen = delivered(&mut control)?;
    let mut last = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        let now = delivered(&mut control)?;
        if now != seen {
            (last, seen) = (Instant::now(), now);
        }
        thread::sleep(Duration::from_millis(1));
    }
    let dropped = last - start;
    let start = Instant::now();
    control.call("rule_del", &json!({"text": "udp,tp_dst=5201"}))?;
    let passed = wait::until("the stream to go on", Duration::from_secs(3), || {
        Ok((delivered(&mut control)? > seen + 1).then(|| start.elapsed()))
    })?;
    let text = format!(
        "{flows} megaflows; dropped after {:.1} ms, passed again after {:.1} ms",
        dropped.as_secs_f64() * 1e3,
        passed.as_secs_f64() * 1e3
    );
    ensure!(dropped <= EFFECT && passed <= EFFECT, "{text}");
    Ok(text)
}

fn router(world: &mut World) -> Result<String> {
    let macs = [mac(&mut world.guests[0])?, mac(&mut world.guests[1])?];
    world.control()?.replace_rules(&router_rules(&macs))?;
    let [vm0, vm1, ..] = &mut world.guests[..] else { unreachable!() };
    vm0.run("ip neigh flush all; ip route add 10.1.0.0/24 via 10.0.0.254")?;
    vm1.run("ip addr flush dev eth0; ip neigh flush all; ip addr add 10.1.0.1/24 dev eth0")?;
    vm1.run("ip route add default via 10.1.0.254")?;
    vm1.run("iperf3 -s -p 5202 -D; pidof iperf3 || iperf3 -s -D")?;

    let output = vm0.run("ping -c 5 -i 0.2 -W 2 10.1.0.1")?;
    ensure!(output.matches("ttl=63").count() == 5, "a router takes one from 64: {output}");
    // Through the router, and through the router at another address and port.
    let straight = vm0.iperf("10.1.0.1", 3, "")?;
    let translated = vm0.iperf("10.0.0.200", 3, "-p 8080")?;
    let udp = vm0.iperf("10.1.0.1", 2, "-u -b 5M -l 1000")?;
    ensure!(udp.lost_percent < 2.0, "UDP: {udp}");
    for guest in [vm0, vm1] {
        let errors = guest.run("awk '/^(Tcp|Udp|Icmp):/ { print }' /proc/net/snmp")?;
        for (protocol, column) in
            [("Tcp:", "InCsumErrors"), ("Udp:", "InCsumErrors"), ("Icmp:", "InCsumErrors")]
        {
            let count = snmp(&errors, protocol, column)?;
            ensure!(count == 0, "{}: {protocol} {count} wrong checksums\n{errors}", guest.name());
        }
    }
    Ok(format!("ttl 63; {straight} routed, {translated} to a translated address; no wrong checksum"))
}

fn mac(guest: &mut Guest) -> Result<String> {
    Ok(guest.run("cat /sys/class/net/eth0/address")?.trim().to_owned())
}

/// Answers for the router's addresses, then routes by destination. 10.0.0.200:8080 stands for port 5202 of vm1.
fn router_rules(macs: &[String; 2]) -> String {
    let answer = |address: &str| {
        format!(
            "priority=100,arp,arp_op=1,arp_tpa={address},actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],\
             mod_dl_src:{ROUTER},load:0x2->NXM_OF_ARP_OP[],move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],\
             move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:{ROUTER}->arp_sha,set_field:{address}->arp_spa,in_port\n"
        )
    };
    let route = |prefix: &str, mac: &str, port: &str| {
        format!(
            "table=1,ip,nw_dst={prefix},actions=dec_ttl,mod_dl_src:{ROUTER},mod_dl_dst:{mac},output:{port}\n"
        )
    };
    let mut rules = ["10.0.0.254", "10.1.0.254", "10.0.0.200"].map(answer).concat();
    rules += &format!(
        "priority=60,tcp,dl_dst={ROUTER},nw_dst=10.0.0.200,tp_dst=8080,actions=mod_nw_dst:10.1.0.1,mod_tp_dst:5202,\
         resubmit(,1)\n\
         priority=60,tcp,dl_dst={ROUTER},nw_src=10.1.0.1,tp_src=5202,actions=mod_nw_src:10.0.0.200,mod_tp_src:8080,\
         resubmit(,1)\n\
         priority=50,ip,dl_dst={ROUTER},actions=resubmit(,1)\n\
         priority=0,actions=NORMAL\n"
    );
    rules + &route("10.0.0.1", &macs[0], "vm0") + &route("10.1.0.1", &macs[1], "vm1")
}

/// A number of `/proc/net/snmp`, whose lines come in pairs: names, then values.
fn snmp(text: &str, protocol: &str, column: &str) -> Result<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { fail!("no {protocol} in {text}") };
    let value = names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == column);
    let Some((_, value)) = value else { fail!("no {column} in {names}") };
    value.parse().context(column)
}
