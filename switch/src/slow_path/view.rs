//! The packet of a translation: its fields as the rules have changed them so far, which bits of its key that rests on, and
//! what the datapath has yet to be told.
//!
//! Three questions are kept apart, each as a mask over the packet's key. Metadata and registers are always known and never
//! due, because no datapath has them:
//! - Which bits were *looked at*? They become the megaflow's mask.
//! - Which bits are *known* without looking, since rules wrote them or since they are the switch's own? They are no news
//!   about the packet. A bit that is looked at before it is written counts, one that is looked at after does not, so what
//!   was looked at is settled before each write.
//! - Which bits are *due*: changed here, but not yet in the packet as the datapath has it? They become one rewrite when an
//!   output or a punt needs them, and nothing if none does.
//!
//! VLAN tags move when others are pushed and popped. The two that rules see lie in the fields; each remembers from which
//! tag of the key its bits came, and whether the datapath has it already. Tags that pushes moved out of sight wait in
//! `buried`. What the datapath must do is always: pop some tags, rewrite, push the new ones.

use zerocopy::byteorder::big_endian::{U16, U32};

use crate::action::Action;
use crate::edit::rewrite::Rewrite;
use crate::flow::fields::{FROM_LOCAL, Fields};
use crate::flow::key::{FlowKey, KeyTag, Mask, VLAN_PRESENT};
use crate::port::PortId;
use crate::rule::field::Field;
use crate::rule::needs::Needs;
use crate::rule::port::RulePort;
use crate::wire::FRAG_ANY;
use crate::wire::vlan::{PCP, TYPE_CUSTOMER, VID, VlanId, VlanTag, is_tag};

use super::plan::Plan;

/// The bits of a tag that rules see, all of them.
const WHOLE_TAG: KeyTag = KeyTag { tpid: U16::MAX_VALUE, tci: U16::MAX_VALUE };

/// Where a tag stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Which tag of the key its unknown bits are those of; `None` if all are known.
    origin: Option<u8>,
    /// The datapath has yet to push it.
    is_new: bool,
}

/// A tag out of sight.
#[derive(Debug, Clone, Copy)]
struct Buried {
    tag: KeyTag,
    known: KeyTag,
    due: KeyTag,
    place: Place,
}

/// A change of the tags for the outputs that come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagEdit {
    /// Put the outer tag into this VLAN.
    Set(VlanId),
    /// Remove the outer tag.
    Pop,
    /// Insert this one before the others.
    Push(VlanTag),
}

/// The packet of a translation.
///
/// # Invariants
/// 1. A bit of `mask` or `looked` that is not in `known` has its value of the packet's key.
/// 2. Tags that are new lie above all others.
/// 3. `due` is empty, no tag is new and `popped` is zero unless `is_due`.
#[derive(Debug)]
pub(super) struct View {
    fields: Fields,
    known: FlowKey,
    /// Looked at since the last write, by place in `fields`.
    looked: Fields,
    /// Looked at before, by place in the key.
    mask: Mask,
    due: FlowKey,
    places: [Place; 2],
    buried: Vec<Buried>,
    /// Tags that the datapath has yet to pop.
    popped: u32,
    is_due: bool,
    version: u32,
    /// The newest version that there was.
    newest: u32,
    /// The port that rules call `LOCAL`.
    local: Option<PortId>,
    /// Inside a copy, what became of the datapath's packet since the copy was made.
    drift: Option<Box<Drift>>,
}

/// How far the datapath's packet has moved away from what it was when a copy was made: there is but one packet, on which
/// the copy's steps run, and what they changed is undone behind them.
#[derive(Debug, Default)]
struct Drift {
    /// Bits that were rewritten, other than those of tags.
    rewritten: FlowKey,
    /// How many of the outermost tags it had then it has no more.
    lost: usize,
    /// How many tags stand in their place.
    extra: usize,
    /// Bits of each tag it had then that were rewritten, from the outermost on.
    tags: Vec<U16>,
}

impl Drift {
    fn pop(&mut self) {
        match self.extra.checked_sub(1) {
            Some(rest) => self.extra = rest,
            None => self.lost += 1,
        }
    }

    fn push(&mut self) {
        self.extra += 1;
    }

