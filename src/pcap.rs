//! Capture files: what `ctl trace` and ports read, and `ctl monitor` and ports write.
//!
//! Both formats are read and written, pcap and pcapng; they are read in either byte order and any resolution of time. The crate
//! `pcap-file` knows the formats. A file may say anything: it reads through a buffer of fixed size, which bounds what any
//! record can make it do, and what it keeps of a pcapng file, the descriptions of interfaces, is bounded here.
//!
//! # Source
//! draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.

use std::borrow::Cow;
use std::io::{self, BufWriter, Cursor, ErrorKind, Read, Write};
use std::time::Duration;

use pcap_file::pcap::{
    self, PcapHeader, PcapReadError, PcapReader, PcapTsResolution, PcapWriteError, RawPcapPacket,
};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::{
    Block, ENHANCED_PACKET_BLOCK, INTERFACE_DESCRIPTION_BLOCK, PACKET_BLOCK, SECTION_HEADER_BLOCK,
    SIMPLE_PACKET_BLOCK,
};
use pcap_file::pcapng::{self, PcapNgReadError, PcapNgReader, PcapNgWriteError};
use pcap_file::{DataLink, Endianness};

/// Longest packet that is written or read.
const SNAP_BYTES: u32 = 262_144;

/// Longest record that is read, a packet or not.
const RECORD_BYTES: usize = 1 << 20;

/// Most bytes of interface descriptions in one section of a pcapng file.
const INTERFACE_BYTES: u64 = 1 << 20;

/// First word of a pcapng file, the same in either byte order.
const MAGIC_PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Why a capture file gives no packet.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// It cannot be read.
    #[error("cannot be read: {0}; check the path")]
    Unreadable(#[from] io::Error),
    /// It is no capture file.
    #[error("is no capture file, neither pcap nor pcapng; make one with: tcpdump -w FILE")]
    NotPcap,
    /// Its packets are not Ethernet frames.
    #[error(
        "has packets of link type {0}; only Ethernet (1) can be used, so capture on an Ethernet interface"
    )]
    NotEthernet(u32),
    /// A record is longer than any packet, cut short, or contradicts itself.
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

/// A packet of a capture file, less its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When it came, from 1970.
    pub time: Duration,
    /// Bytes that it had; the file may have fewer.
    pub len: u32,
}

/// A capture file that is being read.
#[derive(Debug)]
pub struct Capture<R: Read> {
    format: Format<R>,
    /// Packets that were read.
    count: usize,
}

type Source<R> = io::Chain<Cursor<Vec<u8>>, R>;

#[derive(Debug)]
enum Format<R: Read> {
    Pcap(PcapReader<Source<R>>),
    PcapNg {
        reader: PcapNgReader<Source<R>>,
        /// Bytes of interface descriptions in this section so far.
        interface_bytes: u64,
    },
}

impl<R: Read> Capture<R> {
    /// Begins to read `from`.
    ///
    /// # Errors
    /// It cannot be read, or is no capture of Ethernet frames.
    pub fn new(mut from: R) -> Result<Self, PcapError> {
        let mut magic = Vec::new();
        from.by_ref().take(MAGIC_PCAPNG.len() as u64).read_to_end(&mut magic)?;
        let is_pcapng = magic == MAGIC_PCAPNG;
        let from = Cursor::new(magic).chain(from);
        let format = if is_pcapng {
            let reader = PcapNgReader::with_capacity(from, RECORD_BYTES).map_err(|error| match error {
                PcapNgReadError::Io(error) => at_head(error),
                _ => PcapError::NotPcap,
            })?;
            Format::PcapNg { reader, interface_bytes: 0 }
        } else {
            let reader = PcapReader::with_capacity(from, RECORD_BYTES).map_err(|error| match error {
                PcapReadError::Io(error) => at_head(error),
                PcapReadError::Validation(_) => PcapError::NotPcap,
            })?;
            check_link(reader.header().datalink)?;
            Format::Pcap(reader)
        };
        Ok(Self { format, count: 0 })
    }

