//! What the rules do with a packet, worked out the plain way: rules are tried one after the other, a lookup within a rule
//! is a call, outputs are frames. A packet that goes through the switch again simply goes on; what each pass did stands or
//! falls by itself.

use vsteer_switch::bridge::config::SwitchConfig;
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::bridge::mirror::MirroredPorts;
use vsteer_switch::bridge::vlan::{PriorityTags, VlanMode};
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::port::PortId;
use vsteer_switch::rule::action::{OutputTo, RuleAction, Subfield};
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::fragments::FragmentMode;
use vsteer_switch::rule::needs::Needs;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::wire::vlan::VlanId;

use crate::plain::{Plain, Tag};

/// What becomes of a packet.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) sent: Vec<(PortId, Vec<u8>)>,
    pub(crate) punted: Vec<Vec<u8>>,
    pub(crate) dropped: Vec<DropReason>,
    /// Times that the packet or a copy of it went through the switch again.
    pub(crate) recirculated: usize,
    /// It went again as something that is read in another way the second time, or so often that bounds for whole bursts
    /// matter, and there is no saying here what becomes of it.
    pub(crate) is_beyond: bool,
}

/// Times that a packet and its copies may go again here; those of a burst stay below the switch's bound for a burst.
const MAX_RECIRCULATED: usize = 50;

/// Passes of a packet, the first included.
const MAX_PASSES: usize = 16;

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
    /// Counts the changes of the packet; a copy that is put away leaves the number that was before.
    version: usize,
    newest: usize,
    /// Which version went to which mirror.
    mirrored: Vec<(usize, usize)>,
    depth: usize,
    lookups: usize,
    dropped: Vec<DropReason>,
    recirculated: usize,
    is_beyond: bool,
    /// Which pass this is, from 0.
    pass: usize,
    /// How much was sent, handed out and dropped before it.
    mark: [usize; 3],
    /// In a copy that went again: what the original goes on with.
    first_left: Option<Left>,
}

/// What holds for the original as its copy leaves for another pass.
struct Left {
    mirrored: Vec<(usize, usize)>,
    why: Option<DropReason>,
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
        version: 0,
        newest: 0,
        mirrored: Vec::new(),
        depth: 0,
        lookups: 0,
        dropped: Vec::new(),
        recirculated: 0,
        is_beyond: false,
        pass: 0,
        mark: [0; 3],
        first_left: None,
    };
    let result = run.all();
    run.end_pass(result);
    let Run { sent, punted, dropped, recirculated, is_beyond, .. } = run;
    Fate { sent, punted, dropped, recirculated, is_beyond }
}

