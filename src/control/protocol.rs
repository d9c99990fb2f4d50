//! The envelope of the control socket: requests, replies and errors as they stand on the wire.
//!
//! ```text
//! -> {"jsonrpc":"2.0","id":1,"method":"port_show","params":{"name":"vm0"}}
//! <- {"jsonrpc":"2.0","id":1,"result":{"name":"vm0",...}}
//! <- {"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no port \"vm1\"; see port list"}}
//! ```
//!
//! Some requests are answered by a stream: after the reply, whose result is `null`, notifications with the method's name
//! follow until the client ends the connection or sends its next request.
//!
//! A request without an `id` is carried out and not answered; batches are refused. Fields may be added to replies
//! without a new `PROTOCOL` number, so readers must ignore those they do not know. What the methods are, and their
//! parameters and results, stands in `command`.
//!
//! A request is read without a copy of its parts: the parameters go from the line right into their type.
//!
//! # Source
//! JSON-RPC 2.0 specification, sections 4 and 5.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use vsteer_switch::nearest::nearest;

use crate::appliance::refusal::{Reason, Refusal};

/// Version of this protocol: grows when a request or reply changes its meaning.
pub const PROTOCOL: u32 = 1;

/// The method that tells who answers: [`Hello`]. It has no parameters.
pub const HELLO: &str = "hello";

/// Bytes of an `id` at most, since it is given back.
const MAX_ID_BYTES: usize = 256;

/// Who answers at the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the switch.
    pub protocol: u32,
    /// Version of the switch.
    pub version: String,
    /// Bytes of a request at most, without its newline; a switch that does not tell takes 16 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_request_bytes: Option<u64>,
}

/// Parameters of a request that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// What kind of reason, for programs.
    pub kind: ErrorKind,
    /// The reason and what to try, for people.
    pub message: String,
}

/// Kinds of [`RequestError`]; on the wire these are JSON-RPC error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The name or the resource is taken.
    Exists,
    /// The system or the switch refused.
    Failed,
    /// Others take what this request needs; later it may be had.
    Busy,
    /// The request's parameters make no sense.
    InvalidParams,
    /// No such method.
    UnknownMethod,
    /// The line is JSON but no request.
    InvalidRequest,
    /// The line is not JSON.
    NotJson,
}

impl ErrorKind {
    const ALL: [ErrorKind; 8] = [
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::Failed,
        ErrorKind::Busy,
        ErrorKind::InvalidParams,
        ErrorKind::UnknownMethod,
        ErrorKind::InvalidRequest,
        ErrorKind::NotJson,
    ];

    /// The code on the wire: below zero those that JSON-RPC fixes, above zero our own.
    pub fn code(self) -> i32 {
        match self {
            ErrorKind::NotFound => 1,
            ErrorKind::Exists => 2,
            ErrorKind::Failed => 3,
            ErrorKind::Busy => 4,
            ErrorKind::InvalidParams => -32602,
            ErrorKind::UnknownMethod => -32601,
            ErrorKind::InvalidRequest => -32600,
            ErrorKind::NotJson => -32700,
        }
    }

    /// The kind behind a code; codes of a later version are [`ErrorKind::Failed`].
    pub fn from_code(code: i64) -> Self {
        Self::ALL.into_iter().find(|kind| i64::from(kind.code()) == code).unwrap_or(ErrorKind::Failed)
    }
}

impl RequestError {
    /// An error of `kind`; `message` ends with what to try.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The request's parameters make no sense.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParams, message)
    }

    /// There is no method `method`; `known` are those that there are.
    pub(super) fn unknown_method(method: &str, known: &[&str]) -> Self {
        let hint = match nearest(method, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("use one of {}", known.join(", ")),
        };
        Self::new(ErrorKind::UnknownMethod, format!("unknown method {method:?}; {hint}"))
    }

    fn invalid(problem: &str) -> Self {
        Self::new(ErrorKind::InvalidRequest, problem)
    }

    /// The reply to the request with this `id` that says so.
    pub(super) fn reply(&self, id: &str) -> String {
        let error = json!({"code": self.kind.code(), "message": self.message});
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
    }
}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.reason {
            Reason::NotFound => ErrorKind::NotFound,
            Reason::Taken => ErrorKind::Exists,
            Reason::Invalid => ErrorKind::InvalidParams,
            Reason::Failed => ErrorKind::Failed,
        };
        Self::new(kind, refusal.text)
    }
}

/// A line that is an object, as it is in the envelope.
#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
}

/// A value that is there, be it `null`.
pub(super) fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// What its reply is to carry; without one it is not answered.
    pub(super) id: Option<&'a str>,
    envelope: Envelope<'a>,
}

