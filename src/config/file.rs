//! The configuration file: TOML with the words of the command line.
//!
//! ```toml
//! workers = [1, 3]              # or "1,3"
//! poll = "adaptive"
//! control = "/run/vsteer.sock"
//! vlan-limit = 2                # VLAN tags that rules see
//! fragments = "nx-match"        # what rules see of fragments
//!
//! [port.vm0]
//! type = "vhost-user"
//! path = "/run/vm0.sock"
//! vlan = 10
//!
//! [port.host]
//! type = "tap"
//! interface = "vsteer0"
//! trunks = [10, "20-29"]
//! tso = false                   # or "off"
//!
//! [[mirror]]
//! name = "spy"
//! src = ["vm0", "vm1"]          # or "vm0+vm1", or "all"
//! output = "vm2"
//!
//! [table-names]
//! 1 = "acl"
//!
//! [flow-cache]
//! max-idle-ms = 10000
//! ```
//!
//! Rules stand in the file as `rules = """..."""`, a rule a line, or in a file of their own which `rules-file` names, as
//! seen from the folder of this one.
//!
//! A port is a table named after it, so TOML itself refuses a name used twice. Values become the text that would stand
//! on the command line and go through the same readers: nothing can be said in one place only.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

use super::cpu::CpuList;
use super::error::{ConfigError, Problem};
use super::mirror::{MirrorDraft, MirrorSpec};
use super::port_spec::{PortDraft, PortSpec};
use super::rules::{RulesSource, RulesText};
use super::table_name::TableName;
use super::{ConfigSource, FlowCacheConfig, Placed, PollMode, words};
use crate::port::driver::{KindDraft, kinds};

const KEYS: [&str; 11] = [
    "workers",
    "poll",
    "control",
    "port",
    "mirror",
    "table-names",
    "rules",
    "rules-file",
    "flow-cache",
    "vlan-limit",
    "fragments",
];
const NAME: &str = "name";
const TYPE: &str = "type";

type Entry<'a, 'i> = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>);

/// Reads `text`, the contents of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<ConfigSource, ConfigError> {
    let file = File { path, text };
    let root = DeTable::parse(text).map_err(|error| {
        let place = file.place(error.span().unwrap_or_default());
        ConfigError::new(place, error.message().trim_end().replace('\n', "; "))
    })?;
    file.read(root.get_ref())
}

