//! TAP against the host's own network stack, each test in a network namespace of its own, so that nothing on the
//! machine is touched; and the queue alone over a socket pair, where the host has to misbehave on purpose.
//!
//! The namespace tests need root, TUN/TAP in the kernel and `ip` of iproute2. Without them they fail and say so.

#![allow(unsafe_code, reason = "namespaces, packet sockets and segments over test memory")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of small structures, in the kernel's types")]

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use vsteer_switch::packet::{BURST, Burst, Checksum, Frame, GsoKind, MAX_FRAME_BYTES, Offload, Segment};
use vsteer_switch::port::PortId;

use super::interface::{TapConfig, check_name};
use super::queue::{RxOutcome, TapQueue, TxOutcome};
use super::*;
use crate::port::vnet_header;

const TIMEOUT: Duration = Duration::from_secs(10);
const TAP: &str = "vt0";
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOST_IP: [u8; 4] = [192, 0, 2, 1];
const PEER_IP: [u8; 4] = [192, 0, 2, 2];

/// Runs `test` on a thread that sees an empty network namespace; threads and commands that it starts see the same.
fn in_fresh_netns(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        // SAFETY: unshare takes no pointer, and CLONE_NEWNET concerns this thread alone.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let error = io::Error::last_os_error();
        assert_eq!(result, 0, "this test needs root, to make a network namespace: {error}");
        // Without IPv6 the host says nothing that it was not asked. A kernel without IPv6 has no such file.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with the words of `arguments`, and returns what it prints.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("this test needs `ip` (Debian package iproute2): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Shows this thread a /dev/net/tun that everybody may open, as udev makes it; a machine without udev keeps it for root.
fn let_everybody_open_tun() {
    // SAFETY: unshare takes no pointer, and CLONE_NEWNS concerns this thread alone.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(result, 0, "this test needs root, to make a mount namespace: {}", io::Error::last_os_error());
    let script =
        "mount --make-rprivate / && mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200";
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A TAP interface with the host's address, and the burst that its queues fill.
struct Host {
    uso: bool,
    queues: Vec<TapQueue>,
    burst: Burst,
}

impl Host {
    fn new(config: &TapConfig) -> Self {
        let tap = Tap::open(config).unwrap();
        ip("link set vt0 address 02:00:00:00:00:01");
        ip("addr add 192.0.2.1/24 dev vt0");
        ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev vt0");
        Self { uso: tap.uso(), queues: tap.into_queues(), burst: Burst::new() }
    }

    /// The first frame from the host that `wanted` accepts; others are passed over.
    fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> (Vec<u8>, Offload) {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            for queue in &mut self.queues {
                self.burst.clear();
                let outcome = queue.receiver.fill(PortId::ZERO, &mut self.burst);
                assert_eq!((outcome.bad_offload, outcome.failed), (0, None));
                let frames = (0..self.burst.len()).map(|index| self.burst.frame(index));
                for frame in frames {
                    let bytes = bytes_of(&frame);
                    if wanted(&bytes) {
                        return (bytes, *frame.offload);
                    }
                }
            }
        }
        panic!("the host did not send the frame within {TIMEOUT:?}");
    }

    fn send(&mut self, bytes: &[u8], offload: Offload) -> TxOutcome {
        transmit(&mut self.queues[0], &[bytes], bytes.len(), offload)
    }
}

/// Transmits `frames`, each cut into pieces of `piece_len` bytes.
fn transmit(queue: &mut TapQueue, frames: &[&[u8]], piece_len: usize, offload: Offload) -> TxOutcome {
    let mut burst = Burst::new();
    for frame in frames {
        let segments: Vec<Segment> = frame
            .chunks(piece_len)
            // SAFETY: `frames` outlives the burst.
            .map(|piece| unsafe { Segment::new(piece.as_ptr(), u32::try_from(piece.len()).unwrap()) })
            .collect();
        burst.push(PortId::ZERO, offload, &segments);
    }
    queue.transmitter.transmit((0..burst.len()).map(|index| burst.frame(index)))
}

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0xa5; frame.len()];
    let (head, tail) = bytes.split_at_mut(frame.head.len());
    head.copy_from_slice(frame.head);
    frame.tail.copy_to(tail);
    bytes
}

