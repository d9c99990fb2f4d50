//! What is watched while it happens: packets that rules hand out, and live rates.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use vsteer_switch::flow::fields::Fields;
use vsteer_switch::revalidate::registry::Registry;

use super::packet_text::{key_of, packet_text};
use super::{Appliance, port_counters};
use crate::control::flow_text::{match_text, verdict_text};
use crate::control::protocol::{
    ErrorKind, FlowRate, MonitorFilter, MonitorItem, OperationError, PortCounters, PortRate, PuntInfo,
    TopQuery, TopSample,
};
use crate::control::{Stream, hex};
use crate::fabric::Fabric;
use crate::punt::{Listener, MAX_LISTENERS, Punted};

/// How often a listener looks for packets.
const LOOK: Duration = Duration::from_millis(5);

/// Packets after which losses are told although more packets wait.
const LOSSES_AFTER: u32 = 1000;

/// Shortest interval of `top`: looking at every flow costs a control thread some time.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Longest interval of `top`.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

impl Appliance {
    pub(super) fn watch_punts(&self, filter: &MonitorFilter) -> Result<Box<dyn Stream>, OperationError> {
        let Some(listener) = Listener::new(&self.fabric.punts, filter.id) else {
            let full = format!("{MAX_LISTENERS} monitors are running already; end one first");
            return Err(OperationError::new(ErrorKind::Exists, full));
        };
        Ok(Box::new(Monitor {
            listener,
            fabric: Arc::clone(&self.fabric),
            zero_us: clock_zero_us(&self.fabric),
            shown: 0,
        }))
    }

    pub(super) fn watch_rates(&self, query: &TopQuery) -> Result<Box<dyn Stream>, OperationError> {
        let interval = Duration::from_millis(query.interval_ms);
        if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
            return Err(OperationError::invalid(format!(
                "an interval of {interval:?} makes no sense; use {MIN_INTERVAL:?} to {MAX_INTERVAL:?}"
            )));
        }
        let mut top = Top {
            fabric: Arc::clone(&self.fabric),
            flows: Arc::clone(&self.revalidator.flows),
            interval,
            most_flows: query.flows,
            since: Instant::now(),
            ports: HashMap::new(),
            carried: HashMap::new(),
        };
        top.sample();
        Ok(Box::new(top))
    }
}

/// What the clock of all times in milliseconds began at, in microseconds since 1970.
fn clock_zero_us(fabric: &Fabric) -> u64 {
    let zero = SystemTime::now().checked_sub(fabric.start.elapsed());
    let since_1970 = zero.and_then(|zero| zero.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

/// An item as JSON; what cannot be written is left out.
fn json(item: &impl Serialize) -> Option<String> {
    serde_json::to_string(item).ok()
}

/// Packets that rules hand out.
struct Monitor {
    listener: Listener,
    fabric: Arc<Fabric>,
    zero_us: u64,
    /// Packets since losses were last told.
    shown: u32,
}

impl Monitor {
    /// The next packet; losses are told when what came before them is out, and under a flood every now and then.
    fn item(&mut self) -> Option<MonitorItem> {
        let Self { listener, fabric, zero_us, shown } = self;
        if *shown < LOSSES_AFTER
            && let Some(packet) =
                listener.next(|punted| MonitorItem::Packet(punt_info(punted, fabric, *zero_us)))
        {
            *shown += 1;
            return Some(packet);
        }
        *shown = 0;
        Some(listener.lost()).filter(|&lost| lost > 0).map(MonitorItem::Lost)
    }
}

impl Stream for Monitor {
    fn next(&mut self, wait: Duration) -> Option<String> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(item) = self.item() {
                return json(&item);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(LOOK);
        }
    }
}

fn punt_info(punted: &Punted, fabric: &Fabric, zero_us: u64) -> PuntInfo {
    let topology = fabric.topology.load();
    let fields = Fields::of_packet(key_of(punted.in_port, punted.bytes()));
    PuntInfo {
        time_us: zero_us + punted.at_ms * 1000,
        in_port: topology.numbers.name(punted.in_port).unwrap_or("?").to_owned(),
        id: punted.id,
        len: punted.len as u64,
        flow: packet_text(&fields, &*topology.numbers),
        data: hex::text(punted.bytes()),
    }
}

/// Live rates.
struct Top {
    fabric: Arc<Fabric>,
    flows: Arc<Registry>,
    interval: Duration,
    most_flows: usize,
    /// When the counters below were read.
    since: Instant,
    /// Counters of ports by name.
    ports: HashMap<String, PortCounters>,
    /// Packets and bytes of megaflows by number.
    carried: HashMap<u64, (u64, u64)>,
}

impl Stream for Top {
    fn next(&mut self, wait: Duration) -> Option<String> {
        let left = (self.since + self.interval).saturating_duration_since(Instant::now());
        thread::sleep(left.min(wait));
        if left > wait { None } else { json(&self.sample()) }
    }
}

impl Top {
    /// Rates since the last sample.
    fn sample(&mut self) -> TopSample {
        let now = Instant::now();
        let elapsed = now.duration_since(std::mem::replace(&mut self.since, now));
        let per_s = |count: u64| count as f64 / elapsed.as_secs_f64().max(1e-9);
        let ports = self.port_rates(per_s);
        let (flows, flow_count) = self.flow_rates(per_s);
        let interval_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        TopSample { interval_ms, ports, flows, flow_count }
    }

    fn port_rates(&mut self, per_s: impl Fn(u64) -> f64) -> Vec<PortRate> {
        let topology = self.fabric.topology.load();
        let now: Vec<(String, PortCounters)> = topology
            .ports
            .iter()
            .flatten()
            .map(|port| (port.spec().name.clone(), port_counters(&port.counter_sums())))
            .collect();
        let rates = now.iter().map(|(name, now)| {
            // A port that has come since counts from nothing, as does one that was opened again.
            let before = self.ports.get(name).filter(|before| before.rx_pkts <= now.rx_pkts);
            let before = before.cloned().unwrap_or_default();
            let rate = |count: fn(&PortCounters) -> u64| per_s(count(now).saturating_sub(count(&before)));
            PortRate {
                name: name.clone(),
                rx_pps: rate(|counters| counters.rx_pkts),
                rx_bps: rate(|counters| counters.rx_bytes) * 8.0,
                tx_pps: rate(|counters| counters.tx_pkts),
                tx_bps: rate(|counters| counters.tx_bytes) * 8.0,
                drop_pps: rate(PortCounters::dropped),
            }
        });
        let rates = rates.collect();
        self.ports = now.into_iter().collect();
        rates
    }

    fn flow_rates(&mut self, per_s: impl Fn(u64) -> f64) -> (Vec<FlowRate>, u64) {
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
            actions: verdict_text(flow.verdict(), flow.key().eth_type.get(), name),
            worker: usize::from(flow.worker()),
            pps: per_s(packets),
            bps: per_s(bytes) * 8.0,
        });
        (rates.collect(), flows.len() as u64)
    }
}
