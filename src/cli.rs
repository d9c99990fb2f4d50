//! What the operator types.
//!
//! `vsteer run` starts a switch and `vsteer ctl` talks to one. Without a subcommand vsteer follows QEMU's conventions
//! for back-end programs: one guest on `--socket-path` or `--fd`, and `--print-capabilities` for management software.
//! Words are only sorted here; `config` gives them their meaning.
//!
//! # Source
//! QEMU, docs/interop/vhost-user.rst, "Backend program conventions".

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{ConfigError, ConfigOrigin, ConfigSource, DEFAULT_CONTROL, PollMode};
use crate::control::hex;
use crate::control::protocol::{
    FdbFilter, FlowFilter, MirrorName, MirrorText, MonitorFilter, PortName, PortText, Request, RuleFilter,
    RulesParams, SelectorParams, TopQuery, TraceQuery,
};
use crate::control::watch::Watch;
use crate::pcap;

/// What management software is told about this back-end; the schema is QEMU's `VHostUserBackendCapabilities`.
pub const CAPABILITIES: &str = r#"{"type": "net"}"#;

const PRINT_CAPABILITIES: &str = "--print-capabilities";

/// Name of the port of `--socket-path` and `--fd`.
const VM_PORT: &str = "vm";

/// What vsteer shall do.
#[derive(Debug)]
pub enum Invocation {
    /// Print [`CAPABILITIES`] and end.
    PrintCapabilities,
    /// Run a switch.
    Run(RunArgs),
    /// Ask a running switch.
    Ctl(CtlArgs),
}

impl Invocation {
    /// Sorts the arguments `args`, the program's name first.
    ///
    /// # Errors
    /// The arguments are not understood, or ask for help or the version: the error prints itself.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let args: Vec<OsString> = args.into_iter().collect();
        // The conventions want every other argument ignored, those that we would refuse included.
        if args.iter().any(|arg| arg == PRINT_CAPABILITIES) {
            return Ok(Invocation::PrintCapabilities);
        }
        let cli = Cli::try_parse_from(args)?;
        match cli.command {
            Some(Command::Run(mut args)) => {
                args.default_control = Some(DEFAULT_CONTROL.into());
                Ok(Invocation::Run(args))
            }
            Some(Command::Ctl(args)) => Ok(Invocation::Ctl(args)),
            None if cli.run.socket_path.is_some() || cli.run.fd.is_some() => Ok(Invocation::Run(cli.run)),
            None => Err(Cli::command().error(
                ErrorKind::MissingRequiredArgument,
                "no guest: give --socket-path=PATH or --fd=N, or start a switch with vsteer run",
            )),
        }
    }
}

/// A virtual switch for vhost-user guests.
#[derive(Debug, Parser)]
#[command(name = "vsteer", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
    /// Print what this back-end can do as JSON, for management software, and end
    #[arg(long)]
    print_capabilities: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a switch
    Run(RunArgs),
    /// Ask or change a running switch
    Ctl(CtlArgs),
}

/// Arguments that make a [`Config`](crate::config::Config).
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Add a port: NAME=vhost-user:PATH or NAME=tap:IFNAME, then options after commas
    ///
    /// Options: vlan=ID (access port), trunks=10+20-29 and native=ID (trunk port), mac-limit=N, queues=N, csum=on|off,
    /// tso=on|off, mtu=N, local=on (rules mean this port by LOCAL); for vhost-user also mode=server|client,
    /// owner=USER:GROUP, perm=0660. May be repeated.
    #[arg(long = "port", value_name = "SPEC")]
    ports: Vec<String>,
    /// Add a mirror: NAME, then src=PORT+PORT, dst=PORT+PORT, vlan=10+20-29 and output=PORT after commas
    ///
    /// Copies of the packets that come in by the ports of src and go out by those of dst, of these VLANs if some are named,
    /// go to the port of output, which takes part in nothing else. The word all stands for every port. May be repeated.
    #[arg(long = "mirror", value_name = "SPEC")]
    mirrors: Vec<String>,
    /// Start with the rules of this file, in ovs-ofctl's syntax, in place of those of the configuration file
    ///
    /// May be repeated. Without any rules the switch is a learning switch.
    #[arg(long = "rules", value_name = "FILE")]
    rules: Vec<PathBuf>,
    /// CPUs to pin worker threads to, one thread each, such as 1,3 [default: one thread, not pinned]
    #[arg(long, value_name = "CPUS")]
    workers: Option<String>,
    /// How workers wait for packets [default: adaptive]
    #[arg(long, value_name = "MODE")]
    poll: Option<PollMode>,
    /// Control socket [default: /run/vsteer.sock with run, otherwise none]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Configuration file (TOML); what the command line says goes over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Add the port "vm" on a vhost-user socket at this path
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    socket_path: Option<String>,
    /// Add the port "vm" on this inherited vhost-user socket, connected or listening
    #[arg(long, value_name = "FDNUM")]
    fd: Option<i32>,
    /// Options of the port "vm", as in --port
    #[arg(long, value_name = "OPTIONS", default_value = "", hide_default_value = true)]
    vm_options: String,
    /// What to log: error, warn, info, debug, trace, or a filter such as info,vsteer::control=debug
    ///
    /// The environment variable VSTEER_LOG says the same. [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Check the configuration, print it and end
    #[arg(long)]
    check: bool,
    #[arg(skip)]
    default_control: Option<PathBuf>,
}