/// The Internet checksum's sum of `bytes`, not yet inverted.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// The sum over the pseudo-header of an IPv4 frame's transport segment.
fn pseudo_header_sum(frame: &[u8]) -> u16 {
    let transport_len = u16::try_from(frame.len() - 34).unwrap().to_be_bytes();
    sum(&[&frame[26..34], &[0, frame[23]], &transport_len].concat())
}

/// An Ethernet and IPv4 frame from the peer to the host.
fn ipv4_frame(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let total_len = u16::try_from(20 + transport.len()).unwrap().to_be_bytes();
    let mut frame = [&HOST_MAC[..], &PEER_MAC, &[8, 0]].concat();
    frame.extend([0x45, 0, total_len[0], total_len[1], 0, 1, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend([PEER_IP, HOST_IP].concat());
    let checksum = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(transport);
    frame
}

/// A TCP segment from the peer to the host, whose checksum is left to the far end.
fn tcp_frame(
    ports: &[u8],
    seq: u32,
    ack: u32,
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> (Vec<u8>, Offload) {
    let data_offset = u8::try_from((20 + options.len()) / 4).unwrap() << 4;
    let mut segment = ports.to_vec();
    segment.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    segment.extend([data_offset, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    let mut frame = ipv4_frame(6, &segment);
    let pseudo = pseudo_header_sum(&frame);
    frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
    (frame, Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, ..Offload::default() })
}

fn arp_request() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &PEER_MAC, &[8, 6], &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.extend([&PEER_MAC[..], &PEER_IP, &[0; 6], &HOST_IP].concat());
    frame
}

fn is_arp_reply(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[20..22] == [0, 2]
}

fn is_tcp(frame: &[u8]) -> bool {
    frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

#[test]
fn host_answers_arp() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig::new(TAP));
        let sent = host.send(&arp_request(), Offload::default());
        assert_eq!(sent, TxOutcome { pkts: 1, bytes: 42, ..TxOutcome::default() });
        let (reply, offload) = host.receive(is_arp_reply);
        assert_eq!(reply[..6], PEER_MAC);
        assert_eq!(reply[22..32], [&HOST_MAC[..], &HOST_IP].concat());
        assert_eq!(offload, Offload::default());
    });
}

#[test]
fn tcp_crosses_unsegmented_both_ways() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig::new(TAP));
        let from_host: Vec<u8> = (0..=250).cycle().take(14_000).collect();
        let to_host: Vec<u8> = (0..=240).cycle().take(20_000).collect();
        let (sent, expected) = (from_host.clone(), to_host.len());
        let socket = thread::spawn(move || {
            let peer = SocketAddr::from((PEER_IP, 7));
            let mut stream = TcpStream::connect_timeout(&peer, TIMEOUT).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(&sent).unwrap();
            let mut received = vec![0; expected];
            stream.read_exact(&mut received).unwrap();
            received
        });

        let (syn, offload) = host.receive(|frame| is_tcp(frame) && frame[47] == 0x02);
        assert_eq!(offload.checksum, Checksum::Partial { start: 34, offset: 16 });
        assert_eq!(offload.gso, GsoKind::None);
        let next_from_host = be32(&syn[38..]).wrapping_add(1);
        let ports = [&syn[36..38], &syn[34..36]].concat();
        let mss_1460 = [2, 4, 0x05, 0xb4];
        let (syn_ack, offload) = tcp_frame(&ports, 1000, next_from_host, 0x12, &mss_1460, &[]);
        assert_eq!(host.send(&syn_ack, offload).pkts, 1);

        let (data, offload) = host.receive(|frame| is_tcp(frame) && frame.len() > 1514);
        assert_eq!((offload.gso, offload.gso_size, offload.gso_ecn), (GsoKind::TcpV4, 1460, false));
        assert_eq!(offload.checksum, Checksum::Partial { start: 34, offset: 16 });
        assert_eq!(data[50..52], pseudo_header_sum(&data).to_be_bytes(), "only the pseudo-header is summed");
        let at = be32(&data[38..]).wrapping_sub(next_from_host) as usize;
        assert_eq!(data[54..], from_host[at..at + data.len() - 54]);

        let (frame, partial) = tcp_frame(&ports, 1001, next_from_host, 0x18, &[], &to_host);
        let gso = Offload { gso: GsoKind::TcpV4, gso_size: 1460, header_len: 54, ..partial };
        let sent = transmit(&mut host.queues[0], &[&frame], 4096, gso);
        assert_eq!(sent, TxOutcome { pkts: 1, bytes: 20_054, ..TxOutcome::default() });
        assert_eq!(socket.join().unwrap(), to_host);
    });
}

