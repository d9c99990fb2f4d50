//! Capture files in the classic pcap format: what `ctl trace` reads and `ctl monitor` writes.
//!
//! # Source
//! draft-ietf-opsawg-pcap.

use std::io::{self, Read, Write};

/// Microseconds, in the writer's byte order.
const MAGIC_US: u32 = 0xa1b2_c3d4;
/// Nanoseconds.
const MAGIC_NS: u32 = 0xa1b2_3c4d;
/// First word of a pcapng file, the same in either byte order.
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;
const LINK_ETHERNET: u32 = 1;
/// Longest packet that is written or read.
const SNAP_BYTES: u32 = 262_144;

/// Why a capture file gives no packet.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// It cannot be read.
    #[error("cannot be read: {0}; check the path")]
    Unreadable(#[from] io::Error),
    /// It is in the newer format.
    #[error("is a pcapng file; turn it into a pcap file with: editcap -F pcap IN OUT")]
    IsPcapng,
    /// It is no capture file.
    #[error("is no pcap file; make one with: tcpdump -w FILE")]
    NotPcap,
    /// Its packets are not Ethernet frames.
    #[error(
        "has packets of link type {0}; only Ethernet (1) can be traced, so capture on an Ethernet interface"
    )]
    NotEthernet(u32),
    /// A record is longer than any packet, or cut short.
    #[error("is damaged at packet {0}; capture it again")]
    Damaged(usize),
    /// It ends before.
    #[error("has {has} packets, not {wanted}; use --packet 1 to {has}")]
    TooFewPackets {
        /// Packets in it.
        has: usize,
        /// The packet that was asked for.
        wanted: usize,
    },
}

/// The packet numbered `wanted`, from 1, of the capture file `from`.
///
/// # Errors
/// There is none.
pub fn read_packet(mut from: impl Read, wanted: usize) -> Result<Vec<u8>, PcapError> {
    let mut head = [0; 24];
    fill(&mut from, &mut head)?.then_some(()).ok_or(PcapError::NotPcap)?;
    let is_little = match (word(&head, 0, true), word(&head, 0, false)) {
        (MAGIC_US | MAGIC_NS, _) => true,
        (_, MAGIC_US | MAGIC_NS) => false,
        (MAGIC_PCAPNG, _) => return Err(PcapError::IsPcapng),
        _ => return Err(PcapError::NotPcap),
    };
    // The upper bits tell of frame check sequences, which no driver of ours gives.
    let link = word(&head, 20, is_little) & 0xffff;
    if link != LINK_ETHERNET {
        return Err(PcapError::NotEthernet(link));
    }
    let mut number = 1;
    // Bound: each round takes a record off the file.
    loop {
        let mut record = [0; 16];
        if !fill(&mut from, &mut record)? {
            return Err(PcapError::TooFewPackets { has: number - 1, wanted });
        }
        let len = word(&record, 8, is_little);
        if len > SNAP_BYTES {
            return Err(PcapError::Damaged(number));
        }
        let mut packet = vec![0; len as usize];
        if !fill(&mut from, &mut packet)? {
            return Err(PcapError::Damaged(number));
        }
        if number == wanted {
            return Ok(packet);
        }
        number += 1;
    }
}

fn word(bytes: &[u8], at: usize, is_little: bool) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
}

/// Fills `to`; false if the file ends before.
fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(to) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}

/// Writes a capture file, each packet at once, so that the file is whole whenever the writing ends.
#[derive(Debug)]
pub struct PcapWriter<W: Write>(W);

impl<W: Write> PcapWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(mut to: W) -> io::Result<Self> {
        let words = [MAGIC_US, 0x0004_0002, 0, 0, SNAP_BYTES, LINK_ETHERNET];
        to.write_all(&words.map(u32::to_le_bytes).concat())?;
        Ok(Self(to))
    }

    /// Appends a packet of `len` bytes that came `time_us` microseconds after 1970, of which `bytes` are the first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, time_us: u64, len: u64, bytes: &[u8]) -> io::Result<()> {
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let record = [time_us / 1_000_000, time_us % 1_000_000, bytes.len() as u64, len];
        let mut text = record.map(|value| word(value).to_le_bytes()).concat();
        text.extend_from_slice(bytes);
        self.0.write_all(&text)?;
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = PcapWriter::new(&mut file).unwrap();
        writer.write(1_500_000_001_000_002, 60, &[1; 60]).unwrap();
        writer.write(1_500_000_001_000_003, 1500, &[2; 20]).unwrap();
        file
    }

    #[test]
    fn packets_are_read_back_as_they_were_written() {
        let file = file();
        assert_eq!(file[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0], "as on any little-endian machine");
        assert_eq!(file[24..28], 1_500_000_001_u32.to_le_bytes());
        assert_eq!(read_packet(&file[..], 1).unwrap(), [1; 60]);
        assert_eq!(read_packet(&file[..], 2).unwrap(), [2; 20]);
    }

    #[test]
    fn files_of_the_other_byte_order_are_read() {
        let mut file = [MAGIC_NS, 0x0002_0004, 0, 0, 65_535, LINK_ETHERNET].map(u32::to_be_bytes).concat();
        file.extend([1, 2, 3, 3].map(u32::to_be_bytes).concat());
        file.extend([7, 8, 9]);
        assert_eq!(read_packet(&file[..], 1).unwrap(), [7, 8, 9]);
    }

    #[test]
    fn errors_say_what_to_try() {
        let error = |file: &[u8], number| read_packet(file, number).unwrap_err().to_string();
        let file = file();
        assert_eq!(error(&file, 3), "has 2 packets, not 3; use --packet 1 to 2");
        assert_eq!(error(&file[..file.len() - 1], 2), "is damaged at packet 2; capture it again");
        assert_eq!(error(b"#!/bin/sh", 1), "is no pcap file; make one with: tcpdump -w FILE");
        let mut other = file.clone();
        other[20] = 113;
        assert!(error(&other, 1).starts_with("has packets of link type 113; only Ethernet (1)"));
        other[..4].copy_from_slice(&MAGIC_PCAPNG.to_le_bytes());
        assert!(error(&other, 1).starts_with("is a pcapng file"));
        other[..4].copy_from_slice(&MAGIC_US.to_le_bytes());
        other[20] = 1;
        other[35] = 0xff;
        assert_eq!(error(&other, 1), "is damaged at packet 1; capture it again");
    }
}
