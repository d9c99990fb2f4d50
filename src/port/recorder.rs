//! Records frames in a file, so that no worker waits for a disk.
//!
//! A worker copies a frame into a buffer of a bounded queue and goes on; a thread takes the buffers off the queue and writes
//! the file. A queue that is full is told to the worker, which counts the frame as dropped. A write that fails, as on a full
//! disk, is tried again until the recording ends: what was taken off the queue is kept, and the queue fills up meanwhile.
//! The file always ends with a whole record.
//!
//! A file is claimed by `Output::open` and emptied only when a worker has taken the port: a port that is never used, as
//! another one cannot be opened, has removed nothing. While it is open the file is locked against other recordings, also
//! those of other processes.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_queue::ArrayQueue;
use nix::unistd::{AccessFlags, access};
use parking_lot::Mutex;
use vsteer_switch::packet::{Checksum, Frame, GsoKind, Offload};

use crate::pcap::{PcapNgWriter, PcapWriter};

/// Frames that wait to be written at most.
const QUEUE_PKTS: usize = 1024;

/// Bytes that a buffer has room for from the start; one that was given a longer frame keeps the room for it.
const BUFFER_BYTES: usize = 2048;

/// Bytes after which the thread writes what it has, although more waits.
const WRITE_BYTES: usize = 256 << 10;

/// How long the thread waits before it tries again to write.
const RETRY: Duration = Duration::from_millis(200);

/// How long the end of a recording waits for the disk.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a file cannot be recorded in.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It cannot be opened.
    #[error(
        "{path} cannot be written: {source}; see that its folder exists and that the switch may write there"
    )]
    Unwritable {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is a folder, a pipe, a device.
    #[error("{0} is no regular file; name a file to write, or one to write over")]
    NotRegular(String),
    /// It is read by the same port.
    #[error("{0} is the file that is played; name another for what is recorded")]
    IsInput(String),
    /// Somebody else writes it.
    #[error("{0} is in use by another port or program that plays or records it; name another file")]
    InUse(String),
}

/// Whether a file can be had for one purpose: an advisory lock, which file systems that have none leave out.
pub fn is_in_use(locked: Result<(), TryLockError>) -> bool {
    matches!(locked, Err(TryLockError::WouldBlock))
}

/// A file that is claimed for a recording, and removed again if the recording never begins.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
    /// It was not there before, and nothing was written yet.
    is_unused: bool,
}

impl Output {
    /// Finds what would keep [`open`](Self::open) from succeeding now, and changes nothing.
    ///
    /// # Errors
    /// As for `open`.
    pub fn check(path: &Path, input: Option<&Metadata>) -> Result<(), OutputError> {
        let unwritable = |source| OutputError::Unwritable { path: path.display().to_string(), source };
        if fs::metadata(path).is_ok() {
            return Self::claim(path, OpenOptions::new().write(true), input).map(drop);
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| unwritable(errno.into()))
    }

    /// Claims the file at `path`, which may not be the one that `input` describes.
    ///
    /// # Errors
    /// It cannot be written, is no regular file, or is somebody else's.
    pub fn open(path: &Path, input: Option<&Metadata>) -> Result<Self, OutputError> {
        let mut options = OpenOptions::new();
        options.write(true);
        match Self::claim(path, options.clone().create_new(true), input) {
            Ok(file) => Ok(Self { file, path: path.to_owned(), is_unused: true }),
            Err(OutputError::Unwritable { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                let file = Self::claim(path, options.create(true), input)?;
                Ok(Self { file, path: path.to_owned(), is_unused: false })
            }
            Err(error) => Err(error),
        }
    }

    fn claim(path: &Path, options: &mut OpenOptions, input: Option<&Metadata>) -> Result<File, OutputError> {
        let name = || path.display().to_string();
        let unwritable = |source| OutputError::Unwritable { path: name(), source };
        // Before it is opened, as that can have effects on what is no file.
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => return Err(OutputError::NotRegular(name())),
            Ok(_) | Err(_) => (),
        }
        let file = options.custom_flags(libc::O_NONBLOCK).open(path).map_err(unwritable)?;
        let metadata = file.metadata().map_err(unwritable)?;
        if !metadata.is_file() {
            return Err(OutputError::NotRegular(name()));
        }
        if input.is_some_and(|input| (input.dev(), input.ino()) == (metadata.dev(), metadata.ino())) {
            return Err(OutputError::IsInput(name()));
        }
        if is_in_use(file.try_lock()) {
            return Err(OutputError::InUse(name()));
        }
        Ok(file)
    }