/// From Linux 6.2 on; an older kernel cuts what it sends, and is not given anything uncut.
#[test]
fn datagrams_cross_uncut_both_ways_where_the_kernel_takes_them() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig::new(TAP));
        let socket = UdpSocket::bind(SocketAddr::from((HOST_IP, 9))).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let gso_size: c_int = 1000;
        let len = size_of::<c_int>() as libc::socklen_t;
        // SAFETY: the option is an int, which `gso_size` is, and the kernel keeps no pointer to it.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const gso_size).cast(),
                len,
            )
        };
        assert_eq!(result, 0, "UDP_SEGMENT: {}", io::Error::last_os_error());
        let payload: Vec<u8> = (0..=250).cycle().take(2500).collect();
        socket.send_to(&payload, SocketAddr::from((PEER_IP, 7))).unwrap();
        let is_datagram = |frame: &[u8]| frame.len() > 42 && frame[12..14] == [8, 0] && frame[23] == 17;
        let (frame, offload) = host.receive(is_datagram);
        if !host.uso {
            assert_eq!((frame.len(), offload.gso), (1042, GsoKind::None));
            return;
        }
        assert_eq!(frame[42..], payload);
        assert_eq!((offload.gso, offload.gso_size, offload.gso_ecn), (GsoKind::Udp, 1000, false));
        assert_eq!(offload.checksum, Checksum::Partial { start: 34, offset: 6 });

        let datagram = [&[0, 7, 0, 9], &2508_u16.to_be_bytes()[..], &[0, 0], &payload].concat();
        let mut frame = ipv4_frame(17, &datagram);
        let pseudo = pseudo_header_sum(&frame);
        frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
        let sent = transmit(&mut host.queues[0], &[&frame], 4096, Offload { header_len: 42, ..offload });
        assert_eq!(sent, TxOutcome { pkts: 1, bytes: 2542, ..TxOutcome::default() });
        for part in payload.chunks(1000) {
            let mut received = vec![0; 65_536];
            let (len, _) = socket.recv_from(&mut received).unwrap();
            assert!(received[..len] == *part, "{len} bytes");
        }
    });
}

#[test]
fn without_offloads_the_host_finishes_its_frames() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig { offload: false, ..TapConfig::new(TAP) });
        let socket = thread::spawn(|| {
            TcpStream::connect_timeout(&SocketAddr::from((PEER_IP, 7)), Duration::from_millis(500))
                .unwrap_err()
        });
        let (syn, offload) = host.receive(is_tcp);
        assert_eq!(offload, Offload::default());
        let total = sum(&[&pseudo_header_sum(&syn).to_be_bytes(), &syn[34..]].concat());
        assert_eq!(total, 0xffff, "the checksum is valid");
        socket.join().unwrap();
    });
}

