//! Whose turn it is: a worker's time is shared among its ports by cycles, not by bursts.
//!
//! Packets differ in cost by a factor of hundreds: one that repeats its neighbour's flow takes tens of cycles, one that is
//! searched for in vain among a thousand masks takes ten thousand. If every port had a burst in each round, a guest that
//! sends the dear kind would take the time of all others. So each port has an account of the cycles that its bursts took,
//! and one that is ahead of the port furthest behind sits rounds out until the others have caught up. Packets that wait
//! meanwhile wait in the ring of the guest that sent them.
//!
//! Cycles of searching count several times. Ordinary traffic spends next to none on it, as the exact-match cache knows its
//! flows; traffic that is made to miss, all. It is left with less than a fair share of the time.
//!
//! A turn is short, too: where packets are so dear that a whole burst of them would keep the others waiting, the port gets
//! fewer at once, down to one.
//!
//! A port without packets saves nothing up: when it comes back, it starts level with the one furthest behind.

use vsteer_switch::packet::BURST;

/// Cycles that a port may be ahead: some ordinary bursts, so that ports that cost alike are served in every round.
const LEAD: u64 = 1 << 16;

/// Most cycles that one turn counts for. The dearest burst of packets takes fewer; more is the time of someone else who got
/// the processor meanwhile.
const LONGEST_TURN: u64 = 1 << 20;

/// How many times a cycle of searching counts.
const SEARCH_WEIGHT: u64 = 4;

/// Cycles that a turn shall take at most, by what the port's packets took before.
const TURN: u64 = LEAD;

/// Cycles of a turn that are not its packets': a barrier or two, a lock, a call to the guest. Without them taken off, a port
/// that has a packet now and then would look dear, and have its next burst cut up.
const TURN_OVERHEAD: u64 = 1 << 13;

/// One port's account.
#[derive(Debug, Clone, Copy)]
struct Account {
    /// Cycles that its packets took, counted from when it was last level with the others.
    spent: u64,
    /// Cycles of one of its packets in the last few turns.
    per_packet: u64,
}

/// The accounts of one worker's ports, by their place among its assignments.
#[derive(Debug, Default)]
pub struct Turns {
    accounts: Vec<Account>,
    /// The least account of the ports that had packets in the last round; never goes back.
    level: u64,
    /// The least account of those of this round, so far.
    least: Option<u64>,
}

impl Turns {
    /// Accounts for `ports` ports, all level.
    pub fn new(ports: usize) -> Self {
        Self { accounts: vec![Account { spent: 0, per_packet: 0 }; ports], level: 0, least: None }
    }

    /// How many packets port `nth` may have in this round; 0 if it is to wait.
    #[inline]
    pub fn packets(&mut self, nth: usize) -> usize {
        let Account { spent, per_packet } = self.accounts[nth];
        if spent > self.level + LEAD {
            self.note(spent);
            return 0;
        }
        if per_packet * BURST as u64 <= TURN {
            return BURST;
        }
        usize::try_from(TURN / per_packet).unwrap_or(BURST).clamp(1, BURST)
    }

    /// Port `nth` had `packets` packets, at least one, which took `cycles`, `searching` of them in the tables behind the
    /// exact-match cache.
    #[inline]
    pub fn took(&mut self, nth: usize, packets: usize, cycles: u64, searching: u64) {
        let cycles = cycles.min(LONGEST_TURN);
        let account = &mut self.accounts[nth];
        let premium = searching.min(cycles) * (SEARCH_WEIGHT - 1);
        account.spent = account.spent.max(self.level) + cycles + premium;
        // Up at once, down slowly; a whole burst needs no division.
        let of_packets = cycles.saturating_sub(TURN_OVERHEAD);
        let per_packet =
            if packets == BURST { of_packets / BURST as u64 } else { of_packets / packets.max(1) as u64 };
        account.per_packet = per_packet.max((account.per_packet * 7 + per_packet) / 8);
        let spent = account.spent;
        self.note(spent);
    }

    #[inline]
    fn note(&mut self, spent: u64) {
        self.least = Some(self.least.map_or(spent, |least| least.min(spent)));
    }

    /// The round is over.
    #[inline]
    pub fn end_round(&mut self) {
        if let Some(least) = self.least.take() {
            self.level = self.level.max(least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cycles that each port got of `rounds` rounds in which all had packets of these costs, and its longest turn but for the
    /// first few.
    fn shares(turns: &mut Turns, costs: &[u64], rounds: usize) -> (Vec<u64>, Vec<u64>) {
        let (mut got, mut longest) = (vec![0; costs.len()], vec![0; costs.len()]);
        for round in 0..rounds {
            for (nth, &cost) in costs.iter().enumerate() {
                let packets = turns.packets(nth);
                if packets > 0 {
                    let cycles = cost * packets as u64;
                    turns.took(nth, packets, cycles, 0);
                    got[nth] += cycles;
                    longest[nth] = if round < 99 { 0 } else { cycles.max(longest[nth]) };
                }
            }
            turns.end_round();
        }
        (got, longest)
    }

    #[test]
    fn ports_that_cost_alike_go_in_every_round() {
        let (got, _) = shares(&mut Turns::new(3), &[150, 160, 155], 100);
        assert_eq!(got, [480_000, 512_000, 496_000]);
    }

    #[test]
    fn dear_port_gets_no_more_time_than_the_others_and_takes_it_in_short_turns() {
        let (got, longest) = shares(&mut Turns::new(3), &[150, 9_000, 150], 10_000);
        assert_eq!((got[0], got[2]), (48_000_000, 48_000_000), "the cheap ones never wait");
        assert!((47_000_000..49_000_000).contains(&got[1]), "{got:?}");
        assert!(longest[1] <= TURN + 2 * TURN_OVERHEAD, "{longest:?}");
    }

    #[test]
    fn searching_port_gets_less_than_a_fair_share() {
        let (mut turns, mut got) = (Turns::new(2), [0; 2]);
        for _ in 0..20_000 {
            for (nth, searching) in [(0, 0), (1, 4800)] {
                let packets = turns.packets(nth) as u64;
                if packets > 0 {
                    turns.took(nth, 32, 4800, searching);
                    got[nth] += 4800;
                }
            }
            turns.end_round();
        }
        assert!((3..=5).contains(&(got[0] / got[1])), "{got:?}");
    }

    #[test]
    fn port_that_was_idle_starts_level_with_the_others() {
        let mut turns = Turns::new(2);
        shares(&mut turns, &[150], 1000);
        let (got, _) = shares(&mut turns, &[150, 150], 100);
        assert_eq!(got, [480_000, 480_000], "it saved nothing up");
    }

    #[test]
    fn single_packets_with_a_call_each_leave_the_next_burst_whole() {
        let mut turns = Turns::new(1);
        for _ in 0..100 {
            turns.took(0, 1, 6000, 0);
            turns.end_round();
            assert_eq!(turns.packets(0), BURST);
        }
    }

    #[test]
    fn dear_port_alone_goes_in_every_round() {
        let mut turns = Turns::new(1);
        for _ in 0..100 {
            assert!(turns.packets(0) > 0);
            turns.took(0, 1, 1 << 40, 1 << 40);
            turns.end_round();
        }
    }
}
