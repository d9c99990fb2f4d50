//! The protocol: what each message of a front-end means, and what it is answered.
//!
//! A front-end is served as the other back-ends serve it, in any state: DPDK's vhost library and libvhost-user, which the
//! deployed front-ends were tried with, take nearly every message at any time, and so does this. What cannot be done is
//! refused: where the front-end asked whether it was (VHOST_USER_NEED_REPLY, whether or not REPLY_ACK was negotiated) it is
//! told so and may go on, otherwise it is cut off, since it would go on in the belief that the thing was done.
//!
//! | message | what we do | where we are not alone |
//! |---|---|---|
//! | GET_FEATURES, GET_PROTOCOL_FEATURES | answer, any time | |
//! | SET_FEATURES | unknown bits are refused; without PROTOCOL_FEATURES rings start enabled | DPDK |
//! | SET_PROTOCOL_FEATURES | note what is known of it | libvhost-user |
//! | SET_OWNER | take it, any number of times | both do nothing |
//! | RESET_OWNER, RESET_DEVICE | stop and disable rings; the first forgets the features | DPDK; libvhost-user disables |
//! | GET_QUEUE_NUM | the number of queue *pairs*, asked for MQ or not | DPDK; QEMU compares it with its own pairs |
//! | GET_MAX_MEM_SLOTS | answer | both |
//! | SET_MEM_TABLE | room for more regions than there are, any number of them, none included | both |
//! | ADD_MEM_REG, REM_MEM_REG | rings that lose their memory wait for it to come back: `memory_map.rs` | both translate rings anew |
//! | SET_LOG_BASE | needs its descriptor; covers all memory, or is refused | both |
//! | SET_LOG_FD | taken and closed: we send nothing by it | DPDK |
//! | SET_BACKEND_REQ_FD | kept open, since a front-end may take its end for our end: we send nothing by it | DPDK |
//! | SET_VRING_NUM, _BASE, _ADDR | noted, before memory and while the ring runs: `device.rs` | both |
//! | SET_VRING_KICK | starts the ring, without a descriptor too | both |
//! | SET_VRING_CALL, _ERR | replaced, any time | both |
//! | SET_VRING_ENABLE | any time, before features and without PROTOCOL_FEATURES; anything but 0 is 1 | both |
//! | GET_VRING_BASE | stops the ring; one that never ran goes on at the base that was set, or 0 | both |
//! | VRING_KICK | taken for a kick | libvhost-user |
//! | SEND_RARP | `announcement.rs` | DPDK |
//! | NET_SET_MTU | an impossible MTU is refused; guests' frames are bounded by the port | DPDK |
//! | SET_STATUS, GET_STATUS | noted and told | DPDK |
//! | GET_CONFIG, SET_CONFIG | our space for front-ends that have none (`control.rs`); writing changes nothing | |
//! | GET_INFLIGHT_FD, SET_INFLIGHT_FD | there is no such memory; taken and closed | |
//! | SET_VRING_ENDIAN | little is what rings are; big is refused | |
//! | SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE | answered that there is no state | |
//! | GET_SHMEM_CONFIG | answered that there are no regions | |
//! | everything else | refused: IOTLB_MSG, crypto, postcopy, GPU and shared objects are of features not offered | both |
//!
//! Some messages only ask, or are about the conversation: a connection may say them and be nobody yet. With any other it
//! becomes the port's front-end (`claims`), and there is one of those at a time.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::message::{
    FrontendReq, VhostUserInflight, VhostUserLog, VhostUserProtocolFeatures, VhostUserVringState,
};
use vm_memory::ByteValued;

use super::device::Device;
use super::message::{MAX_BODY_BYTES, Message, Refusal};
use crate::memory::MAX_REGIONS;
use crate::net::control;
use crate::net::features::{Configuration, told, told_protocol};
use crate::net::port::VhostPort;

/// SET_DEVICE_STATE_FD failed, and no descriptor comes back.
const NO_DEVICE_STATE: u64 = 0x101;

/// What a message is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// That it was done, if the front-end asks.
    Done,
    /// This.
    Body(Vec<u8>),
}

impl Answer {
    fn number(value: u64) -> Self {
        Self::Body(value.to_ne_bytes().to_vec())
    }

    fn value(value: &impl ByteValued) -> Self {
        Self::Body(value.as_slice().to_vec())
    }
}

/// Whether the message makes the connection that sends it the port's front-end.
pub(super) fn claims(request: FrontendReq) -> bool {
    !matches!(
        request,
        FrontendReq::GET_FEATURES
            | FrontendReq::GET_PROTOCOL_FEATURES
            | FrontendReq::SET_PROTOCOL_FEATURES
            | FrontendReq::GET_QUEUE_NUM
            | FrontendReq::GET_MAX_MEM_SLOTS
            | FrontendReq::GET_CONFIG
            | FrontendReq::GET_STATUS
            | FrontendReq::GET_SHMEM_CONFIG
    )
}