    /// Reads the next packet, whose bytes take the place of what is in `bytes`; `None` at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or the packet is no Ethernet frame. There is no way on from an error.
    pub fn next(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Stamp>, PcapError> {
        let number = self.count + 1;
        let stamp = match &mut self.format {
            Format::Pcap(reader) => next_of_pcap(reader, number, bytes),
            Format::PcapNg { reader, interface_bytes } => {
                next_of_pcapng(reader, interface_bytes, number, bytes)
            }
        }?;
        self.count += usize::from(stamp.is_some());
        Ok(stamp)
    }
}

/// What a failure to read the head of a file means.
fn at_head(error: io::Error) -> PcapError {
    match error.kind() {
        ErrorKind::UnexpectedEof => PcapError::NotPcap,
        _ => PcapError::Unreadable(error),
    }
}

/// What a failure to read packet `number` means. A record that the buffer does not hold ends in the same error as one that
/// the file does not hold.
fn at_packet(error: io::Error, number: usize) -> PcapError {
    match error.kind() {
        ErrorKind::UnexpectedEof => PcapError::Damaged(number),
        _ => PcapError::Unreadable(error),
    }
}

fn check_link(link: DataLink) -> Result<(), PcapError> {
    // The upper bits tell of frame check sequences, which no driver of ours gives.
    match u32::from(link) & 0xffff {
        1 => Ok(()),
        other => Err(PcapError::NotEthernet(other)),
    }
}

fn take(from: &[u8], number: usize, bytes: &mut Vec<u8>) -> Result<(), PcapError> {
    if from.len() > SNAP_BYTES as usize {
        return Err(PcapError::Damaged(number));
    }
    bytes.clear();
    bytes.extend_from_slice(from);
    Ok(())
}

fn next_of_pcap<R: Read>(
    reader: &mut PcapReader<R>,
    number: usize,
    bytes: &mut Vec<u8>,
) -> Result<Option<Stamp>, PcapError> {
    let resolution = reader.header().ts_resolution;
    // Raw, since the checks of others are of no use here: a file whose packets are longer than it says is still read.
    let packet = match reader.next_raw_packet() {
        None => return Ok(None),
        Some(Ok(packet)) => packet,
        Some(Err(PcapReadError::Io(error))) => return Err(at_packet(error, number)),
        Some(Err(PcapReadError::Validation(_))) => return Err(PcapError::Damaged(number)),
    };
    take(&packet.data, number, bytes)?;
    let fraction = match resolution {
        PcapTsResolution::MicroSecond => Duration::from_micros(packet.ts_frac.into()),
        PcapTsResolution::NanoSecond => Duration::from_nanos(packet.ts_frac.into()),
    };
    let time = Duration::from_secs(packet.ts_sec.into()) + fraction;
    Ok(Some(Stamp { time, len: packet.orig_len.max(packet.incl_len) }))
}

fn next_of_pcapng<R: Read>(
    reader: &mut PcapNgReader<R>,
    interface_bytes: &mut u64,
    number: usize,
    bytes: &mut Vec<u8>,
) -> Result<Option<Stamp>, PcapError> {
    // Bound: each round takes a block off the file.
    loop {
        let (block, state) = match reader.next_raw_block() {
            None => return Ok(None),
            Some(Ok(next)) => next,
            Some(Err(PcapNgReadError::Io(error))) => return Err(at_packet(error, number)),
            Some(Err(_)) => return Err(PcapError::Damaged(number)),
        };
        match block.type_ {
            SECTION_HEADER_BLOCK => *interface_bytes = 0,
            INTERFACE_DESCRIPTION_BLOCK => {
                *interface_bytes += u64::from(block.initial_len);
                if *interface_bytes > INTERFACE_BYTES {
                    return Err(PcapError::Damaged(number));
                }
            }
            ENHANCED_PACKET_BLOCK | SIMPLE_PACKET_BLOCK | PACKET_BLOCK => {
                let packet = block.try_into_block(state).map_err(|_| PcapError::Damaged(number))?;
                let (interface, time, len, data) = match packet {
                    Block::EnhancedPacket(packet) => {
                        (packet.interface_id, packet.timestamp, packet.original_len, packet.data)
                    }
                    Block::Packet(packet) => {
                        (packet.interface_id.into(), packet.timestamp, packet.original_len, packet.data)
                    }
                    Block::SimplePacket(packet) => (0, Duration::ZERO, packet.original_len, packet.data),
                    _ => return Err(PcapError::Damaged(number)),
                };
                let interface = state.interfaces().get(interface as usize);
                check_link(interface.ok_or(PcapError::Damaged(number))?.linktype)?;
                take(&data, number, bytes)?;
                return Ok(Some(Stamp { time, len }));
            }
            // Names, statistics, and what others put there.
            _ => (),
        }
    }
}

/// The packet numbered `wanted`, from 1, of the capture file `from`.
///
/// # Errors
/// There is none.
pub fn read_packet(from: impl Read, wanted: usize) -> Result<Vec<u8>, PcapError> {
    let mut capture = Capture::new(from)?;
    let mut bytes = Vec::new();
    for has in 0..wanted {
        if capture.next(&mut bytes)?.is_none() {
            return Err(PcapError::TooFewPackets { has, wanted });
        }
    }
    Ok(bytes)
}

/// Writes a capture file.
#[derive(Debug)]
pub struct PcapWriter<W: Write>(pcap::PcapWriter<BufWriter<W>>);

impl<W: Write> PcapWriter<W> {
    /// Begins a file whose times are in microseconds, and writes its head out, so that a file without packets is one too.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(to: W) -> io::Result<Self> {
        let mut writer = Self::begin(to)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Begins a file like [`new`](Self::new) does, and leaves it to the caller when its head is written out.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(to: W) -> io::Result<Self> {
        let header = PcapHeader {
            snaplen: SNAP_BYTES,
            datalink: DataLink::ETHERNET,
            ts_resolution: PcapTsResolution::MicroSecond,
            endianness: Endianness::Little,
            ..PcapHeader::default()
        };
        pcap::PcapWriter::with_header(BufWriter::new(to), header).map(Self).map_err(write_error)
    }

