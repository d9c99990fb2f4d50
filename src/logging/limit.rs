//! Lines of one cause are limited: some are written, the others become a sum.
//!
//! A front-end that connects and goes a thousand times a second, or does the same mistake in each message, would fill a disk
//! otherwise. A cause is a place in the code and, where the line names one, a port, so one port's lines hide nobody else's. A
//! cause has ten lines to begin with, and one more each minute; what exceeds that is counted, and once a minute a line says
//! how many there were. Lines below `info` are written as they come: they are there because somebody asked for every one.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::queue::Queue;

/// Lines of a cause that are written one after the other.
const BURST: u64 = 10;
/// How soon a cause may have one more, and how often a sum is said.
const PERIOD: Duration = Duration::from_secs(60);
/// Most causes that are told apart; there are that many only if ports come and go under ever new names.
const MAX_CAUSES: usize = 8192;

/// Decides which lines are written.
///
/// # Concurrency
/// Any thread that logs asks it, under a lock held for a look into a map; the writer of the queue fetches the sums.
#[derive(Debug)]
pub(super) struct Limit {
    causes: Mutex<HashMap<Cause, Account>>,
    /// Whose writer says the sums.
    queue: Arc<Queue>,
}

/// A place in the code, and the port that its line names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Cause {
    place: Identifier,
    port: String,
}

/// What a cause has had.
#[derive(Debug)]
struct Account {
    level: Level,
    message: String,
    /// Lines that may still be written, as of `counted`.
    left: u64,
    counted: Instant,
    /// Lines that were not written, the first of them at `held_since`.
    held: u64,
    held_since: Instant,
}

/// How many lines of one cause were not written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) level: Level,
    pub(super) text: String,
}

impl Account {
    fn new(level: Level, message: String, now: Instant) -> Self {
        Self { level, message, left: BURST, counted: now, held: 0, held_since: now }
    }

    fn regain(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.counted).as_secs() / PERIOD.as_secs();
        self.left = (self.left + periods).min(BURST);
        self.counted += Duration::from_secs(periods * PERIOD.as_secs());
    }

    /// Whether nothing would be forgotten with it.
    fn is_fresh(&mut self, now: Instant) -> bool {
        self.regain(now);
        self.held == 0 && self.left == BURST
    }

    fn due(&self) -> Option<Instant> {
        (self.held > 0).then(|| self.held_since + PERIOD)
    }

    fn sum(&mut self, port: &str, now: Instant) -> Sum {
        let Self { level, message, held, held_since, .. } = self;
        let seconds = now.saturating_duration_since(*held_since).as_secs().max(1);
        let port = if port.is_empty() { String::new() } else { format!(" port={port:?}") };
        let text = format!("{message}{port}: and {held} more of the same in the last {seconds} s");
        self.held = 0;
        Sum { level: *level, text }
    }
}

impl Limit {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { causes: Mutex::default(), queue }
    }

    /// Whether a line of `cause` may be written; `message` is what it says.
    fn admit(&self, mut cause: Cause, level: Level, message: impl FnOnce() -> String, now: Instant) -> bool {
        let mut causes = self.causes.lock();
        if causes.len() >= MAX_CAUSES && !causes.contains_key(&cause) {
            causes.retain(|_, account| !account.is_fresh(now));
            if causes.len() >= MAX_CAUSES {
                // One account for all ports that are one too many. There are few places in the code.
                cause.port.clear();
            }
        }
        let account = causes.entry(cause).or_insert_with(|| Account::new(level, message(), now));
        account.regain(now);
        if account.left > 0 {
            account.left -= 1;
            return true;
        }
        account.held += 1;
        let is_first = account.held == 1;
        if is_first {
            account.held_since = now;
        }
        drop(causes);
        if is_first {
            self.queue.nudge();
        }
        false
    }

    fn admits(&self, event: &Event<'_>) -> bool {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return true;
        }
        let cause = Cause { place: event.metadata().callsite(), port: field(event, "port") };
        self.admit(cause, level, || field(event, "message"), Instant::now())
    }

    /// When there will be a sum to say.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.causes.lock().values().filter_map(Account::due).min()
    }

    /// Sums whose time has come.
    pub(super) fn due(&self, now: Instant) -> Vec<Sum> {
        self.sums(now, |account| account.due().is_some_and(|due| due <= now))
    }

    /// Every sum, at the end of the process.
    pub(super) fn all(&self) -> Vec<Sum> {
        self.sums(Instant::now(), |account| account.held > 0)
    }

    fn sums(&self, now: Instant, is_wanted: impl Fn(&Account) -> bool) -> Vec<Sum> {
        let mut causes = self.causes.lock();
        let wanted = causes.iter_mut().filter(|(_, account)| is_wanted(account));
        wanted.map(|(cause, account)| account.sum(&cause.port, now)).collect()
    }
}

