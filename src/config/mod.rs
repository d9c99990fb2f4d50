//! What the operator asked for, from the command line and the configuration file, checked before anything starts.
//!
//! Both sources say the same things with the same words and become a `ConfigSource` each; `Config::merge` puts the
//! command line over the file and checks what only the whole shows: names, sockets and interfaces used twice, CPUs
//! that this process may not use. Every error names the place, the value and what to try.

/// Readers of single words.
pub(crate) mod words;

/// Path, owner and mode of socket files.
pub(crate) mod owner;

/// VLAN membership.
mod vlan;

/// A socket passed by the program that started us.
pub(crate) mod inherited_socket;

/// One port: `NAME=TYPE:ADDRESS[,OPTION=VALUE...]`.
mod port_spec;

/// One mirror: `NAME,src=PORT,dst=PORT,vlan=ID,output=PORT`.
mod mirror;

/// The name of one table of rules: `NUMBER=NAME`.
mod table_name;

/// Texts of rules.
mod rules;

/// Bounds of the flow cache.
mod flow_cache;

/// Lists of CPUs.
mod cpu;

/// The configuration file.
mod file;

/// The error type, and suggestions for misspelt words.
pub(crate) mod error;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use vsteer_switch::bridge::mirror::MAX_MIRRORS;
use vsteer_switch::port::MAX_PORTS;
use vsteer_switch::rule::fragments::FragmentMode;
use vsteer_switch::wire::vlan::VlanLimit;

use self::rules::ListedPorts;
use self::table_name::merge_table_names;
use crate::port::driver::Exclusive;
use crate::socket_file::identity_of;
use crate::table_names::{RuleNames, TableNames};

pub use self::cpu::CpuList;
pub(crate) use self::cpu::pin_to;
pub use self::error::ConfigError;
pub use self::flow_cache::FlowCacheConfig;
pub use self::inherited_socket::InheritedSocket;
pub use self::mirror::{MirrorPorts, MirrorSpec};
pub use self::owner::{MAX_SOCKET_PATH_BYTES, Owner};
pub use self::port_spec::{DEFAULT_MAC_LIMIT, PortSpec};
pub use self::rules::{RulesSource, RulesText};
pub(crate) use self::rules::{rule_line, text_problem};
pub use self::table_name::TableName;
pub(crate) use self::vlan::priority_tags_word;
pub use self::vlan::{MAX_VLAN, QinqEthtype, VlanSet, VlanSpec};
pub use self::words::MAX_NAME_BYTES;

/// Control socket of `vsteer run`, and where `vsteer ctl` looks for it.
pub const DEFAULT_CONTROL: &str = "/run/vsteer.sock";

/// A checked configuration, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// One entry per worker thread, never empty: the CPU it is pinned to, or `None` to leave it to the scheduler.
    pub workers: Vec<Option<usize>>,
    /// How workers wait for packets.
    pub poll: PollMode,
    /// Path of the control socket; `None` opens none.
    pub control: Option<PathBuf>,
    /// Ports to start with, at most [`MAX_PORTS`], in the order they were written.
    pub ports: Vec<PortSpec>,
    /// Mirrors to start with.
    pub mirrors: Vec<MirrorSpec>,
    /// Names of tables.
    pub table_names: TableNames,
    /// Texts of the rules to start with; `None` leaves the rules as they are, which at the start is a learning switch.
    pub rules: Option<Vec<RulesText>>,
    /// Bounds of the flow cache.
    pub flow_cache: FlowCacheConfig,
    /// How many VLAN tags of a frame are read.
    pub vlan_limit: VlanLimit,
    /// What rules see of fragments.
    pub fragments: FragmentMode,
}

/// How workers wait for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PollMode {
    /// Spin always: lowest latency, a whole CPU per worker.
    Busy,
    /// Spin under load, sleep when idle.
    #[default]
    Adaptive,
    /// Sleep after every burst: least CPU time.
    Interrupt,
}

impl PollMode {
    /// The mode in the operator's word.
    pub fn name(self) -> &'static str {
        match self {
            PollMode::Busy => "busy",
            PollMode::Adaptive => "adaptive",
            PollMode::Interrupt => "interrupt",
        }
    }
}

