//! Commands of `vsteer ctl` that go on until they are stopped: `monitor` and `top`.
//!
//! Both ask for a stream and print what comes, in whole lines and at once, so that other programs can read along. They end
//! after as many items as were asked for, at Ctrl-C, or when nobody reads any more.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use thiserror::Error;

use super::client::{Client, ClientError};
use super::hex;
use super::protocol::{MonitorItem, Request, TopSample};
use super::render;
use crate::pcap::PcapWriter;

/// How soon Ctrl-C is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Puts the cursor home and clears what is below.
const HOME: &str = "\x1b[H\x1b[J";

/// A command that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// What is asked for: [`Request::Monitor`] or [`Request::Top`].
    pub request: Request,
    /// Ends it after so many items.
    pub count: Option<u64>,
    /// Also shows the bytes of packets.
    pub verbose: bool,
    /// Writes packets to this file, too.
    pub pcap: Option<PathBuf>,
}

/// Why watching ended otherwise than it should.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The switch cannot be asked, or went.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The capture file cannot be written.
    #[error("--pcap {path}: {source}; name a file that can be written")]
    Pcap {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Standard output cannot be written, or signals cannot be caught.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Asks the switch at `socket` and prints what comes, as JSON, an item a line, with `json`.
///
/// # Errors
/// The switch refuses or goes, or a file cannot be written.
pub fn watch(socket: &Path, watch: &Watch, json: bool) -> Result<(), WatchError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut client = Client::connect(socket)?;
    let pcap_error = |source| {
        let path = watch.pcap.clone().unwrap_or_default();
        WatchError::Pcap { path, source }
    };
    let mut pcap = match &watch.pcap {
        Some(path) => Some(File::create(path).and_then(PcapWriter::new).map_err(pcap_error)?),
        None => None,
    };
    client.call(&watch.request)?;
    let mut shown = 0;
    while !stop.load(Ordering::Relaxed) && watch.count.is_none_or(|count| shown < count) {
        let Some(item) = client.next_item(LOOK)? else { continue };
        shown += 1;
        let text = match &watch.request {
            Request::Top(_) if !json => redrawn(render::top(&client.read::<TopSample>(&item)?)),
            Request::Top(_) => format!("{item}\n"),
            _ => {
                let punt: MonitorItem = client.read(&item)?;
                if let (Some(pcap), MonitorItem::Packet(packet)) = (&mut pcap, &punt) {
                    let bytes = hex::bytes(&packet.data).unwrap_or_default();
                    pcap.write(packet.time_us, packet.len, &bytes).map_err(pcap_error)?;
                }
                if json { format!("{item}\n") } else { render::punt(&punt, watch.verbose) }
            }
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            result => result?,
        }
    }
    Ok(())
}

/// A picture in place of the last one on a terminal, below it elsewhere.
fn redrawn(text: String) -> String {
    if io::stdout().is_terminal() { format!("{HOME}{text}") } else { format!("{text}\n") }
}
