//! A short, repeatable pass of the `session` fuzz target, for machines without a fuzzer.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

#[path = "../../fuzz/src/session.rs"]
mod session;

use common::Random;

#[test]
fn seeded_conversations_keep_every_promise() {
    let (mut received, mut transmitted, mut faults) = (0, 0, 0);
    for seed in 0..1500 {
        let mut random = Random(seed);
        let len = random.within(1, 600);
        let mut input: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        // Most conversations begin well, or few would get anywhere.
        input[0] |= u8::from(seed % 8 != 0);
        let outcome = session::run(&input);
        received += outcome.received;
        transmitted += outcome.transmitted;
        faults += u64::from(outcome.faulted);
    }
    assert!(received > 100 && transmitted > 100 && faults > 100, "{received} {transmitted} {faults}");
}