#[test]
fn tail_in_more_pieces_than_one_write_takes_arrives_whole() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig::new(TAP));
        let socket = UdpSocket::bind(SocketAddr::from((HOST_IP, 9))).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let payload: Vec<u8> = (0..=250).cycle().take(30_000).collect();
        let len = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
        let datagram = [&[0, 7, 0, 9], &len[..], &[0, 0], &payload].concat();
        let frame = ipv4_frame(17, &datagram);
        // Tails of 29 pieces, as many as one write takes where they lie, of 30, and of hundreds.
        for piece_len in [1040, 1010, 100, 8] {
            let sent = transmit(&mut host.queues[0], &[&frame], piece_len, Offload::default());
            assert_eq!(sent, TxOutcome { pkts: 1, bytes: 30_042, ..TxOutcome::default() });
            let mut received = vec![0; 65_536];
            let (len, _) = socket.recv_from(&mut received).unwrap();
            assert!(received[..len] == payload, "pieces of {piece_len} bytes");
        }
    });
}

#[test]
fn tagged_frames_keep_their_tags() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig::new(TAP));
        let mut tagged = arp_request();
        tagged.splice(12..12, [0x81, 0x00, 0x20, 0x0a]);
        let socket = PacketSocket::on_tap();

        socket.send(&tagged);
        let (received, offload) = host.receive(|frame| frame[12..14] == [0x81, 0]);
        assert_eq!(received, tagged);
        assert_eq!(offload, Offload::default());

        assert_eq!(host.send(&tagged, Offload::default()).pkts, 1);
        let (received, tci) = socket.receive_from_wire();
        assert_eq!(tci, 0x200a, "the host took the tag off the frame");
        assert_eq!(received, arp_request());
    });
}

#[test]
fn every_queue_carries_frames() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig { queues: 4, ..TapConfig::new(TAP) });
        assert_eq!(host.queues.len(), 4);
        for index in 0..4 {
            let sent = transmit(&mut host.queues[index], &[&arp_request()], 42, Offload::default());
            assert_eq!(sent, TxOutcome { pkts: 1, bytes: 42, ..TxOutcome::default() });
            host.receive(is_arp_reply);
        }
        // The kernel spreads many flows over all queues.
        let socket = UdpSocket::bind(SocketAddr::from((HOST_IP, 0))).unwrap();
        let mut seen = [0_u32; 4];
        for port in 1000..1100 {
            socket.send_to(b"x", SocketAddr::from((PEER_IP, port))).unwrap();
        }
        let deadline = Instant::now() + TIMEOUT;
        while seen.iter().sum::<u32>() < 100 && Instant::now() < deadline {
            for (queue, seen) in host.queues.iter_mut().zip(&mut seen) {
                host.burst.clear();
                *seen += queue.receiver.fill(PortId::ZERO, &mut host.burst).pkts;
            }
        }
        assert_eq!(seen.iter().sum::<u32>(), 100);
        assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
    });
}

#[test]
fn interface_that_is_down_refuses_the_burst_and_takes_the_next_one_up_again() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig::new(TAP));
        let frame = arp_request();
        ip("link set vt0 down");
        let sent = transmit(&mut host.queues[0], &[&frame[..]; 3], 42, Offload::default());
        assert_eq!(sent, TxOutcome { host_refused: 3, ..TxOutcome::default() });
        assert_eq!(sent.host_refused, 3);
        assert_eq!(host.queues[0].receiver.fill(PortId::ZERO, &mut host.burst), RxOutcome::default());
        ip("link set vt0 up");
        let sent = transmit(&mut host.queues[0], &[&frame[..]; 3], 42, Offload::default());
        assert_eq!(sent, TxOutcome { pkts: 3, bytes: 126, ..TxOutcome::default() });
        host.receive(is_arp_reply);
    });
}

#[test]
fn deleted_interface_fails_once_and_stays_quiet() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig::new(TAP));
        ip("link del vt0");
        let queue = &mut host.queues[0];
        let outcome = queue.receiver.fill(PortId::ZERO, &mut host.burst);
        assert_eq!(outcome, RxOutcome { failed: Some(libc::EBADFD), ..RxOutcome::default() });
        queue.receiver.resume();
        assert_eq!(queue.receiver.fill(PortId::ZERO, &mut host.burst), RxOutcome::default());
        assert_eq!(host.send(&arp_request(), Offload::default()).host_refused, 1);
    });
}