    /// Notes that bits of the tag `nth` from outside were rewritten.
    fn rewrite_tag(&mut self, nth: usize, bits: U16) {
        let Some(nth) = (nth + self.lost).checked_sub(self.extra) else { return };
        if self.tags.len() <= nth {
            self.tags.resize(nth + 1, U16::ZERO);
        }
        self.tags[nth] |= bits;
    }

    /// Adds what became of a copy of the copy.
    fn join(&mut self, inner: &Drift) {
        for (bits, more) in self.rewritten.words_mut().iter_mut().zip(inner.rewritten.words()) {
            *bits |= more;
        }
        (0..inner.lost).for_each(|_| self.pop());
        for (nth, &bits) in inner.tags.iter().enumerate().skip(inner.lost) {
            self.rewrite_tag(nth - inner.lost, bits);
        }
        self.extra += inner.extra;
    }
}

/// A packet, set aside while steps are taken with a copy.
#[derive(Debug)]
pub(super) struct Original {
    fields: Fields,
    known: FlowKey,
    places: [Place; 2],
    buried: Vec<Buried>,
    version: u32,
    drift: Option<Box<Drift>>,
}

impl View {
    /// A packet of which only the ingress port and the pass were looked at: megaflows belong to both. `local` is the port that rules call
    /// `LOCAL`.
    pub(super) fn new(mut fields: Fields, local: Option<PortId>) -> Self {
        let mut mask = Mask::default();
        (mask.0.in_port, mask.0.recirc_id) = (u32::MAX, U32::MAX_VALUE);
        fields.actset_output = RulePort::UNSET.number_oxm().into();
        // A number that no port has must not read as one with the bit of the local port.
        let in_port = u32::from(u16::try_from(fields.key.in_port).unwrap_or(RulePort::NONE.number()));
        let is_local = local.is_some_and(|local| u32::from(local.number()) == in_port);
        fields.key.in_port = if is_local { in_port | FROM_LOCAL } else { in_port };
        Self {
            fields,
            known: FlowKey::default(),
            looked: Fields::NONE,
            mask,
            due: FlowKey::default(),
            places: [0, 1].map(|origin| Place { origin: Some(origin), is_new: false }),
            buried: Vec::new(),
            popped: 0,
            is_due: false,
            version: 0,
            newest: 0,
            local,
            drift: None,
        }
    }

    /// Sets the packet aside: what is done from now on is done with a copy. Nothing is due.
    pub(super) fn set_aside(&mut self) -> Original {
        debug_assert!(
            !self.is_due,
            "what is due is told before, or the copy would do it and the original too"
        );
        Original {
            fields: self.fields,
            known: self.known,
            places: self.places,
            buried: self.buried.clone(),
            version: self.version,
            drift: self.drift.replace(Box::default()),
        }
    }

    /// Ends the copy and goes on with the packet as it was; what the datapath's packet has become meanwhile is due to be
    /// undone.
    pub(super) fn take_back(&mut self, original: Original) {
        self.settle();
        let Original { fields, known, places, buried, version, drift } = original;
        let inner = std::mem::replace(&mut self.drift, drift).unwrap_or_default();
        (self.fields, self.known, self.places, self.buried) = (fields, known, places, buried);
        self.version = version;
        self.due = inner.rewritten;
        // What was not known has to be read from the packet to be written again.
        let rows = inner.rewritten.words().iter().zip(self.known.words());
        for (mask, (rewritten, known)) in self.mask.0.words_mut().iter_mut().zip(rows) {
            *mask |= rewritten & !known;
        }
        self.popped = u32::try_from(inner.extra).unwrap_or(u32::MAX);
        let tags = inner.tags.iter().copied().chain(std::iter::repeat(U16::ZERO));
        let state = tags.enumerate().map(|(nth, bits)| (nth < inner.lost, bits));
        let in_sight = self.places.iter_mut().zip(&mut self.due.vlan);
        let buried = self.buried.iter_mut().rev().map(|tag| (&mut tag.place, &mut tag.due));
        for ((place, due), (is_lost, bits)) in in_sight.chain(buried).zip(state) {
            place.is_new = is_lost;
            *due = KeyTag { tpid: U16::ZERO, tci: if is_lost { U16::ZERO } else { bits } };
        }
        self.is_due = true;
        if let Some(drift) = &mut self.drift {
            drift.join(&inner);
        }
    }

    /// Every bit of the packet's key that was looked at.
    pub(super) fn into_mask(mut self) -> Mask {
        self.settle();
        self.mask
    }