/// The file being read, to turn spans into lines.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    /// `FILE:LINE`.
    fn place(&self, span: Range<usize>) -> String {
        format!("{}:{}", self.path.display(), 1 + self.lines_before(span.start))
    }

    /// Whole lines before the byte at `offset`.
    fn lines_before(&self, offset: usize) -> usize {
        self.text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count()
    }

    /// `FILE:LINE: KEY`.
    fn place_of(&self, span: Range<usize>, key: &str) -> String {
        format!("{}: {key}", self.place(span))
    }

    fn read(&self, root: &DeTable<'_>) -> Result<ConfigSource, ConfigError> {
        let mut source = ConfigSource::default();
        for (key, value) in root {
            let place = self.place_of(value.span(), key.get_ref());
            let wrong = |problem| ConfigError::new(place.clone(), problem);
            match key.get_ref().as_ref() {
                "workers" => {
                    let value = workers(value.get_ref()).map_err(wrong)?;
                    source.workers = Some(Placed { place, value });
                }
                "poll" => source.poll = Some(poll(value.get_ref()).map_err(wrong)?),
                "control" => source.control = Some(string(value.get_ref()).map_err(wrong)?.into()),
                "port" => source.ports = self.ports(value).map_err(|error| *error)?,
                "mirror" => source.mirrors = self.mirrors(value)?,
                "table-names" => source.table_names = self.table_names(value)?,
                "rules" => {
                    let text = string(value.get_ref()).map_err(wrong)?;
                    source.rules.push(RulesSource::Inline(self.rules(value.span(), text)));
                }
                "rules-file" => {
                    let name = string(value.get_ref()).map_err(wrong)?;
                    let path = self.path.parent().unwrap_or(Path::new("")).join(name);
                    source.rules.push(RulesSource::File { place, path });
                }
                "flow-cache" => source.flow_cache = Some(self.flow_cache(value)?),
                "vlan-limit" => {
                    let text = word(value.get_ref(), "+").map_err(wrong)?;
                    source.vlan_limit = Some(words::vlan_limit(&text).map_err(wrong)?);
                }
                "fragments" => {
                    let text = string(value.get_ref()).map_err(wrong)?;
                    source.fragments = Some(words::fragments(text).map_err(wrong)?);
                }
                other => {
                    let problem = Problem::unknown("key", other, KEYS.into_iter());
                    return Err(ConfigError::new(self.place(key.span()), problem));
                }
            }
        }
        Ok(source)
    }

    /// The text of rules whose value, quotes and all, lies at `span`.
    fn rules(&self, span: Range<usize>, text: &str) -> RulesText {
        let quoted = &self.text[span.start..];
        // A newline right behind three quotes is not part of the text.
        let skipped =
            ["\"\"\"\n", "'''\n", "\"\"\"\r\n", "'''\r\n"].iter().any(|open| quoted.starts_with(open));
        RulesText {
            source: self.path.display().to_string(),
            lines_before: self.lines_before(span.start) + usize::from(skipped),
            text: text.to_owned(),
        }
    }

    fn mirrors(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Placed<MirrorSpec>>, ConfigError> {
        let wrong = |span| {
            let place = self.place_of(span, "mirror");
            ConfigError::new(place, "no table; write each mirror as [[mirror]] and its options below")
        };
        let mirrors = value.get_ref().as_array().ok_or_else(|| wrong(value.span()))?;
        let tables = mirrors.iter().map(|mirror| {
            let table = mirror.get_ref().as_table().ok_or_else(|| wrong(mirror.span()))?;
            self.mirror(mirror.span(), table)
        });
        tables.collect()
    }

    fn mirror(&self, span: Range<usize>, table: &DeTable<'_>) -> Result<Placed<MirrorSpec>, ConfigError> {
        let place = self.place_of(span, "mirror");
        let wrong = |problem: Problem| ConfigError::new(place.clone(), problem);
        let Some((_, name)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == NAME) else {
            return Err(wrong("no name; add name = \"NAME\"".into()));
        };
        let mut draft = string(name.get_ref()).and_then(MirrorDraft::new).map_err(wrong)?;
        for (key, value) in table {
            let option = key.get_ref().as_ref();
            if option == NAME {
                continue;
            }
            let known = MirrorDraft::option_names().any(|name| name == option);
            let done = if known {
                word(value.get_ref(), "+").and_then(|text| draft.set(option, &text))
            } else {
                Err(Problem::unknown("option", option, [NAME].into_iter().chain(MirrorDraft::option_names())))
            };
            done.map_err(|problem| {
                ConfigError::new(self.place_of(key.span(), &format!("mirror.{option}")), problem)
            })?;
        }
        let value = draft.finish().map_err(wrong)?;
        Ok(Placed { place, value })
    }

    fn table_names(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Placed<TableName>>, ConfigError> {
        let table = value.get_ref().as_table().ok_or_else(|| {
            let place = self.place_of(value.span(), "table-names");
            ConfigError::new(place, "no table; write [table-names] and NUMBER = \"NAME\" below")
        })?;
        let mut entries: Vec<Entry<'_, '_>> = table.iter().collect();
        entries.sort_by_key(|(number, _)| number.span().start);
        let named = entries.into_iter().map(|(number, name)| {
            let place = self.place_of(number.span(), &format!("table-names.{}", number.get_ref()));
            let read = string(name.get_ref()).and_then(|name| TableName::new(number.get_ref(), name));
            let value = read.map_err(|problem| ConfigError::new(place.clone(), problem))?;
            Ok(Placed { place, value })
        });
        named.collect()
    }

    fn flow_cache(&self, value: &Spanned<DeValue<'_>>) -> Result<FlowCacheConfig, ConfigError> {
        let table = value.get_ref().as_table().ok_or_else(|| {
            let place = self.place_of(value.span(), "flow-cache");
            ConfigError::new(place, "no table; write [flow-cache] and its keys below")
        })?;
        let mut config = FlowCacheConfig::default();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            word(value.get_ref(), ",").and_then(|text| config.set(name, &text)).map_err(|problem| {
                ConfigError::new(self.place_of(key.span(), &format!("flow-cache.{name}")), problem)
            })?;
        }
        Ok(config)
    }

    fn ports(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Placed<PortSpec>>, Box<ConfigError>> {
        let table = value.get_ref().as_table().ok_or_else(|| {
            let place = self.place_of(value.span(), "port");
            ConfigError::new(place, "no table; write each port as [port.NAME], as in [port.vm0]")
        })?;
        let mut entries: Vec<Entry<'_, '_>> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries.into_iter().map(|(name, value)| self.port(name, value).map_err(Box::new)).collect()
    }

    fn port(
        &self,
        name: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Placed<PortSpec>, ConfigError> {
        let table_key = format!("port.{}", name.get_ref());
        let place = self.place_of(name.span(), &table_key);
        let wrong = |problem: Problem| ConfigError::new(place.clone(), problem);
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| wrong(format!("no table; write [{table_key}] and its options below").into()))?;

        let kind = self.kind(table, &table_key, &place)?;
        let mut draft = PortDraft::new(name.get_ref(), kind).map_err(wrong)?;
        for (key, value) in table {
            let word = key.get_ref().as_ref();
            if word == TYPE {
                continue;
            }
            set(&mut draft, word, value.get_ref()).map_err(|problem| {
                ConfigError::new(self.place_of(key.span(), &format!("{table_key}.{word}")), problem)
            })?;
        }
        let spec = draft.finish().map_err(wrong)?;
        Ok(Placed { place, value: spec })
    }

    fn kind(&self, table: &DeTable<'_>, table_key: &str, place: &str) -> Result<KindDraft, ConfigError> {
        let Some((_, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == TYPE) else {
            let types: Vec<String> = kinds().map(|kind| format!("type = {:?}", kind.type_name)).collect();
            return Err(ConfigError::new(place, format!("no type; add {}", types.join(" or "))));
        };
        string(value.get_ref()).and_then(KindDraft::of_type).map_err(|problem| {
            ConfigError::new(self.place_of(value.span(), &format!("{table_key}.type")), problem)
        })
    }
}

/// Sets `key` of a port, its address or an option.
fn set(draft: &mut PortDraft, key: &str, value: &DeValue<'_>) -> Result<(), Problem> {
    let mine = draft.words();
    if key == mine.address_key {
        return draft.set_address(string(value)?);
    }
    if draft.option_names().any(|name| name == key) {
        return draft.set(key, &word(value, "+")?);
    }
    if let Some(other) = kinds().find(|kind| kind.address_key == key) {
        return Err(format!(
            "belongs to {} ports; a {} port has {} = \"{}\"",
            other.type_name, mine.type_name, mine.address_key, mine.address
        )
        .into());
    }
    Err(draft.no_option(key, &[TYPE, mine.address_key]))
}

fn workers(value: &DeValue<'_>) -> Result<CpuList, Problem> {
    CpuList::parse(&word(value, ",")?)
}

fn poll(value: &DeValue<'_>) -> Result<PollMode, Problem> {
    let text = string(value)?;
    PollMode::from_str(text, false).map_err(|_| {
        Problem::unknown("mode", text, PollMode::value_variants().iter().map(|mode| mode.name()))
    })
}

fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, Problem> {
    value
        .as_str()
        .ok_or_else(|| format!("text belongs here, not {}; put it in quotes", value.type_str()).into())
}

/// The text that says `value` on the command line; elements of an array are joined with `separator`.
fn word<'a>(value: &'a DeValue<'_>, separator: &str) -> Result<Cow<'a, str>, Problem> {
    match value {
        DeValue::String(text) => Ok(Cow::Borrowed(text)),
        DeValue::Integer(number) => integer(number),
        DeValue::Boolean(on) => Ok(Cow::Borrowed(if *on { "on" } else { "off" })),
        DeValue::Array(values) => {
            let words: Result<Vec<_>, _> =
                values.iter().map(|value| word(value.get_ref(), separator)).collect();
            Ok(Cow::Owned(words?.join(separator)))
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
            Err(format!("{} has no meaning here; use text, a number or a boolean", value.type_str()).into())
        }
    }
}

/// Decimal digits, except that an octal literal keeps its digits: the only octal value is a mode, which is written in
/// octal digits on the command line too.
fn integer<'a>(number: &'a DeInteger<'_>) -> Result<Cow<'a, str>, Problem> {
    match number.radix() {
        8 | 10 => Ok(Cow::Borrowed(number.as_str())),
        radix => i64::from_str_radix(number.as_str(), radix)
            .map(|number| Cow::Owned(number.to_string()))
            .map_err(|_| format!("{number} is too large; use a smaller number").into()),
    }
}
