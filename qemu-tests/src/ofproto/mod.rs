//! The same rules and packets given to Open vSwitch and to the switch under test, and their verdicts compared.
//!
//! ```text
//! random.rs -> rules.rs   a rule set, in ovs-ofctl's words, out of small pools of values
//!           -> packet.rs  packets out of the same pools, so that rules meet them
//!           -> frame.rs   frames out of the same pools, as bytes, right and wrong ones
//! peer.rs                 a private Open vSwitch on its dummy datapath, asked by `ofproto/trace`
//! subject.rs              vsteer, asked by `trace`
//! flow_text.rs            how either says it reads a frame, as headers
//! effect.rs               what either says it would do, executed on the packet's headers
//! ```
//!
//! A verdict is the list of packets that leave: port, tags, header values. How a switch got there (tables, order of
//! rewriting, masks) is not compared; the oracle tests of `switch/` hold masks to account.

/// Repeatable choices.
pub mod random;

/// Headers of a packet, and random ones.
pub mod packet;

/// Random frames, as bytes.
pub mod frame;

/// How a switch says it reads a frame.
pub mod flow_text;

/// Random rule sets.
pub mod rules;

/// Datapath actions, executed on headers.
pub mod effect;

/// Open vSwitch, as the one that knows.
pub mod peer;

/// The switch under test.
pub mod subject;
