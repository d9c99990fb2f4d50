//! Lines on their way to standard error: a bounded queue, and the thread that writes.
//!
//! Whoever logs puts a line in and goes on. Only the writer waits for whoever reads standard error, which may be a pipe that
//! nobody empties, or a disk that is slow. What finds no room is lost and counted, and the count is written behind the lines
//! that were queued, as soon as those can be.
//!
//! `tracing-appender` has such a queue. It is not used, since the lost lines and the sums of `limit.rs` have to be said
//! by somebody who may wait, in their place among the other lines: that is this thread, and the queue is the lesser part of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::Level;

use super::limit::{Limit, Sum};
use super::line;

/// Room for lines that wait; a line has about a hundred bytes.
const CAPACITY_BYTES: usize = 1 << 20;
/// Room beyond that for what the process says before it ends or panics.
const URGENT_BYTES: usize = 64 << 10;
/// How soon to try again where standard error does not block and takes nothing.
const RETRY: Duration = Duration::from_millis(50);

/// Lines that wait.
///
/// # Concurrency
/// Any thread puts lines in and holds the lock for a few stores. One thread, the writer, takes them out, and holds no lock
/// while it writes.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    capacity_bytes: usize,
    /// There is something for the writer to do.
    work: Condvar,
    /// The writer has done what there was.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that found no room, or could not be written, and were not told of.
    lost: u64,
    /// The writer holds lines that it took out.
    is_writing: bool,
    /// The writer shall look at the limit's sums again.
    is_nudged: bool,
    is_closing: bool,
}

/// What the writer has to do.
#[derive(Debug)]
struct Work {
    lines: VecDeque<Vec<u8>>,
    lost: u64,
    is_closing: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self::with_capacity(CAPACITY_BYTES)
    }

    fn with_capacity(capacity_bytes: usize) -> Self {
        Self { state: Mutex::default(), capacity_bytes, work: Condvar::new(), done: Condvar::new() }
    }

    /// Puts a line in, or counts it as lost.
    pub(super) fn push(&self, line: Vec<u8>) {
        self.push_within(&mut self.state.lock(), line, self.capacity_bytes);
    }

    /// Puts a line in for which room is kept. Gives up if a thread panicked while it held the queue.
    pub(super) fn push_urgent(&self, line: Vec<u8>, patience: Duration) {
        if let Some(mut state) = self.state.try_lock_for(patience) {
            self.push_within(&mut state, line, self.capacity_bytes + URGENT_BYTES);
        }
    }

    fn push_within(&self, state: &mut State, line: Vec<u8>, capacity_bytes: usize) {
        if state.bytes + line.len() > capacity_bytes {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.work.notify_one();
    }

    /// Has the writer look at the limit again.
    pub(super) fn nudge(&self) {
        self.state.lock().is_nudged = true;
        self.work.notify_one();
    }

    /// Waits until what was put in is written, for `patience` at most.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        if let Some(mut state) = self.state.try_lock_for(patience) {
            while (state.is_writing || !state.lines.is_empty())
                && !self.done.wait_until(&mut state, deadline).timed_out()
            {}
        }
    }

    /// Has the writer write what there is, sums included, and end; waits for that for `patience` at most.
    pub(super) fn close(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let Some(mut state) = self.state.try_lock_for(patience) else { return };
        state.is_closing = true;
        self.work.notify_one();
        // The writer clears it last of all.
        while state.is_closing && !self.done.wait_until(&mut state, deadline).timed_out() {}
    }

    /// Waits for work, until `deadline` at most.
    fn take(&self, deadline: Option<Instant>) -> Work {
        let mut state = self.state.lock();
        state.is_writing = false;
        self.done.notify_all();
        while state.lines.is_empty() && !state.is_nudged && !state.is_closing {
            match deadline {
                None => self.work.wait(&mut state),
                Some(deadline) if self.work.wait_until(&mut state, deadline).timed_out() => break,
                Some(_) => (),
            }
        }
        state.is_nudged = false;
        state.is_writing = true;
        state.bytes = 0;
        Work {
            lines: std::mem::take(&mut state.lines),
            lost: std::mem::take(&mut state.lost),
            is_closing: state.is_closing,
        }
    }

    fn add_lost(&self, lines: u64) {
        self.state.lock().lost += lines;
    }

    fn closed(&self) {
        let mut state = self.state.lock();
        state.is_writing = false;
        state.is_closing = false;
        self.done.notify_all();
    }
}

