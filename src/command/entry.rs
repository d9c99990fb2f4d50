//! What can be a command, and how the registry holds it.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::ctl::{Ctl, CtlError};
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::control::protocol::{RequestError, read_params};
use crate::control::{Answer, Prepared, Reply, Stream};

/// A command that is answered once. It is implemented by the words behind it.
pub(super) trait Command: Args + 'static {
    /// Its own word: `add` of `port add`.
    const WORD: &'static str;
    /// Its method on the control socket.
    const METHOD: &'static str;
    /// What is asked, as it stands on the wire.
    type Params: Serialize + DeserializeOwned + 'static;
    /// What is answered, as it stands on the wire.
    type Reply: DeserializeOwned + 'static;

    /// What its words ask for. Files that they name are read here.
    fn params(self) -> Result<Self::Params, CtlError>;

    /// About how many bytes of memory it takes to carry it out until the reply has been sent; of no account for what a
    /// megabyte is enough for.
    fn weight(_params: &Self::Params, _appliance: &Appliance) -> usize {
        0
    }

    /// What it does.
    fn carry_out(appliance: &Appliance, params: Self::Params) -> Result<Sending<Self::Reply>, Refusal>;

    /// The reply for the terminal, in whole lines.
    fn text(params: &Self::Params, reply: &Self::Reply) -> String;
}

/// A command that goes on until it is stopped. It is implemented by the words behind it.
pub(super) trait Watch: Args + 'static {
    /// Its word.
    const WORD: &'static str;
    /// Its method on the control socket.
    const METHOD: &'static str;
    /// What is asked, as it stands on the wire.
    type Params: Serialize + DeserializeOwned + 'static;
    /// What comes again and again, as it stands on the wire.
    type Item: Serialize + DeserializeOwned + 'static;

    /// What its words ask for.
    fn params(&self) -> Self::Params;

    /// After how many items it ends by itself.
    fn count(&self) -> Option<u64>;

    /// What it does.
    fn carry_out(appliance: &Appliance, params: Self::Params) -> Result<Feed<Self::Item>, Refusal>;

    /// What is to be done here with each item.
    fn viewer(self) -> Result<Viewer<Self::Item>, CtlError>;
}

/// The next item; waits for it no longer than it is told.
pub(super) type Feed<T> = Box<dyn FnMut(Duration) -> Option<T> + Send>;

/// Takes note of an item and makes it a text for the terminal.
pub(super) type Viewer<T> = Box<dyn FnMut(&T) -> Result<String, CtlError>>;

/// A reply on its way, which a client reads as `R`.
pub(super) struct Sending<R> {
    reply: Box<dyn Reply>,
    reads_as: PhantomData<fn() -> R>,
}

impl<R> Sending<R> {
    /// A reply that is made while it is sent, and has the shape of `R` on the wire.
    pub(super) fn shaped(reply: impl Serialize + Send + 'static) -> Self {
        Self { reply: Box::new(reply), reads_as: PhantomData }
    }
}

impl<R: Serialize + Send + 'static> From<R> for Sending<R> {
    fn from(reply: R) -> Self {
        Self::shaped(reply)
    }
}

impl<T: Serialize + 'static> Sending<Vec<T>> {
    /// A list whose items are made while they are sent.
    pub(super) fn rows(rows: impl Iterator<Item = T> + Send + 'static) -> Self {
        Self::shaped(Rows::new(rows))
    }
}

/// A list on the wire whose items are made while they are sent. It can be sent once.
pub(super) struct Rows<T>(RefCell<Box<dyn Iterator<Item = T> + Send>>);

impl<T> Rows<T> {
    pub(super) fn new(rows: impl Iterator<Item = T> + Send + 'static) -> Self {
        Self(RefCell::new(Box::new(rows)))
    }
}

impl<T: Serialize> Serialize for Rows<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&mut **self.0.borrow_mut())
    }
}

/// What the client does for a command.
pub(super) type Job = Box<dyn FnOnce(&Ctl) -> Result<(), CtlError>>;

/// Reads the parameters of a request to an appliance.
type Prepare = fn(&Arc<Appliance>, Option<&RawValue>) -> Result<Box<dyn Prepared>, RequestError>;

/// A command in the registry: its word and method, and what its type has for each side.
pub(super) struct Entry {
    word: &'static str,
    method: &'static str,
    words: fn(clap::Command) -> clap::Command,
    job: fn(&ArgMatches) -> Result<Job, clap::Error>,
    prepare: Prepare,
}

