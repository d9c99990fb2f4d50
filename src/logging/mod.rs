//! Log lines on standard error, one event a line.
//!
//! Nothing is logged per packet: a line means that a port, a guest or the configuration changed, or that something broke.
//! Whoever logs never waits: lines go through a bounded queue to a thread that writes them (`queue.rs`), and what repeats
//! itself is summed up (`limit.rs`).

mod limit;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use self::limit::{Limit, Limited};
use self::queue::Queue;
use crate::config::error::ConfigError;

/// The environment variable that says what `--log` says.
pub const VARIABLE: &str = "VSTEER_LOG";

const DEFAULT: &str = "info";

/// How long the end of the process waits for standard error to take what is queued.
const PARTING: Duration = Duration::from_secs(1);
/// How long a thread that panics waits for that: the process may end before it says more.
const PANIC_PATIENCE: Duration = Duration::from_millis(200);

/// The queue, once logging has started.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Logs from now on what `option`, the value of `--log`, lets through; without it [`VARIABLE`] decides. Panics are logged, too.
///
/// # Errors
/// The filter is not understood, or the system has no thread or descriptor for it.
///
/// # Panics
/// Logging was started before.
pub fn start(option: Option<&str>) -> Result<(), Box<dyn Error>> {
    let filter = filter(option)?;
    // The journal stamps lines itself.
    let has_time = std::env::var_os("JOURNAL_STREAM").is_none();
    let queue = Arc::new(Queue::new());
    let limit = Arc::new(Limit::new(Arc::clone(&queue)));
    // A descriptor of our own: `io::stderr` has a lock, which a writer that waits would hold.
    let out = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    out.and_then(|out| queue::start_writer(Arc::clone(&queue), Arc::clone(&limit), out, has_time)).map_err(
        |error| {
            format!("cannot start the thread that logs: {error}; raise the limits of threads and open files")
        },
    )?;
    let lines = {
        let queue = Arc::clone(&queue);
        fmt::layer().with_writer(move || Entry(Arc::clone(&queue))).with_ansi(false).with_target(false)
    };
    let lines: Box<dyn Layer<Registry> + Send + Sync> =
        if has_time { lines.boxed() } else { lines.without_time().boxed() };
    Registry::default().with(Limited { limit, lines }.with_filter(filter)).init();
    std::panic::set_hook(Box::new({
        let queue = Arc::clone(&queue);
        move |panic| {
            queue.push_urgent(panic_line(has_time, panic), PANIC_PATIENCE);
            queue.flush(PANIC_PATIENCE);
        }
    }));
    // It is set once, as a second start has panicked above.
    let _ = QUEUE.set(queue);
    Ok(())
}

/// Whether [`start`] would understand `option`, or [`VARIABLE`].
///
/// # Errors
/// The filter is not understood.
pub fn check(option: Option<&str>) -> Result<(), ConfigError> {
    filter(option).map(drop)
}

fn filter(option: Option<&str>) -> Result<EnvFilter, ConfigError> {
    match (option, std::env::var(VARIABLE)) {
        (Some(text), _) => parse(&format!("--log {text}"), text),
        (None, Ok(text)) if !text.is_empty() => parse(&format!("{VARIABLE}={text}"), &text),
        (None, _) => parse(DEFAULT, DEFAULT),
    }
}

/// Says a last word of the process on standard error, behind what was logged.
pub fn say(text: &str) {
    match QUEUE.get() {
        Some(queue) => queue.push_urgent(format!("{text}\n").into_bytes(), PARTING),
        None => eprintln!("{text}"),
    }
}

/// Writes what is queued, unless standard error does not take it soon. Nothing is logged after that.
pub fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.close(PARTING);
    }
}

/// Takes one line, in one piece, as the formatter writes it.
struct Entry(Arc<Queue>);

impl Write for Entry {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of our own, in the manner of the others.
fn line(has_time: bool, level: Level, text: &str) -> Vec<u8> {
    let mut time = String::new();
    if has_time {
        // A time that cannot be told is left out.
        let _ = SystemTime.format_time(&mut fmt::format::Writer::new(&mut time));
        time.push(' ');
    }
    format!("{time}{level:>5} {text}\n").into_bytes()
}

fn panic_line(has_time: bool, panic: &PanicHookInfo<'_>) -> Vec<u8> {
    let thread = std::thread::current();
    let mut text = format!("thread {:?} {panic}; this is a bug", thread.name().unwrap_or("without a name"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("\n{backtrace}"));
    }
    line(has_time, Level::ERROR, &text)
}

fn parse(place: &str, text: &str) -> Result<EnvFilter, ConfigError> {
    const TRY: &str =
        "use error, warn, info, debug, trace or off, or a filter such as info,vsteer::control=debug";
    // A bare word that is no level would be taken for the name of a module, and nothing else be logged.
    let odd = text.split(',').find(|part| !part.contains('=') && part.parse::<LevelFilter>().is_err());
    if let Some(odd) = odd {
        return Err(ConfigError::new(place, format!("unknown level {odd:?}; {TRY}")));
    }
    EnvFilter::builder().parse(text).map_err(|error| ConfigError::new(place, format!("{error}; {TRY}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_understood() {
        for text in ["info", "off", "warn,vsteer::control=debug", "vsteer=trace"] {
            assert!(parse("--log", text).is_ok(), "{text}");
        }
    }

    #[test]
    fn misspelt_levels_are_refused() {
        let error = |text| parse("--log x", text).unwrap_err().to_string();
        assert!(error("inof").starts_with("--log x: unknown level \"inof\"; use error, warn, info"));
        assert!(error("vsteer=loud").starts_with("--log x: "));
    }

    /// Set for the child of the test below, which is this test once more.
    const CHILD: &str = "VSTEER_TEST_PANICS";

    // In a process of its own, as logging is the whole process's.
    #[test]
    fn panics_are_logged_with_thread_and_place() {
        if std::env::var_os(CHILD).is_some() {
            start(Some("off")).unwrap();
            let panicking = std::thread::Builder::new().name("worker-7".into());
            assert!(panicking.spawn(|| panic!("on purpose")).unwrap().join().is_err());
            say("vsteer: a last word");
            return finish();
        }
        let name = "logging::tests::panics_are_logged_with_thread_and_place";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("ERROR thread \"worker-7\" panicked at src/logging/mod.rs:"), "{text}");
        assert!(text.contains("on purpose; this is a bug"), "{text}");
        assert!(text.ends_with("\nvsteer: a last word\n"), "{text}");
        assert!(output.status.success());
    }
}