impl RunArgs {
    /// Where the configuration comes from: what the arguments say, and the file they name.
    ///
    /// Takes over the descriptor of `--fd`, so it is called once.
    ///
    /// # Errors
    /// An argument cannot be used.
    pub fn origin(&self) -> Result<ConfigOrigin, ConfigError> {
        let mut line =
            ConfigSource { poll: self.poll, control: self.control.clone(), ..ConfigSource::default() };
        // First of all, before a file is opened: see `ConfigSource::add_vm_fd`.
        if let Some(number) = self.fd {
            line.add_vm_fd(VM_PORT, number, &self.vm_options)?;
        } else if let Some(path) = &self.socket_path {
            line.add_vm_path(VM_PORT, path, &self.vm_options)?;
        } else if !self.vm_options.is_empty() {
            return Err(ConfigError::new(
                format!("--vm-options {}", self.vm_options),
                "there is no port \"vm\"; add --socket-path or --fd, or write the options into --port",
            ));
        }
        self.ports.iter().try_for_each(|port| line.add_port(port))?;
        self.mirrors.iter().try_for_each(|mirror| line.add_mirror(mirror))?;
        self.rules.iter().for_each(|path| line.add_rules(path));
        self.workers.iter().try_for_each(|cpus| line.set_workers(cpus))?;
        Ok(ConfigOrigin { line, file: self.config.clone(), default_control: self.default_control.clone() })
    }

    /// What `--log` says.
    pub fn log(&self) -> Option<&str> {
        self.log.as_deref()
    }

    /// Whether only to check and print the configuration.
    pub fn is_check(&self) -> bool {
        self.check
    }
}

/// Arguments of `vsteer ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// Control socket of the switch
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    pub socket: PathBuf,
    /// Print the reply as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// Ports: list, show, add, del
    #[command(subcommand)]
    Port(PortCommand),
    /// Learned addresses: show, flush
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Rules: add, add-flows, replace-flows, mod-flows, del-flows, dump-flows, dump-tables; megaflows: dump
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Mirrors: list, add, del
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Caches of the workers: show
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Show what the switch would do with a packet, and why
    ///
    /// Give the packet's fields (vsteer ctl trace 'in_port=vm0,tcp,nw_src=10.0.0.1,tp_dst=22'; fields that are not named are
    /// zero), or a packet from a capture file and the port that it comes in by. Nothing changes by asking.
    Trace(TraceArgs),
    /// Show packets that rules hand out (actions=controller) as they come; ends at Ctrl-C
    Monitor(MonitorArgs),
    /// Show live packets/s and bits/s of ports and of the busiest flows; ends at Ctrl-C
    Top(TopArgs),
    /// Read the configuration file again and do what it says
    ///
    /// Ports, mirrors and rules of the file that are gone from it go, new ones come, and what was added by ctl stays. A file
    /// with an error changes nothing.
    Reload,
    /// Statistics of workers and ports
    Stats,
}

