//! What the operator types.
//!
//! `vsteer run` starts a switch and `vsteer ctl` talks to one. Without a subcommand vsteer follows QEMU's conventions
//! for back-end programs: one guest on `--socket-path` or `--fd`, and `--print-capabilities` for management software.
//! Words are only sorted here; `config` and `command` give them their meaning.
//!
//! # Source
//! QEMU, docs/interop/vhost-user.rst, "Backend program conventions".

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::command::{Chosen, Ctl, CtlError};
use crate::config::{ConfigError, ConfigOrigin, ConfigSource, DEFAULT_CONTROL, PollMode};

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
    Run(Box<RunArgs>),
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
            None if cli.run.socket_path.is_some() || cli.run.fd.is_some() => {
                Ok(Invocation::Run(Box::new(cli.run)))
            }
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
    Run(Box<RunArgs>),
    /// Ask or change a running switch
    Ctl(CtlArgs),
}

/// Arguments that make a [`Config`](crate::config::Config).
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Add a port: NAME=vhost-user:PATH, NAME=tap:IFNAME or NAME=pcap:FILE, then options after commas
    ///
    /// Options: vlan=ID (access port), trunks=10+20-29 and native=ID (trunk port), vlan-mode=native-tagged|dot1q-tunnel,
    /// cvlans=0+10-20, qinq-ethtype=802.1ad|802.1q, priority-tags=never|if-nonzero|always, mac-limit=N, queues=N,
    /// csum=on|off, tso=on|off, mtu=N, local=on (rules mean this port by LOCAL), trace=FILE (records what passes), fault=drop:1%+corrupt:1%+delay:1%:20ms+seed:N (for trials); for vhost-user also mode=server|client,
    /// owner=USER:GROUP, perm=0660; for pcap out=FILE (records what leaves), rate=N (packets per second). May be repeated.
    #[arg(long = "port", value_name = "SPEC")]
    ports: Vec<String>,
    /// Add a mirror: NAME, then src=PORT+PORT, dst=PORT+PORT, vlan=10+20-29 and output=PORT after commas
    ///
    /// Copies of the packets that come in by the ports of src and go out by those of dst, of these VLANs if some are named,
    /// go to the port of output, which takes part in nothing else. The word all stands for every port. May be repeated.
    #[arg(long = "mirror", value_name = "SPEC")]
    mirrors: Vec<String>,
    /// Name a table of rules: NUMBER=NAME, as in 1=acl
    ///
    /// Rules and vsteer ctl flow then take the name wherever they take the number: table=acl, resubmit(,acl), goto_table:acl.
    /// May be repeated.
    #[arg(long = "table", value_name = "NUMBER=NAME")]
    table_names: Vec<String>,
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
    /// How many VLAN tags of a frame rules see, 1 or 2 [default: 1]
    ///
    /// A further tag is payload: rules then see its Ethernet type, 0x8100 or 0x88a8, and nothing behind it. Further tags of
    /// VLAN 0 are passed over.
    #[arg(long, value_name = "TAGS")]
    vlan_limit: Option<String>,
    /// What rules see of IP fragments: normal, nx-match or drop [default: normal]
    ///
    /// With normal no fragment has ports, or a type and a code of ICMP; with nx-match the first fragment has them; with drop
    /// every fragment is dropped.
    #[arg(long, value_name = "MODE")]
    fragments: Option<String>,
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
        self.table_names.iter().try_for_each(|name| line.add_table_name(name))?;
        self.rules.iter().for_each(|path| line.add_rules(path));
        self.workers.iter().try_for_each(|cpus| line.set_workers(cpus))?;
        self.vlan_limit.iter().try_for_each(|tags| line.set_vlan_limit(tags))?;
        self.fragments.iter().try_for_each(|mode| line.set_fragments(mode))?;
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
    command: Chosen,
}

impl CtlArgs {
    /// Carries the command out and prints what comes of it.
    ///
    /// # Errors
    /// A file that it names cannot be used, the switch cannot be asked or refuses, or nothing can be printed.
    pub fn run(self) -> Result<(), CtlError> {
        self.command.run(&Ctl { socket: self.socket, json: self.json })
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
    fn ctl_options_stand_before_or_after_the_command() {
        for line in ["v ctl --json --socket /s port list", "v ctl port list --socket /s --json"] {
            match parse(line).unwrap() {
                Invocation::Ctl(args) => assert_eq!((args.socket, args.json), ("/s".into(), true)),
                other => panic!("{other:?}"),
            }
        }
    }
}