    /// Appends a packet of `len` bytes that came `time_us` microseconds after 1970, of which `bytes` are the first, and writes
    /// it out, so that the file is whole whenever the writing ends.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, time_us: u64, len: u64, bytes: &[u8]) -> io::Result<()> {
        self.append(time_us, len, bytes)?;
        self.flush()
    }

    /// Appends a packet like [`write`](Self::write) does, and leaves it to the caller when it is written out.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, time_us: u64, len: u64, bytes: &[u8]) -> io::Result<()> {
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let time = Duration::from_micros(time_us);
        let packet = RawPcapPacket {
            ts_sec: word(time.as_secs()),
            ts_frac: time.subsec_micros(),
            incl_len: word(bytes.len() as u64),
            orig_len: word(len),
            data: bytes.into(),
        };
        self.0.write_raw_packet(&packet).map(drop).map_err(write_error)
    }

    /// Writes out what was appended.
    ///
    /// # Errors
    /// The file cannot be written; what was appended waits for the next time.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(write_error)
    }
}

/// Writes a pcapng file of one interface.
pub struct PcapNgWriter<W: Write>(pcapng::PcapNgWriter<W>);

impl<W: Write> std::fmt::Debug for PcapNgWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PcapNgWriter").finish_non_exhaustive()
    }
}

impl<W: Write> PcapNgWriter<W> {
    /// Begins a file of packets of the interface `name`, whose times are in microseconds.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(to: W, name: &str) -> io::Result<Self> {
        let mut writer =
            pcapng::PcapNgWriter::with_endianness(to, Endianness::Little).map_err(write_ng_error)?;
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: SNAP_BYTES,
            options: vec![InterfaceDescriptionOption::IfName(Cow::Borrowed(name))],
        };
        writer.write_pcapng_block(interface).map_err(write_ng_error)?;
        Ok(Self(writer))
    }

    /// Appends a packet as [`PcapWriter::append`] does. It came in by the interface or went out, and `comment` says more of it,
    /// unless it is empty.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(
        &mut self,
        time_us: u64,
        len: u64,
        bytes: &[u8],
        is_inbound: bool,
        comment: &str,
    ) -> io::Result<()> {
        // epb_flags: the direction is in the two lowest bits.
        let mut options = vec![EnhancedPacketOption::Flags(if is_inbound { 1 } else { 2 })];
        if !comment.is_empty() {
            let comment = CommonOption::Comment(Cow::Borrowed(comment));
            options.push(EnhancedPacketOption::Common(comment));
        }
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_micros(time_us),
            original_len: u32::try_from(len).unwrap_or(u32::MAX),
            data: Cow::Borrowed(bytes),
            options,
        };
        self.0.write_pcapng_block(packet).map(drop).map_err(write_ng_error)
    }

    /// Writes out what was appended.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

