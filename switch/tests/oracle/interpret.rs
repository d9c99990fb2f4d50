//! What the rules do with a packet, worked out the plain way: rules are tried one after the other, a lookup within a rule
//! is a call, outputs are frames.

use vsteer_switch::bridge::config::SwitchConfig;
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::bridge::mirror::MirroredPorts;
use vsteer_switch::bridge::vlan::VlanMode;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::port::PortId;
use vsteer_switch::rule::action::{OutputTo, RuleAction, Subfield};
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::needs::Needs;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::wire::vlan::VlanId;

use crate::plain::{Plain, Tag};

/// What becomes of a packet.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) sent: Vec<(PortId, Vec<u8>)>,
    pub(crate) punted: Vec<Vec<u8>>,
    pub(crate) dropped: Option<DropReason>,
}

/// What a rule asks of a packet: that these bits of a field, `(value, mask)`, are so.
type Condition = (Field, u128, u128);

/// Rules with their conditions, the best of each table first.
pub(crate) struct Rules<'a>(Vec<(&'a RuleSpec, Vec<Condition>)>);

impl<'a> Rules<'a> {
    pub(crate) fn new(specs: &'a [RuleSpec]) -> Self {
        let fields: Vec<Field> =
            Field::NAMED.iter().copied().chain([Field::FromLocal]).chain((0..32).map(Field::Reg)).collect();
        let mut rules: Vec<_> = specs
            .iter()
            .map(|spec| {
                let parts = fields.iter().map(|&field| (field, spec.matching.field(field)));
                (
                    spec,
                    parts
                        .map(|(field, (value, mask))| (field, value, mask))
                        .filter(|part| part.2 != 0)
                        .collect(),
                )
            })
            .collect();
        // Stable: of equals, the first one given comes first.
        rules.sort_by_key(|(spec, _): &(&RuleSpec, Vec<_>)| std::cmp::Reverse(spec.priority));
        Self(rules)
    }

    fn find(&self, table: u8, packet: &Plain) -> Option<&'a RuleSpec> {
        let mut met = self.met(table, packet).peekable();
        while let Some(first) = met.next() {
            // Rules of one priority: one that is carried out wins over conjunctions.
            let mut group = vec![first];
            while let Some(next) = met.next_if(|next| next.priority == first.priority) {
                group.push(next);
            }
            if let Some(best) = group.iter().find(|spec| !spec.is_conjunctive()) {
                return Some(*best);
            }
            let found =
                complete(group.iter().flat_map(|spec| spec.actions.iter())).into_iter().find_map(|id| {
                    let as_met = Plain { conj_id: id, ..packet.clone() };
                    self.met(table, &as_met).find(|spec| !spec.is_conjunctive())
                });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Every rule of a table that is about the packet, the best one first.
    fn met<'p>(&'p self, table: u8, packet: &'p Plain) -> impl Iterator<Item = &'a RuleSpec> + 'p {
        let is_met = |(field, value, mask): &Condition| packet.read(*field) & mask == *value;
        let of_table =
            self.0.iter().filter(move |(spec, parts)| spec.table == table && parts.iter().all(is_met));
        of_table.map(|(spec, _)| *spec)
    }
}

/// The conjunctions of which these actions name every dimension, in order.
fn complete<'a>(actions: impl Iterator<Item = &'a RuleAction>) -> Vec<u32> {
    let mut named: Vec<(u32, u8, u8)> = actions
        .filter_map(|action| match *action {
            RuleAction::Conjunction { id, dimension, dimensions } => Some((id, dimensions, dimension)),
            _ => None,
        })
        .collect();
    named.sort_unstable();
    named.dedup();
    let same = |a: &(u32, u8, u8), b: &(u32, u8, u8)| (a.0, a.1) == (b.0, b.1);
    named
        .chunk_by(same)
        .filter(|group| group.len() == usize::from(group[0].1))
        .map(|group| group[0].0)
        .collect()
}