/// A frame inside the switch.
#[derive(Debug, Clone)]
struct Inside {
    vlan: VlanId,
    /// The tag that has its VLAN or its priority.
    own: Option<Tag>,
    /// The tags behind it.
    behind: Vec<Tag>,
    /// It came in by a tunnel, which made its own tag.
    is_of_customer: bool,
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
        if self.config.fragments() == FragmentMode::Drop && self.packet.frag != 0 {
            self.why.get_or_insert(DropReason::Fragment);
            return Ok(());
        }
        self.table(0, None)?;
        self.run_set(0)
    }

    /// Ends a pass. If it failed, nothing of it is done.
    fn end_pass(&mut self, result: Result<(), DropReason>) {
        match result {
            Ok(()) if self.is_delivered => {}
            Ok(()) => self.dropped.push(self.why.unwrap_or(DropReason::RuleDrop)),
            Err(reason) => {
                let [sent, punted, dropped] = self.mark;
                self.sent.truncate(sent);
                self.punted.truncate(punted);
                self.dropped.truncate(dropped);
                self.dropped.push(reason);
            }
        }
    }

    /// Begins another pass; what was done so far is done.
    fn go_again(&mut self) -> Result<(), DropReason> {
        let (mirrored, why, lookups) = (self.mirrored.clone(), self.why, self.lookups);
        self.first_left.get_or_insert(Left { mirrored, why, lookups });
        self.recirculated += 1;
        let limit = self.config.vlan_limit().tags().into();
        self.is_beyond |=
            self.recirculated > MAX_RECIRCULATED || self.packet.is_misread_when_it_returns(limit);
        self.pass += 1;
        self.mark = [self.sent.len(), self.punted.len(), self.dropped.len()];
        (self.is_delivered, self.why, self.lookups, self.depth) = (false, None, 0, 0);
        if self.pass == MAX_PASSES || self.is_beyond { Err(DropReason::TooManyPasses) } else { Ok(()) }
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
        if self.config.fragments() == FragmentMode::Normal && self.packet.frag != 0 {
            (seen.tp_src, seen.tp_dst) = (0, 0);
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
        let (depth, pass) = (self.depth, self.pass);
        self.depth += usize::from(table <= from);
        self.table(table, in_port)?;
        // Each pass counts anew.
        self.depth = if self.pass == pass { depth } else { 0 };
        Ok(())
    }

    /// Takes the steps with a copy of the packet, which starts with an empty stack and an empty action set.
    fn copy(&mut self, steps: &'a [RuleAction], table: u8) -> Result<(), DropReason> {
        let (packet, stack, set) =
            (self.packet.clone(), std::mem::take(&mut self.stack), std::mem::take(&mut self.set));
        let version = self.version;
        let (pass, mark, depth) = (self.pass, self.mark, self.depth);
        let outer = self.first_left.take();
        let mut result = self.steps(steps, table);
        if result.is_ok() && !self.is_over {
            result = self.run_set(table);
        }
        if let Some(left) = std::mem::replace(&mut self.first_left, outer) {
            // The copy went again: what became of it is nothing to the original, for which that is one way of being sent.
            self.end_pass(result);
            (self.pass, self.mark, self.depth, self.is_over) = (pass, mark, depth, false);
            (self.mirrored, self.why, self.lookups) = (left.mirrored, left.why, left.lookups);
            self.is_delivered = true;
        } else {
            result?;
        }
        (self.packet, self.stack, self.set, self.version) = (packet, stack, set, version);
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
            RuleAction::PushVlan(tpid) => self.change(|packet| packet.push_tag(*tpid)),
            RuleAction::PopVlan => {
                if !self.packet.tags.is_empty() {
                    self.change(|packet| {
                        packet.tags.remove(0);
                    });
                }
            }
            RuleAction::ModVlanVid(vid) => self.change(|packet| packet.set_vlan(*vid)),
            RuleAction::ModVlanPcp(pcp) => self.change(|packet| packet.set_priority((*pcp).into())),
            RuleAction::SetField { field, value, mask } => {
                if self.packet.has(field.needs()) {
                    self.write(*field, *value, *mask);
                }
            }
            RuleAction::Move { from, to } => {
                if self.packet.has(from.field.needs()) && self.packet.has(to.field.needs()) {
                    let value = self.read(*from) << to.offset;
                    self.write(to.field, value, (u128::MAX >> (128 - to.bits)) << to.offset);
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
                    self.write(to.field, value << to.offset, mask);
                }
            }
            RuleAction::DecTtl(_) => {
                if self.packet.has(Needs::Ip) {
                    if self.packet.ttl <= 1 {
                        self.why.get_or_insert(DropReason::TtlExceeded);
                        return Ok(Next::Leave);
                    }
                    self.change(|packet| packet.ttl -= 1);
                }
            }
            RuleAction::Clone(steps) => self.copy(steps, table)?,
            RuleAction::DebugRecirc => self.go_again()?,
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

    /// Changes what goes over the wire.
    fn change(&mut self, change: impl FnOnce(&mut Plain)) {
        change(&mut self.packet);
        self.newest += 1;
        self.version = self.newest;
    }

    fn write(&mut self, field: Field, value: u128, mask: u128) {
        match field {
            Field::InPort
            | Field::InPortOxm
            | Field::Metadata
            | Field::ActsetOutput
            | Field::Reg(_)
            | Field::Xreg(_)
            | Field::Xxreg(_) => self.packet.write(field, value, mask),
            Field::VlanTci | Field::VlanVid | Field::VlanPcp => self.write_tag(0, field, value, mask),
            Field::InnerVlanTci | Field::InnerVlanVid | Field::InnerVlanPcp => {
                self.write_tag(1, field, value, mask);
            }
            _ => self.change(|packet| packet.write(field, value, mask)),
        }
    }

    /// Bits of a tag that is not there are not written, and an inner tag is not taken out, so these change nothing.
    fn write_tag(&mut self, nth: usize, field: Field, value: u128, mask: u128) {
        const PRESENT: u128 = 0x1000;
        let mut written = self.packet.clone();
        written.write(field, value, mask);
        let is_there = self.packet.tags.len() > nth || written.tags.len() > nth;
        let takes_inner = nth == 1 && mask & PRESENT != 0 && value & PRESENT == 0;
        if is_there && !takes_inner {
            self.change(|packet| *packet = written);
        }
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

    /// The packet as a frame that arrives at a port, if the port takes it.
    fn arrive(&self, port: PortId) -> Option<Inside> {
        let tags = &self.packet.tags;
        let vid = tags.first().map_or(0, |tag| tag.vid);
        let of_tag = VlanId::new(vid)?;
        let vlan = match &self.config.port(port)?.mode {
            VlanMode::Tunnel { vlan, customers, tpid } => {
                let service = Tag { tpid: *tpid, pcp: 0, vid: vlan.number() };
                return customers.contains(of_tag).then(|| Inside {
                    vlan: *vlan,
                    own: Some(service),
                    behind: tags.clone(),
                    is_of_customer: true,
                });
            }
            VlanMode::Access(own) if vid == 0 => *own,
            VlanMode::Access(_) => return None,
            VlanMode::Native { vlan, .. } if vid == 0 => *vlan,
            VlanMode::Native { vlan, .. } if of_tag == *vlan => *vlan,
            VlanMode::Native { allowed, .. } | VlanMode::Trunk(allowed) if allowed.contains(of_tag) => of_tag,
            VlanMode::Native { .. } | VlanMode::Trunk(_) => return None,
        };
        let behind = tags.get(1..).unwrap_or_default().to_vec();
        let is_contradiction = vid == 0 && (!behind.is_empty() || self.hides_a_tag());
        (!is_contradiction).then(|| Inside {
            vlan,
            own: tags.first().copied(),
            behind,
            is_of_customer: false,
        })
    }

    /// Whether a tag follows those that the switch reads.
    fn hides_a_tag(&self) -> bool {
        matches!(self.packet.eth_type, 0x8100 | 0x88a8)
    }

    /// Whether a frame may leave by a port.
    fn may_leave(&self, inside: &Inside, port: PortId) -> bool {
        let Some(at) = self.config.port(port) else { return false };
        let first_behind = inside.behind.first().map_or(0, |tag| tag.vid);
        let is_single = match inside.is_of_customer {
            false => inside.behind.is_empty(),
            true => first_behind == 0 && inside.behind.len() < 2,
        };
        // An access port minds a tag that rules do not see only in what a tunnel took apart.
        let minds_hidden = match (inside.is_of_customer, &at.mode) {
            (true, _) => !inside.behind.is_empty(),
            (false, mode) => inside.own.is_some() && !matches!(mode, VlanMode::Access(_)),
        };
        let is_plain = is_single && !(minds_hidden && self.hides_a_tag());
        match &at.mode {
            VlanMode::Access(own) => *own == inside.vlan && is_plain,
            VlanMode::Trunk(allowed) => {
                allowed.contains(inside.vlan) && (is_plain || inside.vlan.number() != 0)
            }
            VlanMode::Native { vlan, is_tagged, .. } if *vlan == inside.vlan => *is_tagged || is_plain,
            VlanMode::Native { allowed, .. } => inside.vlan.number() != 0 && allowed.contains(inside.vlan),
            VlanMode::Tunnel { vlan, customers, .. } => {
                *vlan == inside.vlan && VlanId::new(first_behind).is_some_and(|vlan| customers.contains(vlan))
            }
        }
    }

    /// The frame as it looks at a port, member of its VLAN or not.
    fn framed(&self, inside: &Inside, port: PortId) -> Vec<u8> {
        let at = self.config.port(port).expect("a port");
        let is_tagged = match &at.mode {
            VlanMode::Access(_) | VlanMode::Tunnel { .. } => false,
            VlanMode::Trunk(_) => inside.vlan.number() != 0,
            VlanMode::Native { vlan, is_tagged, .. } => *vlan != inside.vlan || *is_tagged,
        };
        let is_tunnel = matches!(at.mode, VlanMode::Tunnel { .. });
        let mut tags = inside.behind.clone();
        let mut tag_of_priority = inside.own;
        if inside.is_of_customer {
            // Its priority tag, if that is all it has.
            tag_of_priority = tags.first().copied().filter(|tag| tag.vid == 0 && !is_tagged && !is_tunnel);
            if tag_of_priority.is_some() {
                tags.remove(0);
            }
        }
        if is_tagged {
            let own = inside.own.unwrap_or(Tag { tpid: 0x8100, pcp: 0, vid: 0 });
            tags.insert(0, Tag { vid: inside.vlan.number(), ..own });
        } else if let Some(Tag { tpid, pcp, vid }) =
            tag_of_priority.filter(|_| tags.is_empty() && !self.hides_a_tag())
        {
            let is_wanted = match at.priority_tags {
                PriorityTags::Never => false,
                PriorityTags::IfNonzero => pcp != 0,
                PriorityTags::Always => true,
            };
            let tpid = if vid == 0 && matches!(at.mode, VlanMode::Trunk(_)) { tpid } else { 0x8100 };
            tags.extend(is_wanted.then_some(Tag { tpid, pcp, vid: 0 }));
        }
        Plain { tags, ..self.packet.clone() }.bytes()
    }

    fn normal(&mut self) {
        let is_reserved = |port| self.config.mirrors().iter().any(|mirror| mirror.output == port);
        let Some(in_port) = self.in_port().filter(|&port| self.config.port(port).is_some()) else {
            return self.nowhere(DropReason::NoEgress);
        };
        if is_reserved(in_port) {
            return self.nowhere(DropReason::MirrorPort);
        }
        let Some(inside) = self.arrive(in_port) else { return self.nowhere(DropReason::VlanNotMember) };
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
        let mac = *destination.to_be_bytes().last_chunk().expect("six bytes");
        let known = if is_group(destination) { None } else { self.fdb.lookup(inside.vlan, mac) };
        if known == Some(in_port) {
            return self.nowhere(DropReason::Hairpin);
        }
        let is_member = |port: PortId| {
            !is_reserved(port) && self.config.port(port).is_some_and(|port| port.mode.carries(inside.vlan))
        };
        let ports: Vec<PortId> = match known.filter(|&port| is_member(port)) {
            Some(port) => vec![port],
            None => {
                let others = self.config.ports().iter().copied();
                others.filter(|&port| port != in_port && is_member(port)).collect()
            }
        };
        let ports: Vec<PortId> = ports.into_iter().filter(|&port| self.may_leave(&inside, port)).collect();
        if ports.is_empty() {
            self.nowhere(DropReason::NoEgress);
        }
        for &port in &ports {
            self.is_delivered = true;
            self.sent.push((port, self.framed(&inside, port)));
        }
        for port in ports {
            self.mirror(port, true, Some(&inside));
        }
    }

    fn mirror(&mut self, port: PortId, is_egress: bool, inside: Option<&Inside>) {
        for (nth, mirror) in self.config.mirrors().iter().enumerate() {
            let selected = if is_egress { &mirror.destinations } else { &mirror.sources };
            let is_selected = match selected {
                MirroredPorts::All => true,
                MirroredPorts::These(ports) => ports.contains(&port),
            };
            let Some(inside) = inside.cloned().or_else(|| self.arrive(port)) else { continue };
            if !is_selected
                || !(mirror.vlans.is_empty() || mirror.vlans.contains(&inside.vlan))
                || self.mirrored.contains(&(self.version, nth))
                || mirror.output == port
                || Some(mirror.output) == self.in_port()
            {
                continue;
            }
            self.mirrored.push((self.version, nth));
            self.sent.push((mirror.output, self.framed(&inside, mirror.output)));
        }
    }
}