    /// What `look_up` finds in the fields as they are now, with `in_port` in the place of their own; it notes which of them
    /// it looked at. Ports of fragments are hidden from it if `hides_ports`.
    pub(super) fn look_up<T>(
        &mut self,
        in_port: Option<u32>,
        hides_ports: bool,
        look_up: impl FnOnce(&Fields, &mut Fields) -> T,
    ) -> T {
        let (fields, looked) = (&mut self.fields, &mut self.looked);
        let FlowKey { in_port: own_port, tp_src, tp_dst, ip_frag, .. } = fields.key;
        // The ingress port is in every mask, so it does not matter that this one is looked at in its stead.
        fields.key.in_port = in_port.unwrap_or(own_port);
        let is_hidden = hides_ports && ip_frag & FRAG_ANY != 0;
        if is_hidden {
            (fields.key.tp_src, fields.key.tp_dst) = (U16::ZERO, U16::ZERO);
        }
        let before = (looked.key.tp_src, looked.key.tp_dst);
        (looked.key.tp_src, looked.key.tp_dst) = (U16::ZERO, U16::ZERO);
        let found = look_up(fields, looked);
        let ports = &mut looked.key;
        // Whether the ports are hidden decides once they are asked for, and what they are does not if they are.
        if hides_ports && (ports.tp_src != U16::ZERO || ports.tp_dst != U16::ZERO) {
            ports.ip_frag |= FRAG_ANY;
            if is_hidden {
                (ports.tp_src, ports.tp_dst) = (U16::ZERO, U16::ZERO);
            }
        }
        ports.tp_src |= before.0;
        ports.tp_dst |= before.1;
        (fields.key.in_port, fields.key.tp_src, fields.key.tp_dst) = (own_port, tp_src, tp_dst);
        found
    }

    /// Whether the packet is a fragment.
    pub(super) fn is_fragment(&mut self) -> bool {
        self.read(Field::IpFrag, FRAG_ANY.into()) != 0
    }

    /// The fields as they are now.
    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// What no packet has: what rules noted, and the ingress port as they see it.
    pub(super) fn own_fields(&self) -> Fields {
        let key = FlowKey { in_port: self.fields.key.in_port, ..FlowKey::default() };
        Fields { key, ..self.fields }
    }

    /// Makes this, which [`own_fields`](Self::own_fields) told, the ingress port.
    pub(super) fn come_from(&mut self, in_port: u32) {
        self.fields.key.in_port = in_port;
    }

    /// The ingress port, if it is one: rules may write any number.
    pub(super) fn in_port(&self) -> Option<PortId> {
        u16::try_from(self.fields.key.in_port & !FROM_LOCAL).ok().and_then(PortId::new)
    }

    /// Notes where the action set sends the packet.
    pub(super) fn set_actset_output(&mut self, port: RulePort) {
        self.fields.actset_output = port.number_oxm().into();
    }

    /// The ingress port of a packet that came from `port`.
    pub(super) fn ingress(&self, port: RulePort) -> u32 {
        match self.local {
            Some(local) if port == RulePort::LOCAL || port == local.into() => {
                u32::from(local.number()) | FROM_LOCAL
            }
            None if port == RulePort::LOCAL => u32::from(port.number()) | FROM_LOCAL,
            _ => u32::from(port.number()),
        }
    }

    /// The outer tag without its priority.
    pub(super) fn outer_tag(&mut self) -> KeyTag {
        const BITS: u16 = VLAN_PRESENT | VID;
        self.looked.key.vlan[0].tci |= U16::new(BITS);
        let KeyTag { tpid, tci } = self.fields.key.vlan[0];
        KeyTag { tpid, tci: tci & U16::new(BITS) }
    }

    /// Protocol and priority of the outer tag, which is there.
    pub(super) fn outer_protocol_and_priority(&mut self) -> (u16, u16) {
        self.looked.key.vlan[0].tpid = U16::MAX_VALUE;
        self.looked.key.vlan[0].tci |= U16::new(PCP);
        let KeyTag { tpid, tci } = self.fields.key.vlan[0];
        (tpid.get(), tci.get() & PCP)
    }

    /// Whether there is a second tag that rules see.
    pub(super) fn has_inner_tag(&mut self) -> bool {
        self.has_tag(1)
    }