struct Run<'a> {
    rules: &'a Rules<'a>,
    config: &'a SwitchConfig,
    fdb: &'a Fdb,
    packet: Plain,
    sent: Vec<(PortId, Vec<u8>)>,
    punted: Vec<Vec<u8>>,
    is_delivered: bool,
    why: Option<DropReason>,
    set: Vec<&'a RuleAction>,
    stack: Vec<u128>,
    /// A rule said that nothing more is done.
    is_over: bool,
    mirrored: Vec<usize>,
    depth: usize,
    lookups: usize,
}

pub(crate) fn fate(packet: &Plain, rules: &Rules<'_>, config: &SwitchConfig, fdb: &Fdb) -> Fate {
    let mut run = Run {
        rules,
        config,
        fdb,
        packet: Plain {
            local: config.local().map(|port| port.number().into()),
            actset_output: 0xffff_fff7,
            ..packet.clone()
        },
        sent: Vec::new(),
        punted: Vec::new(),
        is_delivered: false,
        why: None,
        set: Vec::new(),
        stack: Vec::new(),
        is_over: false,
        mirrored: Vec::new(),
        depth: 0,
        lookups: 0,
    };
    match run.all() {
        Ok(()) => {
            let dropped = (!run.is_delivered).then(|| run.why.unwrap_or(DropReason::RuleDrop));
            Fate { sent: run.sent, punted: run.punted, dropped }
        }
        Err(reason) => Fate { dropped: Some(reason), ..Fate::default() },
    }
}

/// Whether a rule goes on after a step.
#[derive(PartialEq)]
enum Next {
    Step,
    Leave,
}

impl<'a> Run<'a> {
    fn all(&mut self) -> Result<(), DropReason> {
        self.mirror(self.packet.port(), false, None);
        self.table(0, None)?;
        self.run_set(0)
    }

    /// Takes these steps, unless one of them ends them.
    fn steps(
        &mut self,
        actions: impl IntoIterator<Item = &'a RuleAction>,
        table: u8,
    ) -> Result<(), DropReason> {
        for action in actions {
            if self.is_over || self.step(action, table)? == Next::Leave {
                break;
            }
        }
        Ok(())
    }

    /// Carries the action set out.
    fn run_set(&mut self, table: u8) -> Result<(), DropReason> {
        let set = std::mem::take(&mut self.set);
        let last = |wanted: fn(&RuleAction) -> bool| set.iter().copied().rfind(|&action| wanted(action));
        let end = last(|action| matches!(action, RuleAction::Output(_) | RuleAction::Controller { .. }));
        let end = end.or_else(|| last(|action| matches!(action, RuleAction::Resubmit { .. })));
        let Some(end) = end else { return Ok(()) };
        let mut ordered = Vec::new();
        ordered.extend(last(|action| matches!(action, RuleAction::PopVlan)));
        ordered.extend(last(|action| matches!(action, RuleAction::PushVlan(_))));
        ordered.extend(last(|action| matches!(action, RuleAction::DecTtl(_))));
        ordered.extend(set.iter().copied().filter(|action| {
            matches!(
                action,
                RuleAction::SetField { .. }
                    | RuleAction::Move { .. }
                    | RuleAction::ModVlanVid(_)
                    | RuleAction::ModVlanPcp(_)
            )
        }));
        ordered.push(end);
        self.steps(ordered, table)
    }

    /// Looks the packet up and does what the rule says.
    fn table(&mut self, table: u8, in_port: Option<RulePort>) -> Result<(), DropReason> {
        self.lookups += 1;
        let mut seen = self.packet.clone();
        if let Some(port) = in_port {
            seen.come_from(port.number().into());
        }
        match self.rules.find(table, &seen) {
            Some(rule) => self.steps(&rule.actions, table),
            None => {
                self.why.get_or_insert(DropReason::NoRule);
                Ok(())
            }
        }
    }

