//! Rules are replaced under full load, and packets that they do not concern notice nothing.
//!
//! Frames come from [`load`](vsteer_qemu_tests::load), numbered and timed, at rates that no emulated guest reaches. The
//! switch has one worker, on a processor of its own.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use vsteer_qemu_tests::failure::Result;
use vsteer_qemu_tests::group::Group;
use vsteer_qemu_tests::load::frame::{self, Udp};
use vsteer_qemu_tests::load::traffic::{Account, Late, Traffic};
use vsteer_qemu_tests::processor;
use vsteer_qemu_tests::world::World;
use vsteer_qemu_tests::{ensure, fail};

/// The processor of everything but the worker, which has processor 1.
const OTHER_CPU: usize = 0;

/// The longest that a replacement of rules may hold a packet.
const HOLD: Duration = Duration::from_millis(1);

/// Hosts were met that spoil every second attempt for minutes.
const ATTEMPTS: usize = 12;

/// A thread that was off its processor for so long explains a late packet.
const OFF_PROCESSOR_NS: u64 = 200_000;

#[test]
fn replaced_rules_neither_lose_nor_hold_packets() -> Result<()> {
    let mut group = Group::new("load", World::busy(&["a", "b"])?, Duration::from_secs(120));
    group.step("without a change", |world| unheld(world, None));
    group.step("10 000 rules replaced again and again", |world| {
        unheld(world, Some(Duration::from_millis(300)))
    });
    group.finish()
}

/// Runs [`steady`] until no packet was held without an explanation, [`ATTEMPTS`] times at most.
///
/// When the host of a virtual machine takes a processor away for some milliseconds and does not account for it, nothing in
/// the machine tells. A switch that holds packets when rules are replaced does so in every attempt, as each has several
/// replacements. What was held in an attempt before the good one is part of the text.
fn unheld(world: &mut World, interval: Option<Duration>) -> Result<String> {
    let mut held = Vec::new();
    for _ in 0..ATTEMPTS {
        let (text, first) = steady(world, interval)?;
        match first {
            None if held.is_empty() => return Ok(text),
            None => return Ok(format!("{text}; attempts before it: {}", held.join("; "))),
            Some(late) => held.push(format!("{text}; the first: {late:?}")),
        }
    }
    fail!("packets were held in every attempt:\n{}", held.join("\n"))
}

/// Three seconds of load; in each `interval`, if there is one, all rules but those of the load give way to others. Returns
/// what happened, and the first packet that was held although nobody was off its processor.
fn steady(world: &mut World, interval: Option<Duration>) -> Result<(String, Option<Late>)> {
    let worker = processor::part_workers(world.switch.process(), OTHER_CPU)?;
    let mut control = world.control()?;
    control.replace_rules(&bystanders(0))?;
    let clock = Instant::now();
    let limit_ns = u64::try_from(HOLD.as_nanos())?;
    let mut traffic = Traffic::between(world, "a", "b", clock, limit_ns)?;
    let process = world.switch.process();
    let blocked_before = processor::blocked(process, worker)?;

    let (account, pauses, replaced) = thread::scope(|scope| -> Result<(Account, Vec<Pause>, u32)> {
        let replacer = scope.spawn(move || -> Result<u32> {
            processor::keep_to(&[OTHER_CPU])?;
            let mut replaced = 0;
            while let Some(interval) = interval.filter(|_| clock.elapsed() < Duration::from_secs(3)) {
                replaced += 1;
                control.replace_rules(&bystanders(replaced))?;
                thread::sleep(interval);
            }
            Ok(replaced)
        });
        let driver = scope.spawn(|| -> Result<(Account, Vec<Pause>)> {
            processor::claim(OTHER_CPU)?;
            let mut pauses = Pauses::new(clock);
            while clock.elapsed() < Duration::from_secs(3) {
                let burst = Instant::now();
                while burst.elapsed() < Duration::from_micros(150) {
                    traffic.send(192, flow);
                    traffic.receive();
                    pauses.look();
                }
                pauses.look_at_worker(processor::waited_ns(process, worker)?);
                // The switch's other threads and whoever replaces rules have this processor meanwhile.
                thread::sleep(Duration::from_micros(50));
            }
            let end = Instant::now();
            while end.elapsed() < Duration::from_millis(100) {
                traffic.receive();
                pauses.look();
                pauses.look_at_worker(processor::waited_ns(process, worker)?);
            }
            Ok((traffic.account().clone(), pauses.found))
        });
        let (account, pauses) = driver.join().expect("the driver's thread")?;
        Ok((account, pauses, replacer.join().expect("the replacer's thread")?))
    })?;

    let unexplained = account.late.iter().filter(|late| !pauses.iter().any(|pause| pause.explains(late)));
    let unexplained: Vec<_> = unexplained.collect();
    let text = format!(
        "{:.2} Mpps, {replaced} replacements, {} lost, {} overtaken, longest way {:.2} ms, {} over {} ms, of which {} \
         while neither side was off its processor",
        account.received as f64 / 3e6,
        account.sent - account.received,
        account.overtaken,
        account.longest_ns as f64 / 1e6,
        account.late.len(),
        HOLD.as_millis(),
        unexplained.len(),
    );
    ensure!(account.received > 100_000, "there was no load: {text}");
    ensure!(interval.is_none() || replaced >= 3, "rules were hardly replaced: {text}");
    ensure!(
        account.sent == account.received && account.overtaken == 0,
        "{text}\n{}",
        world.switch.ctl_text("stats")?
    );
    let blocked = processor::blocked(process, worker)? - blocked_before;
    ensure!(blocked == 0, "the worker waited for somebody {blocked} times: {text}");
    Ok((text, unexplained.first().map(|&&late| late)))
}