    /// The VLAN number of the second tag, 0 if rules see none.
    pub(super) fn inner_vid(&mut self) -> u16 {
        if !self.has_tag(1) {
            return 0;
        }
        self.looked.key.vlan[1].tci |= U16::new(VID);
        self.fields.key.vlan[1].tci.get() & VID
    }

    /// Whether a tag follows the outer one, be it one that rules see or one that they do not.
    pub(super) fn is_stacked(&mut self) -> bool {
        self.has_tag(1) || self.hides_a_tag()
    }

    /// Whether the tags that rules see are followed by one that they do not see.
    fn hides_a_tag(&mut self) -> bool {
        self.looked.key.eth_type = U16::MAX_VALUE;
        is_tag(self.fields.key.eth_type.get())
    }

    /// Whether the packet seems to have no tag, yet would be read as tagged where it leaves: rules took off the tags that
    /// they see, and there is one more.
    pub(super) fn seems_untagged(&mut self) -> bool {
        !self.has_tag(0) && self.places[0].origin != Some(0) && self.hides_a_tag()
    }

    pub(super) fn source_is_group(&mut self) -> bool {
        self.looked.key.eth_src[0] |= 1;
        self.fields.key.eth_src[0] & 1 != 0
    }

    pub(super) fn source(&mut self) -> [u8; 6] {
        self.looked.key.eth_src = [0xff; 6];
        self.fields.key.eth_src
    }

    /// Whether the destination is one of the sixteen that no bridge forwards (IEEE 802.1Q table 8-1).
    pub(super) fn destination_is_reserved(&mut self) -> bool {
        for (looked, bits) in self.looked.key.eth_dst.iter_mut().zip([0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]) {
            *looked |= bits;
        }
        let [a, b, c, d, e, f] = self.fields.key.eth_dst;
        [a, b, c, d, e, f & 0xf0] == [0x01, 0x80, 0xc2, 0, 0, 0]
    }

    pub(super) fn destination(&mut self) -> [u8; 6] {
        self.looked.key.eth_dst = [0xff; 6];
        self.fields.key.eth_dst
    }

    /// The value of a field, of which the bits of `mask` are looked at.
    pub(super) fn read(&mut self, field: Field, mask: u128) -> u128 {
        if self.fields.key.in_port & FROM_LOCAL != 0 {
            match field {
                Field::InPort => return u128::from(RulePort::LOCAL.number()) & mask,
                Field::InPortOxm => return u128::from(RulePort::LOCAL.number_oxm()) & mask,
                _ => {}
            }
        }
        field.look_at(&mut self.looked, mask);
        field.get(&self.fields) & mask
    }

    /// Whether the packet has what a field needs.
    pub(super) fn meets(&mut self, needs: Needs) -> bool {
        needs.are_met(|field, mask| self.read(field, mask))
    }

    /// Overwrites the bits of a field that `mask` names. The packet has what the field needs.
    pub(super) fn write(&mut self, field: Field, value: u128, mask: u128) {
        #[allow(clippy::cast_possible_truncation, reason = "VLAN fields have 16 bits at most")]
        let tci = |shift: u32| ((value << shift) as u16, (mask << shift) as u16);
        match field {
            Field::VlanTci | Field::VlanVid => self.write_tag(0, tci(0)),
            Field::VlanPcp => self.write_tag(0, tci(13)),
            Field::InnerVlanTci | Field::InnerVlanVid => self.write_tag(1, tci(0)),
            Field::InnerVlanPcp => self.write_tag(1, tci(13)),
            Field::InPort | Field::InPortOxm => {
                let old = self.read(Field::InPort, u128::MAX);
                let number = (old & !mask | value & mask) & Field::InPort.full_mask();
                let number = u32::try_from(number).unwrap_or(0);
                self.fields.key.in_port = RulePort::new(number).map_or(number, |port| self.ingress(port));
            }
            Field::Metadata | Field::ActsetOutput | Field::Reg(_) | Field::Xreg(_) | Field::Xxreg(_) => {
                // The switch's own, which no datapath hears of and which is always known.
                field.set(&mut self.fields, value, mask);
            }
            _ => {
                self.settle();
                field.set(&mut self.fields, value, mask);
                field.look_at_key(&mut self.known, mask);
                field.look_at_key(&mut self.due, mask);
                self.changed();
            }
        }
    }

