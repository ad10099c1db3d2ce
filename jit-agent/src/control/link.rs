//! What the gate and its front say to each other. The front is the process that talks to the network
//! (docs/threat-model.md, section "The front"). The gate believes nothing that it says: a message that makes no sense ends it.
//!
//! A message is four bytes of length and a protobuf message. prost reads them, so neither side has a
//! parser of its own to get wrong. gRPC over the socket would be another HTTP/2 server inside the
//! gate, which is what the front is for.

pub(crate) mod hand;
pub(crate) mod pipe;

use prost::{
    Message, Oneof,
    bytes::{Bytes, BytesMut},
};

/// Largest message: the largest request, and what stands around it.
pub(crate) const MAX_FRAME: usize = 4 * 1024 * 1024 + 64 * 1024;
/// Bytes before each message: its length.
const HEAD: usize = 4;

/// From the front to the gate.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ToGate {
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub(crate) said: Option<Said>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Said {
    /// A call was given up, or its answer was not taken.
    #[prost(uint64, tag = "1")]
    Cancelled(u64),
    #[prost(message, tag = "2")]
    Called(Called),
    /// A connection has ended.
    #[prost(uint64, tag = "3")]
    Closed(u64),
    #[prost(message, tag = "4")]
    Denied(Denied),
    /// These many connections did not become a controller's.
    #[prost(uint64, tag = "5")]
    Failed(u64),
    #[prost(message, tag = "6")]
    Logged(Logged),
    #[prost(message, tag = "7")]
    Opened(Opened),
    /// The answer to a ping.
    #[prost(uint64, tag = "8")]
    Pong(u64),
    /// The last setup is in use; or why not.
    #[prost(string, tag = "9")]
    Ready(String),
    /// What the kernel did not take away from the front; empty: nothing.
    #[prost(string, tag = "10")]
    Keeps(String),
    /// A part of the answer to this call was taken.
    #[prost(uint64, tag = "11")]
    Taken(u64),
    /// An uplink did not come to be, or has ended.
    #[prost(message, tag = "12")]
    Unlinked(Unlinked),
    /// This spare uplink waits to be used.
    #[prost(uint64, tag = "13")]
    Waits(u64),
}

/// An uplink that there is no more.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Unlinked {
    /// Its number, as [`Handed`] had it.
    #[prost(uint64, tag = "1")]
    pub(crate) uplink: u64,
    /// One sentence.
    #[prost(string, tag = "2")]
    pub(crate) why: String,
}

/// A controller's connection was let in.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Opened {
    /// Never used again.
    #[prost(uint64, tag = "1")]
    pub(crate) connection: u64,
    /// The peer's certificate, then those that lead to an authority.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) chain: Vec<Bytes>,
    /// Time since it was accepted, nanoseconds.
    #[prost(uint64, tag = "3")]
    pub(crate) age: u64,
    /// Number of the uplink that it is; 0: the peer connected to the agent.
    #[prost(uint64, tag = "4")]
    pub(crate) uplink: u64,
}

/// A call on a connection.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Called {
    /// Never used again.
    #[prost(uint64, tag = "1")]
    pub(crate) call: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) connection: u64,
    /// `/package.Service/Method`.
    #[prost(string, tag = "3")]
    pub(crate) path: String,
    /// The request with its gRPC prefix, as received.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) message: Bytes,
}

/// A peer asked for something that it may not do.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Denied {
    #[prost(string, tag = "1")]
    pub(crate) by: String,
    #[prost(string, tag = "2")]
    pub(crate) asked: String,
}

/// A line for the log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Logged {
    /// 0 error, 1 warning, else information.
    #[prost(uint32, tag = "1")]
    pub(crate) level: u32,
    #[prost(string, tag = "2")]
    pub(crate) text: String,
}

/// From the gate to the front.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ToFront {
    #[prost(oneof = "Order", tags = "1, 2, 3, 4, 5")]
    pub(crate) order: Option<Order>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Order {
    #[prost(message, tag = "1")]
    Answer(Answer),
    #[prost(uint64, tag = "2")]
    Ping(u64),
    #[prost(message, tag = "3")]
    Setup(Setup),
    /// Ends this uplink, when its calls are done.
    #[prost(uint64, tag = "4")]
    Unlink(u64),
    /// Takes this spare uplink into use.
    #[prost(uint64, tag = "5")]
    Use(u64),
}

/// What the gate says of a socket that it hands to the front.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Handed {
    /// Number of the uplink, which is no other's; 0: it is the listening port.
    #[prost(uint64, tag = "1")]
    pub(crate) uplink: u64,
    /// The name that the hub's certificate must bear.
    #[prost(string, tag = "2")]
    pub(crate) host: String,
    /// A proxy is at the other end; it connects to this.
    #[prost(message, optional, tag = "3")]
    pub(crate) through: Option<Through>,
    /// It waits until it is needed.
    #[prost(bool, tag = "4")]
    pub(crate) spare: bool,
}

