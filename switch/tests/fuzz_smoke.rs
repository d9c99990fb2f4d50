//! A short, repeatable pass of the `extract` fuzz target, for machines without a fuzzer.

use std::collections::HashMap;

#[path = "../../fuzz/src/extract.rs"]
mod extract;

use extract::Outcome;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    /// Control bytes at random, with offloads often as a guest's stack gives them; then a frame that is its template
    /// but for a few bytes.
    fn input(&mut self) -> Vec<u8> {
        let len = match self.below(4) {
            0 => self.below(80),
            1 | 2 => self.below(600),
            _ => self.below(9000),
        };
        let mut input: Vec<u8> = (0..18).map(|_| self.byte()).collect();
        if self.below(2) == 0 {
            // TCP without tags to an IP version that often fits, and the checksum where it belongs.
            let v6 = self.below(2) == 1;
            input[0] = if v6 { 3 } else { 2 };
            input[8] = 2;
            (input[9], input[10]) = (if v6 { 54 } else { 34 }, 16);
            input[15] %= 6;
        }
        input.resize(18 + usize::try_from(len).expect("a short frame"), 0);
        for _ in 0..self.below(4) {
            let at = 18 + usize::try_from(self.below(80)).expect("a short frame");
            if let Some(byte) = input.get_mut(at) {
                *byte = self.next().to_le_bytes()[0];
            }
        }
        input
    }
}

#[test]
fn random_inputs_keep_every_promise_and_reach_every_outcome() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut outcomes: HashMap<Outcome, usize> = HashMap::new();
    for _ in 0..20_000 {
        *outcomes.entry(extract::run(&random.input())).or_default() += 1;
    }
    use vsteer_switch::drop_reason::DropReason::{BadOffload, HeadersTooLong, TooLong};
    for outcome in [
        Outcome::Passed,
        Outcome::Completed,
        Outcome::Segmented,
        Outcome::Refused(BadOffload),
        Outcome::Refused(HeadersTooLong),
        Outcome::Refused(TooLong),
    ] {
        assert!(outcomes.get(&outcome).is_some_and(|&count| count > 20), "{outcome:?} in {outcomes:?}");
    }
    assert_eq!(extract::run(&[0; 17]), Outcome::NoFrame);
}
