//! `vsteer ctl fdb`: show, flush.

use clap::Args;
use serde::{Deserialize, Serialize};
use vsteer_switch::wire::vlan::VlanId;

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Sending};
use super::table::{Table, duration};
use crate::appliance::Appliance;
use crate::appliance::addresses::AddressFilter;
use crate::appliance::refusal::Refusal;
use crate::flow_text::mac_text;

pub(super) const FAMILY: Family = Family::Group {
    word: "fdb",
    about: "Learned addresses",
    commands: &[Entry::call::<Show>(), Entry::call::<Flush>()],
};

/// Which entries of the forwarding database are meant; `None` means any.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Only those of this port
    #[arg(long, value_name = "NAME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    /// Only those of this VLAN; 0 is untagged
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(0..=4094))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
}

impl Filter {
    /// The filter in the switch's terms.
    fn addresses(&self) -> Result<AddressFilter<'_>, Refusal> {
        let vlan = self.vlan.map(|number| {
            VlanId::new(number).ok_or_else(|| {
                Refusal::invalid(format!("vlan {number}: no such VLAN; use 0 (untagged) to 4094"))
            })
        });
        Ok(AddressFilter { port: self.port.as_deref(), vlan: vlan.transpose()? })
    }
}

/// An entry of the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FdbEntry {
    /// VLAN; 0 is untagged.
    vlan: u16,
    /// Address, as `52:54:00:00:00:01`.
    mac: String,
    /// Name of the port behind which it is.
    port: String,
    /// Seconds since it was last seen.
    age_s: u64,
    /// Configured rather than learned; does not age.
    #[serde(rename = "static")]
    is_static: bool,
}

/// What a flush removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Flushed {
    /// Number of entries.
    removed: u64,
}

/// Show learned and static addresses
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    filter: Filter,
}

impl Command for Show {
    const WORD: &'static str = "show";
    const METHOD: &'static str = "fdb_show";
    type Params = Filter;
    type Reply = Vec<FdbEntry>;

    fn params(self) -> Result<Filter, CtlError> {
        Ok(self.filter)
    }

    fn carry_out(appliance: &Appliance, filter: Filter) -> Result<Sending<Self::Reply>, Refusal> {
        let addresses = appliance.addresses(filter.addresses()?)?;
        let numbers = appliance.port_numbers();
        Ok(Sending::rows(addresses.into_iter().map(move |address| {
            let entry = address.entry;
            FdbEntry {
                vlan: entry.vlan.number(),
                mac: mac_text(entry.mac),
                port: numbers.name(entry.port).map_or_else(|| entry.port.to_string(), str::to_owned),
                age_s: address.age_s,
                is_static: entry.is_static,
            }
        })))
    }

    fn text(_: &Filter, entries: &Self::Reply) -> String {
        let mut table = Table::new([">VLAN", "MAC", "PORT", ">AGE"]);
        for entry in entries {
            let age = if entry.is_static { "static".to_owned() } else { duration(entry.age_s * 1000) };
            table.row([entry.vlan.to_string(), entry.mac.clone(), entry.port.clone(), age]);
        }
        table.finish("no addresses learned")
    }
}

/// Forget learned addresses
#[derive(Debug, Args)]
struct Flush {
    #[command(flatten)]
    filter: Filter,
}

impl Command for Flush {
    const WORD: &'static str = "flush";
    const METHOD: &'static str = "fdb_flush";
    type Params = Filter;
    type Reply = Flushed;

    fn params(self) -> Result<Filter, CtlError> {
        Ok(self.filter)
    }

    fn carry_out(appliance: &Appliance, filter: Filter) -> Result<Sending<Flushed>, Refusal> {
        let removed = appliance.forget_addresses(filter.addresses()?)? as u64;
        Ok(Flushed { removed }.into())
    }

    fn text(_: &Filter, flushed: &Flushed) -> String {
        match flushed.removed {
            1 => "1 address forgotten\n".to_owned(),
            removed => format!("{removed} addresses forgotten\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Filter = Filter { port: None, vlan: None };

    #[test]
    fn addresses_have_one_line_each() {
        let learned = FdbEntry {
            vlan: 10,
            mac: "52:54:00:00:00:01".into(),
            port: "vm0".into(),
            age_s: 5,
            is_static: false,
        };
        let fixed = FdbEntry { vlan: 0, port: "host".into(), is_static: true, ..learned.clone() };
        assert_eq!(
            Show::text(&ANY, &vec![learned, fixed]),
            "\
VLAN  MAC                PORT     AGE
  10  52:54:00:00:00:01  vm0     5.0s
   0  52:54:00:00:00:01  host  static
"
        );
        assert_eq!(Show::text(&ANY, &vec![]), "no addresses learned\n");
        assert_eq!(Flush::text(&ANY, &Flushed { removed: 1 }), "1 address forgotten\n");
    }
}