    fn nested(&mut self, from: u8, table: u8, in_port: Option<RulePort>) -> Result<(), DropReason> {
        if self.depth >= 64 {
            return Err(DropReason::ResubmitTooDeep);
        }
        if self.lookups > 4096 {
            return Err(DropReason::TooManyResubmits);
        }
        let deepens = usize::from(table <= from);
        self.depth += deepens;
        self.table(table, in_port)?;
        self.depth -= deepens;
        Ok(())
    }

    /// Takes the steps with a copy of the packet, which starts with an empty stack and an empty action set.
    fn copy(&mut self, steps: &'a [RuleAction], table: u8) -> Result<(), DropReason> {
        let (packet, stack, set) =
            (self.packet.clone(), std::mem::take(&mut self.stack), std::mem::take(&mut self.set));
        self.steps(steps, table)?;
        if !self.is_over {
            self.run_set(table)?;
        }
        (self.packet, self.stack, self.set) = (packet, stack, set);
        Ok(())
    }

    /// Follows what the action set says of the packet's way.
    fn note_output(&mut self) {
        let mut outputs = self.set.iter().filter_map(|action| match action {
            RuleAction::Output(OutputTo::Port(port)) => Some(u32::from(port.number())),
            RuleAction::Controller { .. } => Some(0xfffd),
            _ => None,
        });
        let number = outputs.next_back().unwrap_or(0xfff7);
        self.packet.actset_output = if number < 0xff00 { number } else { number | 0xffff_0000 };
    }

    fn step(&mut self, action: &'a RuleAction, table: u8) -> Result<Next, DropReason> {
        match action {
            RuleAction::Output(to) => self.output(*to, table)?,
            RuleAction::Controller { .. } => self.hand_out(),
            RuleAction::PushVlan(tpid) => self.packet.push_tag(*tpid),
            RuleAction::PopVlan => {
                if !self.packet.tags.is_empty() {
                    self.packet.tags.remove(0);
                }
            }
            RuleAction::ModVlanVid(vid) => self.packet.set_vlan(*vid),
            RuleAction::ModVlanPcp(pcp) => self.packet.set_priority((*pcp).into()),
            RuleAction::SetField { field, value, mask } => {
                if self.packet.has(field.needs()) {
                    self.packet.write(*field, *value, *mask);
                }
            }
            RuleAction::Move { from, to } => {
                if self.packet.has(from.field.needs()) && self.packet.has(to.field.needs()) {
                    let value = self.read(*from) << to.offset;
                    self.packet.write(to.field, value, (u128::MAX >> (128 - to.bits)) << to.offset);
                }
            }
            RuleAction::Push(from) => {
                if self.stack.len() == 4096 {
                    return Err(DropReason::StackTooDeep);
                }
                let has = self.packet.has(from.field.needs());
                self.stack.push(if has { self.read(*from) } else { 0 });
            }
            RuleAction::Pop(to) => {
                if let Some(value) = self.stack.pop()
                    && self.packet.has(to.field.needs())
                {
                    let mask = (u128::MAX >> (128 - to.bits)) << to.offset;
                    self.packet.write(to.field, value << to.offset, mask);
                }
            }
            RuleAction::DecTtl(_) => {
                if self.packet.has(Needs::Ip) {
                    if self.packet.ttl <= 1 {
                        self.why.get_or_insert(DropReason::TtlExceeded);
                        return Ok(Next::Leave);
                    }
                    self.packet.ttl -= 1;
                }
            }
            RuleAction::Clone(steps) => self.copy(steps, table)?,
            RuleAction::Exit => {
                self.is_over = true;
                self.set.clear();
                return Ok(Next::Leave);
            }
            RuleAction::Enqueue { port, .. } => self.output(OutputTo::Port(*port), table)?,
            RuleAction::SetQueue(_) | RuleAction::PopQueue | RuleAction::Note(_) => {}
            RuleAction::Conjunction { .. } => unreachable!("a rule that is a part is not carried out"),
            RuleAction::Resubmit { in_port, table: to } => {
                self.nested(table, to.unwrap_or(table), *in_port)?;
            }
            RuleAction::WriteMetadata { value, mask } => {
                self.packet.metadata = self.packet.metadata & !mask | value & mask;
            }
            RuleAction::ClearActions => {
                self.set.clear();
                self.note_output();
            }
            RuleAction::WriteActions(actions) => {
                self.set.extend(actions);
                self.note_output();
            }
            RuleAction::GotoTable(to) => self.nested(table, *to, None)?,
        }
        Ok(Next::Step)
    }