    /// Starts the thread, for a port named `port`, whose file has this format. It writes nothing before [`Tape::begin`].
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn record(self, port: &str, format: Format) -> io::Result<(Arc<Tape>, Recording)> {
        let tape = Arc::new(Tape::new(&self.path, format.snap_bytes()));
        let thread = {
            let (tape, port) = (Arc::clone(&tape), port.to_owned());
            thread::Builder::new()
                .name(format!("rec-{port}"))
                .spawn(move || run(self, format, &tape, &port))?
        };
        // The thread that was just started is the first to be told.
        let _ = tape.thread.set(thread.thread().clone());
        Ok((Arc::clone(&tape), Recording { tape, thread: Some(thread) }))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_unused {
            // It is empty and was made by us; if it cannot be removed, it harms nobody.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What is written of the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A pcap file of whole frames.
    Pcap,
    /// A pcapng file: which way each went, and what work on it is left to others.
    PcapNg {
        /// Bytes of each frame that are written.
        snap_bytes: usize,
    },
}

impl Format {
    fn snap_bytes(self) -> usize {
        match self {
            Format::Pcap => usize::MAX,
            Format::PcapNg { snap_bytes } => snap_bytes,
        }
    }
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// Into the switch.
    #[default]
    In,
    /// Out of it.
    Out,
}

/// A file in one of the formats.
enum Encoder {
    Pcap(PcapWriter<WholeFile>),
    PcapNg(PcapNgWriter<WholeFile>),
}

impl Encoder {
    fn begin(file: WholeFile, format: Format, port: &str) -> io::Result<Self> {
        Ok(match format {
            Format::Pcap => Encoder::Pcap(PcapWriter::begin(file)?),
            Format::PcapNg { .. } => Encoder::PcapNg(PcapNgWriter::begin(file, port)?),
        })
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        let Record { time_us, len, way, offload, bytes } = record;
        match self {
            Encoder::Pcap(writer) => writer.append(*time_us, *len, bytes),
            Encoder::PcapNg(writer) => {
                writer.append(*time_us, *len, bytes, *way == Way::In, &work_left(offload))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Pcap(writer) => writer.flush(),
            Encoder::PcapNg(writer) => writer.flush(),
        }
    }
}

/// The work on a frame that is left to others, in words; empty if there is none.
fn work_left(offload: &Offload) -> String {
    let checksum = match offload.checksum {
        Checksum::Unknown => None,
        Checksum::Verified => Some("checksum verified".to_owned()),
        Checksum::Partial { start, offset } => {
            Some(format!("checksum to be completed from {start}, at {start}+{offset}"))
        }
    };
    let protocol = match offload.gso {
        GsoKind::None => None,
        GsoKind::TcpV4 | GsoKind::TcpV6 => Some("TCP"),
        GsoKind::Udp => Some("UDP"),
    };
    let segments =
        protocol.map(|protocol| format!("{protocol} segments of {} bytes to be cut", offload.gso_size));
    [checksum, segments].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A frame on its way to the file.
#[derive(Debug, Default)]
struct Record {
    time_us: u64,
    len: u64,
    way: Way,
    offload: Offload,
    bytes: Vec<u8>,
}

/// What workers record on.
///
/// # Concurrency
/// Any worker may record at any time. A buffer is in one of two queues, or with whoever took it out.
pub struct Tape {
    path: PathBuf,
    /// Bytes of a frame that are recorded.
    snap_bytes: usize,
    /// Recorded frames, in order.
    full: ArrayQueue<Record>,
    /// Buffers for the next ones. Both queues have room for all buffers there are.
    spare: ArrayQueue<Record>,
    thread: OnceLock<Thread>,
    is_asleep: AtomicBool,
    has_begun: AtomicBool,
    is_ending: AtomicBool,
    /// Frames in the file.
    recorded: AtomicU64,
    /// Why the file is not written at present.
    fault: Mutex<Option<String>>,
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tape").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The time that frames are recorded with, in microseconds after 1970: one look at the clock for each batch.
pub fn now_us() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

impl Tape {
    fn new(path: &Path, snap_bytes: usize) -> Self {
        let spare = ArrayQueue::new(QUEUE_PKTS);
        for _ in 0..QUEUE_PKTS {
            let bytes = Vec::with_capacity(BUFFER_BYTES);
            // PANICS: never, as the queue has room for as many.
            spare.push(Record { bytes, ..Record::default() }).expect("room for all buffers");
        }
        Self {
            path: path.to_owned(),
            snap_bytes,
            full: ArrayQueue::new(QUEUE_PKTS),
            spare,
            thread: OnceLock::new(),
            is_asleep: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            recorded: AtomicU64::new(0),
            fault: Mutex::default(),
        }
    }

    /// Lets the recording begin: the file is emptied.
    pub fn begin(&self) {
        if !self.has_begun.swap(true, Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// Copies `frame`; false if too many wait for the disk already. [`flush`](Self::flush) follows the last of a batch.
    #[inline]
    pub fn record(&self, time_us: u64, way: Way, frame: &Frame<'_>) -> bool {
        let Some(mut record) = self.spare.pop() else { return false };
        record.time_us = time_us;
        record.len = frame.len() as u64;
        record.way = way;
        record.offload = *frame.offload;
        copy_start(frame, self.snap_bytes, &mut record.bytes);
        // It cannot be full: see `full`.
        self.full.push(record).is_ok()
    }

    /// Has the thread write what was recorded.
    #[inline]
    pub fn flush(&self) {
        // Orders the push of a record before the look at the sleeper; partner: the fence in `sleep`.
        fence(Ordering::SeqCst);
        if self.is_asleep.load(Ordering::Relaxed) {
            self.unpark();
        }
    }

    /// Frames in the file.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Why the file is not written at present.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The thread sleeps until there is something to write, or to end.
    fn sleep(&self) {
        self.is_asleep.store(true, Ordering::Relaxed);
        // Orders that before the look at the queue; partner: the fence in `flush`.
        fence(Ordering::SeqCst);
        if self.full.is_empty() && !self.is_ending.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_secs(1));
        }
        self.is_asleep.store(false, Ordering::Relaxed);
    }
}

/// Replaces what is in `bytes` by the first of `frame`, at most `most`.
fn copy_start(frame: &Frame<'_>, most: usize, bytes: &mut Vec<u8>) {
    bytes.clear();
    let head = &frame.head[..frame.head.len().min(most)];
    bytes.extend_from_slice(head);
    let tail = frame.tail.slice(0, most - head.len());
    bytes.resize(head.len() + tail.len(), 0);
    tail.copy_to(&mut bytes[head.len()..]);
}

/// Replaces what is in `bytes` by the bytes of `frame`.
pub fn copy_frame(frame: &Frame<'_>, bytes: &mut Vec<u8>) {
    copy_start(frame, usize::MAX, bytes);
}

/// A recording; dropping it writes what waits, and ends the thread.
#[derive(Debug)]
pub struct Recording {
    tape: Arc<Tape>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.tape.is_ending.store(true, Ordering::SeqCst);
        self.tape.unpark();
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                let file = self.tape.path.display();
                tracing::warn!(%file, "the disk does not answer; the recording is left to itself and may lack its end");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // A panic there was our own bug, and is in the log already.
        let _ = thread.join();
    }
}

/// The thread: writes what is recorded on `tape` to `output`.
fn run(mut output: Output, format: Format, tape: &Tape, port: &str) {
    while !tape.has_begun.load(Ordering::SeqCst) {
        if tape.is_ending.load(Ordering::SeqCst) {
            return;
        }
        thread::park_timeout(Duration::from_secs(1));
    }
    output.is_unused = false;
    let file = tape.path.display();
    let mut writer =
        match output.file.try_clone().and_then(|file| Encoder::begin(WholeFile::new(file), format, port)) {
            Ok(writer) => writer,
            Err(error) => {
                let fault = format!("{file} is not written: {error}; delete the port and add it again");
                tracing::error!(port, fault, "nothing is recorded");
                *tape.fault.lock() = Some(fault);
                return;
            }
        };
    // The head of the file is something to write, too.
    let (mut waiting, mut is_due) = (0, true);
    loop {
        // 1. What waits, as much as one write takes. Of a write that failed nothing was lost, and it comes first.
        let mut bytes = 0;
        while tape.fault.lock().is_none()
            && bytes < WRITE_BYTES
            && let Some(record) = tape.full.pop()
        {
            bytes += record.bytes.len();
            waiting += 1;
            // Appending goes to memory, and cannot fail.
            let _ = writer.append(&record);
            // It cannot be full: see `Tape::spare`.
            let _ = tape.spare.push(record);
            is_due = true;
        }

        // 2. One write.
        let is_ending = tape.is_ending.load(Ordering::SeqCst);
        if is_due {
            match writer.flush() {
                Ok(()) => {
                    is_due = false;
                    tape.recorded.fetch_add(std::mem::take(&mut waiting), Ordering::Relaxed);
                    if tape.fault.lock().take().is_some() {
                        tracing::info!(port, %file, "the recording goes on");
                    }
                }
                Err(error) if is_ending => {
                    let lost = waiting + tape.full.len() as u64;
                    tracing::warn!(port, %file, %error, lost, "the recording ends, and lacks its last packets");
                    return;
                }
                Err(error) => {
                    let fault =
                        format!("{file} cannot be written: {error}; it is tried again until there is room");
                    if tape.fault.lock().replace(fault.clone()).is_none() {
                        tracing::warn!(port, fault, "the recording waits; what comes meanwhile is dropped");
                    }
                    thread::park_timeout(RETRY);
                }
            }
            continue;
        }

        // 3. Nothing waits.
        if is_ending {
            return;
        }
        tape.sleep();
    }
}

/// A file that only grows by whole records. What is written waits in memory for the flush; a flush that fails leaves the file
/// as it was, and can be tried again.
struct WholeFile {
    file: File,
    /// Whether what was in the file before is gone.
    is_emptied: bool,
    /// Bytes in the file.
    written: u64,
    waiting: Vec<u8>,
}

impl WholeFile {
    fn new(file: File) -> Self {
        Self { file, is_emptied: false, written: 0, waiting: Vec::new() }
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.is_emptied {
            self.file.set_len(0)?;
            self.is_emptied = true;
        }
        if let Err(error) = self.file.write_all_at(&self.waiting, self.written) {
            // If this fails too, the next write goes over what is there too much.
            let _ = self.file.set_len(self.written);
            return Err(error);
        }
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vsteer_switch::packet::{Offload, Tail};

    use super::*;
    use crate::pcap::Capture;

    fn record(tape: &Tape, bytes: &[u8]) -> bool {
        tape.record(7, Way::Out, &Frame { head: bytes, tail: Tail::EMPTY, offload: &Offload::NONE })
    }

    fn packets(path: &Path) -> Vec<Vec<u8>> {
        let mut capture = Capture::new(File::open(path).unwrap()).unwrap();
        let (mut packets, mut bytes) = (Vec::new(), Vec::new());
        while capture.next(&mut bytes).unwrap().is_some() {
            packets.push(bytes.clone());
        }
        packets
    }

    #[test]
    fn what_was_recorded_is_in_the_file_in_order_when_the_recording_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, [b'x'; 5000]).unwrap();
        let (tape, recording) = Output::open(&path, None).unwrap().record("p", Format::Pcap).unwrap();
        tape.begin();
        let frames: Vec<Vec<u8>> = (0..300).map(|n| vec![u8::try_from(n % 256).unwrap(); 60 + n]).collect();
        assert!(frames.iter().all(|frame| record(&tape, frame)));
        tape.flush();
        drop(recording);
        assert_eq!((packets(&path), tape.recorded()), (frames, 300));
    }

    #[test]
    fn pcapng_says_the_way_and_the_work_that_is_left_and_cuts_long_frames() {
        use pcap_file::pcapng::blocks::Block;
        use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
        use pcap_file::pcapng::blocks::opt_common::CommonOption;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let output = Output::open(&path, None).unwrap();
        let (tape, recording) = output.record("p", Format::PcapNg { snap_bytes: 100 }).unwrap();
        tape.begin();
        let checksum = Checksum::Partial { start: 34, offset: 16 };
        let left = Offload { checksum, gso: GsoKind::TcpV4, gso_size: 1448, ..Offload::NONE };
        let bytes: Vec<u8> = (0..200).collect();
        let frame = |offload| Frame { head: &bytes, tail: Tail::EMPTY, offload };
        assert!(tape.record(1_500_000_000_000_001, Way::In, &frame(&left)));
        assert!(tape.record(1_500_000_000_000_002, Way::Out, &frame(&Offload::NONE)));
        drop(recording);
        assert_eq!(packets(&path), [&bytes[..100], &bytes[..100]]);

        let mut reader = pcap_file::pcapng::PcapNgReader::new(File::open(&path).unwrap()).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap().0 {
                let (mut flags, mut comment) = (None, String::new());
                for option in &packet.options {
                    match option {
                        EnhancedPacketOption::Flags(word) => flags = Some(*word),
                        EnhancedPacketOption::Common(CommonOption::Comment(text)) => comment += text,
                        other => panic!("{other:?}"),
                    }
                }
                seen.push((packet.timestamp.subsec_micros(), packet.original_len, flags, comment));
            }
        }
        let work = "checksum to be completed from 34, at 34+16; TCP segments of 1448 bytes to be cut";
        assert_eq!(seen, [(1, 200, Some(1), work.to_owned()), (2, 200, Some(2), String::new())]);
    }

    #[test]
    fn recording_that_never_begins_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::write(&old, "precious").unwrap();
        for path in [&old, &new] {
            drop(Output::open(path, None).unwrap().record("p", Format::Pcap).unwrap());
        }
        assert_eq!(fs::read(&old).unwrap(), b"precious");
        assert!(!new.exists());
    }

    #[test]
    fn frames_that_the_disk_does_not_take_in_time_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (tape, _recording) =
            Output::open(&folder.path().join("out"), None).unwrap().record("p", Format::Pcap).unwrap();
        // It has not begun, so nobody writes.
        assert!((0..QUEUE_PKTS).all(|_| record(&tape, &[1; 60])));
        assert!(!record(&tape, &[1; 60]));
    }