    /// Puts the outer tag into a VLAN; inserts one if there is none.
    pub(super) fn set_vlan(&mut self, vlan: u16) {
        self.write_tag(0, (VLAN_PRESENT | vlan, VLAN_PRESENT | VID));
    }

    /// Gives the outer tag a priority; inserts one if there is none.
    pub(super) fn set_priority(&mut self, priority: u8) {
        self.write_tag(0, (VLAN_PRESENT | u16::from(priority) << 13, VLAN_PRESENT | PCP));
    }

    /// Inserts an outer tag of VLAN 0 and priority 0, as Open vSwitch does. (OpenFlow 1.3.5 §5.13.1 has those of the tag
    /// behind it.)
    pub(super) fn push_tag(&mut self, tpid: u16) {
        let has_tag = self.has_tag(0);
        self.settle();
        // Behind no tag there is no other.
        if has_tag {
            self.buried.push(Buried {
                tag: self.fields.key.vlan[1],
                known: self.known.vlan[1],
                due: self.due.vlan[1],
                place: self.places[1],
            });
        }
        for key in [&mut self.fields.key, &mut self.known, &mut self.due] {
            key.vlan[1] = key.vlan[0];
        }
        self.places[1] = self.places[0];
        self.fields.key.vlan[0] = KeyTag { tpid: tpid.into(), tci: U16::new(VLAN_PRESENT) };
        self.known.vlan[0] = WHOLE_TAG;
        self.due.vlan[0] = KeyTag::default();
        self.places[0] = Place { origin: None, is_new: true };
        self.changed();
    }

    /// Removes the outer tag; false if there is none.
    pub(super) fn pop_tag(&mut self) -> bool {
        if !self.has_tag(0) {
            return false;
        }
        self.settle();
        if !self.places[0].is_new {
            self.popped += 1;
        }
        let none = Place { origin: None, is_new: false };
        let absent = Buried { tag: KeyTag::default(), known: WHOLE_TAG, due: KeyTag::default(), place: none };
        let risen = self.buried.pop().unwrap_or(absent);
        for (key, tag) in
            [(&mut self.fields.key, risen.tag), (&mut self.known, risen.known), (&mut self.due, risen.due)]
        {
            key.vlan = [key.vlan[1], tag];
        }
        self.places = [self.places[1], risen.place];
        self.changed();
        true
    }

    fn has_tag(&mut self, nth: usize) -> bool {
        self.looked.key.vlan[nth].tci |= U16::new(VLAN_PRESENT);
        self.fields.key.vlan[nth].is_present()
    }

    /// Overwrites bits of a tag, `(value, mask)`. The present bit inserts or removes the outer tag; an inner tag comes and
    /// goes only with the outer one, and bits of a tag that is not there are not written.
    fn write_tag(&mut self, nth: usize, (value, mask): (u16, u16)) {
        let is_there = self.has_tag(nth);
        let stays = if mask & VLAN_PRESENT == 0 { is_there } else { value & VLAN_PRESENT != 0 };
        match (is_there, stays) {
            (true, true) => {}
            (false, true) if nth == 0 => self.push_tag(TYPE_CUSTOMER),
            (true, false) if nth == 0 => {
                self.pop_tag();
                return;
            }
            _ => return,
        }
        let bits = U16::new(mask & !VLAN_PRESENT);
        self.settle();
        let tci = &mut self.fields.key.vlan[nth].tci;
        *tci = *tci & !bits | U16::new(value) & bits;
        self.known.vlan[nth].tci |= bits;
        if !self.places[nth].is_new {
            self.due.vlan[nth].tci |= bits;
        }
        self.changed();
    }

    /// Notes that a rule changed the packet.
    fn changed(&mut self) {
        self.is_due = true;
        self.newest += 1;
        self.version = self.newest;
    }

    /// A number that the packet has as long as no rule changes it, and again when a copy that was changed is put away.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Enters what was looked at since the last write into the mask.
    fn settle(&mut self) {
        let vlan = &mut self.looked.key.vlan;
        for (nth, looked) in std::mem::take(vlan).into_iter().enumerate() {
            note(&mut self.mask, self.places[nth], looked, self.known.vlan[nth]);
        }
        let rows = self.looked.key.words().iter().zip(self.known.words());
        for (mask, (looked, known)) in self.mask.0.words_mut().iter_mut().zip(rows) {
            *mask |= looked & !known;
        }
        // Bits of metadata and registers may stay: they never enter a mask.
        self.looked.key = FlowKey::default();
    }