/// Passes on to `lines` what the limit lets through.
///
/// A layer around a layer, and no filter: a filter of `tracing-subscriber` that looks at an event's fields leaves a mark
/// behind when it refuses, at which the thread's next event fails. Spans are not passed on; there are none.
#[derive(Debug)]
pub(super) struct Limited<L> {
    pub(super) limit: Arc<Limit>,
    pub(super) lines: L,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Limited<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.limit.admits(event) {
            self.lines.on_event(event, context);
        }
    }
}

/// The field `name` of a line as text; empty if it has none.
fn field(event: &Event<'_>, name: &'static str) -> String {
    struct Look {
        name: &'static str,
        found: String,
    }
    impl Visit for Look {
        fn record_str(&mut self, field: &Field, value: &str) {
            if field.name() == self.name {
                value.clone_into(&mut self.found);
            }
        }
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == self.name {
                self.found = format!("{value:?}");
            }
        }
    }
    let mut look = Look { name, found: String::new() };
    event.record(&mut look);
    look.found
}

#[cfg(test)]
mod tests {
    use tracing::Metadata;
    use tracing::callsite::Callsite;
    use tracing::subscriber::Interest;

    use super::*;

    struct Place;

    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nobody asks")
        }
    }

    fn limit() -> Limit {
        Limit::new(Arc::new(Queue::new()))
    }

    /// How many of `count` lines about `port` are written at `now`.
    fn written(limit: &Limit, port: &str, count: usize, now: Instant) -> usize {
        let cause = || Cause { place: Identifier(&Place), port: port.to_owned() };
        (0..count).filter(|_| limit.admit(cause(), Level::WARN, || "it broke".to_owned(), now)).count()
    }

    fn texts(sums: Vec<Sum>) -> Vec<String> {
        sums.into_iter().map(|sum| sum.text).collect()
    }

    #[test]
    fn beyond_ten_lines_of_a_cause_there_are_sums_and_one_line_a_minute() {
        let (limit, start) = (limit(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limit.next_due(), None);
        assert_eq!(written(&limit, "vm0", 10_010, start), 10);
        assert_eq!(written(&limit, "vm1", 3, start), 3, "another port has its own");
        assert_eq!(limit.next_due(), Some(after(60)));
        assert_eq!(limit.due(after(59)), []);
        let expected = "it broke port=\"vm0\": and 10000 more of the same in the last 60 s";
        assert_eq!(texts(limit.due(after(60))), [expected]);
        assert_eq!(limit.next_due(), None, "said once");
        assert_eq!(written(&limit, "vm0", 5, after(61)), 1);
        assert_eq!(texts(limit.all()).len(), 1);
        assert_eq!(written(&limit, "vm0", 50, after(3600)), 10, "an hour without trouble is a new beginning");
    }

    #[test]
    fn causes_are_bounded_and_old_ones_make_room() {
        let (limit, start) = (limit(), Instant::now());
        for number in 0..MAX_CAUSES {
            written(&limit, &format!("vm{number}"), 1, start);
        }
        for number in 0..100 {
            written(&limit, &format!("new{number}"), 1, start);
        }
        assert_eq!(limit.causes.lock().len(), MAX_CAUSES + 1);
        assert_eq!(texts(limit.all()), ["it broke: and 90 more of the same in the last 1 s"]);
        assert_eq!(written(&limit, "later", 20, start + Duration::from_secs(3600)), 10);
        assert_eq!(limit.causes.lock().len(), 1);
    }
}