    fn read(&self, from: Subfield) -> u128 {
        let value = match from.field {
            Field::InPort => self.packet.ingress_number(),
            field => self.packet.read(field),
        };
        value >> from.offset & u128::MAX >> (128 - from.bits)
    }

    fn in_port(&self) -> Option<PortId> {
        u16::try_from(self.packet.in_port).ok().and_then(PortId::new)
    }

    fn output(&mut self, to: OutputTo, table: u8) -> Result<(), DropReason> {
        let to = match to {
            OutputTo::Port(port) => port,
            OutputTo::Subfield(from) => {
                match u16::try_from(self.read(from)).map(u32::from).map(RulePort::new) {
                    Ok(Some(port)) => port,
                    _ => RulePort::NONE,
                }
            }
        };
        match to {
            RulePort::IN_PORT => match self.in_port() {
                Some(port) => self.send(port),
                None => self.nowhere(DropReason::NoEgress),
            },
            RulePort::TABLE => {
                self.nested(table, 0, None)?;
            }
            RulePort::NORMAL => self.normal(),
            RulePort::ALL | RulePort::FLOOD => {
                let others = self.config.ports().iter().filter(|&&port| Some(port) != self.in_port());
                let others: Vec<_> = others.copied().collect();
                if others.is_empty() {
                    self.nowhere(DropReason::NoEgress);
                }
                others.into_iter().for_each(|port| self.send(port));
            }
            RulePort::CONTROLLER => self.hand_out(),
            RulePort::LOCAL => self.send_unless_back(self.config.local()),
            port => self.send_unless_back(port.port()),
        }
        Ok(())
    }

    fn hand_out(&mut self) {
        self.is_delivered = true;
        self.punted.push(self.packet.bytes());
    }

    fn nowhere(&mut self, reason: DropReason) {
        self.why.get_or_insert(reason);
    }

    fn send_unless_back(&mut self, port: Option<PortId>) {
        match port {
            Some(port) if self.in_port() != Some(port) => self.send(port),
            _ => self.nowhere(DropReason::NoEgress),
        }
    }

    fn send(&mut self, port: PortId) {
        if self.config.port(port).is_none() {
            return self.nowhere(DropReason::NoEgress);
        }
        self.is_delivered = true;
        self.sent.push((port, self.packet.bytes()));
        self.mirror(port, true, None);
    }

    /// The VLAN of the packet as a port sees it, if the port is a member.
    fn vlan_at(&self, port: PortId) -> Option<u16> {
        let vid = self.packet.tags.first().map_or(0, |tag| tag.vid);
        match &self.config.port(port)?.mode {
            VlanMode::Access(own) => (vid == 0 || vid == own.number()).then_some(own.number()),
            VlanMode::Trunk { native, .. } if vid == 0 => native.map(VlanId::number),
            VlanMode::Trunk { native, allowed } => {
                let vlan = VlanId::new(vid)?;
                (*native == Some(vlan) || allowed.contains(vlan)).then_some(vid)
            }
        }
    }