    /// Tells the datapath what is due.
    pub(super) fn commit(&mut self, plan: &mut Plan) {
        if !self.is_due {
            return;
        }
        self.settle();
        for _ in 0..std::mem::take(&mut self.popped) {
            plan.push(Action::PopVlan);
            self.drift.iter_mut().for_each(|drift| drift.pop());
        }
        // The tags from the outermost on: new ones, then those that the datapath has.
        let mut pushed = Vec::new();
        let (mut values, mut bits) = ([KeyTag::default(); 2], [KeyTag::default(); 2]);
        let mut of_packet = 0;
        let in_sight = (0..2).map(|nth| Buried {
            tag: self.fields.key.vlan[nth],
            known: self.known.vlan[nth],
            due: self.due.vlan[nth],
            place: self.places[nth],
        });
        for tag in in_sight.chain(self.buried.iter().rev().copied()) {
            if tag.place.is_new {
                note(&mut self.mask, tag.place, WHOLE_TAG, tag.known);
                pushed.push(tag.tag.to_frame());
            } else if let (Some(value), Some(due)) = (values.get_mut(of_packet), bits.get_mut(of_packet)) {
                note(&mut self.mask, tag.place, tag.due, tag.known);
                (*value, *due) = (tag.tag, tag.due);
                of_packet += 1;
            }
        }
        if let Some(drift) = &mut self.drift {
            bits.iter().enumerate().for_each(|(nth, bits)| drift.rewrite_tag(nth, bits.tci));
            let rewritten = FlowKey { vlan: Default::default(), ..self.due };
            for (own, more) in drift.rewritten.words_mut().iter_mut().zip(rewritten.words()) {
                *own |= more;
            }
            pushed.iter().for_each(|_| drift.push());
        }
        if bits[0].tci == U16::new(VID)
            && let Some(vlan) = VlanId::new(values[0].tci.get() & VID)
        {
            bits[0].tci = U16::ZERO;
            plan.push(Action::SetVlan(vlan));
        }
        let mask = FlowKey { vlan: bits, ..self.due };
        if mask != FlowKey::default() {
            plan.rewrite(Rewrite::new(&mask, &FlowKey { vlan: values, ..self.fields.key }));
        }
        for tag in pushed.into_iter().rev() {
            plan.push(Action::PushVlan(tag));
        }
        self.due = FlowKey::default();
        self.places.iter_mut().for_each(|place| place.is_new = false);
        for tag in &mut self.buried {
            (tag.due, tag.place.is_new) = (KeyTag::default(), false);
        }
        self.is_due = false;
    }

    /// Has the datapath change the tags for the outputs that come next. Nothing but to undo such changes was due; what the
    /// rules see stays, so that undoing this one, too, is due from now on.
    pub(super) fn edit_tag(&mut self, edit: TagEdit, plan: &mut Plan) {
        match edit {
            TagEdit::Set(vlan) => {
                plan.push(Action::SetVlan(vlan));
                self.drift.iter_mut().for_each(|drift| drift.rewrite_tag(0, U16::new(VID)));
                self.due.vlan[0].tci |= U16::new(VID);
            }
            TagEdit::Pop => {
                plan.push(Action::PopVlan);
                self.drift.iter_mut().for_each(|drift| drift.pop());
                if self.popped > 0 {
                    // The outer one is a tag that was pushed here.
                    self.popped -= 1;
                } else {
                    self.due.vlan[0].tci = U16::ZERO;
                    self.places[0].is_new = true;
                }
            }
            TagEdit::Push(tag) => {
                plan.push(Action::PushVlan(tag));
                self.drift.iter_mut().for_each(|drift| drift.push());
                self.popped += 1;
            }
        }
        self.is_due = true;
    }
}

/// Adds the bits of a tag that are not known to the mask, where they stand in the key.
fn note(mask: &mut Mask, place: Place, bits: KeyTag, known: KeyTag) {
    let Some(origin) = place.origin else { return };
    let tag = &mut mask.0.vlan[usize::from(origin)];
    tag.tpid |= bits.tpid & !known.tpid;
    tag.tci |= bits.tci & !known.tci;
}