/// Starts the thread that writes the lines of `queue` and the sums of `limit` to `out`.
pub(super) fn start_writer(
    queue: Arc<Queue>,
    limit: Arc<Limit>,
    out: File,
    has_time: bool,
) -> io::Result<()> {
    let writer = Writer { queue, limit, out, has_time };
    // Nobody joins it: it may wait for ever for whoever reads standard error.
    thread::Builder::new().name("log".into()).spawn(move || writer.run()).map(drop)
}

struct Writer {
    queue: Arc<Queue>,
    limit: Arc<Limit>,
    out: File,
    has_time: bool,
}

impl Writer {
    fn run(&self) {
        loop {
            let work = self.queue.take(self.limit.next_due());
            let unwritten = work.lines.iter().filter(|line| self.write(line).is_err()).count();
            let sums = if work.is_closing { self.limit.all() } else { self.limit.due(Instant::now()) };
            for Sum { level, text } in sums {
                // What cannot be written is no loss of its own: it tells of lines that were left out.
                let _ = self.write(&line(self.has_time, level, &text));
            }
            self.tell_lost(work.lost + unwritten as u64);
            if work.is_closing {
                return self.queue.closed();
            }
        }
    }

    fn tell_lost(&self, lost: u64) {
        if lost == 0 {
            return;
        }
        let text =
            format!("{lost} log lines are lost here: standard error took them too slowly or not at all");
        if self.write(&line(self.has_time, Level::WARN, &text)).is_err() {
            self.queue.add_lost(lost);
        }
    }

    /// Writes a whole line, however long that takes.
    fn write(&self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            match (&self.out).write(line) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => line = &line[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                // Whoever shares standard error with us may have made it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A queue of `capacity_bytes` whose writer writes into a pipe, and the pipe's other end.
    fn into_pipe(capacity_bytes: usize) -> (Arc<Queue>, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let queue = Arc::new(Queue::with_capacity(capacity_bytes));
        let limit = Arc::new(Limit::new(Arc::clone(&queue)));
        start_writer(Arc::clone(&queue), limit, File::from(OwnedFd::from(writer)), false).unwrap();
        (queue, reader)
    }

    fn line_of(length: usize, number: u64) -> Vec<u8> {
        format!("{number:0width$}\n", width = length - 1).into_bytes()
    }

    /// Lines of 1 KiB, more than fit into the pipe and the queue together, while nobody reads.
    #[test]
    fn lines_without_room_are_counted_and_told_behind_those_that_had_it() {
        let (queue, mut reader) = into_pipe(64 << 10);
        let begun = Instant::now();
        (0..1000).for_each(|number| queue.push(line_of(1024, number)));
        queue.flush(Duration::from_millis(200));
        assert!(begun.elapsed() < SOON, "nobody waits for a reader");
        queue.push_urgent(line_of(1024, 1000), SOON);

        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        queue.flush(SOON);
        queue.push(line_of(1024, 1001));
        queue.close(SOON);
        drop(queue);
        let text = reading.join().unwrap();
        let numbers: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(numbers.is_sorted() && numbers.ends_with(&[1000, 1001]), "{numbers:?}");
        let told: Vec<&str> = text.lines().filter(|line| line.contains("are lost here")).collect();
        let lost: usize =
            told.iter().map(|line| line.split(' ').nth(2).unwrap().parse::<usize>().unwrap()).sum();
        assert_eq!(lost + numbers.len(), 1002, "{told:?}");
        assert!(lost > 700, "{lost}");
    }

    #[test]
    fn process_that_ends_waits_for_a_reader_only_for_a_while() {
        let (queue, _reader) = into_pipe(1 << 20);
        (0..500).for_each(|number| queue.push(line_of(1024, number)));
        let begun = Instant::now();
        queue.close(Duration::from_millis(300));
        assert!(begun.elapsed() < SOON);
    }

    #[test]
    fn lines_that_nobody_can_take_are_told_when_somebody_can() {
        // A pipe without a reader refuses at once.
        let (queue, reader) = into_pipe(1 << 20);
        drop(reader);
        (0..5).for_each(|number| queue.push(line_of(10, number)));
        queue.flush(SOON);
        assert_eq!(queue.state.lock().lost, 5);
    }
}
