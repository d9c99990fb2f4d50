//! What a kind of port adds to the words that describe any port.
//!
//! A port is described as `NAME=TYPE:ADDRESS[,OPTION=VALUE...]`, or by a table of the configuration file with the same words.
//! `config::port_spec` reads what all ports have: name, VLANs, limits. Type, address and all other options are the kind's,
//! which has them in its own file: a `Words`, a draft that reads them one by one, and a specification that they become.
//! What several kinds have alike is read here.

use std::fmt;

use vsteer_vhost::net::port::MAX_QUEUE_PAIRS;

use crate::config::error::Problem;
use crate::config::words::{on_off, parse_number, parse_switch, set_once};

/// What an operator calls a kind of port, and what belongs to it.
#[derive(Debug)]
pub struct Words {
    /// Its type, as in `NAME=TYPE:ADDRESS`.
    pub type_name: &'static str,
    /// What stands for the address in usage lines.
    pub address: &'static str,
    /// Key of the address in a configuration file.
    pub address_key: &'static str,
    /// Options that its ports have beside those of all ports.
    pub options: &'static [&'static str],
}

impl Words {
    /// How a port of the kind is named: `TYPE:ADDRESS`.
    pub fn usage(&self) -> String {
        format!("{}:{}", self.type_name, self.address)
    }
}

/// The value of `queues=`: how many queues a port has in each direction, [`MAX_QUEUE_PAIRS`] at most.
pub(super) fn parse_queues(text: &str) -> Result<u16, Problem> {
    parse_number(text, 1, MAX_QUEUE_PAIRS)
}

/// Offloads that a port may use; what is off is neither offered to a guest nor asked of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums.
    pub csum: bool,
    /// TCP frames larger than the MTU; implies `csum`.
    pub tso: bool,
}

impl fmt::Display for Offloads {
    /// As options, behind a comma.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ",csum={},tso={}", on_off(self.csum), on_off(self.tso))
    }
}

/// Offloads whose words are still being read: `csum=` and `tso=`.
#[derive(Debug, Default)]
pub(super) struct OffloadsDraft {
    csum: Option<bool>,
    tso: Option<bool>,
}

impl OffloadsDraft {
    pub(super) fn set_csum(&mut self, text: &str) -> Result<(), Problem> {
        set_once(&mut self.csum, parse_switch(text)?)
    }

    pub(super) fn set_tso(&mut self, text: &str) -> Result<(), Problem> {
        set_once(&mut self.tso, parse_switch(text)?)
    }

    pub(super) fn finish(self) -> Result<Offloads, Problem> {
        let csum = self.csum.unwrap_or(true);
        match self.tso {
            Some(true) if !csum => {
                Err("tso=on needs partial checksums; drop csum=off, or use tso=off".into())
            }
            tso => Ok(Offloads { csum, tso: tso.unwrap_or(csum) }),
        }
    }
}
