//! Log lines on standard error, one event a line.
//!
//! Nothing is logged per packet: a line means that a port, a guest or the configuration changed, or that something broke.

use std::io;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::ConfigError;

/// The environment variable that says what `--log` says.
pub const VARIABLE: &str = "VSTEER_LOG";

const DEFAULT: &str = "info";

/// Logs from now on what `option`, the value of `--log`, lets through; without it [`VARIABLE`] decides.
///
/// # Errors
/// The filter is not understood.
///
/// # Panics
/// Logging was started before.
pub fn start(option: Option<&str>) -> Result<(), ConfigError> {
    let filter = match (option, std::env::var(VARIABLE)) {
        (Some(text), _) => parse(&format!("--log {text}"), text)?,
        (None, Ok(text)) if !text.is_empty() => parse(&format!("{VARIABLE}={text}"), &text)?,
        (None, _) => parse(DEFAULT, DEFAULT)?,
    };
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false).with_target(false);
    // The journal stamps lines itself.
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().boxed(),
        None => lines.boxed(),
    };
    Registry::default().with(lines.with_filter(filter)).init();
    Ok(())
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
}
