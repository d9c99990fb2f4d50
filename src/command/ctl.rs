//! The client's side of commands: asking, printing, and going on until it is stopped.
//!
//! A watch prints what comes in whole lines and at once, so that other programs can read along. It ends after as many items
//! as were asked for, at Ctrl-C, or when nobody reads any more.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use thiserror::Error;

use super::entry::{Command, Watch};
use crate::control::client::{Client, ClientError};
use crate::pcap::PcapError;

/// How soon Ctrl-C is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Which switch is asked, and how the answer is printed.
#[derive(Debug, Clone)]
pub struct Ctl {
    /// Its control socket.
    pub socket: PathBuf,
    /// Print the reply as JSON.
    pub json: bool,
}

/// Why a command came to nothing.
#[derive(Debug, Error)]
pub enum CtlError {
    /// The switch cannot be asked, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file of rules cannot be read.
    #[error("{path}: cannot be read: {source}; check the path, or use - for standard input")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of rules is longer than a request may be.
    #[error(
        "{name}: makes a request of more than {limit} bytes, which is the most that the switch takes at one time; split it \
         and add the parts with add-flows, or name it in the configuration (rules-file) and run vsteer ctl reload"
    )]
    TooLarge {
        /// What it is called.
        name: String,
        /// Bytes of a request at most.
        limit: usize,
    },
    /// It is no capture file, or lacks the packet.
    #[error("--pcap {path}: {source}")]
    Pcap {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PcapError,
    },
    /// The capture file cannot be written.
    #[error("--pcap {path}: {source}; name a file that can be written")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Standard output cannot be written, or signals cannot be caught.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Ctl {
    /// Asks once and prints the answer.
    pub(super) fn ask<C: Command>(&self, words: C) -> Result<(), CtlError> {
        let params = words.params()?;
        let mut client = Client::connect(&self.socket)?;
        let result = client.call(C::METHOD, &params)?;
        let text = if self.json {
            let value: Value = client.read(&result)?;
            if value.is_null() {
                // That is what a stream begins with, and a result only of commands that have none.
                client.read::<C::Reply>(&result)?;
            }
            format!("{value:#}\n")
        } else {
            C::text(&params, &client.read(&result)?)
        };
        print(&text).map(drop)
    }

    /// Asks, and prints what comes.
    pub(super) fn watch<W: Watch>(&self, words: W) -> Result<(), CtlError> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let mut client = Client::connect(&self.socket)?;
        let (params, count) = (words.params(), words.count());
        let mut view = words.viewer()?;
        let mut items = client.watch(W::METHOD, &params)?;
        let mut shown = 0;
        while !stop.load(Ordering::Relaxed) && count.is_none_or(|count| shown < count) {
            let Some(item) = items.next(LOOK)? else { continue };
            shown += 1;
            let mut text = view(&items.read(&item)?)?;
            if self.json {
                text = format!("{}\n", items.read::<Value>(&item)?);
            }
            if print(&text)? == Reader::Gone {
                break;
            }
        }
        Ok(())
    }
}

/// Who reads what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

/// Prints on standard output; a reader that has gone is no error.
fn print(text: &str) -> Result<Reader, CtlError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error.into()),
    }
}
