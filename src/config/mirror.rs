//! A mirror as the operator describes it: `NAME,src=vm0+vm1,dst=vm0,vlan=10,output=vm2`.
//!
//! The configuration file says the same with the same words, see `file.rs`; both feed `MirrorDraft`. A `MirrorSpec`
//! displays as the text that parses to it. Ports go by name: a mirror outlives the ports it names, and takes them in
//! again when they come back.

use std::fmt;

use super::error::{ConfigError, Problem};
use super::vlan::VlanSet;
use super::words::{check_name, set_once};

const ALL: &str = "all";

/// A mirror that the switch shall have: copies of packets go to one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorSpec {
    /// Unique name, made as those of ports are.
    pub name: String,
    /// Ports whose packets are mirrored as they come in.
    pub src: MirrorPorts,
    /// Ports whose packets are mirrored as they go out.
    pub dst: MirrorPorts,
    /// Only packets of these VLANs; `None` is those of any, untagged ones included.
    pub vlans: Option<VlanSet>,
    /// Name of the port that gets the copies, and nothing else.
    pub output: String,
}

/// A choice of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorPorts {
    /// Every port.
    All,
    /// The ports with these names; none at all if empty.
    Named(Vec<String>),
}

impl MirrorPorts {
    /// Whether the port `name` is among them.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            MirrorPorts::All => true,
            MirrorPorts::Named(names) => names.iter().any(|other| other == name),
        }
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        if text == ALL {
            return Ok(MirrorPorts::All);
        }
        let names: Vec<String> = text.split('+').map(str::to_owned).collect();
        names.iter().try_for_each(|name| check_name(name))?;
        Ok(MirrorPorts::Named(names))
    }
}

impl fmt::Display for MirrorPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorPorts::All => f.write_str(ALL),
            MirrorPorts::Named(names) => f.write_str(&names.join("+")),
        }
    }
}

impl MirrorSpec {
    /// Reads `NAME[,OPTION=VALUE...]`.
    ///
    /// # Errors
    /// The text breaks a rule; the error quotes it after `option`, the words it was introduced with (`--mirror`).
    pub fn parse(option: &str, text: &str) -> Result<Self, ConfigError> {
        Self::from_text(text).map_err(|problem| ConfigError::new(format!("{option} {text}"), problem))
    }

    fn from_text(text: &str) -> Result<Self, Problem> {
        let mut words = text.split(',');
        let mut draft = MirrorDraft::new(words.next().unwrap_or_default())?;
        words.try_for_each(|word| draft.set_word(word))?;
        draft.finish()
    }

    /// Every port that it names.
    pub fn port_names(&self) -> impl Iterator<Item = &str> {
        let named = |ports| match ports {
            &MirrorPorts::All => &[][..],
            MirrorPorts::Named(names) => &names[..],
        };
        named(&self.src).iter().chain(named(&self.dst)).map(String::as_str).chain([self.output.as_str()])
    }
}

impl fmt::Display for MirrorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (option, ports) in [("src", &self.src), ("dst", &self.dst)] {
            if *ports != MirrorPorts::Named(Vec::new()) {
                write!(f, ",{option}={ports}")?;
            }
        }
        self.vlans.as_ref().map_or(Ok(()), |vlans| write!(f, ",vlan={vlans}"))?;
        write!(f, ",output={}", self.output)
    }
}

type Setter = fn(&mut MirrorDraft, &str) -> Result<(), Problem>;

/// Every option and how it is set.
const OPTIONS: [(&str, Setter); 4] = [
    ("src", |draft, text| set_once(&mut draft.src, MirrorPorts::parse(text)?)),
    ("dst", |draft, text| set_once(&mut draft.dst, MirrorPorts::parse(text)?)),
    ("vlan", |draft, text| set_once(&mut draft.vlans, VlanSet::parse(text)?)),
    ("output", |draft, text| {
        check_name(text)?;
        set_once(&mut draft.output, text.to_owned())
    }),
];

/// A mirror whose words are still being read.
#[derive(Debug)]
pub(super) struct MirrorDraft {
    name: String,
    src: Option<MirrorPorts>,
    dst: Option<MirrorPorts>,
    vlans: Option<VlanSet>,
    output: Option<String>,
}