#[derive(Debug, Subcommand)]
enum PortCommand {
    /// List all ports
    List,
    /// Show one port in full
    Show {
        /// The port's name
        name: String,
    },
    /// Add a port
    Add {
        /// The port, as in run --port; relative paths are the switch's
        spec: String,
    },
    /// Remove a port
    Del {
        /// The port's name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum FdbCommand {
    /// Show learned and static addresses
    Show(FdbArgs),
    /// Forget learned addresses
    Flush(FdbArgs),
}

#[derive(Debug, Args)]
struct FdbArgs {
    /// Only those of this port
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Only those of this VLAN; 0 is untagged
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(0..=4094))]
    vlan: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum FlowCommand {
    /// Add a rule, as in 'table=0,priority=100,in_port=vm0,tcp,tp_dst=22,actions=drop'
    #[command(visible_alias = "add-flow")]
    Add {
        /// The rule in ovs-ofctl's syntax; it takes the place of one with the same match and priority
        rule: String,
        #[command(flatten)]
        how: AddArgs,
    },
    /// Add the rules of a file, all or none
    AddFlows {
        /// The file, a rule a line; - for standard input
        file: PathBuf,
        #[command(flatten)]
        how: AddArgs,
    },
    /// Put the rules of a file in place of all rules, all or none and at once
    ///
    /// Rules that were there before and are in the file keep their counters.
    ReplaceFlows {
        /// The file, a rule a line; - for standard input
        file: PathBuf,
    },
    /// Give rules other actions: 'SELECTOR,actions=...'
    ModFlows {
        /// Which rules, and their new actions; without --strict all rules that match no more than the selector
        change: String,
        /// Only the rule with exactly this match and priority
        #[arg(long)]
        strict: bool,
        /// Let their counters begin anew
        #[arg(long)]
        reset_counts: bool,
    },
    /// Remove rules; without a selector all
    ///
    /// If no rule would be left, that of the learning switch (priority=0,actions=NORMAL) comes back.
    DelFlows {
        /// Which rules; without --strict all rules that match no more than the selector
        #[arg(default_value = "", hide_default_value = true)]
        selector: String,
        /// Only the rule with exactly this match and priority
        #[arg(long)]
        strict: bool,
    },
    /// Show rules with their counters
    DumpFlows {
        /// Which rules, as in 'table=1,tcp' or 'out_port=vm0'; all without
        #[arg(default_value = "", hide_default_value = true)]
        selector: String,
    },
    /// Show tables with their counters
    DumpTables,
    /// Show megaflows of every worker, those with the most packets first
    Dump {
        /// How many at most
        #[arg(long, value_name = "COUNT", default_value_t = FlowFilter::DEFAULT_LIMIT)]
        limit: u64,
    },
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Refuse a rule that shares packets with another of the same table and priority
    #[arg(long)]
    check_overlap: bool,
    /// Let the counters of rules whose place is taken begin anew
    #[arg(long)]
    reset_counts: bool,
}

#[derive(Debug, Subcommand)]
enum MirrorCommand {
    /// List all mirrors
    List,
    /// Add a mirror: NAME,src=PORT+PORT,dst=PORT+PORT,vlan=ID+ID-ID,output=PORT
    Add {
        /// The mirror, as in run --mirror
        spec: String,
    },
    /// Remove a mirror
    Del {
        /// The mirror's name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Show how packets are decided, by worker and tier, and the subtables with their hits
    Show,
}

#[derive(Debug, Args)]
struct TraceArgs {
    /// The packet's fields in ovs-ofctl's syntax, in_port=PORT among them
    #[arg(required_unless_present = "pcap", conflicts_with = "pcap")]
    flow: Option<String>,
    /// Take the packet from this capture file
    #[arg(long, value_name = "FILE", requires = "in_port")]
    pcap: Option<PathBuf>,
    /// The port that the packet of --pcap comes in by
    #[arg(long, value_name = "NAME", requires = "pcap")]
    in_port: Option<String>,
    /// Which packet of --pcap, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    packet: u32,
}

#[derive(Debug, Args)]
struct MonitorArgs {
    /// Only packets of controller actions with this id
    #[arg(long, value_name = "N")]
    id: Option<u16>,
    /// Also write the packets to this capture file
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// End after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Also show the bytes
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Debug, Args)]
struct TopArgs {
    /// Seconds between pictures
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// End after so many pictures
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Flows in each picture
    #[arg(long, value_name = "N", default_value_t = 10)]
    flows: usize,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("use seconds from 0.1 to 3600".to_owned()),
    }
}

/// What `vsteer ctl` shall do.
#[derive(Debug, PartialEq, Eq)]
pub enum Job {
    /// Ask once.
    Ask(Request),
    /// Print what comes.
    Watch(Watch),
}

