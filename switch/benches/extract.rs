//! Key extraction at each depth, over a burst of equal packets; times are for one packet.
//!
//! The heads lie in the first-level cache, as they do right after an ingress port copied them.

#![allow(unsafe_code, reason = "segments of a burst point into frames that outlive it")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_main};
use vsteer_switch::flow::extract::extract;
use vsteer_switch::flow::key::{Depth, FlowKey};
use vsteer_switch::packet::{BURST, Burst, Offload, Segment};
use vsteer_switch::port::PortId;
use vsteer_switch::wire::vlan::VlanLimit;

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let total_len = u16::try_from(20 + transport.len()).expect("a short packet");
    let mut packet = vec![0x45, 0];
    packet.extend(total_len.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(transport);
    packet
}

fn ipv6(next_header: u8, transport: &[u8]) -> Vec<u8> {
    let payload_len = u16::try_from(transport.len()).expect("a short packet");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(payload_len.to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(transport);
    packet
}

fn frames() -> [(&'static str, Vec<u8>); 3] {
    let mut udp = vec![0x04, 0xd2, 0, 53, 0, 30, 0, 0];
    udp.resize(30, 0x55);
    let mut tcp = vec![0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0];
    tcp.resize(40, 0x55);
    let tags = [0x88, 0xa8, 0, 20, 0x81, 0, 0, 10];
    [
        ("udp4 64 B", [&MACS[..], &[0x08, 0x00], &ipv4(17, &udp)].concat()),
        ("tcp4 two tags", [&MACS[..], &tags, &[0x08, 0x00], &ipv4(6, &tcp)].concat()),
        ("tcp6", [&MACS[..], &[0x86, 0xdd], &ipv6(6, &tcp)].concat()),
    ]
}

fn bench_extract(c: &mut Criterion) {
    for (name, frame) in frames() {
        let mut burst = Burst::new();
        for _ in 0..BURST {
            let len = u32::try_from(frame.len()).expect("a short frame");
            // SAFETY: `frame` outlives `burst`, which was made after it in this scope (condition 1).
            let segment = unsafe { Segment::new(frame.as_ptr(), len) };
            burst.push(PortId::ZERO, Offload::default(), &[segment]);
        }
        let mut keys = [FlowKey::default(); BURST];
        let mut group = c.benchmark_group("extract");
        group.throughput(Throughput::Elements(BURST as u64));
        for depth in [Depth::Link, Depth::Network, Depth::Transport] {
            group.bench_function(BenchmarkId::new(name, format!("{depth:?}")), |b| {
                b.iter(|| {
                    for (packet, key) in black_box(&burst).packets().iter().zip(&mut keys) {
                        if extract(packet, VlanLimit::Two, depth, key).is_err() {
                            unreachable!("the frames are well-formed");
                        }
                    }
                    black_box(&mut keys);
                });
            });
        }
        group.finish();
    }
}

mod group {
    #![allow(missing_docs, reason = "criterion_group makes a public function without documentation")]

    criterion::criterion_group!(benches, super::bench_extract);
}
criterion_main!(group::benches);