/// What a connection has said of itself.
#[derive(Debug)]
pub(super) struct Conversation {
    port: Arc<VhostPort>,
    /// Who keeps the configuration space. QEMU begins by asking for features, and front-ends that leave configuration and
    /// control queue to the back-end begin by SET_OWNER.
    configuration: Option<Configuration>,
    protocol: VhostUserProtocolFeatures,
    status: u8,
    /// The channel for requests of ours, of which there are none.
    backend_channel: Option<OwnedFd>,
    /// It was told how many queue pairs there are and has not gone on since.
    pub(super) is_told_pairs: bool,
}

impl Conversation {
    pub(super) fn new(port: Arc<VhostPort>) -> Self {
        Self {
            port,
            configuration: None,
            protocol: VhostUserProtocolFeatures::empty(),
            status: 0,
            backend_channel: None,
            is_told_pairs: false,
        }
    }

    /// Serves a message that only asks, or `None` if it does more: then [`serve`](Self::serve) does.
    pub(super) fn answer(&mut self, message: &Message) -> Option<Result<Answer, Refusal>> {
        let is_first = self.configuration.is_none();
        if is_first {
            let asks_first = message.request == FrontendReq::GET_FEATURES;
            self.configuration = Some(if asks_first { Configuration::Own } else { Configuration::Ours });
        }
        let configuration = self.configuration.unwrap_or(Configuration::Own);
        let pairs = self.port.queue_pairs() as u64;
        Some(match message.request {
            FrontendReq::GET_FEATURES => {
                Ok(Answer::number(told(self.port.options().offloads, configuration)))
            }
            FrontendReq::GET_PROTOCOL_FEATURES => Ok(Answer::number(told_protocol(configuration).bits())),
            FrontendReq::SET_PROTOCOL_FEATURES => message.number().map(|features| {
                self.protocol =
                    VhostUserProtocolFeatures::from_bits_truncate(features) & told_protocol(configuration);
                Answer::Done
            }),
            FrontendReq::GET_QUEUE_NUM => {
                self.is_told_pairs = true;
                Ok(Answer::number(pairs))
            }
            FrontendReq::GET_MAX_MEM_SLOTS => Ok(Answer::number(MAX_REGIONS as u64)),
            FrontendReq::GET_CONFIG => self.configuration_space(message),
            FrontendReq::GET_STATUS => Ok(Answer::number(self.status.into())),
            // No regions, their number padded to 64 bits, and the sizes of 256.
            FrontendReq::GET_SHMEM_CONFIG => Ok(Answer::Body(vec![0; 8 + 256 * 8])),
            _ => return None,
        })
    }

    /// Queue pairs in the configuration space, if the front-end goes by ours: one for a front-end that knows of no more.
    pub(super) fn pairs_told(&self) -> Option<u16> {
        let all = u16::try_from(self.port.queue_pairs()).unwrap_or(u16::MAX);
        let pairs = if self.protocol.contains(VhostUserProtocolFeatures::MQ) { all } else { 1 };
        (self.configuration == Some(Configuration::Ours)).then_some(pairs)
    }

    fn configuration_space(&self, message: &Message) -> Result<Answer, Refusal> {
        let asked = message.configuration()?;
        let (offset, len) = (asked.offset as usize, asked.size as usize);
        let mut body = asked.as_slice().to_vec();
        // A piece that does not fit a message is answered by none, which is how this message says that it failed.
        if body.len() + len <= MAX_BODY_BYTES {
            body.extend(control::configuration(self.pairs_told().unwrap_or(1), offset, len));
            return Ok(Answer::Body(body));
        }
        Ok(Answer::Body(Vec::new()))
    }

