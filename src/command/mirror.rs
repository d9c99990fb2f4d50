//! `vsteer ctl mirror`: list, add, del.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Sending};
use super::table::Table;
use crate::appliance::Appliance;
use crate::appliance::mirrors::MirrorReport;
use crate::appliance::refusal::Refusal;
use crate::config::MirrorSpec;
use crate::control::protocol::NoParams;

pub(super) const FAMILY: Family = Family::Group {
    word: "mirror",
    about: "Mirrors",
    commands: &[Entry::call::<List>(), Entry::call::<Add>(), Entry::call::<Del>()],
};

/// A mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MirrorInfo {
    /// Its name.
    name: String,
    /// Ports whose packets are mirrored as they come in: names joined by `+`, `all`, or nothing.
    src: String,
    /// Ports whose packets are mirrored as they go out.
    dst: String,
    /// Only packets of these VLANs; `None` is any.
    vlans: Option<String>,
    /// The port that gets the copies.
    output: String,
    /// Whether the output port is there. Without it nothing is mirrored.
    active: bool,
}

impl From<MirrorReport> for MirrorInfo {
    fn from(MirrorReport { spec, is_active }: MirrorReport) -> Self {
        Self {
            src: spec.src.to_string(),
            dst: spec.dst.to_string(),
            vlans: spec.vlans.as_ref().map(ToString::to_string),
            name: spec.name,
            output: spec.output,
            active: is_active,
        }
    }
}

/// List all mirrors
#[derive(Debug, Args)]
struct List {}

impl Command for List {
    const WORD: &'static str = "list";
    const METHOD: &'static str = "mirror_list";
    type Params = NoParams;
    type Reply = Vec<MirrorInfo>;

    fn params(self) -> Result<NoParams, CtlError> {
        Ok(NoParams {})
    }

    fn carry_out(appliance: &Appliance, _: NoParams) -> Result<Sending<Self::Reply>, Refusal> {
        Ok(Sending::rows(appliance.mirrors().into_iter().map(MirrorInfo::from)))
    }

    fn text(_: &NoParams, mirrors: &Self::Reply) -> String {
        table(mirrors)
    }
}

/// Add a mirror: NAME,src=PORT+PORT,dst=PORT+PORT,vlan=ID+ID-ID,output=PORT
#[derive(Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    /// The mirror, as in run --mirror
    spec: String,
}

impl Command for Add {
    const WORD: &'static str = "add";
    const METHOD: &'static str = "mirror_add";
    type Params = Self;
    type Reply = MirrorInfo;

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    fn carry_out(appliance: &Appliance, Self { spec }: Self) -> Result<Sending<MirrorInfo>, Refusal> {
        let spec =
            MirrorSpec::parse("mirror add", &spec).map_err(|error| Refusal::invalid(error.to_string()))?;
        Ok(MirrorInfo::from(appliance.add_mirror(spec)?).into())
    }

    fn text(_: &Self, mirror: &MirrorInfo) -> String {
        table(std::slice::from_ref(mirror))
    }
}

/// Remove a mirror
#[derive(Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Del {
    /// The mirror's name
    name: String,
}

impl Command for Del {
    const WORD: &'static str = "del";
    const METHOD: &'static str = "mirror_del";
    type Params = Self;
    type Reply = ();

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    fn carry_out(appliance: &Appliance, Self { name }: Self) -> Result<Sending<()>, Refusal> {
        appliance.delete_mirror(&name).map(Sending::from)
    }

    fn text(Self { name }: &Self, (): &()) -> String {
        format!("mirror {name} removed\n")
    }
}

/// Mirrors, one a line.
fn table(mirrors: &[MirrorInfo]) -> String {
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut table = Table::new(["NAME", "FROM", "TO", "VLAN", "OUTPUT", "STATE"]);
    for mirror in mirrors {
        table.row([
            mirror.name.clone(),
            or_none(&mirror.src),
            or_none(&mirror.dst),
            mirror.vlans.clone().unwrap_or("any".to_owned()),
            mirror.output.clone(),
            if mirror.active { "active" } else { "output port is gone" }.to_owned(),
        ]);
    }
    table.finish("no mirrors; add one with vsteer ctl mirror add NAME,src=PORT,output=PORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_have_one_line_each() {
        let mirror = MirrorInfo {
            name: "spy".into(),
            src: "vm0+vm1".into(),
            dst: String::new(),
            vlans: None,
            output: "vm2".into(),
            active: true,
        };
        assert_eq!(
            table(&[mirror]),
            "NAME  FROM     TO  VLAN  OUTPUT  STATE\nspy   vm0+vm1  -   any   vm2     active\n"
        );
    }
}
