//! The vsteer program: sorts the arguments and hands over to the library.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use vsteer::appliance::Appliance;
use vsteer::cli::{CAPABILITIES, Invocation, RunArgs};
use vsteer::command::Commands;
use vsteer::config::Config;
use vsteer::control::server::{Limits, Server};
use vsteer::logging;
use vsteer::notify::{self, Shutdown};

fn main() -> ExitCode {
    let done = match Invocation::parse(std::env::args_os()) {
        Ok(Invocation::PrintCapabilities) => print(&format!("{CAPABILITIES}\n")),
        Ok(Invocation::Run(args)) => run(&args),
        Ok(Invocation::Ctl(args)) => args.run().map_err(Box::from),
        Err(usage) => usage.exit(),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::say(&format!("vsteer: {error}"));
            ExitCode::FAILURE
        }
    };
    logging::finish();
    code
}

fn run(args: &RunArgs) -> Result<(), Box<dyn Error>> {
    let origin = args.origin()?;
    let config = origin.read()?;
    if args.is_check() {
        check(args, &config)?;
        return print(&config.to_string());
    }
    logging::start(args.log())?;
    let mut shutdown = Shutdown::new()?;
    // The control socket comes first: of two that are started by mistake with one configuration, the second ends here,
    // before it has opened a port.
    let control = config.control.as_deref().map(Server::reserve).transpose()?;
    let appliance = Arc::new(Appliance::start(&config, origin, &shutdown.trigger())?);
    let control = control
        .map(|socket| Server::start(socket, Arc::new(Commands(Arc::clone(&appliance))), Limits::default()))
        .transpose()?;
    notify::ready();
    let signal = shutdown.wait();
    tracing::info!(signal, "ending");
    notify::stopping();
    drop(control);
    drop(appliance);
    match signal {
        Some(_) => Ok(()),
        None => Err("a thread of the switch failed, which is a bug: see above; start vsteer again".into()),
    }
}

/// Finds what would keep [`run`] from starting now, all of it.
fn check(args: &RunArgs, config: &Config) -> Result<(), Box<dyn Error>> {
    logging::check(args.log())?;
    let control = config.control.as_deref().map_or(Ok(()), Server::check).map_err(|error| error.to_string());
    let appliance = Appliance::check(config).map_err(|error| error.to_string());
    let problems: Vec<String> = [control, appliance].into_iter().filter_map(Result::err).collect();
    // Each problem is a line, and each line says who says it.
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").replace('\n', "\nvsteer: ").into()) }
}

/// Prints on standard output; a reader that has gone is no error.
fn print(text: &str) -> Result<(), Box<dyn Error>> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