/// One of 256 flows, which all go from a to b.
fn flow(number: u64) -> Udp {
    let mut udp = Udp::between(1, 2);
    udp.ports[0] = 1000 + u16::try_from(number % 256).unwrap_or_default();
    udp
}

/// 10 000 rules of 8 shapes that no packet of the load meets, and one that all of them do.
fn bystanders(generation: u32) -> String {
    let mut text = String::from("priority=10,in_port=a,actions=output:b\n");
    for rule in 0..10_000_u32 {
        let address = 0xac10_0000 + generation % 2 * 0x8000 + rule;
        let [a, b, c, d] = address.to_be_bytes();
        let mask = 25 + rule % 8;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "priority={},udp,nw_src={a}.{b}.{c}.{d}/{mask},tp_dst={},actions=drop",
            100 + rule,
            rule % 1000 + 2000
        );
    }
    text
}

/// A time in which a thread that the measurement needs did not run.
#[derive(Debug, Clone, Copy)]
struct Pause {
    from_ns: u64,
    to_ns: u64,
}

impl Pause {
    fn explains(&self, late: &Late) -> bool {
        self.from_ns < late.arrived_ns && late.sent_ns < self.to_ns
    }
}

/// Watches the driver's own thread by its clock, and the worker by what the scheduler says.
struct Pauses {
    clock: Instant,
    last_ns: u64,
    worker_last_ns: u64,
    worker_waited_ns: u64,
    found: Vec<Pause>,
}

impl Pauses {
    fn new(clock: Instant) -> Self {
        let none = u64::MAX;
        Pauses { clock, last_ns: none, worker_last_ns: 0, worker_waited_ns: none, found: Vec::new() }
    }

    fn look(&mut self) {
        let now_ns = frame::nanoseconds(self.clock);
        if now_ns.saturating_sub(self.last_ns) > OFF_PROCESSOR_NS {
            self.found.push(Pause { from_ns: self.last_ns, to_ns: now_ns });
        }
        self.last_ns = now_ns;
    }

    fn look_at_worker(&mut self, waited_ns: u64) {
        let now_ns = frame::nanoseconds(self.clock);
        if waited_ns.saturating_sub(self.worker_waited_ns) > OFF_PROCESSOR_NS {
            self.found.push(Pause { from_ns: self.worker_last_ns, to_ns: now_ns });
        }
        (self.worker_last_ns, self.worker_waited_ns) = (now_ns, waited_ns);
    }
}