#[test]
fn frame_that_the_host_refuses_does_not_cost_the_next_one() {
    in_fresh_netns(|| {
        let mut host = Host::new(&TapConfig::new(TAP));
        let (runt, good) = ([0_u8; 13], arp_request());
        let sent = transmit(&mut host.queues[0], &[&runt, &good], 42, Offload::default());
        assert_eq!(sent, TxOutcome { pkts: 1, bytes: 42, host_refused: 1, ..TxOutcome::default() });
    });
}

#[test]
fn own_interface_goes_and_persistent_one_stays() {
    in_fresh_netns(|| {
        let tap = Tap::open(&TapConfig::new("vt%d")).unwrap();
        assert_eq!((tap.name(), tap.checksum(), tap.tso()), ("vt0", true, true));
        drop(tap);
        // Another test that starts a command holds on to our descriptors for a moment.
        let deadline = Instant::now() + TIMEOUT;
        while ip("-o link").contains("vt0") {
            assert!(Instant::now() < deadline, "the interface outlives its queues");
        }

        ip("tuntap add dev vt0 mode tap");
        let tap = Tap::open(&TapConfig { offload: false, mtu: Some(9000), ..TapConfig::new(TAP) }).unwrap();
        assert_eq!((tap.checksum(), tap.tso()), (false, false));
        let link = ip("-o link show vt0");
        assert!(link.contains("mtu 9000") && link.contains(",UP,"), "{link}");
        drop(tap);
        assert!(ip("-o link").contains("vt0"));
    });
}

#[test]
fn interface_of_another_kind_or_in_use_is_refused() {
    in_fresh_netns(|| {
        let open = |name: &str, queues| Tap::open(&TapConfig { queues, ..TapConfig::new(name) });
        let _tap = open(TAP, 1).unwrap();
        assert!(matches!(open(TAP, 1), Err(TapError::InUse { .. })));
        assert!(matches!(open(TAP, 2), Err(TapError::WrongKind { .. })));
        assert!(matches!(open("lo", 1), Err(TapError::WrongKind { .. })));
    });
}

#[test]
fn mtu_out_of_range_names_the_range() {
    in_fresh_netns(|| {
        // A name of its own for each: another test that starts a command holds on to our descriptors for a moment.
        for mtu in [0, 67, 65_522, u32::MAX] {
            let error = Tap::open(&TapConfig { mtu: Some(mtu), ..TapConfig::new("vt%d") }).unwrap_err();
            assert!(matches!(error, TapError::BadMtu { mtu: named, .. } if named == mtu), "{error}");
            assert!(error.to_string().contains("68 to 65521"), "{error}");
        }
        for mtu in [68, 65_521] {
            Tap::open(&TapConfig { mtu: Some(mtu), ..TapConfig::new("vt%d") }).unwrap();
        }
    });
}

#[test]
fn without_privilege_the_error_says_how_to_make_the_interface() {
    in_fresh_netns(|| {
        const NOBODY: libc::uid_t = 65_534;
        // The library function would change every thread of the process; the system call changes this one.
        // SAFETY: setresuid takes no pointer.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(result, 0);
        let error = Tap::open(&TapConfig { queues: 2, ..TapConfig::new(TAP) }).unwrap_err();
        assert!(matches!(error, TapError::NotPermitted { .. }), "{error}");
        let advice =
            "run as root, or make it beforehand with `ip tuntap add dev vt0 mode tap user USER multi_queue`";
        assert!(error.to_string().contains(advice), "{error}");
    });
}

#[test]
fn user_of_a_persistent_interface_needs_no_privilege() {
    in_fresh_netns(|| {
        let_everybody_open_tun();
        ip("tuntap add dev vt0 mode tap user 65534");
        ip("link set vt0 up");
        // SAFETY: setresuid takes no pointer.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
        assert_eq!(result, 0);
        Tap::open(&TapConfig { mtu: Some(1500), ..TapConfig::new(TAP) }).unwrap();
    });
}