/// A file that an argument of `vsteer ctl` names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: cannot be read: {source}; check the path, or use - for standard input")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is no capture file, or lacks the packet.
    #[error("--pcap {path}: {source}")]
    Pcap {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pcap::PcapError,
    },
}

impl CtlArgs {
    /// What the arguments ask for; files that they name are read.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn job(&self) -> Result<Job, FileError> {
        let watch = |request, count, verbose, pcap: &Option<PathBuf>| {
            Job::Watch(Watch { request, count, verbose, pcap: pcap.clone() })
        };
        Ok(Job::Ask(match &self.command {
            CtlCommand::Port(PortCommand::List) => Request::PortList,
            CtlCommand::Port(PortCommand::Show { name }) => {
                Request::PortShow(PortName { name: name.clone() })
            }
            CtlCommand::Port(PortCommand::Add { spec }) => Request::PortAdd(PortText { spec: spec.clone() }),
            CtlCommand::Port(PortCommand::Del { name }) => Request::PortDel(PortName { name: name.clone() }),
            CtlCommand::Fdb(FdbCommand::Show(args)) => Request::FdbShow(args.filter()),
            CtlCommand::Fdb(FdbCommand::Flush(args)) => Request::FdbFlush(args.filter()),
            CtlCommand::Flow(flow) => flow.request()?,
            CtlCommand::Mirror(MirrorCommand::List) => Request::MirrorList,
            CtlCommand::Mirror(MirrorCommand::Add { spec }) => {
                Request::MirrorAdd(MirrorText { spec: spec.clone() })
            }
            CtlCommand::Mirror(MirrorCommand::Del { name }) => {
                Request::MirrorDel(MirrorName { name: name.clone() })
            }
            CtlCommand::Cache(CacheCommand::Show) => Request::CacheShow,
            CtlCommand::Trace(args) => Request::Trace(args.query()?),
            CtlCommand::Monitor(args) => {
                let request = Request::Monitor(MonitorFilter { id: args.id });
                return Ok(watch(request, args.count, args.verbose, &args.pcap));
            }
            CtlCommand::Top(args) => {
                // Between 100 and 3 600 000: see `interval`.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
                let interval_ms = (args.interval * 1000.0) as u64;
                let request = Request::Top(TopQuery { interval_ms, flows: args.flows });
                return Ok(watch(request, args.count, false, &None));
            }
            CtlCommand::Reload => Request::Reload,
            CtlCommand::Stats => Request::Stats,
        }))
    }
}

impl FlowCommand {
    fn request(&self) -> Result<Request, FileError> {
        Ok(match self {
            FlowCommand::Add { rule, how } => Request::RuleAdd(how.params(rule.clone(), None)),
            FlowCommand::AddFlows { file, how } => {
                Request::RuleAdd(how.params(read_text(file)?, Some(source_name(file))))
            }
            FlowCommand::ReplaceFlows { file } => Request::RuleReplace(RulesParams {
                text: read_text(file)?,
                source: Some(source_name(file)),
                ..RulesParams::default()
            }),
            FlowCommand::ModFlows { change, strict, reset_counts } => Request::RuleModify(SelectorParams {
                text: change.clone(),
                strict: *strict,
                reset_counts: *reset_counts,
            }),
            FlowCommand::DelFlows { selector, strict } => Request::RuleDelete(SelectorParams {
                text: selector.clone(),
                strict: *strict,
                reset_counts: false,
            }),
            FlowCommand::DumpFlows { selector } => Request::RuleDump(RuleFilter { text: selector.clone() }),
            FlowCommand::DumpTables => Request::TableDump,
            FlowCommand::Dump { limit } => Request::FlowDump(FlowFilter { limit: *limit }),
        })
    }
}

impl AddArgs {
    fn params(&self, text: String, source: Option<String>) -> RulesParams {
        RulesParams { text, source, check_overlap: self.check_overlap, reset_counts: self.reset_counts }
    }
}

impl TraceArgs {
    fn query(&self) -> Result<TraceQuery, FileError> {
        let (Some(path), Some(in_port)) = (&self.pcap, &self.in_port) else {
            return Ok(TraceQuery::Flow(self.flow.clone().unwrap_or_default()));
        };
        let wrong = |source| FileError::Pcap { path: path.clone(), source };
        let file = File::open(path).map_err(|error| wrong(error.into()))?;
        let packet = pcap::read_packet(BufReader::new(file), self.packet as usize).map_err(wrong)?;
        Ok(TraceQuery::Packet { in_port: in_port.clone(), data: hex::text(&packet) })
    }
}

