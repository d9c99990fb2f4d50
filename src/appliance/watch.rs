//! What is watched while it happens: packets that rules hand out, and live rates.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vsteer_switch::flow::fields::Fields;
use vsteer_switch::revalidate::registry::Registry;

use super::packet_text::{key_of, packet_text};
use super::{Appliance, Refusal};
use crate::fabric::Fabric;
use crate::flow_text::{match_text, verdict_text};
use crate::port::report::CounterSums;
use crate::punt::{Listener, MAX_LISTENERS, Punted};

/// How often a listener looks for packets.
const LOOK: Duration = Duration::from_millis(5);

/// Packets after which losses are told although more packets wait.
const LOSSES_AFTER: u32 = 1000;

/// Shortest interval of `top`: looking at every flow costs a control thread some time.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Longest interval of `top`.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

/// Most watches of rates at one time: each remembers every megaflow.
const MAX_RATE_WATCHES: usize = 8;

impl Appliance {
    /// Packets that rules hand out, from now on: all, or those for the listener `id`.
    ///
    /// # Errors
    /// There are too many listeners.
    pub fn watch_punts(&self, id: Option<u16>) -> Result<PuntWatch, Refusal> {
        let Some(listener) = Listener::new(&self.fabric.punts, id) else {
            return Err(Refusal::taken(format!(
                "{MAX_LISTENERS} monitors are running already; end one first"
            )));
        };
        Ok(PuntWatch {
            listener,
            fabric: Arc::clone(&self.fabric),
            zero_us: clock_zero_us(&self.fabric),
            shown: 0,
        })
    }

    /// Rates of ports and of the `flows` busiest megaflows, once each interval.
    ///
    /// # Errors
    /// The interval makes no sense, or there are too many watches.
    pub fn watch_rates(&self, interval: Duration, flows: usize) -> Result<RateWatch, Refusal> {
        if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
            return Err(Refusal::invalid(format!(
                "an interval of {interval:?} makes no sense; use {MIN_INTERVAL:?} to {MAX_INTERVAL:?}"
            )));
        }
        let place = Place::take(&self.rate_watches, MAX_RATE_WATCHES).ok_or_else(|| {
            Refusal::taken(format!("rates are watched {MAX_RATE_WATCHES} times already; end one first"))
        })?;
        let mut watch = RateWatch {
            fabric: Arc::clone(&self.fabric),
            flows: Arc::clone(&self.revalidator.flows),
            interval,
            most_flows: flows,
            since: Instant::now(),
            ports: HashMap::new(),
            carried: HashMap::new(),
            _place: place,
        };
        watch.sample();
        Ok(watch)
    }
}

/// One of a number of places, free again when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>, places: usize) -> Option<Self> {
        // Relaxed: only the number matters.
        let more = |count| (count < places).then_some(count + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the clock of all times in milliseconds began at, in microseconds since 1970.
fn clock_zero_us(fabric: &Fabric) -> u64 {
    let zero = SystemTime::now().checked_sub(fabric.start.elapsed());
    let since_1970 = zero.and_then(|zero| zero.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

/// A packet that an action sent to whoever listens, or word of packets lost on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PuntEvent {
    /// A packet.
    Packet(PuntReport),
    /// So many packets came faster than this listener took them.
    Lost(u64),
}

/// A punted packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PuntReport {
    /// When it came, in microseconds since 1970.
    pub time_us: u64,
    /// Name of the port that it came in by.
    pub in_port: String,
    /// The id in the `controller` action.
    pub id: u16,
    /// Bytes that it has.
    pub len: usize,
    /// Its header fields in ovs-ofctl's syntax.
    pub flow: String,
    /// The bytes that the action asked for.
    pub bytes: Vec<u8>,
}

/// Packets that rules hand out.
#[derive(Debug)]
pub struct PuntWatch {
    listener: Listener,
    fabric: Arc<Fabric>,
    zero_us: u64,
    /// Packets since losses were last told.
    shown: u32,
}

impl PuntWatch {
    /// The next event; waits for it no longer than `wait`.
    pub fn next(&mut self, wait: Duration) -> Option<PuntEvent> {
        let deadline = Instant::now() + wait;
        // Bound: the deadline.
        loop {
            let event = self.event();
            if event.is_some() || Instant::now() >= deadline {
                return event;
            }
            thread::sleep(LOOK);
        }
    }

    /// What there is; losses are told when what came before them is out, and under a flood every now and then.
    fn event(&mut self) -> Option<PuntEvent> {
        let Self { listener, fabric, zero_us, shown } = self;
        if *shown < LOSSES_AFTER
            && let Some(packet) = listener.next(|punted| punt_report(punted, fabric, *zero_us))
        {
            *shown += 1;
            return Some(PuntEvent::Packet(packet));
        }
        *shown = 0;
        Some(listener.lost()).filter(|&lost| lost > 0).map(PuntEvent::Lost)
    }
}

fn punt_report(punted: &Punted, fabric: &Fabric, zero_us: u64) -> PuntReport {
    let topology = fabric.topology.load();
    let limit = topology.switch.vlan_limit();
    let in_port = punted.in_port.number().into();
    let fields = Fields::of_packet(key_of(in_port, punted.bytes(), punted.len, limit));
    PuntReport {
        time_us: zero_us + punted.at_ms * 1000,
        in_port: topology.numbers.name(punted.in_port).unwrap_or("?").to_owned(),
        id: punted.id,
        len: punted.len,
        flow: packet_text(&fields, &*topology.numbers),
        bytes: punted.bytes().to_vec(),
    }
}

/// Rates over one interval.
#[derive(Debug, Clone, PartialEq)]
pub struct RateReport {
    /// Length of the interval.
    pub interval: Duration,
    /// Each port.
    pub ports: Vec<PortRate>,
    /// The busiest flows, busiest first.
    pub flows: Vec<FlowRate>,
    /// Flows there are.
    pub flow_count: usize,
}

/// Rates of a port.
#[derive(Debug, Clone, PartialEq)]
pub struct PortRate {
    /// Its name.
    pub name: String,
    /// Packets a second received from it.
    pub rx_pps: f64,
    /// Bits a second received from it.
    pub rx_bps: f64,
    /// Packets a second sent to it.
    pub tx_pps: f64,
    /// Bits a second sent to it.
    pub tx_bps: f64,
    /// Packets a second dropped at it.
    pub drop_pps: f64,
}

/// Rates of a megaflow.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowRate {
    /// What it matches.
    pub match_text: String,
    /// What it does.
    pub actions: String,
    /// Index of the worker that has it.
    pub worker: usize,
    /// Packets a second.
    pub pps: f64,
    /// Bits a second.
    pub bps: f64,
}