#[test]
fn names_that_linux_refuses_are_refused_with_the_rule() {
    for name in ["", "sixteen-bytes-xx", "a/b", "a:b", "a b", "a\tb", "a\0b", ".", "..", "%s", "%d%d", "100%"]
    {
        let error = Tap::open(&TapConfig::new(name)).unwrap_err();
        assert!(matches!(error, TapError::BadName { .. }), "{name:?}: {error}");
    }
    for name in ["fifteen-bytes-x", "vt0", "vt%d", "vt.10"] {
        assert!(check_name(name).is_ok(), "{name}");
    }
}

#[test]
fn queue_count_out_of_range_names_the_range() {
    for queues in [0, 257] {
        let error = Tap::open(&TapConfig { queues, ..TapConfig::new(TAP) }).unwrap_err();
        assert!(error.to_string().contains("choose 1 to 256"), "{error}");
    }
}

/// A queue whose host is the other end of a socket pair, where a datagram is a frame with its header.
fn queue_over_socket() -> (TapQueue, UnixDatagram) {
    let (ours, host) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (TapQueue::new(OwnedFd::from(ours)), host)
}

#[test]
fn longest_frame_is_read_whole() {
    let (mut queue, host) = queue_over_socket();
    let frame: Vec<u8> = (0..=250).cycle().take(MAX_FRAME_BYTES).collect();
    host.send(&[&[0; vnet_header::LEN], &frame[..]].concat()).unwrap();
    let mut burst = Burst::new();
    let outcome = queue.receiver.fill(PortId::ZERO, &mut burst);
    assert_eq!(outcome, RxOutcome { pkts: 1, bytes: MAX_FRAME_BYTES as u64, ..RxOutcome::default() });
    assert!(bytes_of(&burst.frame(0)) == frame);
}

#[test]
fn frames_of_a_burst_do_not_overlap() {
    let (mut queue, host) = queue_over_socket();
    let frames = [vec![1; 300], vec![2; 52], vec![3; 53], vec![4; 9000], vec![5; 500]];
    for frame in &frames {
        host.send(&[&[0; vnet_header::LEN], &frame[..]].concat()).unwrap();
    }
    let mut burst = Burst::new();
    assert_eq!(queue.receiver.fill(PortId::ZERO, &mut burst).pkts, 5);
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(&bytes_of(&burst.frame(index)), frame);
    }
}

