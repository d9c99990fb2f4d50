//! `vsteer ctl monitor`: packets that rules hand out, as they come.

use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ctl::CtlError;
use super::entry::{Entry, Family, Feed, Viewer, Watch};
use super::table::printable;
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::appliance::watch::{PuntEvent, PuntReport};
use crate::hex;
use crate::pcap::PcapWriter;

pub(super) const FAMILY: Family = Family::Single(Entry::watch::<Monitor>());

/// Bytes in a line of hexadecimal digits.
const HEX_LINE_BYTES: usize = 16;

/// Show packets that rules hand out (actions=controller) as they come; ends at Ctrl-C
#[derive(Debug, Args)]
struct Monitor {
    #[command(flatten)]
    filter: Filter,
    /// Also write the packets to this capture file
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// End after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Also show the bytes
    #[arg(long, short)]
    verbose: bool,
}

/// Which punted packets are meant.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Only packets of controller actions with this id
    #[arg(long, value_name = "N")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u16>,
}

/// A packet that an action sent to whoever listens, or word of packets lost on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MonitorItem {
    /// A packet.
    Packet(PuntInfo),
    /// So many packets came faster than this listener took them.
    Lost(u64),
}

/// A punted packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PuntInfo {
    /// When it came, in microseconds since 1970.
    time_us: u64,
    /// Name of the port that it came in by.
    in_port: String,
    /// The id in the `controller` action.
    id: u16,
    /// Bytes that it has.
    len: u64,
    /// Its header fields in ovs-ofctl's syntax.
    flow: String,
    /// The bytes that the action asked for, in hexadecimal.
    data: String,
}

impl From<PuntEvent> for MonitorItem {
    fn from(event: PuntEvent) -> Self {
        match event {
            PuntEvent::Lost(count) => MonitorItem::Lost(count),
            PuntEvent::Packet(packet) => {
                let PuntReport { time_us, in_port, id, len, flow, bytes } = packet;
                let (len, data) = (len as u64, hex::text(&bytes));
                MonitorItem::Packet(PuntInfo { time_us, in_port, id, len, flow, data })
            }
        }
    }
}

impl Watch for Monitor {
    const WORD: &'static str = "monitor";
    const METHOD: &'static str = "monitor";
    type Params = Filter;
    type Item = MonitorItem;

    fn params(&self) -> Filter {
        self.filter.clone()
    }

    fn count(&self) -> Option<u64> {
        self.count
    }

    fn carry_out(appliance: &Appliance, filter: Filter) -> Result<Feed<MonitorItem>, Refusal> {
        let mut punts = appliance.watch_punts(filter.id)?;
        Ok(Box::new(move |wait| punts.next(wait).map(MonitorItem::from)))
    }

    fn viewer(self) -> Result<Viewer<MonitorItem>, CtlError> {
        let Self { pcap, verbose, .. } = self;
        let path = pcap.clone().unwrap_or_default();
        let unwritable = move |source| CtlError::Unwritable { path: path.clone(), source };
        let file = pcap.map(|path| File::create(path).and_then(PcapWriter::new));
        let mut capture = file.transpose().map_err(&unwritable)?;
        Ok(Box::new(move |item| {
            if let (Some(capture), MonitorItem::Packet(packet)) = (&mut capture, item) {
                let bytes = hex::bytes(&packet.data).unwrap_or_default();
                capture.write(packet.time_us, packet.len, &bytes).map_err(&unwritable)?;
            }
            Ok(text(item, verbose))
        }))
    }
}

/// A punted packet in a line, and with `verbose` its bytes below; or word of lost ones.
fn text(item: &MonitorItem, verbose: bool) -> String {
    let PuntInfo { time_us, in_port, id, len, flow, data } = match item {
        MonitorItem::Lost(lost) => {
            return format!("{lost} packets lost: they came faster than they were taken\n");
        }
        MonitorItem::Packet(packet) => packet,
    };
    let mut text = format!(
        "{} {} id={id} len={len} {}\n",
        clock(*time_us),
        printable(in_port.clone()),
        printable(flow.clone())
    );
    let bytes = if verbose { hex::bytes(data).unwrap_or_default() } else { Vec::new() };
    for (nth, line) in bytes.chunks(HEX_LINE_BYTES).enumerate() {
        let digits: Vec<String> = line.chunks(2).map(hex::text).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {:04x}  {}", nth * HEX_LINE_BYTES, digits.join(" "));
    }
    text
}

/// The time of day in UTC, to the millisecond: `12:34:56.789`.
fn clock(us: u64) -> String {
    let ms = us / 1000;
    let s = ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", s / 3600, s / 60 % 60, s % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punted_packet_is_a_line_and_its_bytes_on_request() {
        let item = MonitorItem::Packet(PuntInfo {
            time_us: 1_500_000_001_234_567,
            in_port: "vm0".into(),
            id: 3,
            len: 60,
            flow: "arp,in_port=vm0".into(),
            data: "000102030405060708090a0b0c0d0e0f10".into(),
        });
        assert_eq!(text(&item, false), "02:40:01.234 vm0 id=3 len=60 arp,in_port=vm0\n");
        assert_eq!(
            text(&item, true),
            "02:40:01.234 vm0 id=3 len=60 arp,in_port=vm0\n    0000  0001 0203 0405 0607 0809 0a0b 0c0d 0e0f\n    \
             0010  10\n"
        );
        assert_eq!(
            text(&MonitorItem::Lost(7), true),
            "7 packets lost: they came faster than they were taken\n"
        );
    }

    #[test]
    fn packets_go_to_the_capture_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pcap");
        let words = |pcap| Monitor { filter: Filter { id: None }, pcap, count: None, verbose: false };
        let mut view = words(Some(path.clone())).viewer().unwrap();
        let event = PuntEvent::Packet(PuntReport {
            time_us: 1,
            in_port: "vm0".into(),
            id: 0,
            len: 60,
            flow: String::new(),
            bytes: vec![1, 2, 0xfe],
        });
        view(&event.into()).unwrap();
        drop(view);
        assert_eq!(crate::pcap::read_packet(File::open(path).unwrap(), 1).unwrap(), [1, 2, 0xfe]);
        let error = words(Some("/nonexistent/pcap".into())).viewer().err().unwrap().to_string();
        assert!(error.starts_with("--pcap /nonexistent/pcap: No such file"), "{error}");
    }
}
