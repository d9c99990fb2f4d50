//! Which number belongs to which port.
//!
//! Rules, megaflows and learned addresses know ports by number, people by name. A number that a name has got stays with it:
//! a port that is removed leaves its number reserved and gets it back when it returns. Until then rules that name it match
//! no packet and send none. Only when all numbers are taken does the one that has been free for longest go to a new name, and never
//! one that a rule still means, so no rule ever comes to mean another port than the one it was written for.

use vsteer_switch::port::{MAX_PORTS, PortId};
use vsteer_switch::rule::text::PortNames;

/// Names of port numbers.
#[derive(Debug, Clone, Default)]
pub struct PortNumbers {
    /// By number.
    names: Vec<Option<Named>>,
    /// Counts releases, to know which came first.
    releases: u64,
}

#[derive(Debug, Clone)]
struct Named {
    name: String,
    /// Since which release no port has it; `None` while one has.
    free_since: Option<u64>,
}

impl PortNumbers {
    /// The number of `name`, if it has one, whether or not the port is there.
    pub fn number(&self, name: &str) -> Option<PortId> {
        let index =
            self.names.iter().position(|named| named.as_ref().is_some_and(|named| named.name == name))?;
        id(index)
    }

    /// The name whose number this is, whether or not the port is there.
    pub fn name(&self, port: PortId) -> Option<&str> {
        self.names.get(port.index())?.as_ref().map(|named| named.name.as_str())
    }

    /// The name of the port with this number in a flow key.
    pub fn name_of_number(&self, number: u32) -> Option<String> {
        let port = u16::try_from(number).ok().and_then(PortId::new)?;
        self.name(port).map(str::to_owned)
    }

    /// Gives `name` its number for a port that comes: its own, one that was never used, or the one that has been free for
    /// longest of which `is_meant` does not say that a rule means it. `None` if there is none.
    pub fn claim(&mut self, name: &str, is_meant: impl Fn(PortId) -> bool) -> Option<PortId> {
        let port = self.number(name).or_else(|| self.unused()).or_else(|| self.longest_free(is_meant))?;
        if self.names.len() <= port.index() {
            self.names.resize(port.index() + 1, None);
        }
        self.names[port.index()] = Some(Named { name: name.to_owned(), free_since: None });
        Some(port)
    }

    /// Notes that the port numbered `port` is gone.
    pub fn release(&mut self, port: PortId) {
        self.releases += 1;
        if let Some(Some(named)) = self.names.get_mut(port.index()) {
            named.free_since = Some(self.releases);
        }
    }

    fn unused(&self) -> Option<PortId> {
        (0..MAX_PORTS).find(|&index| self.names.get(index).is_none_or(Option::is_none)).and_then(id)
    }

    fn longest_free(&self, is_meant: impl Fn(PortId) -> bool) -> Option<PortId> {
        let free = self.names.iter().enumerate().filter_map(|(index, named)| {
            let since = named.as_ref()?.free_since?;
            Some((since, id(index)?))
        });
        free.filter(|&(_, port)| !is_meant(port)).min_by_key(|&(since, _)| since).map(|(_, port)| port)
    }
}

impl PortNames for PortNumbers {
    fn number(&self, name: &str) -> Option<PortId> {
        self.number(name)
    }

    fn name(&self, port: PortId) -> Option<String> {
        self.name(port).map(str::to_owned)
    }
}

fn id(index: usize) -> Option<PortId> {
    u16::try_from(index).ok().and_then(PortId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(numbers: &mut PortNumbers, name: &str) -> u16 {
        numbers.claim(name, |_| false).unwrap().number()
    }

    #[test]
    fn number_comes_back_with_its_name_and_to_nobody_else_while_others_are_unused() {
        let mut numbers = PortNumbers::default();
        assert_eq!(["a", "b", "c"].map(|name| claim(&mut numbers, name)), [0, 1, 2]);
        numbers.release(PortId::new(1).unwrap());
        assert_eq!(numbers.name(PortId::new(1).unwrap()), Some("b"));
        assert_eq!(numbers.number("b"), PortId::new(1));
        assert_eq!(claim(&mut numbers, "d"), 3);
        assert_eq!(claim(&mut numbers, "b"), 1);
        assert_eq!(numbers.number("x"), None);
    }

    #[test]
    fn with_all_numbers_used_the_longest_free_that_no_rule_means_is_given_away() {
        let mut numbers = PortNumbers::default();
        for port in 0..MAX_PORTS {
            claim(&mut numbers, &format!("p{port}"));
        }
        let port = |number| PortId::new(number).unwrap();
        assert_eq!(numbers.claim("new", |_| false), None, "every number has its port");
        for number in [7, 3, 5] {
            numbers.release(port(number));
        }
        assert_eq!(numbers.claim("new", |id| id == port(7)), Some(port(3)));
        assert_eq!(numbers.number("p3"), None);
        assert_eq!(numbers.claim("p5", |_| true), Some(port(5)), "its own number, whatever rules say");
        assert_eq!(numbers.claim("other", |id| id == port(7)), None);
        assert_eq!(numbers.claim("other", |_| false), Some(port(7)));
    }
}