    /// Serves a message of the port's front-end.
    ///
    /// # Errors
    /// Why it cannot be served.
    pub(super) fn serve(&mut self, message: &mut Message, device: &mut Device) -> Result<Answer, Refusal> {
        if let Some(answer) = self.answer(message) {
            return answer;
        }
        let request = message.request;
        if !matches!(request, FrontendReq::ADD_MEM_REG | FrontendReq::REM_MEM_REG) {
            // Whatever comes now goes by memory as the front-end sees it.
            device.expire_memory()?;
        }
        device.set_pairs_told(self.pairs_told());
        match request {
            FrontendReq::SET_FEATURES => {
                self.is_told_pairs = false;
                device.set_features(message.number()?)?;
            }
            FrontendReq::SET_OWNER => {}
            FrontendReq::RESET_OWNER => device.reset(true),
            FrontendReq::RESET_DEVICE => device.reset(false),
            FrontendReq::SET_MEM_TABLE => device.set_memory(message.memory_table()?)?,
            FrontendReq::ADD_MEM_REG => {
                let region = message.memory_region()?;
                device.add_memory(&region, message.descriptor()?)?;
            }
            FrontendReq::REM_MEM_REG => device.remove_memory(&message.memory_region()?)?,
            FrontendReq::SET_LOG_BASE => {
                let log: VhostUserLog = message.log()?;
                device.set_log(&log, message.descriptor()?)?;
                return Ok(Answer::value(&log));
            }
            // Taken, and closed with the message.
            FrontendReq::SET_LOG_FD | FrontendReq::SET_INFLIGHT_FD => {}
            FrontendReq::SET_BACKEND_REQ_FD => self.backend_channel = Some(message.descriptor()?),
            FrontendReq::SET_VRING_NUM => {
                let (queue, size) = message.ring_state()?;
                device.set_ring_size(device.ring_index(request, queue)?, size)?;
            }
            FrontendReq::SET_VRING_ADDR => {
                let addresses = message.ring_addresses()?;
                device.set_ring_addresses(device.ring_index(request, addresses.index)?, &addresses);
            }
            FrontendReq::SET_VRING_BASE => {
                let (queue, base) = message.ring_state()?;
                #[allow(clippy::cast_possible_truncation, reason = "indices of split rings have 16 bits")]
                device.set_ring_base(device.ring_index(request, queue)?, base as u16);
            }
            FrontendReq::GET_VRING_BASE => {
                let queue = message.ring()?;
                let base = device.stop_ring(device.ring_index(request, queue)?);
                return Ok(Answer::value(&VhostUserVringState::new(queue, base.into())));
            }
            FrontendReq::SET_VRING_KICK => {
                let (queue, kick) = message.ring_descriptor()?;
                device.set_kick(device.ring_index(request, queue)?, kick);
            }
            FrontendReq::SET_VRING_CALL => {
                let (queue, call) = message.ring_descriptor()?;
                device.set_call(device.ring_index(request, queue)?, call);
            }
            FrontendReq::SET_VRING_ERR => {
                let (queue, error) = message.ring_descriptor()?;
                device.set_error(device.ring_index(request, queue)?, error);
            }
            FrontendReq::SET_VRING_ENABLE => {
                let (queue, enabled) = message.ring_state()?;
                device.set_enabled(device.ring_index(request, queue)?, enabled != 0);
            }
            FrontendReq::VRING_KICK => {
                let (queue, _) = message.ring_state()?;
                device.kick(device.ring_index(request, queue)?);
            }
            FrontendReq::SET_VRING_ENDIAN => {
                let (queue, is_big) = message.ring_state()?;
                let queue = device.ring_index(request, queue)?;
                if is_big != 0 {
                    return Err(Refusal::BigEndian { queue });
                }
            }
            FrontendReq::SEND_RARP => device.announce(message.mac()?),
            FrontendReq::NET_SET_MTU => Device::check_mtu(message.number()?)?,
            FrontendReq::SET_CONFIG => {}
            FrontendReq::SET_STATUS => {
                let [status, ..] = message.number()?.to_le_bytes();
                self.status = status;
            }
            FrontendReq::GET_INFLIGHT_FD => return Ok(Answer::value(&VhostUserInflight::default())),
            FrontendReq::SET_DEVICE_STATE_FD => return Ok(Answer::number(NO_DEVICE_STATE)),
            FrontendReq::CHECK_DEVICE_STATE => return Ok(Answer::number(1)),
            _ => return Err(Refusal::NotOffered { request }),
        }
        Ok(Answer::Done)
    }
}

/// Whether a refusal can be told: the message has no answer of its own that it would be taken for.
pub(super) fn can_be_refused(request: FrontendReq) -> bool {
    !matches!(
        request,
        FrontendReq::GET_FEATURES
            | FrontendReq::GET_PROTOCOL_FEATURES
            | FrontendReq::GET_QUEUE_NUM
            | FrontendReq::GET_MAX_MEM_SLOTS
            | FrontendReq::GET_CONFIG
            | FrontendReq::GET_STATUS
            | FrontendReq::GET_SHMEM_CONFIG
            | FrontendReq::GET_VRING_BASE
            | FrontendReq::GET_INFLIGHT_FD
            | FrontendReq::GET_SHARED_OBJECT
            | FrontendReq::SET_LOG_BASE
            | FrontendReq::SET_DEVICE_STATE_FD
            | FrontendReq::CHECK_DEVICE_STATE
            | FrontendReq::CREATE_CRYPTO_SESSION
            | FrontendReq::POSTCOPY_ADVISE
    )
}

/// Whether the device is not fully set up without the message: if it is refused, the port says why.
pub(super) fn is_needed(request: FrontendReq) -> bool {
    matches!(
        request,
        FrontendReq::SET_FEATURES
            | FrontendReq::SET_MEM_TABLE
            | FrontendReq::ADD_MEM_REG
            | FrontendReq::REM_MEM_REG
            | FrontendReq::SET_VRING_NUM
            | FrontendReq::SET_VRING_ADDR
            | FrontendReq::SET_VRING_BASE
            | FrontendReq::SET_VRING_KICK
            | FrontendReq::SET_VRING_CALL
            | FrontendReq::SET_VRING_ENABLE
    )
}