/// What a request wants.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The method.
    pub(super) method: String,
    /// Its parameters.
    pub(super) params: Option<&'a RawValue>,
}

impl<'a> Request<'a> {
    /// The request in a line.
    ///
    /// # Errors
    /// It is none, and has no id to answer to.
    pub(super) fn read(line: &'a [u8]) -> Result<Self, RequestError> {
        let json: &RawValue = serde_json::from_slice(line)
            .map_err(|error| RequestError::new(ErrorKind::NotJson, format!("not JSON: {error}")))?;
        if !json.get().starts_with('{') {
            return Err(RequestError::invalid(
                "not an object; send {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":...}",
            ));
        }
        let envelope: Envelope<'_> = serde_json::from_str(json.get())
            .map_err(|error| RequestError::invalid(&format!("no request: {error}")))?;
        let id = envelope.id.map(RawValue::get);
        if id.is_some_and(|id| id.starts_with(['{', '[', 't', 'f'])) {
            return Err(RequestError::invalid("\"id\" is neither a number nor text; use a number"));
        }
        if id.is_some_and(|id| id.len() > MAX_ID_BYTES) {
            return Err(RequestError::invalid("\"id\" is too long; use a number"));
        }
        Ok(Self { id, envelope })
    }

    /// What it wants.
    ///
    /// # Errors
    /// It does not say so in the words of JSON-RPC.
    pub(super) fn call(&self) -> Result<Call<'a>, RequestError> {
        let text = |value: Option<&RawValue>| serde_json::from_str::<String>(value?.get()).ok();
        if text(self.envelope.jsonrpc).as_deref() != Some("2.0") {
            return Err(RequestError::invalid("no \"jsonrpc\":\"2.0\"; add it"));
        }
        let Some(method) = text(self.envelope.method) else {
            return Err(RequestError::invalid("no \"method\"; add one, such as \"port_list\""));
        };
        Ok(Call { method, params: self.envelope.params })
    }
}

/// The parameters of a request; none, `null` and an empty list are those of a request that has none.
///
/// # Errors
/// They are of another type.
pub fn read_params<T: DeserializeOwned>(params: Option<&RawValue>) -> Result<T, RequestError> {
    let text = params.map_or("null", RawValue::get);
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_empty = text == "null" || inside.is_some_and(|inside| inside.trim().is_empty());
    serde_json::from_str(if is_empty { "{}" } else { text }).map_err(|error| {
        // The place is one in the middle of the line.
        let place = format!(" at line {} column {}", error.line(), error.column());
        let problem = error.to_string();
        let problem = problem.strip_suffix(&place).unwrap_or(&problem);
        RequestError::invalid_params(format!("params: {problem}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {
        name: String,
    }

    #[test]
    fn parameters_may_be_left_out_where_none_are_needed() {
        for params in ["null", "[]", "[ ]", "{}"] {
            assert_eq!(read_params::<NoParams>(Some(&raw(params))), Ok(NoParams {}), "{params}");
        }
        assert_eq!(read_params::<NoParams>(None), Ok(NoParams {}));
    }

    #[test]
    fn bad_parameters_are_named() {
        let error = |params| read_params::<Named>(Some(&raw(params))).unwrap_err();
        assert_eq!(error(r#"{"nam":"vm0"}"#).message, "params: unknown field `nam`, expected `name`");
        assert_eq!(error("{}").message, "params: missing field `name`");
        assert_eq!(error(r#"{"name":7}"#).kind, ErrorKind::InvalidParams);
    }

    #[test]
    fn unknown_method_says_what_to_try() {
        let known = ["hello", "port_list"];
        let near = RequestError::unknown_method("port_lst", &known);
        assert_eq!(near.kind, ErrorKind::UnknownMethod);
        assert_eq!(near.message, "unknown method \"port_lst\"; did you mean \"port_list\"?");
        let far = RequestError::unknown_method("reboot", &known).message;
        assert_eq!(far, "unknown method \"reboot\"; use one of hello, port_list");
    }

    #[test]
    fn error_codes_come_back_as_their_kinds() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code().into()), kind);
        }
        assert_eq!(ErrorKind::from_code(99), ErrorKind::Failed);
    }

    #[test]
    fn id_is_given_back_as_it_came() {
        for (line, id) in [
            (r#"{"id":7,"method":"m"}"#, Some("7")),
            (r#"{"id":"a\n","method":"m"}"#, Some(r#""a\n""#)),
            (r#"{"id":null}"#, Some("null")),
            ("{}", None),
        ] {
            assert_eq!(Request::read(line.as_bytes()).unwrap().id, id, "{line}");
        }
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_ID_BYTES));
        assert_eq!(Request::read(long.as_bytes()).unwrap_err().kind, ErrorKind::InvalidRequest);
    }
}