    /// The frame as it leaves by a port in a VLAN; `None` if the port is no member.
    fn framed(&self, port: PortId, vlan: u16) -> Option<Vec<u8>> {
        let mut packet = self.packet.clone();
        let tagged = match &self.config.port(port)?.mode {
            VlanMode::Access(own) if own.number() == vlan => None,
            VlanMode::Access(_) => return None,
            VlanMode::Trunk { native: Some(native), .. } if native.number() == vlan => {
                // A tag that says nothing but a priority may stay.
                if packet.tags.first().is_some_and(|tag| tag.vid == 0) {
                    return Some(packet.bytes());
                }
                None
            }
            VlanMode::Trunk { allowed, .. } => {
                if !allowed.contains(VlanId::new(vlan)?) {
                    return None;
                }
                Some(vlan)
            }
        };
        match (tagged, packet.tags.first_mut()) {
            (None, Some(_)) => {
                packet.tags.remove(0);
            }
            (None, None) => {}
            (Some(vid), Some(tag)) => tag.vid = vid,
            (Some(vid), None) => packet.tags.push(Tag { tpid: 0x8100, pcp: 0, vid }),
        }
        Some(packet.bytes())
    }

    fn normal(&mut self) {
        let is_reserved = |port| self.config.mirrors().iter().any(|mirror| mirror.output == port);
        let Some(in_port) = self.in_port().filter(|&port| self.config.port(port).is_some()) else {
            return self.nowhere(DropReason::NoEgress);
        };
        if is_reserved(in_port) {
            return self.nowhere(DropReason::MirrorPort);
        }
        let Some(vlan) = self.vlan_at(in_port) else { return self.nowhere(DropReason::VlanNotMember) };
        let (source, destination) = (self.packet.eth_src, self.packet.eth_dst);
        let is_group = |mac: u64| mac >> 40 & 1 == 1;
        if is_group(source) {
            return self.nowhere(DropReason::BadSource);
        }
        if destination & !0xf == 0x0180_c200_0000 {
            return self.nowhere(DropReason::ReservedDestination);
        }
        if source == 0 {
            return self.nowhere(DropReason::BadSource);
        }
        let of_vlan = VlanId::new(vlan).expect("a VLAN");
        let mac = *destination.to_be_bytes().last_chunk().expect("six bytes");
        let known = if is_group(destination) { None } else { self.fdb.lookup(of_vlan, mac) };
        if known == Some(in_port) {
            return self.nowhere(DropReason::Hairpin);
        }
        let known = known.filter(|&port| !is_reserved(port) && self.framed(port, vlan).is_some());
        let ports: Vec<PortId> = match known {
            Some(port) => vec![port],
            None => {
                let others = self.config.ports().iter().copied();
                others.filter(|&port| port != in_port && !is_reserved(port)).collect()
            }
        };
        let frames: Vec<_> =
            ports.into_iter().filter_map(|port| Some((port, self.framed(port, vlan)?))).collect();
        if frames.is_empty() {
            self.nowhere(DropReason::NoEgress);
        }
        for (port, frame) in &frames {
            self.is_delivered = true;
            self.sent.push((*port, frame.clone()));
        }
        for (port, _) in frames {
            self.mirror(port, true, Some(vlan));
        }
    }

    fn mirror(&mut self, port: PortId, is_egress: bool, vlan: Option<u16>) {
        for (nth, mirror) in self.config.mirrors().iter().enumerate() {
            let selected = if is_egress { &mirror.destinations } else { &mirror.sources };
            let is_selected = match selected {
                MirroredPorts::All => true,
                MirroredPorts::These(ports) => ports.contains(&port),
            };
            let own = || VlanId::new(self.packet.tags.first().map_or(0, |tag| tag.vid)).map(VlanId::number);
            let vlan = vlan.or_else(|| self.vlan_at(port)).or_else(own);
            let is_in_vlan = mirror.vlans.is_empty()
                || vlan.is_some_and(|vlan| mirror.vlans.iter().any(|wanted| wanted.number() == vlan));
            if !is_selected
                || !is_in_vlan
                || self.mirrored.contains(&nth)
                || mirror.output == port
                || Some(mirror.output) == self.in_port()
            {
                continue;
            }
            self.mirrored.push(nth);
            let frame = vlan.and_then(|vlan| self.framed(mirror.output, vlan));
            self.sent.push((mirror.output, frame.unwrap_or_else(|| self.packet.bytes())));
        }
    }
}