/// The text of a file, or of standard input if the file is called `-`.
fn read_text(path: &Path) -> Result<String, FileError> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|source| FileError::Unreadable { path: path.to_owned(), source })
}

/// What errors call the file.
fn source_name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

impl FdbArgs {
    fn filter(&self) -> FdbFilter {
        FdbFilter { port: self.port.clone(), vlan: self.vlan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(line: &str) -> Result<Invocation, clap::Error> {
        Invocation::parse(line.split_whitespace().map(OsString::from))
    }

    fn config(line: &str) -> Result<Config, ConfigError> {
        match parse(line).unwrap() {
            Invocation::Run(args) => args.origin()?.read(),
            other => panic!("{other:?}"),
        }
    }

    fn request(line: &str) -> Request {
        match parse(line).unwrap() {
            Invocation::Ctl(args) => match args.job().unwrap() {
                Job::Ask(request) => request,
                Job::Watch(watch) => watch.request,
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_has_a_control_socket_and_a_side_car_has_none() {
        let run = config("vsteer run --port host=tap:t0 --poll busy").unwrap();
        assert_eq!(run.control, Some(DEFAULT_CONTROL.into()));
        assert_eq!((run.poll, run.ports.len()), (PollMode::Busy, 1));

        let side_car =
            config("vsteer --socket-path=/run/vm.sock --port host=tap:t0 --vm-options vlan=10").unwrap();
        assert_eq!(side_car.control, None);
        assert_eq!(side_car.ports[0].name, "vm");
        assert_eq!(side_car.ports[0].address(), "/run/vm.sock");
        assert_eq!(
            side_car.ports[0].vlan,
            crate::config::VlanSpec::Access { vlan: vsteer_switch::wire::vlan::VlanId::new(10).unwrap() }
        );
        assert_eq!(side_car.ports[1].name, "host");

        let asked = config("vsteer --socket-path=/run/vm.sock --control /tmp/c").unwrap();
        assert_eq!(asked.control, Some("/tmp/c".into()));
        assert_eq!(config("vsteer run --socket-path=/run/vm.sock").unwrap().ports[0].name, "vm");
    }

    #[test]
    fn capabilities_are_json_and_win_over_everything_else() {
        for line in [
            "v --print-capabilities",
            "v --bogus --print-capabilities --fd=1 --socket-path=x",
            "v run --print-capabilities",
        ] {
            assert!(matches!(parse(line).unwrap(), Invocation::PrintCapabilities), "{line}");
        }
        let json: serde_json::Value = serde_json::from_str(CAPABILITIES).unwrap();
        assert_eq!(json, serde_json::json!({"type": "net"}));
    }

    #[test]
    fn usage_errors() {
        for (line, kind) in [
            ("v", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("v --port a=tap:t", ErrorKind::MissingRequiredArgument),
            ("v --socket-path=/x --fd=3", ErrorKind::ArgumentConflict),
            ("v --socket-path=/x run", ErrorKind::ArgumentConflict),
            ("v run --poll lazy", ErrorKind::InvalidValue),
            ("v run --prot a=tap:t", ErrorKind::UnknownArgument),
            ("v ctl fdb show --vlan 4095", ErrorKind::ValueValidation),
            ("v ctl trace", ErrorKind::MissingRequiredArgument),
            ("v ctl trace --pcap f", ErrorKind::MissingRequiredArgument),
            ("v ctl trace tcp --pcap f --in-port a", ErrorKind::ArgumentConflict),
            ("v ctl top --interval 0.01", ErrorKind::ValueValidation),
            ("v --version", ErrorKind::DisplayVersion),
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
        }
    }

    #[test]
    fn options_without_their_port_are_refused() {
        let error = config("vsteer run --vm-options vlan=1").unwrap_err().to_string();
        assert_eq!(
            error,
            "--vm-options vlan=1: there is no port \"vm\"; add --socket-path or --fd, or write the options into --port"
        );
    }

    #[test]
    fn ctl_spells_every_request() {
        let name = || PortName { name: "vm0".into() };
        let filter = |port: Option<&str>, vlan| FdbFilter { port: port.map(str::to_owned), vlan };
        let overlap =
            RulesParams { text: "actions=drop".into(), check_overlap: true, ..RulesParams::default() };
        let strict =
            |text: &str| SelectorParams { text: text.into(), strict: true, ..SelectorParams::default() };
        for (line, expected) in [
            ("v ctl port list", Request::PortList),
            ("v ctl port show vm0", Request::PortShow(name())),
            ("v ctl port add a=tap:t", Request::PortAdd(PortText { spec: "a=tap:t".into() })),
            ("v ctl port del vm0", Request::PortDel(name())),
            ("v ctl fdb show", Request::FdbShow(filter(None, None))),
            ("v ctl fdb flush --port vm0 --vlan 0", Request::FdbFlush(filter(Some("vm0"), Some(0)))),
            ("v ctl flow add actions=drop --check-overlap", Request::RuleAdd(overlap)),
            (
                "v ctl flow mod-flows --strict tcp,actions=drop",
                Request::RuleModify(strict("tcp,actions=drop")),
            ),
            ("v ctl flow del-flows --strict tcp", Request::RuleDelete(strict("tcp"))),
            ("v ctl flow del-flows", Request::RuleDelete(SelectorParams::default())),
            ("v ctl flow dump-flows table=1", Request::RuleDump(RuleFilter { text: "table=1".into() })),
            ("v ctl flow dump-tables", Request::TableDump),
            ("v ctl flow dump", Request::FlowDump(FlowFilter::default())),
            ("v ctl flow dump --limit 3", Request::FlowDump(FlowFilter { limit: 3 })),
            ("v ctl mirror list", Request::MirrorList),
            (
                "v ctl mirror add m,all,output=a",
                Request::MirrorAdd(MirrorText { spec: "m,all,output=a".into() }),
            ),
            ("v ctl mirror del m", Request::MirrorDel(MirrorName { name: "m".into() })),
            ("v ctl cache show", Request::CacheShow),
            ("v ctl trace in_port=a,tcp", Request::Trace(TraceQuery::Flow("in_port=a,tcp".into()))),
            ("v ctl monitor --id 3", Request::Monitor(MonitorFilter { id: Some(3) })),
            ("v ctl top --interval 0.25 --flows 3", Request::Top(TopQuery { interval_ms: 250, flows: 3 })),
            ("v ctl reload", Request::Reload),
            ("v ctl stats", Request::Stats),
        ] {
            assert_eq!(request(line), expected, "{line}");
        }
    }

    #[test]
    fn files_are_read_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let acl = folder.path().join("acl");
        std::fs::write(&acl, "actions=drop\n").unwrap();
        let name = acl.display().to_string();
        let params = || RulesParams {
            text: "actions=drop\n".into(),
            source: Some(name.clone()),
            ..RulesParams::default()
        };
        assert_eq!(request(&format!("v ctl flow add-flows {name}")), Request::RuleAdd(params()));
        assert_eq!(request(&format!("v ctl flow replace-flows {name}")), Request::RuleReplace(params()));

        let capture = folder.path().join("pcap");
        let mut file = pcap::PcapWriter::new(File::create(&capture).unwrap()).unwrap();
        file.write(0, 3, &[1, 2, 0xfe]).unwrap();
        let line = format!("v ctl trace --pcap {} --in-port a", capture.display());
        let packet = TraceQuery::Packet { in_port: "a".into(), data: "0102fe".into() };
        assert_eq!(request(&line), Request::Trace(packet));

        let error = |line: &str| match parse(line).unwrap() {
            Invocation::Ctl(args) => args.job().unwrap_err().to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            error(&format!("{line} --packet 2")),
            format!("--pcap {}: has 1 packets, not 2; use --packet 1 to 1", capture.display())
        );
        let missing = error("v ctl flow add-flows /nonexistent/acl");
        assert!(missing.starts_with("/nonexistent/acl: cannot be read: "), "{missing}");
    }

    #[test]
    fn ctl_options_stand_before_or_after_the_command() {
        for line in ["v ctl --json --socket /s port list", "v ctl port list --socket /s --json"] {
            match parse(line).unwrap() {
                Invocation::Ctl(args) => assert_eq!((args.socket, args.json), ("/s".into(), true)),
                other => panic!("{other:?}"),
            }
        }
    }
}