/// What one source says; what is `None` is left to the other, or to the default.
#[derive(Debug, Clone, Default)]
pub struct ConfigSource {
    /// CPUs of the workers.
    pub workers: Option<Placed<CpuList>>,
    /// How workers wait.
    pub poll: Option<PollMode>,
    /// Path of the control socket.
    pub control: Option<PathBuf>,
    /// Ports in the order they were written.
    pub ports: Vec<Placed<PortSpec>>,
    /// Mirrors in the order in which they were written.
    pub mirrors: Vec<Placed<MirrorSpec>>,
    /// Names of tables in the order in which they were written.
    pub table_names: Vec<Placed<TableName>>,
    /// Where rules are; nowhere leaves them to the other source.
    pub rules: Vec<RulesSource>,
    /// Bounds of the flow cache.
    pub flow_cache: Option<FlowCacheConfig>,
    /// How many VLAN tags of a frame are read.
    pub vlan_limit: Option<VlanLimit>,
    /// What rules see of fragments.
    pub fragments: Option<FragmentMode>,
}

/// A value with the place where the operator wrote it, for errors that show later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    /// The place, such as `--port vm0=tap:t0` or `vsteer.toml:3: port.vm0`.
    pub place: String,
    /// The value.
    pub value: T,
}

impl ConfigSource {
    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or says something that cannot be used.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let place = format!("--config {}", path.display());
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::new(place, format!("cannot be read: {error}; check the path")))?;
        file::parse(path, &text)
    }

    /// Sets the workers from the text of `--workers`.
    ///
    /// # Errors
    /// The text is no list of CPUs.
    pub fn set_workers(&mut self, text: &str) -> Result<(), ConfigError> {
        let place = format!("--workers {text}");
        let value = CpuList::parse(text).map_err(|problem| ConfigError::new(place.clone(), problem))?;
        self.workers = Some(Placed { place, value });
        Ok(())
    }

    /// Sets the VLAN tags that are read from the text of `--vlan-limit`.
    ///
    /// # Errors
    /// The text is no number of tags that can be read.
    pub fn set_vlan_limit(&mut self, text: &str) -> Result<(), ConfigError> {
        let wrong = |problem| ConfigError::new(format!("--vlan-limit {text}"), problem);
        self.vlan_limit = Some(words::vlan_limit(text).map_err(wrong)?);
        Ok(())
    }

    /// Sets what rules see of fragments from the text of `--fragments`.
    ///
    /// # Errors
    /// The text is no mode.
    pub fn set_fragments(&mut self, text: &str) -> Result<(), ConfigError> {
        let wrong = |problem| ConfigError::new(format!("--fragments {text}"), problem);
        self.fragments = Some(words::fragments(text).map_err(wrong)?);
        Ok(())
    }

    /// Adds a port from the text of `--port`.
    ///
    /// # Errors
    /// The text is no port.
    pub fn add_port(&mut self, text: &str) -> Result<(), ConfigError> {
        let value = PortSpec::parse("--port", text)?;
        self.ports.push(Placed { place: format!("--port {text}"), value });
        Ok(())
    }

    /// Adds a mirror from the text of `--mirror`.
    ///
    /// # Errors
    /// The text is no mirror.
    pub fn add_mirror(&mut self, text: &str) -> Result<(), ConfigError> {
        let value = MirrorSpec::parse("--mirror", text)?;
        self.mirrors.push(Placed { place: format!("--mirror {text}"), value });
        Ok(())
    }

    /// Names a table from the text of `--table`.
    ///
    /// # Errors
    /// The text names no table.
    pub fn add_table_name(&mut self, text: &str) -> Result<(), ConfigError> {
        let value = TableName::parse(text)?;
        self.table_names.push(Placed { place: format!("--table {text}"), value });
        Ok(())
    }

    /// Adds the file of rules of `--rules`.
    pub fn add_rules(&mut self, path: &Path) {
        self.rules.push(RulesSource::File { place: "--rules".to_owned(), path: path.to_owned() });
    }

    /// Adds the one guest of a side-car: a vhost-user port at `path` with comma-separated `options`.
    ///
    /// # Errors
    /// The path or an option cannot be used.
    pub fn add_vm_path(&mut self, name: &str, path: &str, options: &str) -> Result<(), ConfigError> {
        self.add_vm(format!("--socket-path={path}"), options, PortSpec::vhost_user(name, path, options))
    }

    /// Adds the one guest of a side-car: a vhost-user port on the inherited descriptor `number`.
    ///
    /// # Errors
    /// The descriptor is no open socket, or an option cannot be used.
    pub fn add_vm_fd(&mut self, name: &str, number: i32, options: &str) -> Result<(), ConfigError> {
        let place = format!("--fd={number}");
        let socket =
            InheritedSocket::take(number).map_err(|problem| ConfigError::new(place.clone(), problem))?;
        self.add_vm(place, options, PortSpec::inherited(name, socket, options))
    }

    fn add_vm(
        &mut self,
        socket: String,
        options: &str,
        port: Result<PortSpec, error::Problem>,
    ) -> Result<(), ConfigError> {
        let place = match options {
            "" => socket,
            _ => format!("{socket} --vm-options {options}"),
        };
        let value = port.map_err(|problem| ConfigError::new(place.clone(), problem))?;
        self.ports.push(Placed { place, value });
        Ok(())
    }
}

