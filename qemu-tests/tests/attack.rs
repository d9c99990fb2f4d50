//! Guests that attack the flow cache, and others on the same worker that go on as before.
//!
//! Frames come from [`load`](vsteer_qemu_tests::load), as no emulated guest sends fast enough to be a threat. One pair of
//! ports is the attacker's, the other one looks at what is left of its own packets a second.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use vsteer_qemu_tests::control::Control;
use vsteer_qemu_tests::ensure;
use vsteer_qemu_tests::failure::Result;
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::load::frame::{self, Udp};
use vsteer_qemu_tests::load::traffic::Traffic;
use vsteer_qemu_tests::ofproto::random::Random;
use vsteer_qemu_tests::processor;
use vsteer_qemu_tests::world::World;

/// The processor of everything but the worker, which has processor 1.
const OTHER_CPU: usize = 0;

#[test]
fn an_attacker_does_not_take_from_others() -> Result<()> {
    let mut group = Group::new("attack", World::busy(&["a", "b", "x", "y"])?, Duration::from_secs(240));
    group.step("random source addresses", |world| {
        attack(world, "actions=NORMAL\n", 0.8, |random| {
            let mut udp = Udp::between(3, 4);
            udp.macs[1][1..].copy_from_slice(&random.bits().to_be_bytes()[..5]);
            udp
        })
    });
    group.step("a few source addresses", |world| {
        attack(world, "actions=NORMAL\n", 0.7, |random| {
            let mut udp = Udp::between(3, 4);
            udp.macs[1][5] = 0x80 | u8::try_from(random.below(64)).unwrap_or_default();
            udp
        })
    });
    group.step("random 5-tuples against 5-tuple rules", |world| {
        attack(world, &five_tuples(), 0.8, |random| {
            let mut udp = Udp::between(3, 4);
            udp.ips = [random_u32(random), random_u32(random)];
            udp.ports = [random_u16(random), random_u16(random)];
            udp
        })
    });
    group.step("packets made to need as many masks as there can be", |world| {
        attack(world, STAIRS, 0.8, |random| {
            // Each field leaves its rule's value at a bit of its own, so that the lookup ends at another depth.
            let mut udp = Udp::between(3, 4);
            udp.ips = [0x0a00_0003 ^ 1 << random.below(32), 0x0a00_0004 ^ 1 << random.below(32)];
            udp.ports = [1000 ^ 1 << random.below(16), 1001 ^ 1 << random.below(16)];
            udp
        })
    });
    group.finish()
}

const STAIRS: &str = "priority=100,in_port=a,actions=output:b
priority=50,udp,nw_src=10.0.0.3,actions=drop
priority=40,udp,nw_dst=10.0.0.4,actions=drop
priority=30,udp,tp_src=1000,actions=drop
priority=20,udp,tp_dst=1001,actions=drop
priority=10,in_port=x,actions=output:y
";

/// 1 000 rules on all five fields, and one for the rest.
fn five_tuples() -> String {
    let mut random = Random::new(5);
    let mut text =
        String::from("priority=200,in_port=a,actions=output:b\npriority=1,in_port=x,actions=output:y\n");
    for _ in 0..1000 {
        let [a, b, c, d] = random_u32(&mut random).to_be_bytes();
        let [e, f, g, h] = random_u32(&mut random).to_be_bytes();
        let [from, to] = [random_u16(&mut random), random_u16(&mut random)];
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "priority=100,udp,nw_src={a}.{b}.{c}.{d},nw_dst={e}.{f}.{g}.{h},tp_src={from},tp_dst={to},actions=drop"
        );
    }
    text
}

/// Two pairs of ports on one worker; the second sends ordinary traffic and crafted traffic in turns, at one rate. The other
/// pair keeps at least `least` of its packets.
///
/// If each port had a burst in each round, whatever it costs, random addresses and 5-tuples would leave three quarters and
/// the masks a hundredth.
fn attack(world: &mut World, rules: &str, least: f64, crafted: fn(&mut Random) -> Udp) -> Result<String> {
    processor::part_workers(world.switch.process(), OTHER_CPU)?;
    let mut control = world.control()?;
    control.replace_rules("actions=NORMAL\n")?;
    let clock = Instant::now();
    let mut victim = Traffic::between(world, "a", "b", clock, u64::MAX)?;
    let mut attacker = Traffic::between(world, "x", "y", clock, u64::MAX)?;
    // The switch knows where everybody is, so that nothing floods.
    victim.answer(&Udp::between(2, 1))?;
    attacker.answer(&Udp::between(4, 3))?;
    control.replace_rules(rules)?;
    let before_kib = world.switch.process().resident_kib()?;

    let Slices { full_rate, mut ratios, rates } = thread::scope(|scope| {
        let driver = scope.spawn(|| -> Result<Slices> {
            processor::claim(OTHER_CPU)?;
            Ok(slices(&mut victim, &mut attacker, crafted))
        });
        driver.join().expect("the driver's thread")
    })?;
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    let sizes = sizes(&mut control)?;
    let grown_mib = world.switch.process().resident_kib()?.saturating_sub(before_kib) / 1024;
    let text = format!(
        "the other pair keeps {:.0} % ({:.0} to {:.0} %), {:.2} Mpps of {:.2}; attacker at {:.2} Mpps; {sizes}; memory \
         grew by {grown_mib} MiB",
        100.0 * ratio,
        100.0 * ratios[0],
        100.0 * ratios[ratios.len() - 1],
        rates[1] as f64 / 1e6,
        rates[0] as f64 / 1e6,
        full_rate as f64 / 1e6,
    );
    ensure!(ratio >= least, "{text}");
    ensure!(grown_mib < 512, "{text}");
    Ok(text)
}