/// What to ask a proxy for.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Through {
    /// `HOST:PORT` of the hub.
    #[prost(string, tag = "1")]
    pub(crate) target: String,
    /// `USER:PASSWORD`; empty: none.
    #[prost(string, tag = "2")]
    pub(crate) credentials: String,
}

/// A part of the answer to a call.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(uint64, tag = "1")]
    pub(crate) call: u64,
    /// In the first part.
    #[prost(message, optional, tag = "2")]
    pub(crate) headers: Option<Fields>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) data: Bytes,
    /// In the last part.
    #[prost(message, optional, tag = "4")]
    pub(crate) trailers: Option<Fields>,
}

/// Header fields of HTTP.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Fields {
    #[prost(message, repeated, tag = "1")]
    pub(crate) all: Vec<Field>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Field {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// All that the front needs to serve controllers. It replaces what was before.
///
/// Without certificates nobody is served on a listening port.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Setup {
    /// The agent's certificates (DER).
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) chain: Vec<Bytes>,
    /// The private key (DER).
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) key: Bytes,
    /// The authorities that vouch for controllers.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) roots: Vec<Bytes>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) controllers: Vec<Listed>,
    /// For uplinks; unset: there are none.
    #[prost(message, optional, tag = "5")]
    pub(crate) uplink: Option<Proofs>,
}

/// What one side of a handshake needs.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Proofs {
    /// The agent's certificates (DER).
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) chain: Vec<Bytes>,
    /// The private key (DER).
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) key: Bytes,
    /// The authorities that vouch for the other side.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) roots: Vec<Bytes>,
}

/// A controller of the configuration.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Listed {
    #[prost(string, tag = "1")]
    pub(crate) identity: String,
    /// Words of permissions.
    #[prost(string, repeated, tag = "2")]
    pub(crate) may: Vec<String>,
}

/// Why what came from the other side is not read on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Garbled {
    /// A message of another form.
    #[error("it sent bytes that are no message")]
    Form,
    /// A message that is longer than any may be.
    #[error("it announced a message of {0} bytes")]
    Length(usize),
}

/// A message with its length before it.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // A buffer that grows has room for everything.
    let _room = message.encode(&mut bytes);
    bytes.freeze()
}

/// Takes the first message out of these bytes; `None`: it has not arrived whole.
pub(crate) fn take<M: Message + Default>(bytes: &mut BytesMut) -> Result<Option<M>, Garbled> {
    let Some(head) = bytes.first_chunk::<HEAD>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(Garbled::Length(length));
    }
    let whole = HEAD + length;
    if bytes.len() < whole {
        bytes.reserve(whole - bytes.len());
        return Ok(None);
    }
    let message = bytes.split_to(whole).freeze().slice(HEAD..);
    M::decode(message).map(Some).map_err(|_| Garbled::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called() -> ToGate {
        let called = Called {
            call: 7,
            connection: 3,
            path: "/jit.v1.JitAgent/Push".into(),
            message: Bytes::from_static(&[0, 0, 0, 0, 2, 10, 0]),
        };
        ToGate { said: Some(Said::Called(called)) }
    }

    #[test]
    fn a_message_is_taken_when_it_has_arrived_whole() {
        let (one, two) = (called(), ToGate { said: Some(Said::Pong(9)) });
        let all = [encode(&one), encode(&two)].concat();
        let mut bytes = BytesMut::new();
        let mut seen = Vec::new();
        for byte in all {
            bytes.extend_from_slice(&[byte]);
            seen.extend(take::<ToGate>(&mut bytes).unwrap());
        }
        assert_eq!(seen, [one, two]);
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_length_beyond_every_message_is_refused_before_anything_is_kept_for_it() {
        let mut bytes = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert_eq!(take::<ToGate>(&mut bytes), Err(Garbled::Length(u32::MAX as usize)));
        assert!(bytes.capacity() < 1024);
    }

    proptest::proptest! {
        /// Whatever a false front sends, the gate reads messages or stops; it never panics.
        #[test]
        fn any_bytes_are_messages_or_an_error(
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
            at in 0_usize..64,
            with in proptest::prelude::any::<u8>(),
        ) {
            let mut noise = BytesMut::from(&noise[..]);
            while let Ok(Some(_)) = take::<ToGate>(&mut noise) {}
            // One byte of a good message is another.
            let mut nearly = encode(&called()).to_vec();
            let length = nearly.len();
            if let Some(byte) = nearly.get_mut(at % length) { *byte = with; }
            let mut nearly = BytesMut::from(&nearly[..]);
            while let Ok(Some(_)) = take::<ToGate>(&mut nearly) {}
        }
    }
}