impl Config {
    /// Puts `command_line` over `file`: its single values win, its rules win as a whole, and its ports, mirrors and
    /// names of tables join the file's, replacing those of the same name. Files of rules are read here.
    ///
    /// # Errors
    /// A name, socket or interface is used twice, a table has two names, there are too many ports, a CPU may not be used, a
    /// mirror or a rule names a port or a table that is not there, or a file of rules cannot be read or says something that
    /// is no rule.
    pub fn merge(command_line: ConfigSource, file: ConfigSource) -> Result<Self, ConfigError> {
        let workers = match command_line.workers.or(file.workers) {
            Some(cpus) => pinned_workers(cpus)?,
            None => vec![None],
        };
        let ports = merge_ports(command_line.ports, file.ports)?;
        let rules = if command_line.rules.is_empty() { file.rules } else { command_line.rules };
        let rules = rules.iter().map(RulesSource::read).collect::<Result<Vec<_>, _>>()?;
        let table_names = merge_table_names(command_line.table_names, file.table_names)?;
        let listed = ListedPorts(&ports);
        let names = RuleNames::new(&listed, &table_names);
        rules.iter().try_for_each(|text| text.parse(&names).map(drop))?;
        Ok(Self {
            workers,
            poll: command_line.poll.or(file.poll).unwrap_or_default(),
            control: command_line.control.or(file.control),
            mirrors: merge_mirrors(command_line.mirrors, file.mirrors, &ports)?,
            table_names,
            rules: (!rules.is_empty()).then_some(rules),
            ports,
            flow_cache: command_line.flow_cache.or(file.flow_cache).unwrap_or_default(),
            vlan_limit: command_line.vlan_limit.or(file.vlan_limit).unwrap_or_default(),
            fragments: command_line.fragments.or(file.fragments).unwrap_or_default(),
        })
    }
}

fn pinned_workers(cpus: Placed<CpuList>) -> Result<Vec<Option<usize>>, ConfigError> {
    let allowed = CpuList::allowed().map_err(|error| {
        ConfigError::new(cpus.place.clone(), format!("cannot list this process's CPUs: {error}"))
    })?;
    cpus.value.check(&allowed).map_err(|problem| ConfigError::new(cpus.place, problem))?;
    Ok(cpus.value.as_slice().iter().copied().map(Some).collect())
}

fn merge_ports(
    command_line: Vec<Placed<PortSpec>>,
    mut file: Vec<Placed<PortSpec>>,
) -> Result<Vec<PortSpec>, ConfigError> {
    file.retain(|old| command_line.iter().all(|new| new.value.name != old.value.name));
    file.extend(command_line);
    if let Some(port) = file.get(MAX_PORTS) {
        return Err(ConfigError::new(&port.place, format!("more ports than {MAX_PORTS}; drop some")));
    }
    refuse_shared(&file)?;
    Ok(file.into_iter().map(|port| port.value).collect())
}