impl MirrorDraft {
    /// A mirror named `name` with nothing else said.
    pub(super) fn new(name: &str) -> Result<Self, Problem> {
        check_name(name).map_err(|problem| problem.of("mirror"))?;
        Ok(Self { name: name.to_owned(), src: None, dst: None, vlans: None, output: None })
    }

    /// Sets the option `key` from the text `value`.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        match OPTIONS.iter().find(|(name, _)| *name == key) {
            Some((_, setter)) => setter(self, value),
            None => Err(Problem::unknown("option", key, Self::option_names())),
        }
    }

    /// Names of all options.
    pub(super) fn option_names() -> impl Iterator<Item = &'static str> + Clone {
        OPTIONS.iter().map(|&(name, _)| name)
    }

    /// Sets one `key=value`, or all ports.
    fn set_word(&mut self, word: &str) -> Result<(), Problem> {
        if word == ALL {
            set_once(&mut self.src, MirrorPorts::All)?;
            return set_once(&mut self.dst, MirrorPorts::All);
        }
        let (key, value) = word.split_once('=').ok_or_else(|| {
            format!("no \"=\" in option {word:?}; write OPTION=VALUE, or all for every port")
        })?;
        if !Self::option_names().any(|name| name == key) {
            return self.set(key, value);
        }
        self.set(key, value).map_err(|problem| problem.of(word))
    }

    /// The mirror, if its words make sense together.
    pub(super) fn finish(self) -> Result<MirrorSpec, Problem> {
        let output = self.output.ok_or("no port for the copies; add output=PORT")?;
        if self.src.is_none() && self.dst.is_none() {
            return Err(
                "nothing to mirror; add src=PORT+PORT (what comes in), dst=PORT+PORT (what goes out), or all"
                    .into(),
            );
        }
        let none = || MirrorPorts::Named(Vec::new());
        Ok(MirrorSpec {
            name: self.name,
            src: self.src.unwrap_or_else(none),
            dst: self.dst.unwrap_or_else(none),
            vlans: self.vlans,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> MirrorSpec {
        MirrorSpec::parse("--mirror", text).unwrap()
    }

    #[test]
    fn display_parses_to_the_same_mirror() {
        for text in [
            "m,src=vm0+vm1,dst=vm0,vlan=10+20-29,output=vm2",
            "tap.1,dst=all,output=vm2",
            "m,src=all,dst=all,output=vm2",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("m,all,output=x"), parse("m,src=all,dst=all,output=x"));
    }

    #[test]
    fn choice_of_ports_is_by_name() {
        let mirror = parse("m,src=vm0+vm1,dst=all,output=vm2");
        assert!(mirror.src.contains("vm1") && !mirror.src.contains("vm2") && mirror.dst.contains("vm2"));
        assert_eq!(mirror.port_names().collect::<Vec<_>>(), ["vm0", "vm1", "vm2"]);
    }

    #[test]
    fn errors_name_what_is_wrong_and_what_to_try() {
        for (text, problem) in [
            ("m,src=a", "no port for the copies; add output=PORT"),
            (
                "m,output=a",
                "nothing to mirror; add src=PORT+PORT (what comes in), dst=PORT+PORT (what goes out), or all",
            ),
            ("m,srcs=a", "unknown option \"srcs\"; did you mean \"src\"?"),
            ("m,src", "no \"=\" in option \"src\"; write OPTION=VALUE, or all for every port"),
            ("m,vlan=4095,all,output=a", "vlan=4095: \"4095\" is no VLAN; use a number from 0 to 4094"),
            ("m,all,src=a,output=b", "src=a: given twice; keep one"),
            (
                "m,src=a++b,output=c",
                "src=a++b: port name \"\" does not fit; use 1 to 15 of letters, digits, _ . and -",
            ),
        ] {
            let error = MirrorSpec::parse("--mirror", text).unwrap_err().to_string();
            assert_eq!(error, format!("--mirror {text}: {problem}"));
        }
    }
}
