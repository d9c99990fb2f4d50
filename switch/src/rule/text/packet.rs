//! A packet to trace, in either of two notations: the words of a match, or those of a datapath.

use zerocopy::byteorder::big_endian::U16;

use crate::flow::fields::Fields;
use crate::rule::field::Field;
use crate::rule::port::RulePort;
use crate::wire::MacAddr;
use crate::wire::vlan::TYPE_CUSTOMER;

use super::PortNames;
use super::cursor::{Items, Piece};
use super::error::TextError;
use super::{conditions, datapath};

/// Who sends a packet that is described without its Ethernet source. No station sends from zero, and a learning switch drops
/// what does; this one is locally administered and spells `vstrc`, so that no rule means it by accident.
pub const UNNAMED_SOURCE: MacAddr = [0x02, b'v', b's', b't', b'r', b'c'];

/// The packet that a line of text describes, in the words of a match without masks or in those of a datapath. What is not
/// said is zero, but for the Ethernet source, which is [`UNNAMED_SOURCE`], and the ingress port, which is none; a tag is one
/// of 802.1Q. A packet of `in_port=LOCAL` has [`FROM_LOCAL`](crate::flow::fields::FROM_LOCAL) for its ingress port.
///
/// # Errors
/// It describes none.
pub fn parse_packet(text: &str, names: &dyn PortNames) -> Result<Fields, TextError> {
    let items = Items::of(Piece::whole(text)).collect::<Result<Vec<_>, _>>()?;
    let (known, tpids) = if datapath::is_datapath(&items) {
        datapath::packet_of(&items, names)?
    } else {
        (conditions::packet_of(&items, names)?, [TYPE_CUSTOMER; 2])
    };
    let is_said = |field: Field| known.bits(field).1 != 0;
    let mut fields = *known.value();
    if !is_said(Field::InPort) && !is_said(Field::FromLocal) {
        fields.key.in_port = RulePort::NONE.number().into();
    }
    if !is_said(Field::EthSrc) {
        fields.key.eth_src = UNNAMED_SOURCE;
    }
    for (tag, tpid) in fields.key.vlan.iter_mut().zip(tpids) {
        if tag.is_present() {
            tag.tpid = U16::new(tpid);
        }
    }
    Ok(fields)
}