fn write_ng_error(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn write_error(error: PcapWriteError) -> io::Error {
    match error {
        PcapWriteError::Io(error) | PcapWriteError::FieldWriteFailed(_, error) => error,
        PcapWriteError::Validation(error) => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = PcapWriter::new(&mut file).unwrap();
        writer.write(1_500_000_001_000_002, 60, &[1; 60]).unwrap();
        writer.write(1_500_000_001_000_003, 1500, &[2; 20]).unwrap();
        drop(writer);
        file
    }

    fn packets(file: &[u8]) -> Result<Vec<(Stamp, Vec<u8>)>, PcapError> {
        let (mut capture, mut bytes) = (Capture::new(file)?, Vec::new());
        let mut packets = Vec::new();
        while let Some(stamp) = capture.next(&mut bytes)? {
            packets.push((stamp, bytes.clone()));
        }
        Ok(packets)
    }

    /// A block of a pcapng file in the byte order of `word`.
    fn block(word: fn(u32) -> [u8; 4], kind: u32, body: &[u8]) -> Vec<u8> {
        let body = [body, &[0; 3][..body.len().wrapping_neg() % 4]].concat();
        let len = word(u32::try_from(body.len()).unwrap() + 12);
        [&word(kind)[..], &len, &body, &len].concat()
    }

    /// A pcapng file with one interface of this link type and these options, and the blocks `rest`.
    fn pcapng(word: fn(u32) -> [u8; 4], link: u8, options: &[u8], rest: &[Vec<u8>]) -> Vec<u8> {
        let section = [word(0x1a2b_3c4d), if word(1)[0] == 1 { [1, 0, 0, 0] } else { [0, 1, 0, 0] }].concat();
        let section = [&section[..], &[0xff; 8]].concat();
        let link = if word(1)[0] == 1 { [link, 0, 0, 0] } else { [0, link, 0, 0] };
        let interface = [&link[..], &word(0), options].concat();
        [block(word, 0x0a0d_0d0a, &section), block(word, 1, &interface), rest.concat()].concat()
    }

    fn enhanced(word: fn(u32) -> [u8; 4], time: u64, bytes: &[u8], len: u32) -> Vec<u8> {
        let (high, low) = ((time >> 32) as u32, u32::try_from(time & 0xffff_ffff).unwrap());
        let head = [0, high, low, u32::try_from(bytes.len()).unwrap(), len].map(word).concat();
        block(word, 6, &[&head[..], bytes].concat())
    }

    #[test]
    fn packets_are_read_back_as_they_were_written() {
        let file = file();
        assert_eq!(file[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0], "as on any little-endian machine");
        assert_eq!(file[24..28], 1_500_000_001_u32.to_le_bytes());
        assert_eq!(read_packet(&file[..], 1).unwrap(), [1; 60]);
        assert_eq!(read_packet(&file[..], 2).unwrap(), [2; 20]);
        let second = Stamp { time: Duration::from_micros(1_500_000_001_000_003), len: 1500 };
        assert_eq!(packets(&file).unwrap()[1], (second, vec![2; 20]));
    }

    #[test]
    fn file_is_whole_before_the_first_packet_and_behind_each() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = PcapWriter::new(file.reopen().unwrap()).unwrap();
        let written = || packets(&std::fs::read(file.path()).unwrap()).unwrap().len();
        assert_eq!(written(), 0);
        writer.write(1, 60, &[1; 60]).unwrap();
        assert_eq!(written(), 1);
    }

    #[test]
    fn files_of_the_other_byte_order_are_read() {
        let mut file = [0xa1b2_3c4d, 0x0002_0004, 0, 0, 65_535, 1].map(u32::to_be_bytes).concat();
        file.extend([1, 2, 3, 3].map(u32::to_be_bytes).concat());
        file.extend([7, 8, 9]);
        let stamp = Stamp { time: SECOND + Duration::from_nanos(2), len: 3 };
        assert_eq!(packets(&file).unwrap(), [(stamp, vec![7, 8, 9])]);
    }

    #[test]
    fn packets_that_were_cut_short_by_the_capture_are_read() {
        // Snap length 20, as tcpdump -s 20 writes it; and 0, as others do.
        for snap in [20_u32, 0] {
            let mut file = file();
            file[16..20].copy_from_slice(&snap.to_le_bytes());
            assert_eq!(packets(&file).unwrap().len(), 2);
        }
    }

    #[test]
    fn pcapng_is_read_in_either_byte_order_and_any_resolution() {
        for word in [u32::to_le_bytes, u32::to_be_bytes] {
            let short = if word(1)[0] == 1 { u16::to_le_bytes } else { u16::to_be_bytes };
            // if_tsresol, nanoseconds; no end of options, which some writers leave out.
            let options = [&short(9)[..], &short(1), &[9, 0, 0, 0]].concat();
            let names = block(word, 4, &[0; 4]);
            let simple = block(word, 3, &[&word(5)[..], &[6; 5]].concat());
            let packets = packets(&pcapng(
                word,
                1,
                &options,
                &[enhanced(word, 1_000_000_002, &[5; 61], 100), names, simple],
            ));
            let first = Stamp { time: SECOND + Duration::from_nanos(2), len: 100 };
            let second = Stamp { time: Duration::ZERO, len: 5 };
            assert_eq!(packets.unwrap(), [(first, vec![5; 61]), (second, vec![6; 5])]);
        }
    }

    #[test]
    fn errors_say_what_to_try() {
        let error = |file: &[u8], number| read_packet(file, number).unwrap_err().to_string();
        let file = file();
        assert_eq!(error(&file, 3), "has 2 packets, not 3; use --packet 1 to 2");
        assert_eq!(error(&file[..file.len() - 1], 2), "is damaged at packet 2; capture it again");
        let not = "is no capture file, neither pcap nor pcapng; make one with: tcpdump -w FILE";
        for other in [&b""[..], b"#!", b"#!/bin/sh", &[b'x'; 100], &MAGIC_PCAPNG, &file[..23]] {
            assert_eq!(error(other, 1), not);
        }
        let mut other = file.clone();
        other[20] = 113;
        assert!(error(&other, 1).starts_with("has packets of link type 113; only Ethernet (1)"));
        other[20] = 1;
        other[35] = 0xff;
        assert_eq!(error(&other, 1), "is damaged at packet 1; capture it again");
        let word = u32::to_le_bytes;
        let other = pcapng(word, 113, &[], &[enhanced(word, 0, &[1; 60], 60)]);
        assert!(error(&other, 1).starts_with("has packets of link type 113; only Ethernet (1)"));
        let other = pcapng(word, 1, &[], &[enhanced(word, 0, &[1; 60], 59)]);
        assert_eq!(error(&other, 1), "is damaged at packet 1; capture it again");
    }

    #[test]
    fn file_that_only_describes_interfaces_is_given_up() {
        let word = u32::to_le_bytes;
        let interface = block(word, 1, &[1, 0, 0, 0, 0, 0, 0, 0]);
        let many = vec![interface; 60_000];
        let error = read_packet(&pcapng(word, 1, &[], &many)[..], 1).unwrap_err();
        assert!(matches!(error, PcapError::Damaged(1)), "{error}");
    }

    #[test]
    fn damaged_files_end_in_an_error_or_in_fewer_packets() {
        let word = u32::to_le_bytes;
        let rest = [enhanced(word, 7, &[5; 61], 100), block(word, 3, &[&word(5)[..], &[6; 5]].concat())];
        for file in [file(), pcapng(word, 1, &[], &rest)] {
            for at in 0..file.len() {
                for value in [0, 1, 3, 0x7f, 0x80, 0xff] {
                    let mut damaged = file.clone();
                    damaged[at] = value;
                    let _ = packets(&damaged);
                }
                let _ = packets(&file[..at]);
            }
        }
    }
}