fn merge_mirrors(
    command_line: Vec<Placed<MirrorSpec>>,
    mut file: Vec<Placed<MirrorSpec>>,
    ports: &[PortSpec],
) -> Result<Vec<MirrorSpec>, ConfigError> {
    file.retain(|old| command_line.iter().all(|new| new.value.name != old.value.name));
    file.extend(command_line);
    if let Some(mirror) = file.get(MAX_MIRRORS) {
        return Err(ConfigError::new(&mirror.place, format!("more mirrors than {MAX_MIRRORS}; drop some")));
    }
    let mut names = HashMap::new();
    for Placed { place, value } in &file {
        if let Some(first) = names.insert(value.name.as_str(), place) {
            let problem = format!("the name {:?} is taken by {first}; use another", value.name);
            return Err(ConfigError::new(place, problem));
        }
        if let Some(unknown) = value.port_names().find(|&name| ports.iter().all(|port| port.name != name)) {
            return Err(ConfigError::new(place, format!("no port {unknown:?}; add it, or name another")));
        }
    }
    Ok(file.into_iter().map(|mirror| mirror.value).collect())
}

/// Refuses a port on the control socket.
fn refuse_shared_control(config: &Config) -> Result<(), ConfigError> {
    let Some(control) = &config.control else { return Ok(()) };
    let own = Exclusive::Path(identity_of(control));
    match config.ports.iter().find(|port| port.exclusive().as_ref() == Some(&own)) {
        Some(port) => Err(ConfigError::new(
            format!("port {}", port.name),
            format!("{} is the control socket; choose another path for one of them", port.address()),
        )),
        None => Ok(()),
    }
}

/// Refuses two ports with one name, on one socket or interface, or that are both the local port.
pub(crate) fn refuse_shared(ports: &[Placed<PortSpec>]) -> Result<(), ConfigError> {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    let mut local = None;
    for Placed { place, value } in ports {
        if let Some(first) = names.insert(value.name.as_str(), place) {
            let problem = format!("the name {:?} is taken by {first}; use another", value.name);
            return Err(ConfigError::new(place, problem));
        }
        if let Some(own) = value.exclusive()
            && let Some(first) = addresses.insert(own.clone(), place)
        {
            let problem = format!("{own} is used by {first} too; give each port its own");
            return Err(ConfigError::new(place, problem));
        }
        if value.local
            && let Some(first) = local.replace(place)
        {
            let problem = format!("{first} is the local port already; drop local=on from one of them");
            return Err(ConfigError::new(place, problem));
        }
    }
    Ok(())
}

impl fmt::Display for Config {
    /// The configuration in lines, each with the words that would say it on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pinned: Vec<String> = self.workers.iter().flatten().map(usize::to_string).collect();
        match pinned.len() {
            0 => writeln!(f, "workers  {} (not pinned)", self.workers.len())?,
            _ => writeln!(f, "workers  {}", pinned.join(","))?,
        }
        writeln!(f, "poll     {}", self.poll.name())?;
        match &self.control {
            Some(path) => writeln!(f, "control  {}", path.display())?,
            None => writeln!(f, "control  none")?,
        }
        writeln!(f, "vlan-limit {}", self.vlan_limit.tags())?;
        writeln!(f, "fragments {}", self.fragments.name())?;
        self.ports.iter().try_for_each(|port| writeln!(f, "port     {port}"))?;
        self.mirrors.iter().try_for_each(|mirror| writeln!(f, "mirror   {mirror}"))?;
        self.table_names.iter().try_for_each(|(table, name)| writeln!(f, "table    {table}={name}"))?;
        self.rules.iter().flatten().try_for_each(|rules| writeln!(f, "rules    {}", rules.source))
    }
}

/// Where a configuration comes from, to read it again while the switch runs.
#[derive(Debug, Clone)]
pub struct ConfigOrigin {
    /// What the command line said.
    pub line: ConfigSource,
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Control socket if neither names one.
    pub default_control: Option<PathBuf>,
}

impl ConfigOrigin {
    /// The configuration as the files say it now.
    ///
    /// # Errors
    /// A file cannot be read, or something in it cannot be used.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let file = match &self.file {
            Some(path) => ConfigSource::from_file(path)?,
            None => ConfigSource::default(),
        };
        let mut config = Config::merge(self.line.clone(), file)?;
        config.control = config.control.or_else(|| self.default_control.clone());
        refuse_shared_control(&config)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