#[test]
fn header_that_does_not_fit_its_frame_is_dropped_and_counted() {
    let (mut queue, host) = queue_over_socket();
    let outside = [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    host.send(&[&outside[..], &[0; 60]].concat()).unwrap();
    host.send(&[0; vnet_header::LEN - 1]).unwrap();
    host.send(&[0; 72]).unwrap();
    let mut burst = Burst::new();
    let outcome = queue.receiver.fill(PortId::ZERO, &mut burst);
    assert_eq!(outcome, RxOutcome { pkts: 1, bytes: 60, bad_offload: 2, failed: None });
    assert_eq!(burst.len(), 1);
}

#[test]
fn fill_leaves_what_the_burst_has_no_room_for() {
    let (mut queue, host) = queue_over_socket();
    let mut burst = Burst::new();
    for _ in 0..BURST - 2 {
        burst.push(PortId::ZERO, Offload::default(), &[]);
    }
    for _ in 0..3 {
        host.send(&[0; 72]).unwrap();
    }
    assert_eq!(queue.receiver.fill(PortId::ZERO, &mut burst).pkts, 2);
    burst.clear();
    assert_eq!(queue.receiver.fill(PortId::ZERO, &mut burst).pkts, 1);
}

#[test]
fn idle_queue_is_not_read_at_each_poll() {
    let (mut queue, host) = queue_over_socket();
    let mut burst = Burst::new();
    assert_eq!(queue.receiver.fill(PortId::ZERO, &mut burst).pkts, 0);
    host.send(&[0; 72]).unwrap();
    assert_eq!(queue.receiver.fill(PortId::ZERO, &mut burst).pkts, 0, "skipped");
    assert_eq!(queue.receiver.fill(PortId::ZERO, &mut burst).pkts, 1);
    burst.clear();
    assert_eq!(queue.receiver.fill(PortId::ZERO, &mut burst).pkts, 0, "read, and empty");
    host.send(&[0; 72]).unwrap();
    queue.receiver.resume();
    assert_eq!(queue.receiver.fill(PortId::ZERO, &mut burst).pkts, 1);
}

#[test]
fn full_host_queue_drops_the_rest_of_the_burst() {
    let (mut queue, host) = queue_over_socket();
    let frame = [7; 1000];
    let mut sent = TxOutcome::default();
    let mut taken = 0;
    // A socket's queue holds some hundred datagrams of this size at most.
    for _ in 0..100 {
        sent = transmit(&mut queue, &[&frame[..]; 8], 1000, Offload::default());
        taken += sent.pkts;
        if sent.host_queue_full > 0 {
            break;
        }
    }
    assert_eq!(sent.pkts + sent.host_queue_full, 8);
    assert_eq!(sent.host_queue_full, 8 - sent.pkts);
    let mut received = [0; 2000];
    for _ in 0..taken {
        assert_eq!(host.recv(&mut received).unwrap(), vnet_header::LEN + 1000);
    }
    host.set_nonblocking(true).unwrap();
    assert!(host.recv(&mut received).is_err(), "nothing more was written");
}

#[test]
fn frame_longer_than_any_port_takes_is_dropped() {
    let (queue, _host) = queue_over_socket();
    let head = vec![0; MAX_FRAME_BYTES + 1];
    let frame = Frame { head: &head, tail: vsteer_switch::packet::Tail::EMPTY, offload: &Offload::NONE };
    assert_eq!(
        queue.transmitter.transmit([frame].into_iter()),
        TxOutcome { too_long: 1, ..TxOutcome::default() }
    );
}

/// A packet socket on the host's side of the TAP interface.
struct PacketSocket(OwnedFd);

impl PacketSocket {
    fn on_tap() -> Self {
        use std::os::fd::FromRawFd;
        let every_protocol = 3_u16.to_be();
        // SAFETY: socket takes no pointer.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, every_protocol.into()) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor was just opened and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = std::ffi::CString::new(TAP).unwrap();
        // SAFETY: the name is a C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: every_protocol,
            sll_ifindex: index.try_into().unwrap(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: `address` is a socket address of `len` bytes.
        let result = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
        assert_eq!(result, 0, "bind: {}", io::Error::last_os_error());
        let settings: [(c_int, c_int, &[u8]); 2] = [
            (libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32.to_ne_bytes()),
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO, &[TIMEOUT.as_secs().to_ne_bytes(), [0; 8]].concat()),
        ];
        for (level, option, value) in settings {
            // SAFETY: `value` is readable for the length given.
            let result =
                unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), value.len() as u32) };
            assert_eq!(result, 0, "setsockopt {option}: {}", io::Error::last_os_error());
        }
        Self(socket)
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: `frame` is readable for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len().cast_signed(), "send: {}", io::Error::last_os_error());
    }

    /// The next frame that came in by the wire, and the tag that the kernel took off it.
    fn receive_from_wire(&self) -> (Vec<u8>, u16) {
        loop {
            let mut bytes = vec![0; 2048];
            let mut control = [0_u64; 8];
            let mut address = [0_u8; size_of::<libc::sockaddr_ll>()];
            let mut piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            // SAFETY: all-zero is a valid message header: no name, no pieces, no control data.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_name = address.as_mut_ptr().cast();
            message.msg_namelen = address.len() as u32;
            message.msg_iov = &raw mut piece;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            // SAFETY: the message points at writable memory of the lengths given.
            let len = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
            bytes.truncate(len.try_into().unwrap_or_else(|_| panic!("{}", io::Error::last_os_error())));
            // The packet type of a sockaddr_ll; what we sent ourselves comes back as outgoing.
            if address[10] == libc::PACKET_OUTGOING {
                continue;
            }
            // A tpacket_auxdata behind its cmsghdr of 16 bytes; the tag control information is at 16 in it.
            let control: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
            return (bytes, u16::from_ne_bytes([control[32], control[33]]));
        }
    }
}