    #[test]
    fn failed_write_leaves_whole_records_and_is_tried_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut whole = WholeFile::new(file.reopen().unwrap());
        whole.write_all(b"first").unwrap();
        whole.flush().unwrap();
        // A file that is open for reading only stands in for a disk that is full.
        whole.file = File::open(file.path()).unwrap();
        whole.write_all(b"second").unwrap();
        whole.flush().unwrap_err();
        assert_eq!(fs::read(file.path()).unwrap(), b"first");
        whole.file = file.reopen().unwrap();
        whole.flush().unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), b"firstsecond");
    }

    #[test]
    fn files_that_cannot_be_recorded_in_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let refused = |name: &str, input: Option<&Metadata>| {
            Output::open(&at(name), input).map(drop).unwrap_err().to_string()
        };
        assert!(refused("no/such", None).contains("see that its folder exists"));
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for other in ["fifo", "."] {
            assert!(refused(other, None).contains("is no regular file"));
        }
        fs::write(at("in"), "x").unwrap();
        fs::hard_link(at("in"), at("link")).unwrap();
        let input = fs::metadata(at("in")).unwrap();
        assert!(refused("link", Some(&input)).contains("is the file that is played"));
        assert_eq!(fs::read(at("in")).unwrap(), b"x");
        let _first = Output::open(&at("out"), None).unwrap();
        for name in ["no/such", "fifo", "out"] {
            assert_eq!(Output::check(&at(name), None).unwrap_err().to_string(), refused(name, None));
        }
        Output::check(&at("new"), None).unwrap();
        assert!(!at("new").exists());
        assert!(refused("out", None).contains("is in use by another port or program"));
    }
}
