//! One command of `vsteer ctl`: a request, and the text that answers it.

use std::path::Path;

use serde_json::Value;

use super::client::{Client, ClientError};
use super::protocol::{Hello, PortInfo, Request};
use super::render;

/// Asks the switch at `socket`; the answer is a text of whole lines, the bare result with `json`.
///
/// # Errors
/// Nobody answers, or the switch refuses.
pub fn ask(socket: &Path, request: &Request, json: bool) -> Result<String, ClientError> {
    let mut client = Client::connect(socket)?;
    let result = client.call(request)?;
    if json { Ok(format!("{result:#}\n")) } else { text(&client, request, &result) }
}

fn text(client: &Client, request: &Request, result: &Value) -> Result<String, ClientError> {
    Ok(match request {
        Request::Hello => format!("vsteer {}\n", client.read::<Hello>(result)?.version),
        Request::PortList => render::ports(&client.read::<Vec<PortInfo>>(result)?),
        Request::PortShow(_) | Request::PortAdd(_) => render::port(&client.read(result)?),
        Request::PortDel(port) => format!("port {} removed\n", port.name),
        Request::FdbShow(_) => render::fdb(&client.read::<Vec<_>>(result)?),
        Request::FdbFlush(_) => render::fdb_flushed(&client.read(result)?),
        Request::RuleAdd(_) | Request::RuleReplace(_) | Request::RuleModify(_) | Request::RuleDelete(_) => {
            render::rules_changed(&client.read(result)?)
        }
        Request::RuleDump(_) => render::rules(&client.read::<Vec<_>>(result)?),
        Request::TableDump => render::tables(&client.read::<Vec<_>>(result)?),
        Request::MirrorList => render::mirrors(&client.read::<Vec<_>>(result)?),
        Request::MirrorAdd(_) => render::mirrors(&[client.read(result)?]),
        Request::MirrorDel(mirror) => format!("mirror {} removed\n", mirror.name),
        Request::CacheShow => render::caches(&client.read(result)?),
        Request::Trace(_) => render::trace(&client.read(result)?),
        Request::Reload => render::reloaded(&client.read(result)?),
        // Answered by a stream: see `watch`.
        Request::Monitor(_) | Request::Top(_) => String::new(),
        Request::FlowDump(_) => render::flows(&client.read(result)?),
        Request::Stats => render::stats(&client.read(result)?),
    })
}