/// Live rates.
#[derive(Debug)]
pub struct RateWatch {
    fabric: Arc<Fabric>,
    flows: Arc<Registry>,
    interval: Duration,
    most_flows: usize,
    /// When the counters below were read.
    since: Instant,
    /// Counters of ports by name.
    ports: HashMap<String, CounterSums>,
    /// Packets and bytes of megaflows by number.
    carried: HashMap<u64, (u64, u64)>,
    _place: Place,
}

impl RateWatch {
    /// The rates of the present interval when it is over; waits for that no longer than `wait`.
    pub fn next(&mut self, wait: Duration) -> Option<RateReport> {
        let left = (self.since + self.interval).saturating_duration_since(Instant::now());
        thread::sleep(left.min(wait));
        (left <= wait).then(|| self.sample())
    }

    /// Rates since the last sample.
    fn sample(&mut self) -> RateReport {
        let now = Instant::now();
        let elapsed = now.duration_since(std::mem::replace(&mut self.since, now));
        let per_s = |count: u64| count as f64 / elapsed.as_secs_f64().max(1e-9);
        let ports = self.port_rates(per_s);
        let (flows, flow_count) = self.flow_rates(per_s);
        RateReport { interval: elapsed, ports, flows, flow_count }
    }

    fn port_rates(&mut self, per_s: impl Fn(u64) -> f64) -> Vec<PortRate> {
        let topology = self.fabric.topology.load();
        let now: Vec<(String, CounterSums)> = topology
            .ports
            .iter()
            .flatten()
            .map(|port| (port.spec().name.clone(), port.counter_sums()))
            .collect();
        let rates = now.iter().map(|(name, now)| {
            // A port that has come since counts from nothing, as does one that was opened again.
            let before = self.ports.get(name).filter(|before| before.rx_pkts <= now.rx_pkts);
            let before = before.copied().unwrap_or_default();
            let rate = |count: fn(&CounterSums) -> u64| per_s(count(now).saturating_sub(count(&before)));
            PortRate {
                name: name.clone(),
                rx_pps: rate(|counters| counters.rx_pkts),
                rx_bps: rate(|counters| counters.rx_bytes) * 8.0,
                tx_pps: rate(|counters| counters.tx_pkts),
                tx_bps: rate(|counters| counters.tx_bytes) * 8.0,
                drop_pps: rate(CounterSums::dropped),
            }
        });
        let rates = rates.collect();
        self.ports = now.into_iter().collect();
        rates
    }

    fn flow_rates(&mut self, per_s: impl Fn(u64) -> f64) -> (Vec<FlowRate>, usize) {
        let flows: Vec<_> = self.flows.flows().collect();
        let mut carried = HashMap::with_capacity(flows.len());
        let mut busy = Vec::new();
        for flow in &flows {
            let stats = flow.stats();
            carried.insert(flow.id(), (stats.packets, stats.bytes));
            let (packets, bytes) = self.carried.get(&flow.id()).copied().unwrap_or_default();
            let packets = stats.packets.saturating_sub(packets);
            if packets > 0 {
                busy.push((packets, stats.bytes.saturating_sub(bytes), flow));
            }
        }
        self.carried = carried;
        busy.sort_by_key(|&(packets, ..)| std::cmp::Reverse(packets));
        busy.truncate(self.most_flows);
        let numbers = Arc::clone(&self.fabric.topology.load().numbers);
        let name = |number| numbers.name_of_number(number);
        let rates = busy.into_iter().map(|(packets, bytes, flow)| FlowRate {
            match_text: match_text(&flow.masked_key(), flow.mask(), name),
            actions: verdict_text(flow.verdict(), flow.key(), name),
            worker: usize::from(flow.worker()),
            pps: per_s(packets),
            bps: per_s(bytes) * 8.0,
        });
        (rates.collect(), flows.len())
    }
}