/// What the slices of one attack showed.
struct Slices {
    /// Packets a second that the attacker sends.
    full_rate: u64,
    /// Of the victim's rate under attack, to that beside ordinary traffic; one for each pair of slices.
    ratios: Vec<f64>,
    /// The victim's last two rates.
    rates: [u64; 2],
}

fn slices(victim: &mut Traffic, attacker: &mut Traffic, crafted: fn(&mut Random) -> Udp) -> Slices {
    let mut random = Random::new(1);
    let ordinary = |_: &mut Random| Udp::between(3, 4);
    // What the worker takes of ordinary traffic when both send as fast as they can.
    race(victim, attacker, u64::MAX, Duration::from_millis(300), &mut random, ordinary);
    let [_, full_rate] = race(victim, attacker, u64::MAX, Duration::from_secs(1), &mut random, ordinary);
    let (mut ratios, mut rates) = (Vec::new(), [0; 2]);
    for _ in 0..7 {
        let slice = Duration::from_millis(400);
        let calm = race(victim, attacker, full_rate, slice, &mut random, ordinary);
        let under_attack = race(victim, attacker, full_rate, slice, &mut random, crafted);
        ratios.push(under_attack[0] as f64 / calm[0].max(1) as f64);
        rates = [calm[0], under_attack[0]];
    }
    Slices { full_rate, ratios, rates }
}

/// Both pairs send for `duration`, the attacker at most `rate` packets a second. Returns what arrived a second of the
/// victim's packets, and what the attacker sent a second.
fn race(
    victim: &mut Traffic,
    attacker: &mut Traffic,
    rate: u64,
    duration: Duration,
    random: &mut Random,
    crafted: impl Fn(&mut Random) -> Udp,
) -> [u64; 2] {
    let start = Instant::now();
    victim.restart();
    attacker.restart();
    while start.elapsed() < duration {
        let turn = Instant::now();
        while turn.elapsed() < Duration::from_micros(150) {
            victim.send(u64::MAX, |_| Udp::between(1, 2));
            let elapsed_ns = u128::from(frame::nanoseconds(start));
            let due = u128::from(rate) * elapsed_ns / 1_000_000_000;
            if u128::from(attacker.account().sent) < due {
                attacker.send(u64::MAX, |_| crafted(random));
            }
            victim.receive();
            attacker.receive();
        }
        // The switch's other threads have this processor meanwhile.
        thread::sleep(Duration::from_micros(50));
    }
    let microseconds = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let per_second = |count: u64| count * 1_000_000 / microseconds.max(1);
    [per_second(victim.account().received), per_second(attacker.account().sent)]
}

/// Sizes of what an attacker may fill, all of which have a bound, most of them for each port.
fn sizes(control: &mut Control) -> Result<String> {
    let addresses = count(&control.call("fdb_show", &json!({}))?);
    let flows = control.megaflows()?;
    let caches = control.call("cache_show", &json!({}))?;
    let masks = caches["workers"][0]["subtables"].as_array().map_or(0, Vec::len);
    let text = format!("{addresses} addresses, {flows} flows, {masks} masks");
    ensure!(addresses <= 5000, "more addresses than ports may teach: {text}");
    // The attacker's port has half of the flows that there may be, and its quota of masks; the other ports need few.
    ensure!(flows <= 100_000 + 100, "more flows than one port may have: {text}");
    ensure!(masks <= 1024 + 16, "more masks than one port may have: {text}");
    Ok(text)
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

fn random_u32(random: &mut Random) -> u32 {
    u32::try_from(random.bits() >> 32).unwrap_or_default()
}

fn random_u16(random: &mut Random) -> u16 {
    u16::try_from(random.bits() >> 48).unwrap_or_default()
}