impl Entry {
    /// A command that is answered once.
    pub(super) const fn call<C: Command>() -> Self {
        Self {
            word: C::WORD,
            method: C::METHOD,
            words: C::augment_args,
            job: |matches| {
                let words = C::from_arg_matches(matches)?;
                Ok(Box::new(move |ctl| ctl.ask(words)))
            },
            prepare: |appliance, params| {
                Ok(Box::new(Call::<C> { appliance: Arc::clone(appliance), params: read_params(params)? }))
            },
        }
    }

    /// A command that goes on.
    pub(super) const fn watch<W: Watch>() -> Self {
        Self {
            word: W::WORD,
            method: W::METHOD,
            words: W::augment_args,
            job: |matches| {
                let words = W::from_arg_matches(matches)?;
                Ok(Box::new(move |ctl| ctl.watch(words)))
            },
            prepare: |appliance, params| {
                Ok(Box::new(Begin::<W> { appliance: Arc::clone(appliance), params: read_params(params)? }))
            },
        }
    }

    /// Its method on the control socket.
    pub(super) fn method(&self) -> &'static str {
        self.method
    }

    /// A request for it, whose parameters are read.
    pub(super) fn prepare(
        &self,
        appliance: &Arc<Appliance>,
        params: Option<&RawValue>,
    ) -> Result<Box<dyn Prepared>, RequestError> {
        (self.prepare)(appliance, params)
    }

    fn words(&self) -> clap::Command {
        (self.words)(clap::Command::new(self.word))
    }
}

/// Commands that have much in common.
pub(super) enum Family {
    /// A command without relatives.
    Single(Entry),
    /// Commands behind a word of their own.
    Group {
        /// The word.
        word: &'static str,
        /// What they are about.
        about: &'static str,
        /// The commands, in the order of the help.
        commands: &'static [Entry],
    },
}

impl Family {
    /// Its commands.
    pub(super) fn entries(&self) -> &[Entry] {
        match self {
            Family::Single(entry) => std::slice::from_ref(entry),
            Family::Group { commands, .. } => commands,
        }
    }

    /// Its word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Family::Single(entry) => entry.word,
            Family::Group { word, .. } => word,
        }
    }

    /// What is typed for it. The help of a group lists its commands.
    pub(super) fn words(&self) -> clap::Command {
        match self {
            Family::Single(entry) => entry.words(),
            Family::Group { word, about, commands } => {
                let list: Vec<&str> = commands.iter().map(|command| command.word).collect();
                clap::Command::new(*word)
                    .about(format!("{about}: {}", list.join(", ")))
                    .subcommand_required(true)
                    .arg_required_else_help(true)
                    .subcommands(commands.iter().map(Entry::words))
            }
        }
    }

    /// What the client does for the words in `matches`, which are those behind the family's own.
    pub(super) fn job(&self, matches: &ArgMatches) -> Result<Job, clap::Error> {
        let missing = || clap::Error::new(ErrorKind::MissingSubcommand);
        match self {
            Family::Single(entry) => (entry.job)(matches),
            Family::Group { commands, .. } => {
                let (word, matches) = matches.subcommand().ok_or_else(missing)?;
                let entry = commands.iter().find(|entry| entry.word == word).ok_or_else(missing)?;
                (entry.job)(matches)
            }
        }
    }
}

/// A request for `C`.
struct Call<C: Command> {
    appliance: Arc<Appliance>,
    params: C::Params,
}

impl<C: Command> Prepared for Call<C> {
    fn weight(&self) -> usize {
        C::weight(&self.params, &self.appliance)
    }

    fn carry_out(self: Box<Self>) -> Result<Answer, RequestError> {
        Ok(Answer::Reply(C::carry_out(&self.appliance, self.params)?.reply))
    }
}

/// A request for `W`.
struct Begin<W: Watch> {
    appliance: Arc<Appliance>,
    params: W::Params,
}

impl<W: Watch> Prepared for Begin<W> {
    /// Watches last; what they take is bounded by their number, see the appliance.
    fn weight(&self) -> usize {
        0
    }

    fn carry_out(self: Box<Self>) -> Result<Answer, RequestError> {
        Ok(Answer::Stream(Box::new(Items(W::carry_out(&self.appliance, self.params)?))))
    }
}

/// A feed as the server sends it.
struct Items<T>(Feed<T>);

impl<T: Serialize> Stream for Items<T> {
    fn next(&mut self, wait: Duration) -> Option<String> {
        let item = (self.0)(wait)?;
        match serde_json::to_string(&item) {
            Ok(json) => Some(json),
            Err(error) => {
                tracing::error!(%error, "an item of a stream cannot be written, which is a bug");
                None
            }
        }
    }
}
